"""One data-parallel rank's batches of indices, drawn without those of the other ranks.

    a round of 3 ranks   │ rank 0 │ rank 1 │ rank 2 │      the r-th micro batch of each round is rank r's
    an epoch's tail      │ 0  1  2 │ 3  4  · │ ·  ·  · │    is shared out in equal parts, filled from the epoch's beginning
                                                          (here 5 samples: 2 each, and one of them again)

The union over the ranks depends on the place alone. The layout is that of Megatron-LM's samplers
(megatron/legacy/data/data_samplers.py, `MegatronPretrainingSampler`); the filling is that of torch's DistributedSampler.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from resumable.batching import Batching
from resumable.order import Sequential, Shuffled
from resumable.permutation import permuted_at
from resumable.protocols import Order
from resumable.sampler import BLOCK, FIRST_BLOCK, OrderFeed, cut, miscounted

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ShardedFeed"]

_A_CALL: Final = 2_500
"""A call of somebody else's order is taken to cost as much as so many indices."""
_AT_ONCE: Final = 65_536
"""The most indices that it is asked for at once: half a megabyte."""


class ShardedFeed(OrderFeed):
    """The batches of rank *rank* of *size*; *batching* is that of the rounds, and may run across the ends of epochs."""

    def __init__(self, order: Order, batching: Batching, *, rank: int = 0, size: int = 1) -> None:
        super().__init__(order, batching)
        self._rank = rank
        self._size = size

    @property
    def micro_batch_size(self) -> int:
        """Samples of a batch on one rank."""
        return self.batching.batch_size // self._size

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
        """What the order has at *places*, which may lie in later epochs where the stream runs on."""
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
        return self._of_somebody_elses(epoch, places)

    def _of_somebody_elses(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
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
