"""The progress of a loop without Lightning: its passes begin at the trained position, and count what they yield."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from copy import copy
from dataclasses import replace

from typing_extensions import override

from resumable.errors import ConfigurationError, warn
from resumable.feeds.feed import Feed, ResumableSampler
from resumable.loading.counted import Counted
from resumable.loading.cursor import Cursor, Pass
from resumable.loading.dataloader import Iterate, T
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.progress import LedgerAt, Progress, Tracker, undo_of
from resumable.saved.agreement import Part
from resumable.saved.audit_log import COMMITTED
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy, refuse_several, resolve, with_canary
from resumable.saved.schedule_format import LedgerSchedule
from resumable.saved.snapshot import Snapshot
from resumable.steps.batch_plan import BatchPlan
from resumable.steps.step_plan import StepPlan
from resumable.verdict import Verdict

__all__ = ["LoopProgress", "loop_progress_of"]

_EPOCH_IS_OVER = "The loaded state is the start of an epoch: all epochs before it are trained."
_OWN_NUMBER = (
    "A loop that counts its epochs by itself must go on with this number, or it trains an epoch too many: a state that is "
    "saved after an epoch's last batch belongs to the next epoch.\nRead the number from `loader.epoch`, or from "
    "`resumption_of(datamodule).position.epoch`, and this warning does not come."
)


class LoopProgress(Cursor, Progress):
    """The progress of a loop: what its loader yielded, or what the loop committed."""

    def __init__(self, feed: Feed, stretch: Stretch, policy: Policy) -> None:
        super().__init__(feed.plan if stretch.schedule is None else stretch.plan)
        self.feed: Feed = feed
        self.stretch: Stretch = stretch
        self._origin = Position()
        self._is_checked = False
        self._waits: tuple[Tracker, Snapshot] | None = None
        self.policy = policy

    def check(self) -> None:
        """Raise `ConfigurationError` if the steps of a new run cannot be taken; `load` checks those from its position on."""
        self._is_checked = _check(self.plan, self._origin)

    @property
    @override
    def order(self) -> Identity | None:
        return self.feed.identity

    @override
    def read(self, ledger_at: LedgerAt, /) -> Snapshot:
        at, order = self.position, self.feed.identity
        canary = self.feed.canary(order, at.epoch, at.offset)
        self.stretch = self.feed.noted(self.stretch)
        consumed, ledger = at.consumed_samples, ledger_at(self.stretch, at.consumed_samples)
        return Snapshot(consumed, at.epoch, at.offset, order, self.commits, (), ledger, None, canary)

    @property
    @override
    def is_running(self) -> bool:
        return any(each.is_running() for each in (self.current, *self._others) if each.counts or each.may_count)

    @property
    @override
    def present_stretch(self) -> Stretch:
        return self.stretch

    @property
    @override
    def part(self) -> Part:
        return self.feed.shard.part

    @override
    def restore_point(self) -> Callable[[], None]:
        return undo_of(self, self.feed, self.current, *self._others)

    @override
    def load(self, saved: Snapshot, /) -> Verdict:
        """Go on from *saved*, from the next `iter()` on."""
        refuse_several(saved)
        saved = self.feed.as_counted(saved)
        stretch = self.feed.noted(self.stretch)
        plan_of = self.feed.plan_of if isinstance(self.plan, BatchPlan) else None
        found = resolve(saved, self.feed.identity, stretch, self.policy, plan_of)
        at, place = found.position, saved.position
        is_checked = _check(self.plan, at)
        verdict = found.verdict
        if place is not None and saved.canary is not None:
            canary = self.feed.canary(found.order, place.epoch, place.offset, looks=True)
            verdict = with_canary(verdict, saved.canary, canary, self.policy.on_mismatch)
        self.feed.adopt(found.order)
        if isinstance(self.plan, BatchPlan):
            self.plan = self.feed.plan
        self.seek(at, commits=saved.commits or self.commits)
        self._waits = None
        self.stretch = replace(
            stretch, sample=at.consumed_samples, epoch=at.epoch, offset=at.offset, reseed=found.reseed
        )
        last = saved.ledger.stretches[-1:]
        self._origin = last[0].begins if last and last[0].same_configuration(self.stretch) else at
        self._is_checked = is_checked
        return verdict

    @property
    def num_microbatches(self) -> int:
        """Batches of the optimizer step that is being trained, or of the next one."""
        self._check_once()
        return self.step_batches

    @property
    def batches_in_epoch(self) -> int:
        """Batches of the whole present epoch, those of a pass that goes on in its middle included."""
        return sum(self._batches(self._begun_at))

    @property
    def batches_done(self) -> int:
        """Batches of the present epoch that are trained; between two passes, those that the next pass leaves out."""
        return self.batches_before(self.position if self.current.is_running() else self.next_start)

    def batches_before(self, at: Position, /) -> int:
        """Batches of the epoch before *at*."""
        return self.plan.done(at) if isinstance(self.plan, BatchPlan) else self._batches(at)[0]

    def _batches(self, at: Position) -> tuple[int, int]:
        """Batches of the epoch before *at* and after it, counted in the present batch size."""
        plan, whole = self.plan, at.offset // self.feed.plan.batch_size
        if isinstance(plan, BatchPlan):
            return plan.done(at), plan.batches_left(at.offset, at.epoch)
        return plan.carried_batches(at, self._origin) if plan.rounds.carries else whole, plan.batches_left(at)

    @property
    @override
    def padded_samples(self) -> int:
        return self.feed.padded_samples(self._begun_at.offset, self._begun_at.epoch)

    @property
    def _begun_at(self) -> Position:
        """Where the present pass began, or the next one begins."""
        this = self.current
        return this.begun_at if this.taken and this.is_running() else self.next_start

    def _check_once(self) -> None:
        """See before the first step that all steps to come can be taken, if that was not seen yet."""
        if isinstance(self.plan, StepPlan) and not self._is_checked:
            self.plan.check_from(self.next_start)
            self._is_checked = True

    def resize(self, feed: Feed, tracker: Tracker, /) -> None:
        """Go on with *feed*, of another length, from the epoch on that begins next; *tracker* counts by this progress.

        Raises:
            ConfigurationError: within an epoch that cannot be ended.
        """
        at, then, now = self.next_start, self.feed.plan, feed.plan
        if not at.offset:
            now.position_at(0)  # raises where an epoch has no batch
            tracker.fold()
            stretch = replace(self.stretch, length=now.length, sample=at.consumed_samples, epoch=at.epoch, offset=0)
            self.feed, self.stretch = feed, stretch
            self.plan = now if stretch.schedule is None else stretch.plan
            self.seek(at, commits=self.commits)
            self._origin, self._is_checked = at, False
        elif now.length < then.length or then.carries:
            raise ConfigurationError(
                "The length of the dataset has changed in the middle of an epoch.",
                [("length at its start", then.length), ("now", now.length), ("position", at)],
                "Change it between two epochs, and not with drop_last='carry', where they overlap.",
            )

    @override
    def _commit(self, batches: int | None = None) -> None:
        super()._commit(batches)
        this = self.current
        if batches is None and this.mark is not None:
            this.mark[COMMITTED] = this.taken
        elif self.audit is not None:
            self.audit.note(self)

    @override
    def note_window(self, *, is_trained: bool) -> None:
        begins = not (self.commits or is_trained)
        super().note_window(is_trained=is_trained)
        if begins and self.current.mark is not None:
            self.current.mark[COMMITTED] = self.current.taken - 1

    @override
    def forget_windows(self) -> None:
        super().forget_windows()
        if self.current.mark is not None:
            self.current.mark[COMMITTED] = -1

    @override
    def _count_by(self, this: Pass) -> None:
        self.current.mark = None
        super()._count_by(this)
        if this.taken:
            self._let_mark(this)

    def _let_mark(self, this: Pass) -> None:
        if self.audit is not None:
            this.mark = self.audit.begin_pass(self, this.begun_at, commits=self.commits)

    @override
    def settle(self) -> None:
        self.leave()

    @override
    def resumed(self) -> None:
        at = self.next_start
        self.must_tell: bool = at.epoch > 0 and not at.offset

    def passes(self, sampler: ResumableSampler, iterate: Iterate[T]) -> Counted[T]:
        """A pass from the progress on, counted as it is yielded."""
        self._check_once()
        if self.must_tell:
            self.must_tell = False
            warn(_EPOCH_IS_OVER, [("epoch of this pass", self.next_start.epoch)], _OWN_NUMBER)
        beside = any(not each.ended and each.iterator() is not None for each in (self.current, *self._others))
        this = self.begin()
        count = self.plan.batches_left(this.begun_at) if isinstance(self.plan, StepPlan) else None
        sampler.reseed = self.stretch.reseed
        sampler.begin(self.feed, (this.begun_at.epoch, this.begun_at.offset), count)
        if this.counts:
            self._let_mark(this)
        counted = Counted(iterate(beside=beside), this, self)
        this.iterator = weakref.ref(counted)
        return counted

    def take_turn(self, tracker: Tracker, /, *, later: bool = False) -> None:
        """Count for *tracker* from where the present progress would begin its next pass; see `Tracker.switch_to`."""
        other = tracker.progress
        if isinstance(other, LoopProgress) and not other.is_running and not other.next_start.offset:
            then, feed = other.feed.identity, copy(self.feed)
            if feed.identity.kind == then.kind and feed.identity.length != then.length:
                feed.adopt(replace(feed.identity, seed=then.seed))
                other.resize(feed, tracker)  # the run goes on: its dataset has changed
        tracker.switch_to(self, later=later)
        if isinstance(other, LoopProgress) and tracker.progress is self:
            self.looks: int = other.looks

    def passes_in_turn(self, tracker: Tracker, sampler: ResumableSampler, iterate: Iterate[T]) -> Counted[T]:
        """`passes`, which *tracker* counts from now on, or beside a pass that another loader of the same run has begun."""
        other = tracker.progress
        if other is self or not (isinstance(other, LoopProgress) and other.is_in_pass):
            self.take_turn(tracker)
            return self.passes(sampler, iterate)
        saved, at = tracker.snapshot(), other.next_start
        if saved.position != at:  # a look at the data, from whose beginning this pass goes on
            saved = saved._replace(consumed_samples=at.consumed_samples, epoch=at.epoch, offset=at.offset, canary=None)
        self.load(saved)
        passing = self.passes(sampler, iterate)
        self.wait(tracker, saved)
        return passing

    def wait(self, tracker: Tracker, loaded: Snapshot, /) -> None:
        """Count nothing while another progress of *tracker*'s counts, and go on from *loaded* where that gives way."""
        self._waits, self.current.counts, self.current.mark = (tracker, loaded), False, None

    @override
    def note_beside(self, this: Pass) -> None:
        if self._waits is None or this is not self.current:
            super().note_beside(this)
            return
        tracker, loaded = self._waits
        other = tracker.progress
        if isinstance(other, LoopProgress):
            if other.gives_way_to(this):
                self._waits, this.counts, self._has_replaced = None, True, True
                other.wait(tracker, tracker.follow(self, loaded))
            else:
                other.count_beside(this)


def loop_progress_of(
    feed: Feed,
    num_workers: int,
    *,
    schedule: LedgerSchedule | None = None,
    policy: Policy = Policy(),
    reseed: int | None = None,
) -> LoopProgress:
    """The progress of a loop over *feed*, at its beginning."""
    stretch = Stretch(
        length=feed.plan.length,
        micro_batch_size=feed.micro_batch_size,
        data_parallel_size=feed.shard.size,
        num_workers=num_workers,
        drop_last=feed.plan.drop_last,
        schedule=schedule,
        reseed=reseed,
    )
    return LoopProgress(feed, stretch, policy)


def _check(plan: BatchPlan | StepPlan, position: Position) -> bool:
    """Look at all steps from *position* on; whether they can be taken, where a run at its beginning may be loaded yet."""
    if not isinstance(plan, StepPlan):
        return True
    if not position.consumed_samples:
        return plan.check_for_ever()
    plan.check_from(position)
    return True
