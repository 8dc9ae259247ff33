"""From a DataLoader's samplers to the feed of its batches, on any number of ranks.

torch's own sampler, DistributedSampler included          an order, which is shared out among any number of ranks
a user's sampler or batch sampler                         replayed whole on each rank, and shared out
one that knows of ranks, or a loader already sharded      replayed, and each rank's batches are its own
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from resumable.checks import length_if_known
from resumable.errors import ConfigurationError, DecorationError
from resumable.feeds.feed import Feed, ResumableSampler, Shard
from resumable.feeds.order_feed import OrderFeed
from resumable.feeds.rank_sampler import RankSampler
from resumable.feeds.replay import ReplayedSampler
from resumable.feeds.sampler_feeds import BatchSamplerFeed, RankLocalFeed
from resumable.feeds.sampler_memory import chain_of
from resumable.orders.orders import Sequential, Shuffled
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan
from resumable.verdict import OnMismatch

__all__ = ["feed_of", "of_as_many_ranks"]


def feed_of(loader: DataLoader[Any], seed: int, shard: Shard, /, *, on_mismatch: OnMismatch = "error") -> Feed:
    """The batches of *shard* that *loader* yields; the loader's own sampler may know the shard better.

    A sampler that cannot be replayed is refused, unless *on_mismatch* lets the run go on.

    Raises:
        ConfigurationError: for an empty sampler.

    >>> list(feed_of(DataLoader(range(10), batch_size=2), 0, Shard(rank=1, size=2)).batches(0, 0))
    [[2, 3], [6, 7], [9]]
    """
    # what the loader was made with, even after others have taken their place
    made_with: tuple[Any, Any] = vars(loader).setdefault("_resumable_samplers", (loader.sampler, loader.batch_sampler))
    sampler: Any
    sampler, batches = made_with
    for own in (sampler, batches):
        shown = own.batches if isinstance(own, RankSampler) else own
        if isinstance(shown, ResumableSampler):  # a ResumableLoader, which knows its ranks
            given = shown.feed
            return of_as_many_ranks(given.as_long_as(loader.dataset) if isinstance(given, OrderFeed) else given, shard)
    users: Any = None if batches is None or _is_torchs(batches, BatchSampler) else batches
    if batches is None and (isinstance(made_with[0], BatchSampler) or not _has_length(sampler)):
        users = sampler  # torch's way to give whole batches to the dataset
    size, drop_last, kind = 1, False, None
    if batches is not None and users is None:
        sampler, size, drop_last = batches.sampler, batches.batch_size, batches.drop_last
        if not _has_length(sampler):
            users, kind = batches, type(sampler).__qualname__
    if users is None and _is_torchs(sampler, DistributedSampler):
        shard = replace(shard, rank=sampler.rank, size=sampler.num_replicas, already_sharded=False)
    else:
        knows = _that_knows_ranks(sampler if users is None else users)
        if knows is not None and shard.size == 1 and hasattr(knows, "rank"):  # no trainer says it
            shard = Shard(int(knows.rank), int(knows.num_replicas))
        shard = replace(shard, already_sharded=shard.size > 1 and (shard.already_sharded or knows is not None))
    shared = Shard() if shard.already_sharded else shard
    if users is None:
        order = _order_of(sampler, seed, on_mismatch)
        plan = _as_torch_shares(BatchPlan(len(order), size * shared.size, drop_last), sampler)
        feed: Feed = OrderFeed(order, plan, shared)
    else:
        replayed = ReplayedSampler(users, seed, kind=kind, batched=True, on_mismatch=on_mismatch)
        plan, is_ragged = _plan_of(users, loader, shared.size)
        dataset: Any = loader.dataset
        is_counted = is_ragged and not shard.already_sharded and _has_length(dataset)
        feed = BatchSamplerFeed(
            replayed, plan, shared, length=len(dataset) if is_counted else None, is_ragged=is_ragged
        )
    return RankLocalFeed(feed, shard) if shard.already_sharded else feed


def _as_torch_shares(plan: BatchPlan, sampler: Any) -> BatchPlan:
    """*plan*, as torch's DistributedSampler changes it before the batches are made.

    With its drop_last, an epoch leaves out what not all ranks get. Otherwise it repeats samples, and where they fill the
    last round, the loader's own drop_last drops nothing.
    """
    if not _is_torchs(sampler, DistributedSampler):
        return plan
    ranks, rounds = sampler.num_replicas, plan.length // plan.batch_size
    if sampler.drop_last:
        return replace(plan, length=plan.length // ranks * ranks)
    is_filled = -(-plan.length // ranks) * ranks // plan.batch_size > rounds
    return replace(plan, drop_last=plan.drop_last and not is_filled)


def of_as_many_ranks(feed: Feed, shard: Shard, /) -> Feed:
    """The feed of a ResumableLoader, which the user gave its ranks.

    Raises:
        ConfigurationError: where the trainer has others.
    """
    if feed.shard.size != shard.size and shard.size > 1:
        raise ConfigurationError(
            "The train loader was made for another number of ranks.",
            [("its data_parallel_size", feed.shard.size), ("the trainer's", shard.size)],
            "Pass it ranks=resumable.adapters.lightning.Ranks(trainer), or return a plain DataLoader, which is given them.",
        )
    return feed


def _is_torchs(sampler: object, cls: type[Any]) -> bool:
    """Whether *sampler* is of torch's class itself, or torchdata's of the same name; a subclass may do anything."""
    theirs: type[Any] = type(sampler)
    is_torchdatas = theirs.__module__.startswith("torchdata.")
    return theirs is cls or (is_torchdatas and theirs.__name__.removeprefix("Stateful") == cls.__name__)


def _that_knows_ranks(sampler: Any) -> Any:
    """*sampler*, or the one inside it, that yields one rank's samples alone, as DistributedSampler does; or None."""
    return next((each for each in chain_of(sampler) if hasattr(each, "num_replicas")), None)


