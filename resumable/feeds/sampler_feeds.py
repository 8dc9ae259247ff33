"""How a user's own samplers are shared out among data-parallel ranks, and loaders that are shared out already.

    a sampler           drawn whole on every rank, since its draws are seeded; rank r takes its part of each round
    a batch sampler     the same with its batches: rank r takes the r-th of each round
    each rank its own   a loader that yields this rank's samples alone: a round is what all ranks draw side by side

The first two depend on the place alone, whatever the number of ranks. With the third it is the user who says how many
ranks there are, so another number is another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, cycle, islice
from typing import Any

from resumable.feeds.feed import FIRST_BLOCK, Feed, Shard, _cannot_adopt, miscounted
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
    def micro_batch_size(self) -> int:
        """Samples of a batch on one rank."""
        return self.batching.batch_size // self._shard.size

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
        """This rank's equal part of a round; what a last one lacks is taken from the epoch's beginning."""
        each = -(-len(drawn) // self._shard.size)
        missing = each * self._shard.size - len(drawn)
        if missing:
            first = self.order.draw(epoch, 0, min(missing, self.batching.length))
            drawn = [*drawn, *islice(cycle(first), missing)]
        return drawn[self._shard.rank * each : (self._shard.rank + 1) * each]


class RoundRobinFeed:
    """One rank's batches of a user's batch sampler: of each round of them, as many as there are ranks, one.

    An epoch's last round is filled with the epoch's first batches, or dropped with drop_last, so that all ranks get
    equally many.
    """

    def __init__(self, own: BatchSamplerFeed, shard: Shard) -> None:
        self._own = own
        self._shard = shard
        self.batching: BatchPlan = replace(own.batching, batch_size=own.batching.batch_size * shard.size)

    @property
    def micro_batch_size(self) -> int:
        """Samples of a batch on one rank."""
        return self._own.micro_batch_size

    @property
    def identity(self) -> Identity:
        """What the order depends on."""
        return self._own.identity

    def padded_samples(self, offset: int, /) -> int:
        """Samples of the batches that fill an epoch's last round in a pass from *offset* on."""
        return (
            0
            if self.batching.drop_last
            else -self._own.batching.batches_left(offset) % self._shard.size * self.micro_batch_size
        )

    def adopt(self, identity: Identity, /) -> None:
        """Take over another seed."""
        self._own.adopt(identity)

    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        """The batch sampler's canary, which is drawn whole on every rank."""
        return self._own.canary(identity, epoch, offset, looks=looks)

    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        """The *count* batches from *offset* of *epoch* on; None means all to its end."""
        left = self.batching.batches_left(offset) if count is None else count
        following = self._own.batches(epoch, offset)
        rank, size = self._shard.rank, self._shard.size
        for _ in range(left):
            batches = list(islice(following, size))
            if len(batches) < size:
                batches += islice(cycle(self._own.batches(epoch, 0)), size - len(batches))
            yield batches[rank]


class RankLocalFeed:
    """The batches of a loader that yields one rank's samples alone, counted as a part of rounds over all ranks."""

    def __init__(self, own: Feed, shard: Shard) -> None:
        self._own = own
        self._shard = shard
        batching = own.batching
        self.batching: BatchPlan = replace(
            batching, length=batching.length * shard.size, batch_size=batching.batch_size * shard.size
        )
        self.identity: Identity = replace(own.identity, length=self.batching.length)
        self._follow(self.identity)

    @property
    def micro_batch_size(self) -> int:
        """Samples of a batch on one rank."""
        return self._own.micro_batch_size

    def padded_samples(self, offset: int, /) -> int:
        """None that are known: what is shared out by the user is filled by the user."""
        return 0

    def adopt(self, identity: Identity, /) -> None:
        """Take over another seed, as the loader's own feed does."""
        self._follow(identity)
        self.identity = replace(identity, length=self.batching.length)

    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        """None: each rank's indices are others, and what is saved is the same on all."""
        return None

    def _follow(self, identity: Identity) -> None:
        """Let the loader's own feed go on in the order that *identity* tells.

        Ranks whose loaders shuffle data sets of equal length would else shuffle them alike. A sampler that shares the
        data out by itself needs the opposite, the same draws on each rank.
        """
        length = self._own.batching.length
        seed = identity.seed
        if seed is not None and identity.kind == Shuffled.kind and self._shard.rank:
            seed = stream_key(self._shard.rank, stream_key(0, seed, epoch=0), epoch=0)
        self._own.adopt(replace(identity, length=length, seed=seed))

    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        """The *count* batches from *offset* of *epoch* on; None means all to its end."""
        left = self.batching.batches_left(offset) if count is None else count
        return self._own.batches(epoch, offset // self._shard.size, left)


class BatchSamplerFeed:
    """The batches of a user's own batch sampler, replayed.

    A position of whole batches is met by counting batches. Any other (the batch size has changed in mid-epoch) is
    met by counting samples, and the rest of that epoch is cut into batches anew.
    """

    def __init__(self, sampler: Iterable[list[Any]], seed: int, batching: BatchPlan) -> None:
        self.batching = batching
        self.identity: Identity = Identity(type(sampler).__qualname__, batching.length, seed)
        self._epochs = Epochs(sampler, seed, batched=True)

    @property
    def micro_batch_size(self) -> int:
        """Samples of a batch."""
        return self.batching.batch_size

    def padded_samples(self, offset: int, /) -> int:
        """None: there is one rank."""
        return 0

    def adopt(self, identity: Identity, /) -> None:
        """Take over another seed."""
        if replace(identity, seed=None) != replace(self.identity, seed=None):
            raise _cannot_adopt(identity, self.identity)
        self._epochs, self.identity = self._epochs_of(identity), identity

    def _epochs_of(self, identity: Identity) -> Epochs:
        is_present = identity.seed == self.identity.seed
        return self._epochs if is_present else Epochs(self._epochs.sampler, identity.seed or 0, batched=True)

    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        """The canary of *epoch*'s first draws with *identity*'s seed; see `Epochs.canary`."""
        return self._epochs_of(identity).canary(epoch, looks=looks)

    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        """The *count* batches from *offset* of *epoch* on; None means all to its end."""
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
