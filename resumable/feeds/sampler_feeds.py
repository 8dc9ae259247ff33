"""How a user's batch samplers, and loaders that share the data out themselves, are counted over data-parallel ranks.

    a batch sampler       every rank draws all of it, since its draws are seeded; rank r takes the r-th batch of each round
    one for each rank     the loader yields this rank's samples alone; a round is what all ranks draw side by side

The first depends on the position alone, whatever the number of ranks. With the second, the user sets the number of
ranks, so another number is another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, cycle, islice
from typing import Any, cast

from typing_extensions import override

from resumable.feeds.drawn import DrawnBatches, DrawnPlan
from resumable.feeds.draws import Draws, Tally
from resumable.feeds.feed import Feed, Shard, cannot_adopt
from resumable.feeds.replay import ReplayedSampler
from resumable.orders.identity import Identity
from resumable.orders.orders import Shuffled
from resumable.orders.permutation import stream_key
from resumable.saved.ledger import Ledger, Stretch
from resumable.saved.schedule_format import UserSchedule
from resumable.saved.snapshot import Snapshot
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan

__all__ = ["BatchSamplerFeed", "RankLocalFeed"]


class BatchSamplerFeed(Feed):
    """One rank's batches of a user's batch sampler, replayed: of each round, which has one for each rank.

    The epoch's first batches fill its last round, or drop_last drops that round, so that all ranks get equally many.

    Batches may have any sizes, and epochs any number of them. *plan* is what is expected: `batch_size` samples in each,
    or one where *is_ragged* says that the sampler has no such size. A position inside a batch (the batch size has changed
    in mid-epoch) goes on with the rest of that batch.
    """

    def __init__(
        self,
        sampler: ReplayedSampler,
        plan: BatchPlan,
        shard: Shard = Shard(),
        *,
        length: int | None = None,
        is_ragged: bool = False,
    ) -> None:
        size = shard.size
        per_batch = replace(plan, batch_size=plan.batch_size // size, limit=None)
        drawn = DrawnBatches(sampler, per_batch, is_ragged=is_ragged)
        self.plan: BatchPlan = DrawnPlan(
            plan.length, plan.batch_size, plan.drop_last, plan.limit, drawn=drawn, per_round=size
        )
        self.shard = shard
        self.identity: Identity = Identity(sampler.kind, length or plan.length, sampler.seed)

    @property
    def _plan(self) -> DrawnPlan:
        return cast("DrawnPlan", self.plan)  # whoever limits it keeps its class

    @override
    def padded_samples(self, offset: int, /, epoch: int = 0) -> int:
        plan, size = self._plan, self.shard.size
        if size == 1 or (plan.drawn.declared is None and not plan.drawn.has_ended(epoch)):
            return 0  # an epoch that does not say how long it is may have no end
        rounds = plan.batches_left(offset, epoch)
        of_epoch = len(plan.drawn.ends(epoch))
        again, more = divmod(max(0, rounds * size - (of_epoch - plan.batch_at(epoch, offset))), of_epoch or 1)
        return again * plan.samples_at(epoch, of_epoch) + plan.samples_at(epoch, more)

    @override
    def place(self, epoch: int, offset: int, /) -> int:
        return self._plan.samples_at(epoch, self._plan.batch_at(epoch, offset) + self.shard.rank)

    @override
    def adopt(self, identity: Identity, /) -> None:
        if replace(identity, seed=None) != replace(self.identity, seed=None):
            raise cannot_adopt(identity, self.identity)
        self.plan, self.identity = self.plan_of(identity), self.of_contents(identity)

    @override
    def plan_of(self, identity: Identity, /) -> DrawnPlan:
        return replace(self._plan, drawn=self._plan.drawn.of_seed(identity.seed or 0))

    @override
    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        return self.plan_of(identity).drawn.sampler.canary(epoch, looks=looks)

    @override
    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[Any]:
        return islice(self._rounds(epoch, offset), count)

    @override
    def draws(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[Draws]:
        return islice(self._rounds(epoch, offset, Tally()), count)

    def _rounds(self, epoch: int, offset: int, tally: Tally | None = None) -> Iterator[Any]:
        """This rank's one of each round. The next round is drawn before, so that it is known whether one follows."""
        drawn, rank, size = self._plan.drawn, self.shard.rank, self.shard.size
        number = self._plan.batch_at(epoch, offset)
        batches = self._from(epoch, number, offset - self._plan.samples_at(epoch, number), tally)
        if size == 1:
            yield from _one_behind(batches)
            return
        of_round = list(islice(batches, size))
        while of_round:
            following = list(islice(batches, size))
            if len(of_round) < size:
                if self.plan.drop_last:
                    return
                of_round += islice(_noted(cycle(drawn.batches(epoch, 0)), epoch, tally), size - len(of_round))
            yield of_round[rank]
            of_round = following

    def _from(self, epoch: int, number: int, samples: int, tally: Tally | None) -> Iterator[Any]:
        """The batches of *epoch* from the *number*-th on, without the first *samples* samples of it."""
        batches = self._plan.drawn.batches(epoch, number if tally is None else 0)
        if tally is not None:
            for batch in islice(batches, number):
                tally.note(epoch, batch)
        if samples:
            cut = [list(batch) for batch in islice(batches, 1)]
            if tally is not None:
                for batch in cut:
                    tally.note(epoch, batch[:samples])
            batches = chain((batch[samples:] for batch in cut), batches)
        return _noted(batches, epoch, tally)

    @override
    def check_one_size(self) -> None:
        drawn = self._plan.drawn
        drawn.needs_one_size = True
        if drawn.is_ragged:
            raise drawn.no_schedule()

    @override
    def noted(self, stretch: Stretch, /) -> Stretch:
        if stretch.schedule is not None or not self._plan.drawn.is_ragged:
            return stretch
        return replace(stretch, length=UNBOUNDED, schedule=UserSchedule(self.identity.kind))

    @override
    def as_counted(self, saved: Snapshot, /) -> Snapshot:
        """Before, each batch counted the same number of samples, whatever it had."""
        last, order, position = saved.ledger.stretches[-1:], saved.order, saved.position
        if order is None or order.kind != self.identity.kind or position is None:
            return saved
        plan = self.plan_of(order)
        if last and last[0].is_unknown:
            self._plan.drawn.is_ragged = plan.drawn.is_ragged = True
            return saved
        counts_batches = order.length == self.plan.length != self.identity.length
        if not last and not counts_batches:  # of several loaders, only one is in the ledger
            return saved
        number = position.offset // (last[0].micro_batch_size if last else self.micro_batch_size)
        plan.drawn.ends(position.epoch, batches=number)
        if not plan.drawn.is_ragged:
            return saved
        at = replace(plan, limit=None, per_round=1).position_in(position.epoch, number)
        length = self.identity.length if counts_batches else order.length
        return saved._replace(
            consumed_samples=at.consumed_samples,
            epoch=at.epoch,
            offset=at.offset,
            order=replace(order, length=length),
            ledger=Ledger(),
        )


