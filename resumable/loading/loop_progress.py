"""A DataLoader whose passes begin where the training stands, and the count of what it yields."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from resumable.errors import ConfigurationError, explain
from resumable.feeds.feed import Feed, ResumableSampler
from resumable.loading.cursor import Cursor, Pass
from resumable.loading.dataloader import Iterate, T
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy, resolve, with_canary
from resumable.saved.snapshot import LoaderPosition, Snapshot
from resumable.steps.batch_plan import BatchPlan
from resumable.steps.divisibility import check_for_ever, check_from
from resumable.steps.step_plan import StepPlan
from resumable.verdict import Verdict

__all__ = ["LoopProgress"]


class LoopProgress:
    """The frontier of a loop: what its loader yielded, or what the loop committed."""

    init_global_step = 0
    global_step: int | None = None
    knows_epochs = True

    def __init__(self, feed: Feed, stretch: Stretch, policy: Policy) -> None:
        self.feed = feed
        self.stretch = stretch
        self.plan = feed.batching if stretch.schedule is None else stretch.plan
        self.cursor = Cursor(self.plan)
        self._is_checked = False
        self._policy = policy

    @property
    def position(self) -> Position:
        """The trained frontier."""
        return self.cursor.position

    @property
    def order(self) -> Identity:
        """What the loader's order depends on."""
        return self.feed.identity

    @property
    def commits(self) -> bool:
        """Whether the loop has called `commit()`, in this session or before."""
        return self.cursor.commits

    def places(self) -> tuple[LoaderPosition, ...]:
        """One loader has one place: the position."""
        return ()

    def canary(self, at: Position, /) -> str | None:
        """The digest of the indices that follow *at*."""
        return self.feed.canary(self.feed.identity, at.epoch, at.offset)

    @property
    def is_running(self) -> bool:
        """Whether a pass is alive."""
        return self.cursor.current.is_running()

    def load(self, saved: Snapshot, /) -> Verdict:
        """Go on from *saved*, from the next `iter()` on."""
        found = resolve(saved, self.feed.identity, self.stretch, self._policy)
        at, place = found.position, saved.position
        is_checked = _check(self.plan, at)
        verdict = found.verdict
        if place is not None and saved.canary is not None:
            canary = self.feed.canary(found.order, place.epoch, place.offset, looks=True)
            verdict = with_canary(verdict, saved.canary, canary, self._policy.on_mismatch)
        self.feed.adopt(found.order)
        self.cursor.seek(at, commits=saved.commits or self.commits)
        self.stretch = replace(self.stretch, sample=at.consumed_samples, epoch=at.epoch, offset=at.offset)
        last = saved.ledger.stretches[-1:]
        self._origin = last[0].begins if last and last[0].same_configuration(self.stretch) else at
        self._is_checked = is_checked
        return verdict

    @property
    def num_microbatches(self) -> int:
        """Batches of the optimizer step that is being trained, or of the next one."""
        self._check_once()
        return self.cursor.step_batches

    @property
    def batches_in_epoch(self) -> int:
        """Batches of the whole present epoch, those of a pass that goes on in its middle included."""
        at, plan = self._begun_at, self.plan
        per_round = self.stretch.batching.batch_size
        if isinstance(plan, BatchPlan):
            return at.offset // per_round + plan.batches_left(at.offset) if plan.carries else plan.batches
        behind = plan.carried_batches(at, self._origin) if plan.drop_last == "carry" else at.offset // per_round
        return behind + plan.batches_left(at)

    @property
    def padded_samples(self) -> int:
        """Samples that the end of the present epoch trains again, so that all ranks get equally many."""
        return self.feed.padded_samples(self._begun_at.offset)

    @property
    def _begun_at(self) -> Position:
        """Where the present pass began, or the next one begins."""
        this = self.cursor.current
        return this.begun_at if this.taken and this.is_running() else self.cursor.next_start

    def _check_once(self) -> None:
        """See before the first step that all steps to come can be taken, if that was not seen yet."""
        if isinstance(self.plan, StepPlan) and not self._is_checked:
            check_from(self.plan, self.cursor.next_start)
            self._is_checked = True

    def commit(self) -> None:
        """What was yielded so far is trained."""
        self.cursor.commit()

    def rebase(self) -> None:
        """A loop counts no steps that could be rebased."""

    def note_saved(self) -> None:
        """What the saved position counts as trained stays counted."""
        self.cursor.note_saved()

    def settle(self) -> None:
        """Open the next pass, whose beginning tells a look at the data from training."""
        self.cursor.begin()

    def passes(self, sampler: ResumableSampler, iterate: Iterate[T]) -> Iterator[T]:
        """A pass from the frontier on, counted as it is yielded."""
        self._check_once()
        this = self.cursor.begin()
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
        return check_for_ever(plan)
    check_from(plan, position)
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
        explain(
            "The schedule contradicts itself: its steps one by one are not those that it counts.",
            [
                ("schedule", plan.schedule),
                ("from", this.begun_at),
                ("micro batches by steps_between and samples_after", plan.batches_left(this.begun_at)),
                ("micro batches of the steps that came, by batch_size_at", taken),
            ],
            "Let samples_after and steps_between follow from batch_size_at.",
        )
    )


def _is_alive(iterator: weakref.ref[Generator[Any, None, None]]) -> bool:
    generator = iterator()
    return generator is not None and inspect.getgeneratorstate(generator) != inspect.GEN_CLOSED
