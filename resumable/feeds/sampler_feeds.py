"""How a user's own samplers are shared out among data-parallel ranks.

    a sampler             every rank draws all of it, since its draws are seeded; rank r takes its part of each round
    a batch sampler       the same with its batches: rank r takes the r-th of each round
    one for each rank     the loader yields this rank's samples alone; a round is what all ranks draw side by side

The first two depend on the position alone, whatever the number of ranks. With the third, the user sets the number of
ranks, so another number is another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, cycle, islice
from typing import Any

from typing_extensions import override

from resumable.feeds.feed import FIRST_BLOCK, Feed, Shard, cannot_adopt, miscounted
from resumable.feeds.order_feed import OrderFeed
from resumable.feeds.replay import Epochs, ReplayedSampler
from resumable.orders.identity import Identity
from resumable.orders.orders import Shuffled
from resumable.orders.permutation import stream_key
from resumable.steps.batch_plan import BatchPlan

__all__ = ["BatchSamplerFeed", "SamplerShards", "RankLocalFeed", "RoundRobinFeed"]


class SamplerShards(OrderFeed):
    """One rank's batches of a user's sampler, which is drawn in rounds; *batching* is that of the rounds."""

    order: ReplayedSampler

    def __init__(self, sampler: ReplayedSampler, batching: BatchPlan, shard: Shard) -> None:
        super().__init__(sampler, batching)
        self._shard = shard

    @property
    @override
    def micro_batch_size(self) -> int:
        return self.batching.batch_size // self._shard.size

    @override
    def _blocks(self, epoch: int, offset: int, left: int) -> Iterator[list[list[Any]]]:
        size, length = self.batching.batch_size, self.batching.length
        while left:
            rounds = min(left, max(1, FIRST_BLOCK // size))
            stop = min(offset + rounds * size, length)
            drawn = self.order.draw(epoch, offset, stop)
            if len(drawn) != stop - offset:
                raise miscounted(self.identity, epoch, stop - offset, len(drawn))
            yield [self._part(epoch, drawn[start : start + size]) for start in range(0, len(drawn), size)]
            left, offset = left - rounds, stop

    def _part(self, epoch: int, drawn: list[Any]) -> list[Any]:
        """This rank's equal part of a round; the epoch's first samples fill a last round."""
        each = -(-len(drawn) // self._shard.size)
        missing = each * self._shard.size - len(drawn)
        if missing:
            first = self.order.draw(epoch, 0, min(missing, self.batching.length))
            drawn = [*drawn, *islice(cycle(first), missing)]
        return drawn[self._shard.rank * each : (self._shard.rank + 1) * each]


class RoundRobinFeed(Feed):
    """One rank's batches of a user's batch sampler: one of each round, which has as many as there are ranks.

    The epoch's first batches fill its last round, or drop_last drops that round, so that all ranks get equally many.
    """

    def __init__(self, own: BatchSamplerFeed, shard: Shard) -> None:
        self._own = own
        self._shard = shard
        self.batching: BatchPlan = replace(own.batching, batch_size=own.batching.batch_size * shard.size)
        self.identity: Identity = own.identity

    @property
    @override
    def micro_batch_size(self) -> int:
        return self._own.micro_batch_size

    @override
    def padded_samples(self, offset: int, /) -> int:
        if self.batching.drop_last:
            return 0
        return -self._own.batching.batches_left(offset) % self._shard.size * self.micro_batch_size

    @override
    def adopt(self, identity: Identity, /) -> None:
        self._own.adopt(identity)
        self.identity = self._own.identity

    @override
    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        return self._own.canary(identity, epoch, offset, looks=looks)

    @override
    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        left = self.batching.batches_left(offset) if count is None else count
        following = self._own.batches(epoch, offset)
        rank, size = self._shard.rank, self._shard.size
        for _ in range(left):
            batches = list(islice(following, size))
            if len(batches) < size:
                batches += islice(cycle(self._own.batches(epoch, 0)), size - len(batches))
            yield batches[rank]


class RankLocalFeed(Feed):
    """The batches of a loader that yields one rank's samples alone, counted as a part of rounds over all ranks.

    It has no canary: each rank's indices are others, and what is saved is the same on all. Padding is the user's.
    """

    def __init__(self, own: Feed, shard: Shard) -> None:
        self._own = own
        self._shard = shard
        plan = own.batching
        self.batching: BatchPlan = replace(
            plan, length=plan.length * shard.size, batch_size=plan.batch_size * shard.size
        )
        self.adopt(own.identity)

    @property
    @override
    def micro_batch_size(self) -> int:
        return self._own.micro_batch_size

    @override
    def adopt(self, identity: Identity, /) -> None:
        # Ranks whose loaders shuffle datasets of equal length would otherwise shuffle them identically. A sampler that
        # shares the data out by itself needs the opposite, the same draws on each rank.
        seed = identity.seed
        if seed is not None and identity.kind == Shuffled.kind and self._shard.rank:
            seed = stream_key(self._shard.rank, stream_key(0, seed, epoch=0), epoch=0)
        self._own.adopt(replace(identity, length=self._own.batching.length, seed=seed))
        self.identity: Identity = replace(identity, length=self.batching.length)

    @override
    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        left = self.batching.batches_left(offset) if count is None else count
        return self._own.batches(epoch, offset // self._shard.size, left)


class BatchSamplerFeed(Feed):
    """The batches of a user's own batch sampler, replayed.

    Whole batches are counted as such up to the position. A position inside a batch (the batch size has changed in
    mid-epoch) is found by counting samples, and the rest of that epoch is cut into batches anew.
    """

    def __init__(self, sampler: Iterable[list[Any]], seed: int, batching: BatchPlan) -> None:
        self.batching = batching
        self.identity: Identity = Identity(type(sampler).__qualname__, batching.length, seed)
        self._epochs = Epochs(sampler, seed, batched=True)

    @override
    def adopt(self, identity: Identity, /) -> None:
        if replace(identity, seed=None) != replace(self.identity, seed=None):
            raise cannot_adopt(identity, self.identity)
        self._epochs, self.identity = self._epochs_of(identity), identity

    def _epochs_of(self, identity: Identity) -> Epochs:
        is_present = identity.seed == self.identity.seed
        return self._epochs if is_present else Epochs(self._epochs.sampler, identity.seed or 0, batched=True)

    @override
    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        return self._epochs_of(identity).canary(epoch, looks=looks)

    @override
    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        return islice(self._batches(epoch, offset), count)

    def _batches(self, epoch: int, offset: int) -> Iterator[list[Any]]:
        draws = self._epochs.begin(epoch)
        size = self.batching.batch_size
        if offset % size == 0:
            left, given = self.batching.batches_left(offset), 0
            for batch in islice(draws, offset // size, None):
                given += 1
                yield batch
            if given < left:
                raise miscounted(self.identity, epoch, left, given)
            return
        indices = islice(chain.from_iterable(draws), offset, None)
        for _ in range(self.batching.batches_left(offset)):
            yield list(islice(indices, size))