def _order_of(sampler: Any, seed: int, on_mismatch: OnMismatch) -> Sequential | Shuffled | ReplayedSampler:
    if type(sampler) is SequentialSampler:
        return Sequential(_sized(sampler.data_source))
    if _is_torchs(sampler, DistributedSampler):
        length = _sized(sampler.dataset)
        return Shuffled(length, sampler.seed or seed) if sampler.shuffle else Sequential(length)
    plain = _is_torchs(sampler, RandomSampler) and not sampler.replacement
    if plain and sampler.num_samples == len(sampler.data_source):
        return Shuffled(_sized(sampler.data_source), seed)
    _sized(sampler)
    return ReplayedSampler(sampler, seed, on_mismatch=on_mismatch)


def _plan_of(batches: Any, loader: DataLoader[Any], ranks: int) -> tuple[BatchPlan, bool]:
    """The rounds that are expected of a user's batch sampler, and whether nothing says how many samples a batch has."""
    known = getattr(batches, "batch_size", None)
    size, is_ragged = (1, True) if not isinstance(known, int) or known < 1 else (known, False)
    if not _has_length(batches):
        return BatchPlan(UNBOUNDED, size * ranks, bool(getattr(batches, "drop_last", False))), True
    number = _sized(batches)
    candidates: tuple[Any, ...] = (getattr(batches, "sampler", None), loader.dataset)
    for samples in candidates:
        length = len(samples) if _has_length(samples) else 0
        for drop_last in (False, True):
            if length and BatchPlan(length, size, drop_last).batches == number:
                return BatchPlan(length, size * ranks, drop_last), is_ragged
    return BatchPlan(number * size, size * ranks), is_ragged


def _has_length(thing: Any) -> bool:
    return length_if_known(thing) is not None


def _sized(thing: Any) -> int:
    if not _has_length(thing):
        raise DecorationError(
            f"{type(thing).__name__} has no length, so no position in it is known.",
            [("needed", "__len__"), ("got", type(thing).__name__)],
            "Give it a __len__.",
        )
    if not len(thing):
        raise ConfigurationError(
            f"{type(thing).__name__} is empty.", [("length", 0)], "Give the train loader at least one sample."
        )
    return len(thing)
