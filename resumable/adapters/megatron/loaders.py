"""Loaders in place of Megatron-Bridge's and Megatron-LM's, which begin at a count of consumed samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from typing_extensions import TypedDict, Unpack

from resumable.adapters.megatron.counters import Counters
from resumable.adapters.megatron.orders import CyclicOrder, EpochOf, GlobalBatchOrder, Sizes, sizes_of
from resumable.checks import whole_number
from resumable.errors import ConfigurationError, MismatchError, warn
from resumable.feeds.feed import Shard
from resumable.loader import ResumableLoader
from resumable.loading.arguments import length_of, rank_of
from resumable.loading.loop_passes import LoopPasses
from resumable.loading.prepared import passes_of, prepared
from resumable.orders.orders import Sequential
from resumable.position import Position
from resumable.protocols import AllGather, BatchSchedule, Order, Ranks
from resumable.saved.snapshot import Snapshot, parse
from resumable.state import tracker_of
from resumable.steps.batch_plan import DropLast
from resumable.verdict import OnMismatch

__all__ = ["build_pretraining_data_loader", "prepare"]

L = TypeVar("L")


class OwnOptions(TypedDict, total=False):
    """Options of `ResumableLoader` that Bridge's function does not have."""

    schedule: BatchSchedule | None
    on_mismatch: OnMismatch
    agreement: AllGather | None
    reseed: bool
    pass_epoch: bool
    prefetch_factor: int | None
    multiprocessing_context: Any
    timeout: float


def build_pretraining_data_loader(  # noqa: PLR0917  # the parameters of Bridge's function, in its order
    dataset: Any,
    consumed_samples: int | Mapping[str, Any],
    dataloader_type: str,
    micro_batch_size: int,
    num_workers: int = 0,
    data_sharding: bool = True,
    worker_init_fn: Callable[[int], None] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    pin_memory: bool = True,
    persistent_workers: bool = False,
    data_parallel_rank: int | None = None,
    data_parallel_size: int | None = None,
    drop_last: bool = True,
    global_batch_size: int | None = None,
    seed: int | None = None,
    *,
    begun_with: Sizes | None = None,
    ranks: Ranks | None = None,
    **options: Unpack[OwnOptions],
) -> Any:
    """A `ResumableLoader` in place of Megatron-Bridge's loader: the same samples in the same order, on every rank.

    It goes on from *consumed_samples*, `train_state.consumed_train_samples` or `args.consumed_train_samples`, and for a
    validation loader the count of the same name. Each pass is the rest of an epoch, as Bridge's `cyclic_iter` expects it;
    for "single", which has one epoch, a second pass begins again at the first sample, where Megatron's begins again where
    the first pass began.

    A "cyclic" or "batch" run that goes on in other sizes must be told those that it began with: *begun_with*. The order
    and the lengths of the epochs stay those of the run, and each sample comes once in an epoch. Megatron's own samplers
    shuffle anew by the present sizes, and read the count as if it had been made by them.

    Args:
        dataset: map-style. None, and any dataset of the type "external", is returned as it is.
        consumed_samples: over all ranks, since the run began. A state that a loader of this function saved works too; it
            knows what the run began with.
        dataloader_type: "single", "cyclic", "batch" or "external".
        micro_batch_size: samples of a batch on one rank; with "batch" a batch is this rank's part of a global batch.
        num_workers: of DataLoader.
        data_sharding: "cyclic" shuffles each rank's part by itself.
        worker_init_fn: of DataLoader.
        collate_fn: of DataLoader.
        pin_memory: of DataLoader.
        persistent_workers: of DataLoader.
        data_parallel_rank: this process's rank; 0 in a process that runs alone.
        data_parallel_size: how many ranks share the data; 1 in a process that runs alone.
        drop_last: leave an epoch's tail out, as "cyclic" always does. Otherwise "single" trains it, shared out among the
            ranks, which Bridge refuses, and "batch" fills it up with `dataset[-1]`, the padding of Bridge's datasets.
        global_batch_size: of all ranks; "batch" needs it.
        seed: of "batch"; without one it is `torch.initial_seed()`, with a warning.
        begun_with: the sizes that the run began with; without them the present ones.
        ranks: rank and size in one, in place of these two: `megatron.Ranks()`.
        options: further ones of `ResumableLoader`.

    Raises:
        ConfigurationError: for what Bridge's function refuses, and where *consumed_samples* cannot have been reached in
            these sizes.
        MismatchError: if a state cannot go on with these data.
    """
    if dataset is None or dataloader_type == "external":
        return dataset
    if dataloader_type not in ("single", "cyclic", "batch"):
        raise ConfigurationError(
            "There is no such type of data loader.",
            [("dataloader_type", dataloader_type)],
            "Pass 'single', 'cyclic', 'batch' or 'external'.",
        )
    rank, size = rank_of(data_parallel_rank, data_parallel_size, ranks)
    is_alone = data_parallel_size is None and size == 1
    now = Sizes(micro_batch_size, size, global_batch_size)
    samples, saved = length_of(dataset), None
    if isinstance(consumed_samples, Mapping):
        saved = parse(consumed_samples)
        begun_with = begun_with or (None if saved.order is None else sizes_of(saved.order))
    sizes = now if begun_with is None else _checked(begun_with, dataloader_type)
    batch_size, tail, order = (
        now.micro_batch_size,
        cast("DropLast", bool(drop_last)),
        cast("Order", Sequential(samples)),
    )
    if dataloader_type != "single":
        tail = "carry"  # an epoch has no tail in the sizes that the run began with
    if dataloader_type == "cyclic":
        order = CyclicOrder(samples, sizes, data_sharding=bool(data_sharding))
    if dataloader_type == "batch":
        batch_size = _share_of(now)
        order = GlobalBatchOrder(samples, sizes.global_batch_size or 0, _seed_of(seed), pads=not drop_last)
    loader: ResumableLoader[Any] = ResumableLoader(
        EpochOf.of(dataset, len(order)),
        batch_size,
        order=order,
        drop_last=tail,
        ranks=None if is_alone else _Ranks(rank, size),  # model-parallel processes may share them
        num_workers=num_workers,
        worker_init_fn=worker_init_fn,
        collate_fn=collate_fn,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers,
        **options,
    )
    if saved is not None:
        loader.load_state_dict(cast("Mapping[str, Any]", consumed_samples))
    elif dataloader_type == "single":
        _go_on_in_one_pass(loader, whole_number("consumed_samples", consumed_samples))
    else:
        _go_to(loader, whole_number("consumed_samples", consumed_samples), is_of_these_sizes=begun_with is None)
    loader.state.position  # noqa: B018  # Megatron's loops count iterations, and no epochs that they could be told of
    return loader


