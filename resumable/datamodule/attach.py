"""From what a `train_dataloader` returns to loaders that start where the training stands."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from torch.utils.data import IterableDataset
from typing_extensions import TypeIs

from resumable.data_sampler.placed_loader import TransformHook, placed
from resumable.data_sampler.progress import DataSamplerProgress
from resumable.datamodule.instance import Resumable, calculators_of, is_lightning, sampler_of
from resumable.datamodule.options import Options
from resumable.errors import DecorationError, explain
from resumable.feeds.feed import Shard
from resumable.loader import ResumableLoader
from resumable.loading.arguments import rank_of, schedule_of
from resumable.loading.dataloader import is_dataloader
from resumable.loading.loop_progress import LoopProgress
from resumable.loading.map_loader import MapLoader, TrainLoader, seed_of_loader
from resumable.protocols import DataSampler, Ranks
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy
from resumable.saved.schedule_format import LedgerSchedule
from resumable.state import ResumptionState
from resumable.stopping.workers import shield

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["attach", "attach_sampled", "before_build", "before_load"]


def attach(returned: Any, trainer: Any, state: ResumptionState, options: Options) -> Any:
    """The loaders in *returned*, changed in place (or wrapped, where they are no DataLoaders) to follow *state*.

    Raises:
        DecorationError: for a loader that cannot be made resumable, or a schedule that nobody can follow.
        ConfigurationError: for a schedule whose sizes do not fall into whole batches.
        MismatchError: if the state cannot go on exactly with these loaders, and the policy is "error".
    """
    lanes: list[TrainLoader] = []
    shard = _shard_of(trainer, options.ranks)
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
        if is_lightning(trainer):
            _check_tail(loader)
        lanes.append(
            _lane(loader, seed_of_loader(default if options.seed is None else options.seed, len(lanes)), shard)
        )
        return lanes[-1].loader

    returned, mode = _replaced(returned, replace)
    if not lanes:
        raise DecorationError(
            explain("A train_dataloader returned no loader.", [("got", returned)], "Return a DataLoader, or several.")
        )
    schedule = _schedule_of(lanes, options)
    if is_lightning(trainer):
        from resumable.adapters import lightning

        lightning.connect(state, trainer, lanes, mode, schedule=schedule, policy=options.policy)
    else:
        _connect_loop(state, cast("MapLoader", lanes[0]), schedule, options.policy)
    return returned


def attach_sampled(build: Callable[[], Any], datamodule: Resumable, trainer: Any, state: ResumptionState) -> Any:
    """What *build* returns: train loaders that a data sampler places, or that a strategy lets it place later.

    Raises:
        MismatchError: if the state cannot go on exactly in their data, and the policy is "error".
    """
    if is_lightning(trainer):
        frontier: DataSamplerProgress = _follow_sampler(datamodule, trainer, state)
    else:
        frontier = cast("DataSamplerProgress", state.frontier)
    sampler: Any = frontier.sampler
    _check_options(datamodule.__resumable_options__, sampler)
    transforming = TransformHook.of(sampler, frontier, _shielded)
    frontier.rebase()  # a loader that is built in mid-training begins there

    def take(loader: Any) -> Any:
        if transforming is not None:
            transforming.note(loader)
        return _shielded(placed(loader, sampler, frontier))

    if transforming is None:
        returned = build()
    else:
        with transforming.building():
            returned = build()
    returned, _ = _replaced(returned, take)
    frontier.tell_calculator()
    if is_lightning(trainer):
        from resumable.adapters import lightning

        lightning.connect_sampled(state, trainer)
    return returned


def _check_options(options: Options, sampler: object) -> None:
    if options.ranks is not None or options.decrease_batch_size_if_needed:
        raise DecorationError(
            explain(
                "A data sampler has ranks and batch sizes of its own.",
                [
                    ("sampler", type(sampler).__qualname__),
                    ("ranks", options.ranks),
                    ("decrease_batch_size_if_needed", options.decrease_batch_size_if_needed),
                ],
                "Leave these options out, and set the sampler up with them.",
            )
        )


def _shielded(loader: Any) -> Any:
    return shield(loader) if is_dataloader(loader) else loader


def before_build(trainer: Any, state: ResumptionState) -> None:
    """Let the user's own loader method see the epoch that goes on."""
    if is_lightning(trainer):
        from resumable.adapters import lightning

        lightning.before_build(state, trainer)


