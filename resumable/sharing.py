"""How a user's own samplers are shared out among data-parallel ranks, and loaders that are shared out already.

    a sampler           drawn whole on every rank, since its draws are seeded; rank r takes its part of each round
    a batch sampler     the same with its batches: rank r takes the r-th of each round
    each rank its own   a loader that yields this rank's samples alone: a round is what all ranks draw side by side

The first two depend on the place alone, whatever the number of ranks. With the third it is the user who says how many
ranks there are, so another number is another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice
from typing import Any

from torch.utils.data import DistributedSampler, SequentialSampler

from resumable.batching import Batching
from resumable.order import Shuffled
from resumable.permutation import stream_key
from resumable.replay import ReplayedSampler
from resumable.sampler import FIRST_BLOCK, BatchSamplerFeed, Feed, OrderFeed, ResumableSampler, miscounted
from resumable.verdict import Identity

__all__ = ["DrawnShards", "OwnShards", "RankSampler", "RoundRobin", "SequentialRankSampler", "Shard"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of the data this process loads: that of data-parallel rank *rank* of *size*.

    *is_drawn*: the loader yields this rank's samples alone, so nothing of them is for the other ranks.
    *is_guarded*: a framework would put a sampler of its own into the loader unless it finds one.
    """

    rank: int = 0
    size: int = 1
    is_drawn: bool = False
    is_guarded: bool = False


class DrawnShards(OrderFeed):
    """One rank's batches of a user's sampler, which is drawn in rounds; *batching* is that of the rounds."""

    order: ReplayedSampler

    def __init__(self, sampler: ReplayedSampler, batching: Batching, shard: Shard) -> None:
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


class RoundRobin:
    """One rank's batches of a user's batch sampler: of each round of them, as many as there are ranks, one.

    An epoch's last round is filled with the epoch's first batches, or dropped with drop_last, so that all ranks get
    equally many.
    """

    def __init__(self, own: BatchSamplerFeed, shard: Shard) -> None:
        self._own = own
        self._shard = shard
        self.batching = replace(own.batching, batch_size=own.batching.batch_size * shard.size)

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


class OwnShards:
    """The batches of a loader that yields one rank's samples alone, counted as a part of rounds over all ranks."""

    def __init__(self, own: Feed, shard: Shard) -> None:
        self._own = own
        self._shard = shard
        batching = own.batching
        self.batching = replace(
            batching, length=batching.length * shard.size, batch_size=batching.batch_size * shard.size
        )
        self.identity = replace(own.identity, length=self.batching.length)
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


class RankSampler(DistributedSampler[Any]):
    """What a loader shows as its sampler on several ranks: the indices of the pass that begins next, on this rank.

    Lightning puts a DistributedSampler into every loader that has none, and builds the loader anew for it.
    """

    def __init__(self, batches: ResumableSampler, shard: Shard, *, single: bool) -> None:
        length = batches.feed.batching.length
        super().__init__(range(length), num_replicas=shard.size, rank=shard.rank, shuffle=False)  # type: ignore[arg-type]
        self._batches = batches
        self._single = single

    def __len__(self) -> int:
        batching = self._batches.feed.batching
        whole, size = batching.length // batching.batch_size, self._batches.feed.micro_batch_size
        return whole * size if batching.drop_last else -(-batching.length // self.num_replicas)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches) if self._single else chain.from_iterable(self._batches)


class SequentialRankSampler(RankSampler, SequentialSampler):
    """The same, for loaders that Lightning asked to leave out the shuffling; it looks for a SequentialSampler."""