def _noted(batches: Iterator[Any], epoch: int, tally: Tally | None) -> Iterator[Any]:
    """*batches* of *epoch*, as `Draws` where there is a *tally*."""
    return batches if tally is None else (Draws(batch, epoch, tally.note(epoch, batch)) for batch in batches)


def _one_behind(batches: Iterator[Any]) -> Iterator[Any]:
    """*batches*, of which each is drawn before the one before it is given."""
    for first in islice(batches, 1):
        before = first
        for batch in batches:
            yield before
            before = batch
        yield before


class RankLocalFeed(Feed):
    """The batches of a loader that yields one rank's samples alone, counted as a part of rounds over all ranks.

    It has no canary: each rank's indices are others, and what is saved is the same on all. Padding is the user's.
    """

    def __init__(self, own: Feed, shard: Shard) -> None:
        self._own = own
        self.shard = shard
        plan = own.plan
        self.plan: BatchPlan = replace(plan, length=plan.length * shard.size, batch_size=plan.batch_size * shard.size)
        if isinstance(self.plan, DrawnPlan):
            self.plan = replace(self.plan, counts_batches=True)
            self.plan.drawn.is_one_ranks = True
        self.adopt(own.identity)

    @override
    def adopt(self, identity: Identity, /) -> None:
        # Ranks whose loaders shuffle datasets of equal length would otherwise shuffle them identically. A sampler that
        # shares the data out by itself needs the opposite, the same draws on each rank.
        seed = identity.seed
        if seed is not None and identity.kind == Shuffled.kind and self.shard.rank:
            seed = stream_key(self.shard.rank, stream_key(0, seed, epoch=0), epoch=0)
        own = self._own.identity.length
        self._own.adopt(replace(identity, length=own, seed=seed))
        self.identity: Identity = self.of_contents(replace(identity, length=own * self.shard.size))
        self.plan = self.plan_of(identity)

    @override
    def plan_of(self, identity: Identity, /) -> BatchPlan:
        own, plan = self._own.plan_of(identity), self.plan
        return replace(plan, drawn=own.drawn) if isinstance(own, DrawnPlan) and isinstance(plan, DrawnPlan) else plan

    @override
    def as_counted(self, saved: Snapshot, /) -> Snapshot:
        """Before, a loop without a trainer counted the samples of one rank."""
        last, order, ranks, at = saved.ledger.stretches[-1:], saved.order, self.shard.size, saved.position
        if last and last[0].is_unknown and isinstance(self.plan, DrawnPlan):
            self.plan.drawn.is_ragged = True
        is_one_ranks = last and last[0].data_parallel_size == 1 and order == self._own.identity
        if at is None or order is None or not is_one_ranks:
            return saved
        return saved._replace(
            consumed_samples=at.consumed_samples * ranks,
            offset=at.offset * ranks,
            order=replace(order, length=order.length * ranks),
            ledger=Ledger(),
            canary=None,
        )

    @override
    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        return self._own.batches(epoch, *self._own_part(epoch, offset, count))

    @override
    def draws(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[Draws]:
        return self._own.draws(epoch, *self._own_part(epoch, offset, count))

    def _own_part(self, epoch: int, offset: int, count: int | None) -> tuple[int, int | None]:
        """The offset in this rank's samples, and how many batches follow."""
        plan, own = self.plan, offset // self.shard.size
        if not isinstance(plan, DrawnPlan):
            return own, plan.batches_left(offset) if count is None else count
        if plan.drawn.is_ragged:
            own = replace(plan, counts_batches=False).samples_at(epoch, plan.batch_at(epoch, offset))
        return own, count

    @override
    def check_one_size(self) -> None:
        self._own.check_one_size()

    @override
    def noted(self, stretch: Stretch, /) -> Stretch:
        return self._own.noted(stretch)