def before_load(trainer: Any, state: ResumptionState, datamodule: Resumable) -> bool:
    """Make ready for a state to be loaded; False where it is not the training's (an evaluation from a checkpoint)."""
    if not is_lightning(trainer):
        return True
    from resumable.adapters import lightning

    if not lightning.before_load(state, trainer):
        return False
    if sampler_of(datamodule) is not None:
        _follow_sampler(datamodule, trainer, state)
    return True


def _follow_sampler(datamodule: Resumable, trainer: Any, state: ResumptionState) -> DataSamplerProgress:
    from resumable.adapters import lightning

    options = datamodule.__resumable_options__
    return lightning.follow_sampler(
        state,
        trainer,
        cast("DataSampler", sampler_of(datamodule)),
        schedule=options.schedule,
        calculator=calculators_of(datamodule),
        on_mismatch=options.policy.on_mismatch,
    )


def _connect_loop(state: ResumptionState, lane: MapLoader, schedule: LedgerSchedule | None, policy: Policy) -> None:
    """Count what a loop without Lightning yields, as a ResumableLoader does."""
    batching = lane.batching
    stretch = Stretch(
        length=batching.length,
        micro_batch_size=lane.micro_batch_size,
        data_parallel_size=lane.shard.size,
        num_workers=lane.num_workers,
        drop_last=batching.drop_last,
        schedule=schedule,
    )
    frontier = LoopProgress(lane.feed, stretch, policy)
    lane.follow_loop(frontier, state)
    state.count_with(frontier, later=True)


def _is_map_style(loader: object) -> TypeGuard[DataLoader[Any]]:
    return is_dataloader(loader) and not isinstance(loader.dataset, IterableDataset)


def _schedule_of(lanes: list[TrainLoader], options: Options) -> LedgerSchedule | None:
    """The schedule that the loaders' batches are grouped by: the decorator's, or that of a ResumableLoader."""
    given = [own for lane in lanes if (own := _own_schedule(lane.loader)) is not None]
    if options.schedule is None:
        return given[0] if given else None
    schedule = schedule_of(
        options.schedule, lanes[0].batching.batch_size, rounds_down=options.decrease_batch_size_if_needed
    )
    if given and given[0] != schedule:
        raise DecorationError(
            explain(
                "The schedule is told twice.",
                [("of the loader", given[0]), ("of the decorator", schedule)],
                "Pass it to one of them.",
            )
        )
    return schedule


def _own_schedule(loader: Any) -> LedgerSchedule | None:
    counts = loader.state.frontier if isinstance(loader, ResumableLoader) else None
    return counts.stretch.schedule if counts is not None and counts.stretch is not None else None


def _check_tail(loader: Any) -> None:
    """Refuse what a ResumableLoader does in a loop and Lightning's epochs would not follow."""
    counts = loader.state.frontier if isinstance(loader, ResumableLoader) else None
    if counts is not None and counts.stretch is not None and counts.stretch.drop_last == "carry":
        raise DecorationError(
            explain(
                "Lightning ends its epochs where the data does, so none can be carried into the next.",
                [("drop_last", "carry")],
                "Pass drop_last=False or True, or train in a loop of your own.",
            )
        )


def _only_in_lightning(loader: object) -> DecorationError:
    return DecorationError(
        explain(
            "Outside Lightning, the position of one map-style train loader can be counted.",
            [("a further or streaming loader", type(loader).__name__)],
            "Return one DataLoader over a map-style dataset, or use one ResumableLoader for each dataset.",
        )
    )


def _shard_of(trainer: Any, ranks: Ranks | None) -> Shard:
    """Lightning's part of the data; outside it nobody shares the data out but *ranks* and a loader's own sampler."""
    shard = Shard()
    if is_lightning(trainer):
        from resumable.adapters import lightning

        shard = lightning.shard_of(trainer)
    if ranks is None:
        return shard
    rank, size = rank_of(None, None, ranks)
    return dataclasses.replace(shard, rank=rank, size=size)


def _lane(loader: Any, seed: int, shard: Shard) -> TrainLoader:
    if _is_map_style(loader):
        return MapLoader(loader, seed, shard)
    from resumable.loading.stream_loader import StreamLoader  # brings the progress bar of a fast-forward

    return StreamLoader(loader, shard)


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
