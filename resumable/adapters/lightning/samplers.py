"""The samplers that Lightning looks for in a train loader, and the order without the shuffling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from resumable.adapters.lightning.ranks import puts_samplers_in
from resumable.errors import warn
from resumable.feeds.feed import Feed, Shard
from resumable.feeds.order_feed import OrderFeed
from resumable.feeds.rank_sampler import RankSampler, SequentialRankSampler
from resumable.feeds.sampler_feeds import RankLocalFeed
from resumable.loading.map_loader import MapLoader
from resumable.orders.orders import Sequential
from resumable.steps.batch_plan import BatchPlan

__all__ = ["show_sampler", "unshuffle"]


def show_sampler(taken: MapLoader, trainer: Any) -> None:
    """Show Lightning, in the loader, the sampler that it would otherwise put there."""
    is_overfitting = trainer.overfit_batches > 0
    if is_overfitting or puts_samplers_in(trainer):
        shown = SequentialRankSampler if is_overfitting else RankSampler
        vars(taken.loader)["sampler"] = shown(taken.sampler)


def unshuffle(taken: MapLoader) -> None:
    """Leave out the shuffling, as Lightning does when it overfits some batches on purpose, and say so as it does."""
    kind = taken.feed.identity.kind
    if kind != "sequential":
        warn(
            "You requested to overfit but enabled train dataloader shuffling, which is turned off.",
            [("order", kind), ("trained", "sequential")],
            "Return a loader with shuffle=False, or leave overfit_batches out.",
        )
    taken.feed = _unshuffled(taken.feed, taken.shard)


def _unshuffled(feed: Feed, shard: Shard) -> Feed:
    plan = BatchPlan(feed.identity.length, feed.plan.batch_size, feed.plan.drop_last, feed.plan.limit)
    if not shard.already_sharded:
        return OrderFeed(Sequential(plan.length), plan, shard)
    own = replace(plan, length=plan.length // shard.size, batch_size=plan.batch_size // shard.size)
    return RankLocalFeed(OrderFeed(Sequential(own.length), own), shard)
