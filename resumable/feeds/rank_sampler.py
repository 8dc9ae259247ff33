"""What a loader shows as its sampler where a framework would otherwise put one of its own there, and build it anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DistributedSampler, SequentialSampler

from resumable.feeds.feed import ResumableSampler, iterated_outside

__all__ = ["RankSampler", "SequentialRankSampler"]


class RankSampler(DistributedSampler[Any]):
    """This rank's indices of the epoch that the loader is in.

    Lightning and Fabric put a DistributedSampler into every loader that has none. A loader without batches iterates it.
    *check* is called where a framework's own loader does.
    """

    def __init__(self, batches: ResumableSampler, check: Callable[[], object] | None = None) -> None:
        length, shard = batches.feed.plan.length, batches.feed.shard
        super().__init__(range(length), num_replicas=shard.size, rank=shard.rank, shuffle=False)  # type: ignore[arg-type]
        self.batches: ResumableSampler = batches
        self.check: Callable[[], object] = check or _nothing

    def __len__(self) -> int:
        return (self.batches.feed.plan.length + self.num_replicas - 1) // self.num_replicas

    def __iter__(self) -> Iterator[Any]:
        if not self.batches.single:
            raise iterated_outside(self)
        return iter(self.batches)

    def whole_epoch(self) -> Iterator[list[Any]]:
        """The same in batches, without leaving out the last one."""
        self.check()
        return self.batches.feed.whole_epoch(self.batches.start[0], drop_last=False)


class SequentialRankSampler(RankSampler, SequentialSampler):
    """The same for a framework that asks for no shuffling: it looks for a SequentialSampler."""


def _nothing() -> None:
    """No check."""
