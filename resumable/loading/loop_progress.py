"""The progress of a loop without Lightning: its passes begin at the trained position, and count what they yield."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from typing_extensions import override

from resumable.errors import ConfigurationError
from resumable.feeds.feed import Feed, ResumableSampler
from resumable.loading.cursor import Cursor, Pass
from resumable.loading.dataloader import Iterate, T
from resumable.position import Position
from resumable.progress import LedgerAt, Progress
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy, resolve, with_canary
from resumable.saved.snapshot import Snapshot
from resumable.steps.batch_plan import BatchPlan
from resumable.steps.step_plan import StepPlan
from resumable.verdict import Verdict

__all__ = ["LoopProgress"]


class LoopProgress(Cursor, Progress):
    """The progress of a loop: what its loader yielded, or what the loop committed."""

    def __init__(self, feed: Feed, stretch: Stretch, policy: Policy) -> None:
        super().__init__(feed.plan if stretch.schedule is None else stretch.plan)
        self.feed = feed
        self.stretch: Stretch = stretch
        self._origin = Position()
        self._is_checked = False
        self._policy = policy

    def check(self) -> None:
        """Raise `ConfigurationError` if the steps of a new run cannot be taken; `load` checks those from its position on."""
        self._is_checked = _check(self.plan, self._origin)

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
        return self.current.is_running()

    @override
    def load(self, saved: Snapshot, /) -> Verdict:
        """Go on from *saved*, from the next `iter()` on."""
        saved = self.feed.as_counted(saved)
        stretch = self.feed.noted(self.stretch)
        plan_of = self.feed.plan_of if isinstance(self.plan, BatchPlan) else None
        found = resolve(saved, self.feed.identity, stretch, self._policy, plan_of)
        at, place = found.position, saved.position
        is_checked = _check(self.plan, at)
        verdict = found.verdict
        if place is not None and saved.canary is not None:
            canary = self.feed.canary(found.order, place.epoch, place.offset, looks=True)
            verdict = with_canary(verdict, saved.canary, canary, self._policy.on_mismatch)
        self.feed.adopt(found.order)
        if isinstance(self.plan, BatchPlan):
            self.plan = self.feed.plan
        self.seek(at, commits=saved.commits or self.commits)
        self.stretch = replace(stretch, sample=at.consumed_samples, epoch=at.epoch, offset=at.offset)
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
        at = self.position if self.is_running else self.next_start
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

    @override
    def settle(self) -> None:
        """Open the next pass: its beginning tells a look at the data from training."""
        self.begin()

    def passes(self, sampler: ResumableSampler, iterate: Iterate[T]) -> Iterator[T]:
        """A pass from the progress on, counted as it is yielded."""
        self._check_once()
        this = self.begin()
        sampler.start = (this.begun_at.epoch, this.begun_at.offset)
        if isinstance(self.plan, StepPlan):
            sampler.count = self.plan.batches_left(this.begun_at)
            counting = _count_steps(iterate(), this, self.plan)
        else:
            counting = _count(iterate(), this)
        this.is_running = partial(_is_alive, weakref.ref(counting))
        return counting


def _check(plan: BatchPlan | StepPlan, position: Position) -> bool:
    """Look at all steps from *position* on; whether they can be taken, where a run at its beginning may be loaded yet."""
    if not isinstance(plan, StepPlan):
        return True
    if not position.consumed_samples:
        return plan.check_for_ever()
    plan.check_from(position)
    return True


def _count(batches: Iterator[T], this: Pass) -> Generator[T, None, None]:
    for batch in batches:
        this.taken += 1
        yield batch
    this.ended = True


def _count_steps(batches: Iterator[T], this: Pass, plan: StepPlan) -> Generator[T, None, None]:
    """`_count` step by step; one assignment leads to the next step, so that a signal finds nothing in between."""
    for step in plan.steps(this.begun_at):
        this.step = step, this.taken
        for batch in islice(batches, step.batches):
            this.taken += 1
            yield batch
        if this.of_step < step.batches:
            raise _contradicts_itself(plan, this, this.taken - this.of_step + step.batches)
    for _ in batches:  # there are none, and torch's iterator learns that its pass is over
        raise _contradicts_itself(plan, this, this.taken)
    this.ended = True


def _contradicts_itself(plan: StepPlan, this: Pass, taken: int) -> ConfigurationError:
    return ConfigurationError(
        "The schedule contradicts itself: its steps one by one are not those that it counts.",
        [
            ("schedule", plan.schedule),
            ("from", this.begun_at),
            ("micro batches by steps_between and samples_after", plan.batches_left(this.begun_at)),
            ("micro batches of the steps that came, by batch_size_at", taken),
        ],
        "Let samples_after and steps_between follow from batch_size_at.",
    )


def _is_alive(iterator: weakref.ref[Generator[Any, None, None]]) -> bool:
    generator = iterator()
    return generator is not None and inspect.getgeneratorstate(generator) != inspect.GEN_CLOSED
