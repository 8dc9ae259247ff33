"""Reads positions out of the checkpoints of other tools, without running anything that they hold: one tool, one file.

found              what is found: states by their names, counts, steps
unpickle           pickles, read as plain values
state_file         the file of `state.save`
lightning          a .ckpt of Lightning, also a folder of one that is sharded
nemo               a NeMo 2 folder: `weights/common.pt`, or what newer releases keep in its place
megatron_lm        `common.pt` or `model_optim_rng.pt`: what `args` counts
megatron_bridge    `train_state.pt`
dcp                a folder of torch.distributed.checkpoint
accelerate         a folder of `save_state`
transformers       a `checkpoint-N` of the Trainer
torchdata          the state of a StatefulDataLoader
torch_file         any other file of torch.save
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from resumable.errors import StateError
from resumable.importers import (
    accelerate,
    dcp,
    lightning,
    megatron_bridge,
    megatron_lm,
    nemo,
    state_file,
    torch_file,
    torchdata,
    transformers,
)
from resumable.importers.found import Found, FoundState

__all__ = ["Found", "FoundState", "read"]

_TOOLS: Final[tuple[Any, ...]] = (
    state_file,
    transformers,
    accelerate,
    nemo,
    megatron_bridge,
    megatron_lm,
    lightning,
    dcp,
    torchdata,
    torch_file,
)


def read(path: str | os.PathLike[str], /) -> Found:
    """What the checkpoint at *path* says of the position, whichever tool has saved it.

    Raises:
        StateError: if there is nothing at *path*, or nothing that a tool is known to save, or no position in it.

    >>> read("nowhere.ckpt")
    Traceback (most recent call last):
    resumable.errors.StateError: There is no checkpoint.
      looked for: 'nowhere.ckpt'
    Pass a file or a folder that a run has saved.
    """
    place = Path(path)
    try:
        exists, is_folder = place.exists(), place.is_dir()
    except OSError as error:  # a loop of links
        raise StateError(f"There is no checkpoint: {error}") from None
    if not exists:
        advice = "Pass a file or a folder that a run has saved."
        raise StateError("There is no checkpoint.", [("looked for", str(path))], advice)
    for tool in _TOOLS:
        found: Found | None = tool.read(place)
        if found is not None:
            return found
    names = sorted(each.name for each in place.iterdir())[:5] if is_folder else [f"{place.stat().st_size} bytes"]
    raise StateError(
        "This is no checkpoint of a tool that is known.",
        [
            ("path", str(path)),
            ("found", ", ".join(names) or "an empty folder"),
            ("looked for", "a state file, a .ckpt, or a folder of NeMo, Megatron, DCP, accelerate or a Trainer"),
        ],
        "Pass the file or the folder that the run has saved.",
    )
