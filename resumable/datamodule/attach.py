"""What a `train_dataloader` returns, made to start where the training is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import TypeIs

from resumable.adapters import hand_over
from resumable.checks import length_if_known
from resumable.data_sampler.sampler_hooks import TransformHook
from resumable.datamodule.loop import is_map_style
from resumable.datamodule.options import Options
from resumable.datamodule.trainer import TrainerAdapter
from resumable.errors import DecorationError, warn
from resumable.feeds.feed import Shard
from resumable.loader import ResumableLoader
from resumable.loading.arguments import rank_of, schedule_of
from resumable.loading.dataloader import drawn, is_dataloader
from resumable.loading.map_loader import MapLoader, TrainLoader, seed_of_loader
from resumable.progress import Tracker
from resumable.protocols import DataSampler, Ranks
from resumable.saved.schedule_format import LedgerSchedule
from resumable.state import tracker_of
from resumable.stopping.workers import keep_apart

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["attach", "attach_sampled"]


def attach(returned: Any, trainer: TrainerAdapter, tracker: Tracker, options: Options) -> Any:
    """The loaders in *returned*, changed in place (or wrapped, where they are no DataLoaders) to follow *tracker*.

    Raises:
        DecorationError: for a loader that cannot be made resumable, or a schedule that the loader has too.
        ConfigurationError: for a schedule whose sizes do not fall into whole batches.
        MismatchError: if the state cannot go on exactly with these loaders, and the policy is "error".
    """
    if is_map_style(returned) and _is_empty(returned):
        return returned  # it trains nothing, as an empty list does, and Lightning says so
    seed = options.seed_in_use
    loaders: list[TrainLoader] = []
    shard = _shard_of(trainer, options.ranks)

    def replace(loader: Any) -> Any:
        if not hasattr(loader, "__iter__"):
            raise DecorationError(
                "A train_dataloader returned something that cannot be iterated.",
                [("got", loader)],
                "Return a DataLoader, or a list or dict of them.",
            )
        number = len(loaders)
        trainer.check_loader(loader, number, loader.stretch if isinstance(loader, ResumableLoader) else None)
        made = _train_loader(loader, seed_of_loader(seed, number), shard, options)
        made.number, made.reseed = number, seed if options.reseed else made.reseed
        loaders.append(made)
        return made.loader

    returned, mode = _replaced(returned, replace)
    if loaders:
        _let_audit(loaders, tracker)
        trainer.connect(tracker, loaders, mode, _schedule_of(loaders, options), options.policy)
    return returned


def attach_sampled(
    build: Callable[[], Any], sampler: DataSampler, trainer: TrainerAdapter, tracker: Tracker, options: Options
) -> Any:
    """What *build* returns: train loaders that *sampler* counts, which start at its count now or in the strategy.

    Raises:
        MismatchError: if the state cannot go on exactly in their data, and the policy is "error".
    """
    progress = trainer.follow_sampler(tracker, sampler, options.sampling)
    if options.ranks is not None or options.decrease_batch_size_if_needed:
        raise DecorationError(
            "A data sampler has ranks and batch sizes of its own.",
            [
                ("sampler", type(sampler).__qualname__),
                ("ranks", options.ranks),
                ("decrease_batch_size_if_needed", options.decrease_batch_size_if_needed),
            ],
            "Leave these options out, and set the sampler up with them.",
        )
    progress.rebase()  # a loader that is built in mid-training begins there
    loaders = TransformHook(sampler, progress, _followed)
    with loaders.building():
        returned = build()
    returned, _ = _replaced(returned, loaders.take)
    if loaders.is_unplaced:
        warn(
            "A train loader is not a DataLoader over a map-style dataset, so it is left to begin where it likes.",
            [("train_dataloader", returned)],
            f"If it does not begin at {options.attribute}.init_consumed_samples by itself, a resumed run trains its first "
            "samples again. Otherwise return a DataLoader whose batch_sampler has consumed_samples.",
        )
    trainer.connect_sampled(tracker)
    return returned


def _followed(loader: Any) -> Any:
    return keep_apart(drawn(loader)) if is_dataloader(loader) else loader


def _schedule_of(loaders: list[TrainLoader], options: Options) -> LedgerSchedule | None:
    """The schedule that groups the loaders' batches: the decorator's, or that of a ResumableLoader."""
    own = [each.loader.stretch.schedule for each in loaders if isinstance(each.loader, ResumableLoader)]
    given = next((schedule for schedule in own if schedule is not None), None)
    if options.schedule is not None or given is not None:
        loaders[0].feed.check_one_size()
    if options.schedule is None:
        return given
    schedule = schedule_of(
        options.schedule, loaders[0].feed.plan.batch_size, rounds_down=options.decrease_batch_size_if_needed
    )
    if given is not None and given != schedule:
        raise DecorationError(
            "The schedule is given twice.",
            [("of the loader", given), ("of the decorator", schedule)],
            "Pass it to one of them.",
        )
    return schedule


def _let_audit(loaders: list[TrainLoader], tracker: Tracker) -> None:
    """Let *tracker* keep the audit that a ResumableLoader among *loaders* was given."""
    for each in loaders:
        audit = tracker_of(each.loader.state).audit if isinstance(each.loader, ResumableLoader) else None
        if audit is not None and tracker.audit is not None and tracker.audit.folder != audit.folder:
            raise DecorationError(
                "The audit is kept in two folders.",
                [("of the loader", audit.folder), ("of the decorator", tracker.audit.folder)],
                "Pass it to one of them.",
            )
        tracker.audit = tracker.audit or audit


def _shard_of(trainer: TrainerAdapter, ranks: Ranks | None) -> Shard:
    """The trainer's part of the data, or that of *ranks* where they are given."""
    if ranks is None:
        return trainer.shard
    rank, size = rank_of(None, None, ranks)
    return dataclasses.replace(trainer.shard, rank=rank, size=size, is_own=False)