def prepare(owner: object, loader: L, /) -> L:
    """The same *loader*, at the position of *owner*: Megatron-Bridge's `train_state`, or Megatron-LM's `args`.

    *owner* is what `Counters.of` reads, and the loader any `ResumableLoader`. As the loop counts the samples of its steps in
    *owner*, and saves them, the next session goes on from there.

    Raises:
        ConfigurationError: if the loader is not resumable, is prepared already, or if the count cannot have been reached in
            its batches.
        MismatchError: if the loader is at another position already.
        StateError: if *owner* has no counters.
    """
    consumed = Counters.of(owner).consumed_train_samples
    passes = passes_of("megatron", loader, _ranks_of(loader))
    at = passes.tracker.position.consumed_samples
    if at not in (0, consumed):
        raise MismatchError(
            "The loader and Megatron's counters are at different positions.",
            [("loader", at), ("consumed_train_samples", consumed)],
            "Load the loader's state, or let it go on from the counters, but not from two checkpoints.",
        )
    if at != consumed:
        feed = passes.progress.feed
        sizes = sizes_of(feed.identity)  # a tail that is left out depends on them as well
        is_of_these = feed.plan.drop_last is True if sizes is None else feed.plan.batch_size in _rounds_of(sizes)
        _go_to(cast("ResumableLoader[Any]", loader), consumed, is_of_these_sizes=is_of_these)
    passes.tracker.asked()
    return prepared(loader, passes, "megatron", lambda batches: batches)


