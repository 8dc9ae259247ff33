"""From a DataLoader's samplers to the feed of its batches, on any number of ranks.

torch's own sampler, DistributedSampler included          an order, which is shared out among any number of ranks
a user's sampler or batch sampler                         replayed whole on each rank, and shared out
one that knows of ranks, or a loader already sharded      replayed, and each rank's batches are its own
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from resumable.errors import ConfigurationError, DecorationError
from resumable.feeds.feed import Feed, ResumableSampler, Shard
from resumable.feeds.order_feed import OrderFeed, ShardedFeed
from resumable.feeds.replay import ReplayedSampler
from resumable.feeds.sampler_feeds import BatchSamplerFeed, RankLocalFeed, RoundRobinFeed, SamplerShards
from resumable.orders.orders import Sequential, Shuffled
from resumable.protocols import Order
from resumable.steps.batch_plan import BatchPlan

__all__ = ["feed_of", "share_out"]


def feed_of(loader: DataLoader[Any], seed: int, shard: Shard, /) -> tuple[Feed, Shard]:
    """The batches of *shard* that *loader* yields, and the shard, which the loader's own sampler may know better.

    Raises:
        DecorationError: for a sampler without a length.
        ConfigurationError: for an empty one.

    >>> feed, _ = feed_of(DataLoader(range(10), batch_size=2), 0, Shard(rank=1, size=2))
    >>> list(feed.batches(0, 0))
    [[2, 3], [6, 7], [9]]
    """
    sampler, batches = _samplers_of(loader)
    for own in (sampler, batches):
        if isinstance(own, ResumableSampler):  # a ResumableLoader, which knows its ranks
            return _feed_of_ours(own.feed, shard)
    if batches is not None and not _is_torchs(batches, BatchSampler):
        shard = _sharded(shard, batches)
        whole = BatchSamplerFeed(batches, seed, _batching_of(batches, loader))
        if shard.size == 1:
            return whole, shard
        return (RankLocalFeed if shard.already_sharded else RoundRobinFeed)(whole, shard), shard
    size, drop_last = 1, False
    if batches is not None:
        sampler, size, drop_last = batches.sampler, batches.batch_size, batches.drop_last
    if _is_torchs(sampler, DistributedSampler):
        shard = replace(shard, rank=sampler.rank, size=sampler.num_replicas, already_sharded=False)
    else:
        shard = _sharded(shard, sampler)
    order = _order_of(sampler, seed)
    if shard.already_sharded:
        return RankLocalFeed(OrderFeed(order, BatchPlan(len(order), size, drop_last)), shard), shard
    batching = BatchPlan(len(order), size * shard.size, drop_last)
    return share_out(order, batching, shard), shard


def share_out(order: Order | ReplayedSampler, batching: BatchPlan, shard: Shard, /) -> Feed:
    """The part of *shard* of *order*, cut into the rounds of *batching*.

    >>> list(share_out(Sequential(4), BatchPlan(4, 2), Shard(rank=1, size=2)).batches(0, 0))
    [[1], [3]]
    """
    if shard.size == 1:
        return OrderFeed(order, batching)
    if isinstance(order, ReplayedSampler):
        return SamplerShards(order, batching, shard)
    return ShardedFeed(order, batching, rank=shard.rank, size=shard.size)


def _samplers_of(loader: DataLoader[Any]) -> tuple[Any, Any]:
    """The sampler and batch sampler that the loader was made with, even after others have taken their place."""
    made_with: tuple[Any, Any] = vars(loader).setdefault("_resumable_samplers", (loader.sampler, loader.batch_sampler))
    return made_with


def _feed_of_ours(feed: Feed, shard: Shard) -> tuple[Feed, Shard]:
    """The feed of a ResumableLoader, which the user gave its ranks."""
    size = feed.batching.batch_size // feed.micro_batch_size
    if size != shard.size and shard.size > 1:
        raise ConfigurationError(
            "The train loader was made for another number of ranks.",
            [("its data_parallel_size", size), ("the trainer's", shard.size)],
            "Pass it ranks=resumable.adapters.lightning.Ranks(trainer), or return a plain DataLoader, which is given them.",
        )
    return feed, replace(shard, size=size, already_sharded=False)


def _is_torchs(sampler: object, cls: type[Any]) -> bool:
    """Whether *sampler* is of torch's class itself, or torchdata's of the same name; a subclass may do anything."""
    theirs: type[Any] = type(sampler)
    is_torchdatas = theirs.__module__.startswith("torchdata.")
    return theirs is cls or (is_torchdatas and theirs.__name__.removeprefix("Stateful") == cls.__name__)


def _sharded(shard: Shard, sampler: Any) -> Shard:
    return replace(shard, already_sharded=shard.size > 1 and (shard.already_sharded or _knows_ranks(sampler)))


def _knows_ranks(sampler: Any) -> bool:
    """Whether *sampler*, or one inside it, yields one rank's samples alone, as DistributedSampler does."""
    return sampler is not None and (hasattr(sampler, "num_replicas") or _knows_ranks(getattr(sampler, "sampler", None)))


def _order_of(sampler: Any, seed: int) -> Sequential | Shuffled | ReplayedSampler:
    if type(sampler) is SequentialSampler:
        return Sequential(_sized(sampler.data_source))
    if _is_torchs(sampler, DistributedSampler):
        length = _sized(sampler.dataset)
        return Shuffled(length, sampler.seed or seed) if sampler.shuffle else Sequential(length)
    plain = _is_torchs(sampler, RandomSampler) and not sampler.replacement
    if plain and sampler.num_samples == len(sampler.data_source):
        return Shuffled(_sized(sampler.data_source), seed)
    _sized(sampler)
    return ReplayedSampler(sampler, seed)


def _batching_of(batches: Any, loader: DataLoader[Any]) -> BatchPlan:
    """The batch plan of a user's batch sampler: a batch has its `batch_size` samples, or one if it has none."""
    number, size = _sized(batches), getattr(batches, "batch_size", None) or 1
    candidates: tuple[Any, ...] = (getattr(batches, "sampler", None), loader.dataset)
    for samples in candidates:
        length = len(samples) if hasattr(samples, "__len__") else 0
        for drop_last in (False, True):
            if length and BatchPlan(length, size, drop_last).batches == number:
                return BatchPlan(length, size, drop_last)
    return BatchPlan(number * size, size)


def _sized(thing: Any) -> int:
    if not hasattr(thing, "__len__"):
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
