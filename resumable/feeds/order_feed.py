"""One data-parallel rank's batches of indices, drawn from an order without those of the other ranks.

    a round of 3 ranks   │ rank 0 │ rank 1 │ rank 2 │      the r-th micro batch of each round is rank r's
    an epoch's tail      │ 0  1  2 │ 3  4  · │ ·  ·  · │    is shared out in equal parts, filled from the epoch's beginning
                                                          (here 5 samples: 2 each, and one of them again)

A user's sampler is drawn whole on each rank, since its draws are seeded, and shared out in the same way. All ranks
together get samples that depend on the position alone. The layout is that of Megatron-LM's samplers
(megatron/legacy/data/data_samplers.py, `MegatronPretrainingSampler`); the filling is that of torch's DistributedSampler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from resumable.errors import ConfigurationError, warn
from resumable.feeds.draws import Draw, Draws, Tally
from resumable.feeds.feed import BLOCK, FIRST_BLOCK, Feed, Shard, cannot_adopt, cut, miscounted
from resumable.feeds.replay import ReplayedSampler
from resumable.orders.canary import Canaries
from resumable.orders.identity import Identity
from resumable.orders.orders import Sequential, Shuffled, identity_of
from resumable.orders.permutation import permuted_at
from resumable.protocols import Order
from resumable.steps.batch_plan import BatchPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OrderFeed", "check_length"]

_A_CALL: Final = 2_500
"""A call of a user's order is assumed to cost as much as so many indices."""

_AT_ONCE: Final = 65_536
"""The most indices that a user's order is asked for at once: half a megabyte."""


