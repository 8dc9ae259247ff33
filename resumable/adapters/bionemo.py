"""BioNeMo's recipes: the two functions of their checkpoint.py that save and load a loader, by the same names.

    save_dataloader(dataloader, ckpt_path, dist_config)     ckpt_path/dataloader_rank_0.pt, ...: one file a rank
    load_dataloader(dataloader, ckpt_path, dist_config)     at any number of ranks and workers

With a `ResumableLoader`, each file has the position of all ranks. Any other loader is saved and loaded as the recipes do it:
with other ranks or workers it begins anew, with a warning.

Source: bionemo-framework at 3a9d005 (2026-05), bionemo-recipes/recipes/esm2_native_te/checkpoint.py; the recipes
llama3_native_te, opengenome2_llama_native_te and esm2_peft_te have the same functions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

import torch

from resumable.checks import whole_number
from resumable.errors import StateError, warn

__all__ = ["DistributedConfig", "load_dataloader", "save_dataloader"]

L = TypeVar("L")

_NAME: Final = "dataloader_rank_"


class DistributedConfig(Protocol):
    """What is needed of the recipes' `DistributedConfig`."""

    @property
    def rank(self) -> int:
        """The number of this process."""
        ...

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        ...


def save_dataloader(dataloader: Any, ckpt_path: str | os.PathLike[str], dist_config: DistributedConfig) -> None:
    """Write the position of *dataloader* to this rank's file in the folder *ckpt_path*, which is made; None writes nothing.

    Call it on every rank, as the recipes do. The file is whole at every moment.
    """
    if dataloader is None:
        return
    rank, ranks = _place_of(dist_config)
    folder = Path(ckpt_path)
    folder.mkdir(parents=True, exist_ok=True)
    state = {**dataloader.state_dict(), "num_workers": getattr(dataloader, "num_workers", None), "num_ranks": ranks}
    new = folder / f".{_NAME}{rank}.{os.getpid()}"
    try:
        torch.save(state, new)
        new.replace(folder / f"{_NAME}{rank}.pt")
    finally:
        new.unlink(missing_ok=True)


def load_dataloader(dataloader: L, ckpt_path: str | os.PathLike[str], dist_config: DistributedConfig) -> L:
    """The same *dataloader*, at the position that is saved in the folder *ckpt_path*; None stays None.

    A `ResumableLoader` goes on at any number of ranks and workers, with any batch size. Where nothing is saved, the loader
    stays where it is, with a warning.

    Raises:
        StateError: if a file is damaged, or was saved by a loader of the other kind.
        MismatchError: if the position cannot go on exactly with these data.
    """
    if dataloader is None:
        return dataloader
    rank, ranks = _place_of(dist_config)
    loader, folder = cast("Any", dataloader), Path(ckpt_path)
    is_ours = hasattr(cast("object", type(dataloader)), "_resumable_pass")
    # of this package's loaders each file says the same; that of rank 0 is never one which an earlier run left
    file = _first_file(folder) if is_ours else folder / f"{_NAME}{rank}.pt"
    if file is None or not file.exists():
        warn(
            "The checkpoint has no position of the data for this rank: the loader stays where it is.",
            [("folder", str(folder)), ("rank", rank)],
            "Save it with save_dataloader on every rank, or go on from a checkpoint that has it.",
        )
        return dataloader
    state = _read(file)
    if is_ours is not ("consumed_samples" in state):
        raise StateError(
            "This file was saved by a loader of another kind, whose position is in another order.",
            [("file", str(file)), ("its keys", sorted(map(str, state))[:8]), ("loader", type(dataloader).__name__)],
            "Go on with the loader that the run began with, or let the data begin anew: load no position.",
        )
    then = state.pop("num_workers", None), state.pop("num_ranks", None)
    now = getattr(dataloader, "num_workers", None), ranks
    if not is_ours and then != now:
        warn(
            "This loader cannot go on with another number of workers or ranks: it begins at its first sample again.",
            [("saved workers and ranks", then), ("now", now)],
            "Use a ResumableLoader, which can, or the saved numbers.",
        )
        return dataloader
    loader.load_state_dict(state if is_ours else {**state, "num_workers": then[0], "num_ranks": then[1]})
    if is_ours:
        loader.state.position  # noqa: B018  # the recipes' loops count steps, and no epochs that they could be told of
    return dataloader


def _place_of(dist_config: DistributedConfig) -> tuple[int, int]:
    ranks = whole_number("dist_config.world_size", getattr(dist_config, "world_size", None), least=1)
    return whole_number("dist_config.rank", getattr(dist_config, "rank", None)), ranks


def _first_file(folder: Path) -> Path | None:
    """The file of the lowest rank; each node may have only those of its own ranks."""
    numbers = [path.stem.removeprefix(_NAME) for path in folder.glob(f"{_NAME}*.pt")]
    first = min((int(number) for number in numbers if number.isdecimal()), default=None)
    return None if first is None else folder / f"{_NAME}{first}.pt"


def _read(file: Path) -> dict[str, Any]:
    try:
        state: object = torch.load(file, weights_only=True)
    except Exception as error:  # torch raises errors of many kinds for a damaged file
        raise StateError(
            "The file of a loader's position cannot be read.",
            [("file", str(file)), ("error", type(error).__name__)],
            "Go on from an earlier checkpoint.",
        ) from error
    if not isinstance(state, Mapping):
        raise StateError(
            "The file holds no loader's position.",
            [("file", str(file)), ("it holds", type(state).__name__)],
            "Go on from an earlier checkpoint.",
        )
    return dict(cast("Mapping[str, Any]", state))
