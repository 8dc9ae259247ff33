"""From what a `train_dataloader` returns to loaders that start where the training stands."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from torch.utils.data import IterableDataset
from typing_extensions import TypeIs

from resumable.errors import DecorationError, explain
from resumable.lanes import Lane, MapLane, is_dataloader, seed_of_lane
from resumable.ledger import Stretch
from resumable.resuming import LoaderFrontier
from resumable.state import ResumptionState
from resumable.verdict import OnMismatch

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["attach", "before_load", "is_lightning"]


def attach(returned: Any, trainer: Any, state: ResumptionState, *, seed: int | None, on_mismatch: OnMismatch) -> Any:
    """The loaders in *returned*, changed in place (or wrapped, where they are no DataLoaders) to follow *state*.

    Raises:
        DecorationError: for a loader that cannot be made resumable.
        MismatchError: if the state cannot go on exactly with these loaders, and *on_mismatch* is "error".
    """
    lanes: list[Lane] = []
    default = int(os.environ.get("PL_GLOBAL_SEED") or 0)

    def replace(loader: Any) -> Any:
        if not hasattr(loader, "__iter__"):
            raise DecorationError(
                explain(
                    "A train_dataloader returned something that cannot be iterated.",
                    [("got", loader)],
                    "Return a DataLoader, or a list or dict of them.",
                )
            )
        if not is_lightning(trainer) and (lanes or not _is_map_style(loader)):
            raise _only_in_lightning(loader)
        lanes.append(_lane(loader, seed_of_lane(default if seed is None else seed, len(lanes))))
        return lanes[-1].loader

    returned, mode = _replaced(returned, replace)
    if not lanes:
        raise DecorationError(
            explain("A train_dataloader returned no loader.", [("got", returned)], "Return a DataLoader, or several.")
        )
    if is_lightning(trainer):
        from resumable.adapters import lightning

        lightning.connect(state, trainer, lanes, mode, seed_is_given=seed is not None, on_mismatch=on_mismatch)
    else:
        _connect_loop(state, cast("MapLane", lanes[0]), seed_is_given=seed is not None, on_mismatch=on_mismatch)
    return returned


def before_load(trainer: Any, state: ResumptionState) -> bool:
    """Make ready for a state to be loaded; False where it is not the training's (an evaluation from a checkpoint)."""
    if not is_lightning(trainer):
        return True
    from resumable.adapters import lightning

    return lightning.before_load(state, trainer)


def is_lightning(trainer: Any) -> bool:
    """Whether *trainer* is a Lightning Trainer, told by its class's bases, so that Lightning need not be imported."""
    return any(
        base.__name__ == "Trainer" and base.__module__.partition(".")[0] in ("lightning", "pytorch_lightning")
        for base in type(trainer).__mro__
    )


def _connect_loop(state: ResumptionState, lane: MapLane, *, seed_is_given: bool, on_mismatch: OnMismatch) -> None:
    """Count what a loop without Lightning yields, as a ResumableLoader does."""
    batching = lane.batching
    stretch = Stretch(
        length=batching.length,
        micro_batch_size=batching.batch_size,
        num_workers=lane.num_workers,
        drop_last=batching.drop_last,
    )
    frontier = LoaderFrontier(lane.feed, stretch, seed_is_given=seed_is_given, on_mismatch=on_mismatch)
    lane.follow_loop(frontier, state)
    state.count_with(frontier, later=True)


def _is_map_style(loader: object) -> TypeGuard[DataLoader[Any]]:
    return is_dataloader(loader) and not isinstance(loader.dataset, IterableDataset)


def _only_in_lightning(loader: object) -> DecorationError:
    return DecorationError(
        explain(
            "Outside Lightning, the position of one map-style train loader can be counted.",
            [("a further or streaming loader", type(loader).__name__)],
            "Return one DataLoader over a map-style dataset, or use one ResumableLoader for each dataset.",
        )
    )


def _lane(loader: Any, seed: int) -> Lane:
    if _is_map_style(loader):
        return MapLane(loader, seed)
    from resumable.streams import StreamLane  # brings the progress bar of a fast-forward

    return StreamLane(loader)


def _replaced(tree: Any, replace: Callable[[Any], Any]) -> tuple[Any, str]:
    """*tree* with its loaders replaced, and how Lightning combines them.

    One, or a list or dict of any depth, is cycled to the longest (Lightning's default); a CombinedLoader says how.
    """
    if hasattr(tree, "flattened") and hasattr(tree, "_mode"):
        tree.flattened = [replace(loader) for loader in tree.flattened]
        return tree, getattr(tree, "_mode", "")  # Lightning keeps the mode to itself
    if _is_mapping(tree):
        return {name: _replaced(branch, replace)[0] for name, branch in tree.items()}, "max_size_cycle"
    if _is_several(tree):
        branches = [_replaced(branch, replace)[0] for branch in tree]
        return branches if isinstance(tree, list) else tuple(branches), "max_size_cycle"
    return replace(tree), "max_size_cycle"


def _is_mapping(tree: object) -> TypeIs[Mapping[Any, Any]]:
    return isinstance(tree, Mapping)


def _is_several(tree: object) -> TypeIs[list[Any] | tuple[Any, ...]]:
    return isinstance(tree, (list, tuple))