@dataclass(frozen=True, slots=True)
class _Ranks:
    """A rank and a size that are known already: a process of Bridge's may know them from its groups alone."""

    data_parallel_rank: int
    data_parallel_size: int


def _ranks_of(loader: object) -> _Ranks:
    passes: Any = getattr(loader, "_resumable_pass", None)
    shard: Any = passes.progress.feed.shard if isinstance(passes, LoopPasses) else Shard()
    return _Ranks(shard.rank, shard.size)


def _go_to(loader: ResumableLoader[Any], consumed: int, *, is_of_these_sizes: bool) -> None:
    """Let *loader* go on after *consumed* samples, where that count *is_of_these_sizes* if they lead to it."""
    plan = loader.stretch.batching
    per_epoch = plan.offset_after(0, plan.batches)
    epoch, offset = divmod(consumed, per_epoch)
    if is_of_these_sizes and offset % plan.batch_size:
        raise ConfigurationError(
            "Batches of these sizes do not lead to this count: the run had other sizes.",
            [
                ("consumed_samples", consumed),
                ("samples of a batch on all ranks", plan.batch_size),
                ("samples of an epoch", per_epoch),
            ],
            "Build it by build_pretraining_data_loader(..., begun_with=Sizes(...)), with the sizes that the run began with, "
            "or load a state that the run's loader saved.",
        )
    _begin_at(loader, Position(consumed, epoch, offset))


def _go_on_in_one_pass(loader: ResumableLoader[Any], consumed: int) -> None:
    """Let *loader*, of data that are trained once, go on after *consumed* samples, whatever batches led there."""
    plan = loader.stretch.batching
    values = [("consumed_samples", consumed), ("samples", plan.length), ("samples of a batch", plan.batch_size)]
    advice = "Ask the dataset for as many samples as the run is to train, or load a state that the run's loader saved."
    if consumed >= plan.length:
        raise ConfigurationError("No samples are left to consume: 'single' data are trained once.", values, advice)
    if not plan.batches_left(consumed):
        warn("No batch is left after the consumed samples: a pass begins again at the first sample.", values, advice)
    _begin_at(loader, Position(consumed, 0, consumed))


def _begin_at(loader: ResumableLoader[Any], at: Position) -> None:
    if at.consumed_samples:
        tracker_of(loader.state).load_snapshot(Snapshot(at.consumed_samples, at.epoch, at.offset), is_resume=True)


def _checked(begun_with: Sizes, dataloader_type: str) -> Sizes:
    if not isinstance(cast("object", begun_with), Sizes):
        raise ConfigurationError(
            "begun_with= must be Sizes.",
            [("begun_with", begun_with)],
            "Pass Sizes(micro_batch_size, data_parallel_size, global_batch_size), of resumable.adapters.megatron.",
        )
    if dataloader_type == "batch" and begun_with.global_batch_size is None:
        raise ConfigurationError(
            "The type 'batch' needs the global batch size that the run began with.",
            [("begun_with", begun_with)],
            "Pass begun_with=Sizes(..., global_batch_size=...).",
        )
    return begun_with


def _rounds_of(sizes: Sizes) -> tuple[int | None, ...]:
    return (sizes.per_round, sizes.global_batch_size)


def _share_of(sizes: Sizes) -> int:
    """Samples that a rank takes of a global batch at once."""
    whole = sizes.global_batch_size
    if whole is None or whole % sizes.per_round:
        raise ConfigurationError(
            "The type 'batch' needs a global batch size of whole micro batches on all ranks.",
            [("global_batch_size", whole), ("micro_batch_size * data_parallel_size", sizes.per_round)],
            "Pass a multiple of it as global_batch_size=.",
        )
    return whole // sizes.data_parallel_size


def _seed_of(seed: int | None) -> int:
    if seed is not None:
        given = whole_number("seed", seed, least=-(2**63))
        if given >= 2**64:
            raise ConfigurationError("seed is too large.", [("seed", given)], "Pass a seed below 2**64.")
        return given
    found = int(torch.initial_seed())
    warn(
        "The type 'batch' has no seed, so it is shuffled by torch's global one. A resumed run must have set the same.",
        [("torch.initial_seed()", found)],
        "Pass seed=, the same on all ranks and in each session.",
    )
    return found
