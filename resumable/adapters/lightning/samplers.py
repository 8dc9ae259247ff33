"""The samplers that Lightning looks for in a train loader, and the passes that it alone asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, count
from typing import Any

from torch.utils.data import DistributedSampler, SequentialSampler
from typing_extensions import override

from resumable.adapters.lightning.ranks import puts_samplers_in
from resumable.feeds.feed import Feed, ResumableSampler, Shard
from resumable.feeds.order_feed import OrderFeed
from resumable.feeds.sampler_feeds import RankLocalFeed
from resumable.loading.map_loader import MapLoader
from resumable.orders.orders import Sequential
from resumable.steps.batch_plan import BatchPlan

__all__ = ["EndlessSampler", "RankSampler", "SequentialRankSampler", "show_sampler", "unshuffle"]


class EndlessSampler(ResumableSampler):
    """A sampler whose pass goes on with the next epoch: Lightning cycles a shorter loader beside a longer one."""

    @override
    def batches(self) -> Iterator[list[Any]]:
        first, offset = self.start
        return chain.from_iterable(self.feed.batches(epoch, offset if epoch == first else 0) for epoch in count(first))


class RankSampler(DistributedSampler[Any]):
    """What a loader shows as its sampler on several ranks: the indices of the pass that begins next, on this rank.

    Lightning puts a DistributedSampler into every loader that has none, and builds the loader anew for it.
    """

    def __init__(self, batches: ResumableSampler, shard: Shard) -> None:
        length = batches.feed.plan.length
        super().__init__(range(length), num_replicas=shard.size, rank=shard.rank, shuffle=False)  # type: ignore[arg-type]
        self._batches = batches

    def __len__(self) -> int:
        feed = self._batches.feed
        length, size = feed.plan.length, feed.plan.batch_size
        return length // size * feed.micro_batch_size if feed.plan.drop_last else -(-length // self.num_replicas)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches) if self._batches.single else chain.from_iterable(self._batches)


class SequentialRankSampler(RankSampler, SequentialSampler):
    """The same where Lightning asked for no shuffling: it looks for a SequentialSampler."""


def show_sampler(taken: MapLoader, trainer: Any) -> None:
    """Show Lightning, in the loader, the sampler that it would otherwise put there."""
    is_overfitting = trainer.overfit_batches > 0
    if is_overfitting or puts_samplers_in(trainer):
        shown = SequentialRankSampler if is_overfitting else RankSampler
        vars(taken.loader)["sampler"] = shown(taken.sampler, taken.shard)


def unshuffle(taken: MapLoader) -> None:
    """Leave out the shuffling, as Lightning asks for when it overfits some batches on purpose."""
    taken.sampler.feed = _unshuffled(taken.feed, taken.shard)


def _unshuffled(feed: Feed, shard: Shard) -> Feed:
    plan = BatchPlan(feed.identity.length, feed.plan.batch_size, feed.plan.drop_last, feed.plan.limit)
    if not shard.already_sharded:
        return OrderFeed(Sequential(plan.length), plan, shard)
    own = replace(plan, length=plan.length // shard.size, batch_size=plan.batch_size // shard.size)
    return RankLocalFeed(OrderFeed(Sequential(own.length), own), shard)
