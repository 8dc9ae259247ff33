"""How a user's batch samplers, and loaders that share the data out themselves, are counted over data-parallel ranks.

    a batch sampler       every rank draws all of it, since its draws are seeded; rank r takes the r-th batch of each round
    one for each rank     the loader yields this rank's samples alone; a round is what all ranks draw side by side

The first depends on the position alone, whatever the number of ranks. With the second, the user sets the number of
ranks, so another number is another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, cycle, islice
from typing import Any

from typing_extensions import override

from resumable.feeds.feed import Feed, Shard, cannot_adopt, miscounted
from resumable.feeds.replay import ReplayedSampler
from resumable.orders.identity import Identity
from resumable.orders.orders import Shuffled
from resumable.orders.permutation import stream_key
from resumable.steps.batch_plan import BatchPlan

__all__ = ["BatchSamplerFeed", "RankLocalFeed"]


class BatchSamplerFeed(Feed):
    """One rank's batches of a user's batch sampler, replayed: of each round, which has one for each rank.

    The epoch's first batches fill its last round, or drop_last drops that round, so that all ranks get equally many.

    Whole batches are counted as such up to the position. A position inside a batch (the batch size has changed in
    mid-epoch) is found by counting samples, and the rest of that epoch is cut into batches anew.
    """

    def __init__(self, sampler: Iterable[list[Any]], seed: int, plan: BatchPlan, shard: Shard = Shard()) -> None:
        self.plan = plan
        self.shard = shard
        self._sampler = ReplayedSampler(sampler, seed, batched=True)
        self.identity: Identity = Identity(self._sampler.kind, plan.length, seed)

    @property
    def _whole(self) -> BatchPlan:
        """The plan of the sampler's batches, before the ranks share them."""
        plan, size = self.plan, self.shard.size
        limit = None if plan.limit is None else plan.limit * size
        return replace(plan, batch_size=plan.batch_size // size, limit=limit)

    @override
    def padded_samples(self, offset: int, /) -> int:
        if self.plan.drop_last:
            return 0
        return -self._whole.batches_left(offset) % self.shard.size * self.micro_batch_size

    @override
    def adopt(self, identity: Identity, /) -> None:
        if replace(identity, seed=None) != replace(self.identity, seed=None):
            raise cannot_adopt(identity, self.identity)
        self._sampler, self.identity = self._sampler_of(identity), identity

    def _sampler_of(self, identity: Identity) -> ReplayedSampler:
        own = self._sampler
        return own if identity.seed == own.seed else ReplayedSampler(own.sampler, identity.seed or 0, batched=True)

    @override
    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        return self._sampler_of(identity).canary(epoch, looks=looks)

    @override
    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        batches = self._batches(epoch, offset)
        return islice(batches, count) if self.shard.size == 1 else self._shared(batches, epoch, offset, count)

    def _shared(self, batches: Iterator[list[Any]], epoch: int, offset: int, count: int | None) -> Iterator[list[Any]]:
        """This rank's one of each round of *batches*."""
        rank, size = self.shard.rank, self.shard.size
        for _ in range(self.plan.batches_left(offset) if count is None else count):
            of_round = list(islice(batches, size))
            if len(of_round) < size:
                of_round += islice(cycle(self._batches(epoch, 0)), size - len(of_round))
            yield of_round[rank]

    def _batches(self, epoch: int, offset: int) -> Iterator[list[Any]]:
        """The sampler's batches from *offset* on."""
        draws, plan = self._sampler.begin(epoch), self._whole
        size, left = plan.batch_size, plan.batches_left(offset)
        if offset % size == 0:
            given = 0
            for batch in islice(draws, offset // size, None):
                given += 1
                yield batch
            if given < left:
                raise miscounted(self.identity, epoch, left, given)
            return
        indices = islice(chain.from_iterable(draws), offset, None)
        for _ in range(left):
            yield list(islice(indices, size))


class RankLocalFeed(Feed):
    """The batches of a loader that yields one rank's samples alone, counted as a part of rounds over all ranks.

    It has no canary: each rank's indices are others, and what is saved is the same on all. Padding is the user's.
    """

    def __init__(self, own: Feed, shard: Shard) -> None:
        self._own = own
        self.shard = shard
        plan = own.plan
        self.plan: BatchPlan = replace(plan, length=plan.length * shard.size, batch_size=plan.batch_size * shard.size)
        self.adopt(own.identity)

    @override
    def adopt(self, identity: Identity, /) -> None:
        # Ranks whose loaders shuffle datasets of equal length would otherwise shuffle them identically. A sampler that
        # shares the data out by itself needs the opposite, the same draws on each rank.
        seed = identity.seed
        if seed is not None and identity.kind == Shuffled.kind and self.shard.rank:
            seed = stream_key(self.shard.rank, stream_key(0, seed, epoch=0), epoch=0)
        self._own.adopt(replace(identity, length=self._own.plan.length, seed=seed))
        self.identity: Identity = replace(identity, length=self.plan.length)

    @override
    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        left = self.plan.batches_left(offset) if count is None else count
        return self._own.batches(epoch, offset // self.shard.size, left)
