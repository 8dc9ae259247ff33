"""From a DataLoader's samplers to where its batches come from, at any place, on any number of ranks.

no sampler of one's own, or torch's DistributedSampler     an order, which every number of ranks shares out alike
a sampler or batch sampler                                 replayed whole on each rank, and shared out
one that knows of ranks, or the user shares out himself    replayed, and each rank's batches are its own
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from resumable.errors import ConfigurationError, DecorationError, explain
from resumable.feeds.feed import Feed, ResumableSampler, Shard
from resumable.feeds.order_feed import OrderFeed, ShardedFeed
from resumable.feeds.replay import ReplayedSampler
from resumable.feeds.sampler_feeds import BatchSamplerFeed, RankLocalFeed, RoundRobinFeed, SamplerShards
from resumable.orders.orders import Sequential, Shuffled
from resumable.protocols import Order
from resumable.steps.batch_plan import BatchPlan

__all__ = ["feed_of", "in_order"]


def feed_of(loader: DataLoader[Any], seed: int, shard: Shard, /) -> tuple[Feed, Shard]:
    """The batches of *shard* that *loader* is asked for, and the shard as the loader's own sampler tells it.

    Raises:
        DecorationError: for a sampler without a length.
        ConfigurationError: for an empty one.

    >>> feed, _ = feed_of(DataLoader(range(10), batch_size=2), 0, Shard(rank=1, size=2))
    >>> list(feed.batches(0, 0))
    [[2, 3], [6, 7], [9]]
    """
    sampler, batches = _samplers_of(loader)
    for own in (sampler, batches):
        if isinstance(own, ResumableSampler):  # a ResumableLoader, which was told its rank, if there are several
            return _feed_of_ours(own.feed, shard)
    if batches is not None and not _is_torchs(batches, BatchSampler):
        return _feed_of_batches(BatchSamplerFeed(batches, seed, _batching_of(batches, loader)), batches, shard)
    size, drop_last = 1, False
    if batches is not None:
        sampler, size, drop_last = batches.sampler, batches.batch_size, batches.drop_last
    if _is_torchs(sampler, DistributedSampler):
        shard = replace(shard, rank=sampler.rank, size=sampler.num_replicas, is_drawn=False)
    else:
        shard = replace(shard, is_drawn=shard.size > 1 and (shard.is_drawn or _knows_ranks(sampler)))
    order = _order_of(sampler, seed)
    if shard.is_drawn:
        return RankLocalFeed(OrderFeed(order, BatchPlan(len(order), size, drop_last)), shard), shard
    batching = BatchPlan(len(order), size * shard.size, drop_last)
    return _shared_out(order, batching, shard), shard


def in_order(feed: Feed, shard: Shard, /) -> Feed:
    """The batches of the same loader without its shuffling.

    >>> feed, shard = feed_of(DataLoader(range(4), shuffle=True), 0, Shard())
    >>> list(in_order(feed, shard).batches(0, 0))
    [[0], [1], [2], [3]]
    """
    batching = feed.batching
    if not shard.is_drawn:
        return _shared_out(Sequential(batching.length), batching, shard)
    own = replace(batching, length=batching.length // shard.size, batch_size=batching.batch_size // shard.size)
    return RankLocalFeed(OrderFeed(Sequential(own.length), own), shard)


def _samplers_of(loader: DataLoader[Any]) -> tuple[Any, Any]:
    """The sampler and batch sampler that the loader was made with, also where others stand in their place since."""
    made_with: tuple[Any, Any] = vars(loader).setdefault("_resumable_samplers", (loader.sampler, loader.batch_sampler))
    return made_with


def _feed_of_batches(own: BatchSamplerFeed, batches: Any, shard: Shard) -> tuple[Feed, Shard]:
    shard = replace(shard, is_drawn=shard.size > 1 and (shard.is_drawn or _knows_ranks(batches)))
    if shard.size == 1:
        return own, shard
    return (RankLocalFeed(own, shard) if shard.is_drawn else RoundRobinFeed(own, shard)), shard


def _feed_of_ours(feed: Feed, shard: Shard) -> tuple[Feed, Shard]:
    """The feed of a ResumableLoader, which is told its ranks by itself."""
    size = feed.batching.batch_size // feed.micro_batch_size
    if size != shard.size and shard.size > 1:
        raise ConfigurationError(
            explain(
                "The train loader was made for another number of ranks.",
                [("its data_parallel_size", size), ("the trainer's", shard.size)],
                "Pass it ranks=resumable.adapters.lightning.Ranks(trainer), or return a plain DataLoader, which is told them.",
            )
        )
    return feed, replace(shard, size=size, is_drawn=False)


def _shared_out(order: Order | ReplayedSampler, batching: BatchPlan, shard: Shard) -> Feed:
    if shard.size == 1:
        return OrderFeed(order, batching)
    if isinstance(order, ReplayedSampler):
        return SamplerShards(order, batching, shard)
    return ShardedFeed(order, batching, rank=shard.rank, size=shard.size)


def _is_torchs(sampler: object, cls: type[Any]) -> bool:
    """Whether *sampler* is of torch's class itself, or torchdata's of the same name; a subclass may do anything."""
    theirs: type[Any] = type(sampler)
    is_torchdatas = theirs.__module__.startswith("torchdata.")
    return theirs is cls or (is_torchdatas and theirs.__name__.removeprefix("Stateful") == cls.__name__)


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
    """The batching of a user's batch sampler, whose batches count as samples by its `batch_size`, else as one each."""
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
            explain(
                f"{type(thing).__name__} has no length, so no place in it could be told.",
                [("needed", "__len__"), ("got", type(thing).__name__)],
                "Give it a __len__.",
            )
        )
    if not len(thing):
        raise ConfigurationError(
            explain(f"{type(thing).__name__} is empty.", [("length", 0)], "Give the train loader at least one sample.")
        )
    return len(thing)
