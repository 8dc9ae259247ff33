"""The batches of one pass of a loop, counted as they are yielded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast

from resumable.errors import ConfigurationError
from resumable.feeds.feed import Feed
from resumable.loading.cursor import Pass
from resumable.loading.dataloader import T
from resumable.loading.own_batches import OwnBatches
from resumable.loading.reseeding import YIELDED, reseed
from resumable.saved.audit_log import BATCHES, AuditLog
from resumable.saved.ledger import Stretch
from resumable.steps.batch_plan import BatchPlan
from resumable.steps.step_plan import StepPlan

__all__ = ["Counted", "Counter"]


class Counter(Protocol):
    """What a pass belongs to: the progress of a loop."""

    plan: BatchPlan | StepPlan
    feed: Feed
    stretch: Stretch
    audit: AuditLog | None

    def note_beside(self, this: Pass) -> None:
        """*this* has yielded a batch, and another pass counts."""
        ...


class Counted(Iterator[T]):
    """The batches of one pass, counted as they are yielded; it goes on after an error, as torch's iterator does."""

    def __init__(self, batches: Iterator[T], this: Pass, progress: Counter) -> None:
        self._batches = batches
        self._own = batches if isinstance(batches, OwnBatches) else None
        if self._own is not None:
            self._own.may_leave_out = True
        self.this = this
        self._progress = progress
        self._steps = progress.plan.steps(this.begun_at) if isinstance(progress.plan, StepPlan) else None
        self._reseed = progress.stretch.reseed
        self._feed = progress.feed
        self._has_failed = False

    def __next__(self) -> T:
        this = self.this
        try:
            batch = next(self._batches)
        except StopIteration:
            self._end(this)
            raise
        except BaseException:
            self._fail(this)
            del self, this  # what holds the error does not hold the iterator, and so a pass
            raise
        if self._steps is None and this.failed is None and self._own is None:
            this.taken += 1
        else:
            self._take((this.failed or 0) + (1 if self._own is None else self._own.passed))
        if not this.counts:
            self._progress.note_beside(this)
        if this.mark is not None:
            this.mark[BATCHES] = this.taken
        if self._reseed is not None:
            at = self._feed.plan.advance(this.begun_at, this.taken - 1)
            reseed(YIELDED, self._reseed, at.epoch, self._feed.place(at.epoch, at.offset))
        return batch

    def _fail(self, this: Pass) -> None:
        self._has_failed = True
        # with workers torch knows how many it has passed over: none where it waited in vain
        received: int | None = getattr(self._batches, "_rcvd_idx", None)
        this.failed = (this.failed or 0) + 1 if received is None else received - this.taken

    def _take(self, batches: int) -> None:
        """Count *batches* more; one assignment leads to the next step, so that a signal finds nothing in between."""
        this, audit = self.this, self._progress.audit
        if this.failed and audit is not None:
            audit.pass_over(self._feed.plan.advance(this.begun_at, this.taken), this.failed)
        this.failed = None
        for _ in range(batches):
            if self._steps is not None and not this.left_of_step:
                step = next(self._steps, None)
                if step is None:
                    raise self._contradicted(this.taken)
                this.step = step, this.taken
            this.taken += 1

    def _end(self, this: Pass) -> None:
        self._batches = iter(())
        if self._own is not None:  # it may have left out the last ones, or have ended before them
            self._take(self._own.passed)
            this.ended = self._own.is_over
            return
        begins, passed = this.begun_at, this.taken + (this.failed or 0)
        if this.failed and self._progress.plan.advance(begins, passed).epoch > begins.epoch:
            self._take(this.failed)  # they were the last of the epoch; draws that failed have passed over nothing
        if self._steps is not None and not self._has_failed:
            following = next(self._steps, None)
            missing = this.left_of_step or (0 if following is None else following.batches)
            if missing:
                self._steps = None
                raise self._contradicted(this.taken + missing)
        this.ended = True

    def _contradicted(self, taken: int) -> ConfigurationError:
        plan, at = cast("StepPlan", self._progress.plan), self.this.begun_at
        self._batches = iter(())
        return ConfigurationError(
            "The schedule contradicts itself: its steps one by one are not those that it counts.",
            [
                ("schedule", plan.schedule),
                ("from", at),
                ("micro batches by steps_between and samples_after", plan.batches_left(at)),
                ("micro batches of the steps that came, by batch_size_at", taken),
            ],
            "Let samples_after and steps_between follow from batch_size_at.",
        )
