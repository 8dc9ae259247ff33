"""A checkpoint of Megatron-LM: the counts are in its arguments.

latest_checkpointed_iteration.txt                    names the newest of
iter_0000100/common.pt                               {"args": Namespace(consumed_train_samples=...), "iteration": 100}
iter_0000100/mp_rank_00/model_optim_rng.pt           the same, in the older layout

Source: Megatron-LM, megatron/training/checkpointing.py.
"""

from __future__ import annotations

from pathlib import Path

from resumable.importers import dcp
from resumable.importers.found import Found, FoundState, items_of, nothing_in, number_of
from resumable.importers.unpickle import load_file
from resumable.saved.snapshot import Snapshot

__all__ = ["read"]

_NEWEST = "latest_checkpointed_iteration.txt"
_COUNTS = {"consumed_train_samples": "train", "consumed_valid_samples": "validation"}


def read(path: Path, /) -> Found | None:
    """The counts in the file or folder *path*, or in the newest below it; None for what Megatron-LM has not saved.

    Raises:
        StateError: if it cannot be read, or counts no samples.
    """
    content = _content(_newest(path))
    if content is None:
        return None
    items = items_of(content)
    arguments = items_of(items.get("args"))
    if "args" not in items and "iteration" not in items:
        return None
    states = [
        FoundState(name, Snapshot(count, None, None), {"consumed_samples": count})
        for key, name in _COUNTS.items()
        for count in [number_of(arguments.get(key))]
        if count is not None and (count or name == "train")
    ]
    steps = number_of(items.get("iteration"))
    if not states and steps is None:
        raise nothing_in(path, "args.consumed_train_samples or iteration")
    return Found("Megatron-LM", path, tuple(states), steps)


def _newest(path: Path) -> Path:
    file = path / _NEWEST
    if not file.is_file():
        return path
    name = file.read_text(errors="replace").strip()
    return path / (f"iter_{int(name):07d}" if name.isascii() and name.isdigit() else name if name == "release" else "")


def _content(path: Path) -> object | None:
    if path.is_file():
        return load_file(path)
    if not path.is_dir():
        return None
    ranks = sorted(path.glob("mp_rank_*/model_optim_rng.pt"))
    for file in (path / "common.pt", path / "model_optim_rng.pt", *ranks[:1]):
        if file.is_file():
            return load_file(file)
    return dcp.common_state(path)