def _train_loader(loader: Any, seed: int, shard: Shard, options: Options) -> TrainLoader:
    if is_map_style(loader):
        made = MapLoader(loader, seed, shard, hand_over, options.policy.on_mismatch)
        made.sampler.passes_epoch = options.pass_epoch
        if isinstance(loader, ResumableLoader):
            made.reseed, passes_epoch = loader.stretch.reseed, loader.passes_epoch
            made.sampler.passes_epoch = options.pass_epoch or passes_epoch
        return made
    if options.pass_epoch:
        raise DecorationError(
            "A stream has no indices that could tell its dataset the epoch.",
            [("train loader", type(loader).__qualname__), ("pass_epoch", True)],
            "Leave pass_epoch=True out; a dataset with set_epoch(epoch) is told the epoch.",
        )
    from resumable.loading.stream_loader import StreamLoader

    return StreamLoader(loader, shard, _stateful, reads_again=options.streams == "read_again")


def _is_empty(loader: DataLoader[Any]) -> bool:
    sized: tuple[Any, ...] = (loader.dataset, cast("object", loader.sampler))
    return any(length_if_known(each) == 0 for each in sized)


def _stateful(loader: DataLoader[Any]) -> DataLoader[Any] | None:
    if find_spec("torchdata") is None:
        return None
    from resumable.adapters import torchdata

    return torchdata.stateful(loader)


def _replaced(tree: Any, replace: Callable[[Any], Any]) -> tuple[Any, str]:
    """*tree* with its loaders replaced, and how Lightning combines them.

    One, or a list or dict of any depth, is cycled to the longest (Lightning's default); a CombinedLoader says how.
    """
    if hasattr(tree, "flattened") and hasattr(tree, "_mode"):
        tree.flattened = [replace(loader) for loader in tree.flattened]
        return tree, getattr(tree, "_mode", "")  # Lightning keeps the mode to itself
    if _is_iterated(tree):
        return replace(tree), "max_size_cycle"
    if _is_mapping(tree):
        return {name: _replaced(branch, replace)[0] for name, branch in tree.items()}, "max_size_cycle"
    if _is_several(tree):
        branches = [_replaced(branch, replace)[0] for branch in tree]
        return branches if isinstance(tree, list) else tuple(branches), "max_size_cycle"
    return replace(tree), "max_size_cycle"


def _is_iterated(tree: object) -> bool:
    """Whether Lightning iterates a collection itself, as one loader: its numbers or strings are no loaders."""
    elements: Any = tree.values() if _is_mapping(tree) else tree if _is_several(tree) else ()
    return bool(elements) and all(isinstance(element, (int, float, str)) for element in elements)


def _is_mapping(tree: object) -> TypeIs[Mapping[Any, Any]]:
    return isinstance(tree, Mapping)


def _is_several(tree: object) -> TypeIs[list[Any] | tuple[Any, ...]]:
    return isinstance(tree, (list, tuple))
