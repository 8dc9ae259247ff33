"""One data-parallel rank's batches of indices, drawn without those of the other ranks.

    a round of 3 ranks   │ rank 0 │ rank 1 │ rank 2 │      the r-th micro batch of each round is rank r's
    an epoch's tail      │ 0  1  2 │ 3  4  · │ ·  ·  · │    is shared out in equal parts, filled from the epoch's beginning
                                                          (here 5 samples: 2 each, and one of them again)

All ranks together get samples that depend on the position alone. The layout is that of Megatron-LM's samplers
(megatron/legacy/data/data_samplers.py, `MegatronPretrainingSampler`); the filling is that of torch's DistributedSampler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from resumable.feeds.feed import BLOCK, FIRST_BLOCK, Feed, cannot_adopt, cut, miscounted
from resumable.feeds.replay import ReplayedSampler
from resumable.orders.canary import Canaries
from resumable.orders.identity import Identity
from resumable.orders.orders import Sequential, Shuffled, identity_of
from resumable.orders.permutation import permuted_at
from resumable.protocols import Order
from resumable.steps.batch_plan import BatchPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OrderFeed", "ShardedFeed"]

_A_CALL: Final = 2_500
"""A call of a user's order is assumed to cost as much as so many indices."""

_AT_ONCE: Final = 65_536
"""The most indices that a user's order is asked for at once: half a megabyte."""


class OrderFeed(Feed):
    """Batches cut from an order, or from a user's sampler that is replayed."""

    def __init__(self, order: Order | ReplayedSampler, batching: BatchPlan) -> None:
        self.batching = batching
        self._set(order)

    def _set(self, order: Order | ReplayedSampler) -> None:
        self.order = order
        if isinstance(order, ReplayedSampler):
            self.identity: Identity = Identity(order.kind, len(order), order.seed)
            self._draw: Callable[[int, int, int], list[Any] | NDArray[np.int64]] = order.draw
            self._canaries: Canaries | None = None
        else:
            self.identity = identity_of(order)
            self._draw = order.indices
            self._canaries = Canaries(order)

    @override
    def padded_samples(self, offset: int, /) -> int:
        ranks = self.batching.batch_size // self.micro_batch_size
        return 0 if self.batching.drop_last else -(self.batching.reach - offset) % ranks

    @override
    def adopt(self, identity: Identity, /) -> None:
        if identity != self.identity:
            self._set(self._order_of(identity))

    def _order_of(self, identity: Identity) -> Order | ReplayedSampler:
        if isinstance(self.order, ReplayedSampler) and identity.kind == self.identity.kind:
            return ReplayedSampler(self.order.sampler, identity.seed or 0, kind=identity.kind)
        if identity.kind == Shuffled.kind:
            return Shuffled(identity.length, identity.seed or 0)
        if identity.kind == Sequential.kind:
            return Sequential(identity.length)
        raise cannot_adopt(identity, self.identity)

    @override
    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        order, canaries = self.order, self._canaries
        if identity is not self.identity and identity != self.identity:
            order = self._order_of(identity)
            canaries = None if isinstance(order, ReplayedSampler) else Canaries(order)
        if canaries is not None:
            return canaries.at(epoch, offset)
        return order.canary(epoch, looks=looks) if isinstance(order, ReplayedSampler) else None

    @override
    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        left = self.batching.batches_left(offset) if count is None else count
        return chain.from_iterable(self._blocks(epoch, offset, left))

    def _blocks(self, epoch: int, offset: int, left: int) -> Iterator[list[list[Any]]]:
        """Batches that are drawn together, few at first."""
        size, length, draw = self.batching.batch_size, self.batching.length, self._draw
        block = FIRST_BLOCK
        while left:
            batches = min(left, max(1, block // size))
            stop = min(offset + batches * size, length)
            indices = draw(epoch, offset, stop)
            if len(indices) != stop - offset:
                raise miscounted(self.identity, epoch, stop - offset, len(indices))
            yield cut(indices, size)
            left, offset, block = left - batches, stop, BLOCK


class ShardedFeed(OrderFeed):
    """The batches of rank *rank* of *size*; *batching* is that of the rounds, and may run across the ends of epochs."""

    def __init__(self, order: Order, batching: BatchPlan, *, rank: int = 0, size: int = 1) -> None:
        super().__init__(order, batching)
        self._rank = rank
        self._size = size

    @property
    @override
    def micro_batch_size(self) -> int:
        return self.batching.batch_size // self._size

    @override
    def _blocks(self, epoch: int, offset: int, left: int) -> Iterator[list[list[Any]]]:
        per_round, micro, block = self.batching.batch_size, self.micro_batch_size, FIRST_BLOCK
        is_ours = isinstance(self.order, (Sequential, Shuffled))
        while left:
            rounds = min(left, max(1, block // micro if is_ours else min(block // micro, _AT_ONCE // per_round)))
            yield cut(self._at(epoch, self._places(offset, rounds)), micro)
            left, offset, block = left - rounds, offset + rounds * per_round, BLOCK

    def _places(self, offset: int, rounds: int) -> NDArray[np.int64]:
        """This rank's places in the rounds from *offset* on, counted on across the ends of epochs."""
        per_round, micro, length = self.batching.batch_size, self.micro_batch_size, self.batching.length
        first = offset + self._rank * micro
        starts = np.arange(first, first + rounds * per_round, per_round, dtype=np.int64)
        places = np.add.outer(starts, np.arange(micro, dtype=np.int64)).ravel()
        last = offset + (rounds - 1) * per_round
        if self.batching.carries or last + per_round <= length:
            return places
        share = -(-(length - last) // self._size)
        tail = np.arange(last + self._rank * share, last + (self._rank + 1) * share, dtype=np.int64)
        return np.concatenate((places[:-micro], tail % length))

    def _at(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the order has at *places*; with drop_last="carry" they may lie in later epochs."""
        if not self.batching.carries:
            return self._of_epoch(epoch, places)
        later, places = np.divmod(places, self.batching.reach)
        ends = [*np.flatnonzero(np.diff(later)).tolist(), places.size - 1]
        starts = [0, *(end + 1 for end in ends[:-1])]
        return np.concatenate(
            [
                self._of_epoch(epoch + int(later[end]), places[start : end + 1])
                for start, end in zip(starts, ends, strict=True)
            ]
        )

    def _of_epoch(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        order = self.order
        if isinstance(order, Sequential):
            return places
        if isinstance(order, Shuffled):
            return permuted_at(order.n, order.seed, epoch, places)
        return self._of_users_order(epoch, places)

    def _of_users_order(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same from slices: one for all where that is cheaper than one for each run of neighbouring places."""
        cuts = np.flatnonzero(np.diff(places) != 1) + 1
        first, stop = int(places.min()), int(places.max()) + 1
        if stop - first <= _A_CALL * (cuts.size + 1):
            return self._slice(epoch, first, stop)[places - first]
        runs = np.split(places, cuts)
        return np.concatenate([self._slice(epoch, int(run[0]), int(run[-1]) + 1) for run in runs])

    def _slice(self, epoch: int, start: int, stop: int) -> NDArray[Any]:
        drawn = np.asarray(self._draw(epoch, start, stop))
        if len(drawn) != stop - start:
            raise miscounted(self.identity, epoch, stop - start, len(drawn))
        return drawn