class OrderFeed(Feed):
    """One rank's batches of an order, or of a user's sampler that is replayed; *plan* is that of the rounds.

    With drop_last="carry", batches run across the ends of epochs. An order that *interleaves* deals each round out: rank r
    of n takes its samples r, r + n, and so on, in place of its r-th micro batch.
    """

    def __init__(self, order: Order, plan: BatchPlan, shard: Shard = Shard()) -> None:
        self.plan = plan
        self.shard = shard
        self._set(order)

    def _set(self, order: Order) -> None:
        self.order = order
        self.identity: Identity = self.of_contents(identity_of(order))
        self._interleaves: bool = getattr(order, "interleaves", False)
        self._canaries = Canaries(order)
        self._is_told = False

    def as_long_as(self, dataset: Any, /) -> OrderFeed:
        """The feed of *dataset* as long as it is now, or of the user's order or sampler; itself where nothing has changed.

        Raises:
            ConfigurationError: if a user's order is not as long as the dataset.
        """
        order, length = self.order, len(dataset)
        if isinstance(order, (Sequential, Shuffled)):
            order = self._order_of(replace(self.identity, length=length)) if length != len(order) else order
        elif isinstance(order, ReplayedSampler):
            length = len(order)
        check_length(order, length)
        return self if length == self.plan.length else OrderFeed(order, replace(self.plan, length=length), self.shard)

    @override
    def padded_samples(self, offset: int, /, epoch: int = 0) -> int:
        return 0 if self.plan.drop_last else -(self.plan.reach - offset) % self.shard.size

    @override
    def adopt(self, identity: Identity, /) -> None:
        if identity != self.identity:
            self._set(self._order_of(identity))

    def _order_of(self, identity: Identity) -> Order:
        if isinstance(self.order, ReplayedSampler) and identity.kind == self.identity.kind:
            return self.order.seeded(identity.seed or 0)
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
            canaries = Canaries(order)
        return order.canary(epoch, looks=looks) if isinstance(order, ReplayedSampler) else canaries.at(epoch, offset)

    @override
    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        left = self.plan.batches_left(offset) if count is None else count
        return chain.from_iterable(self._blocks(epoch, offset, left))

    @override
    def draws(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[Draws]:
        if not isinstance(self.order, (Sequential, Shuffled)):  # it may give an index several times
            yield from self._tallied(epoch, offset, count)
            return
        for batch in self.batches(epoch, offset, count):
            after = offset + self.plan.batch_size
            places = None if after <= self.plan.reach else self._places(offset, 1)
            yield Draws(batch, epoch, None if places is None else self._draws_at(epoch, places.tolist()))
            offset = after

    def _draws_at(self, epoch: int, places: list[int]) -> list[Draw]:
        """Of which epoch *places* are, past the end of *epoch*; what fills its last round comes again in it."""
        if self.plan.carries:
            return [(epoch + place // self.plan.reach, 0) for place in places]
        return [(epoch, place // self.plan.length) for place in places]

    def _tallied(self, epoch: int, offset: int, count: int | None) -> Iterator[Draws]:
        """The batches of an order whose indices are counted over all ranks, from the epoch's first on."""
        plan, tally = self.plan, Tally()
        for start in range(0, offset, BLOCK):
            tally.note(epoch, self._slice(epoch, start, min(offset, start + BLOCK)))
        reach = plan.reach
        for whole in OrderFeed(self.order, plan, Shard()).batches(epoch, offset, count):
            filled = self._filled(epoch, whole)
            draws: list[Draw] = []
            while len(draws) < len(filled):
                ended, within = divmod(offset + len(draws), reach) if plan.carries else (0, 0)
                of_epoch = filled[len(draws) :][: reach - within if plan.carries else None]
                draws += tally.note(epoch + ended, of_epoch)
            own = self._own(len(filled))
            yield Draws(filled[own], epoch, draws[own])
            offset += len(whole)

    @override
    def whole_epoch(self, epoch: int, /, *, drop_last: bool) -> Iterator[list[Any]]:
        return OrderFeed(self.order, replace(self.plan, drop_last=drop_last, limit=None), self.shard).batches(epoch, 0)

    def _blocks(self, epoch: int, offset: int, left: int) -> Iterator[list[list[Any]]]:
        """Batches that are drawn together, few at first."""
        plan, ranks, micro, order = self.plan, self.shard.size, self.micro_batch_size, self.order
        per_round, block = plan.batch_size, FIRST_BLOCK
        draws_all = isinstance(order, ReplayedSampler) or (ranks == 1 and not plan.carries)
        is_ours = isinstance(order, (Sequential, Shuffled))
        while left:
            at_once = block // (per_round if draws_all else micro)
            rounds = min(left, max(1, at_once if is_ours else min(at_once, _AT_ONCE // per_round)))
            stop = offset + rounds * per_round
            # no name keeps a block: the next one takes its memory, and is made faster in it
            if not draws_all:
                yield cut(self._at(epoch, self._places(offset, rounds)), micro)
            elif ranks == 1:
                yield cut(self._slice(epoch, offset, min(stop, plan.length)), micro)
            else:
                all_ranks = self._slice(epoch, offset, min(stop, plan.length))
                yield [self._share(epoch, batch) for batch in cut(all_ranks, per_round)]
            left, offset, block = left - rounds, stop, BLOCK

    def _share(self, epoch: int, batch: list[Any]) -> list[Any]:
        """This rank's equal part of a round's draws."""
        filled = self._filled(epoch, batch)
        return filled[self._own(len(filled))]

    def _own(self, samples: int) -> slice:
        """Which of a round's *samples* are this rank's: a multiple of the ranks."""
        rank, size = self.shard.rank, self.shard.size
        share = samples // size
        return slice(rank, samples, size) if self._interleaves else slice(rank * share, (rank + 1) * share)

    def _filled(self, epoch: int, batch: list[Any]) -> list[Any]:
        """A round's draws; the epoch's first ones fill a last round, so that the ranks get equal parts."""
        missing = -len(batch) % self.shard.size
        if not missing:
            return batch
        first = self._slice(epoch, 0, min(missing, self.plan.length))
        return [*batch, *islice(cycle(first), missing)]

    def _places(self, offset: int, rounds: int) -> NDArray[np.int64]:
        """This rank's places in the rounds from *offset* on, counted on across the end of the epoch."""
        per_round, micro, length = self.plan.batch_size, self.micro_batch_size, self.plan.length
        last = offset + (rounds - 1) * per_round
        starts = np.arange(offset, last + 1, per_round, dtype=np.int64)
        places = np.add.outer(starts, _range(self._own(per_round))).ravel()
        if self.plan.carries or last + per_round <= length:
            return places
        size = self.shard.size
        tail = last + _range(self._own(-(-(length - last) // size) * size))
        return np.concatenate((places[:-micro], tail))

    def _at(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the order has at *places*; with drop_last="carry" they may lie in later epochs."""
        if not self.plan.carries:
            return self._of_epoch(epoch, places % self.plan.length if places[-1] >= self.plan.length else places)
        later, places = np.divmod(places, self.plan.reach)
        ends = [*np.flatnonzero(np.diff(later)).tolist(), places.size - 1]
        starts = [0, *(end + 1 for end in ends[:-1])]
        return np.concatenate(
            [
                self._of_epoch(epoch + int(later[end]), places[start : end + 1])
                for start, end in zip(starts, ends, strict=True)
            ]
        )

    def _of_epoch(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same within *epoch*; of a user's order from slices, one for all or one for each run, as is cheaper."""
        order = self.order
        if isinstance(order, Sequential):
            return places
        if isinstance(order, Shuffled):
            return permuted_at(order.n, order.seed, epoch, places)
        cuts = np.flatnonzero(np.diff(places) != 1) + 1
        first, stop = int(places.min()), int(places.max()) + 1
        if stop - first <= _A_CALL * (cuts.size + 1):
            return np.asarray(self._slice(epoch, first, stop))[places - first]
        runs = np.split(places, cuts)
        return np.concatenate([self._slice(epoch, int(run[0]), int(run[-1]) + 1) for run in runs])

    def _slice(self, epoch: int, start: int, stop: int) -> Any:
        """What the order itself gives: an array, or a user's sampler a list."""
        drawn = self.order.indices(epoch, start, stop)
        if len(drawn) != stop - start:
            raise miscounted(self.identity, epoch, stop - start, len(drawn))
        if stop == self.plan.length and isinstance(self.order, ReplayedSampler):
            self._tell_of_more(self.order, epoch)
        return drawn

    def _tell_of_more(self, sampler: ReplayedSampler, epoch: int) -> None:
        if not self._is_told and sampler.has_more(epoch, self.plan.length):
            self._is_told = True
            warn(
                "A sampler yields more indices than its __len__ returns. The rest of each epoch is left out.",
                [("sampler", sampler.kind), ("len(sampler)", self.plan.length)],
                "Let its __len__ return how many indices an epoch has.",
            )


def _range(part: slice) -> NDArray[np.int64]:
    return np.arange(part.start, part.stop, part.step, dtype=np.int64)


def check_length(order: Order, length: int, /) -> None:
    """Raise `ConfigurationError` unless *order* and a dataset of *length* samples are equally long.

    >>> check_length(Sequential(3), 3)
    """
    if len(order) != length:
        raise ConfigurationError(
            "The order and the dataset have different lengths.",
            [("len(order)", len(order)), ("len(dataset)", length)],
            "Make the order as long as the dataset.",
        )
