"""The optimizer steps of a schedule, cut into micro batches: where each begins and ends, in closed form.

    a step                │ round │ round │ round │      a round is one micro batch on each rank
    at an epoch's end     │ round │ rou│                 the last step is short (drop_last=False),
                                       │                 left out (True),
                          │ round │ rou│nd │ round │     or reaches into the next epoch ("carry")

Each epoch begins with a new step, except with "carry", where steps follow each other without end. A pass of a loader
always begins and ends where a step does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from resumable.checks import whole_number
from resumable.position import Position
from resumable.protocols import BatchSchedule
from resumable.steps.batch_plan import BatchPlan, DropLast, no_batch
from resumable.steps.stages import PiecewiseSchedule, not_divisible

__all__ = ["Leg", "StepPlan", "Step"]


class Step(NamedTuple):
    """One optimizer step: where it begins, where the next one does, and its micro batches on each rank."""

    begins: Position
    ends: Position
    batches: int


class Leg(NamedTuple):
    """Equal epochs in a row, or one epoch or its rest: *steps* steps over *samples* samples, *times* times.

    *times* is None for a leg without end; *steps_before* counts the steps of all earlier legs.
    """

    begins: Position
    samples: int
    steps: int
    times: int | None
    steps_before: int

    def has_step(self, step: int) -> bool:
        """Whether step number *step* of the run, counted from 0, is in this leg, given that no earlier leg has it."""
        return self.times is None or step < self.steps_before + self.steps * self.times

    def has_sample(self, consumed_samples: int) -> bool:
        """Whether the sample after *consumed_samples* is in this leg, given that no earlier leg has it."""
        return self.times is None or consumed_samples < self.begins.consumed_samples + self.samples * self.times

    def epoch(self, number: int) -> Position:
        """Where epoch *number* of this leg begins, counted from 0."""
        at = self.begins
        return Position(at.consumed_samples + number * self.samples, at.epoch + number, 0) if number else at


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The steps of a run over epochs of *length* samples, with the global batch sizes of *schedule*.

    *limit* is the largest number of rounds in an epoch; None means no limit.

    >>> from resumable.steps.schedules import StepSchedule
    >>> run = StepPlan(length=20, micro_batch_size=4, schedule=StepSchedule(((0, 4), (8, 8))))
    >>> [(step.begins.offset, step.batches) for step in run.steps(Position())]
    [(0, 1), (4, 1), (8, 2), (16, 1)]
    >>> run.advance(Position(), 3)
    Position(consumed_samples=8, epoch=0, offset=8)
    >>> run.after(Position(), 5)
    Position(consumed_samples=28, epoch=1, offset=8)
    >>> run.steps_within(Position(), 28)
    5
    >>> StepPlan(10, 2, StepSchedule(((0, 4),)), drop_last=True).position_at(12)
    Position(consumed_samples=12, epoch=1, offset=4)
    """

    length: int
    micro_batch_size: int
    schedule: BatchSchedule
    data_parallel_size: int = 1
    drop_last: DropLast = False
    limit: int | None = None

    @property
    def rounds(self) -> BatchPlan:
        """How the epochs fall into rounds, whatever the schedule."""
        return BatchPlan(self.length, self.per_round, self.drop_last, self.limit)

    @property
    def reach(self) -> int:
        """Samples of an epoch that the limit leaves."""
        return self.length if self.limit is None else min(self.length, self.limit * self.per_round)

    @property
    def per_round(self) -> int:
        """Samples of one micro batch on each rank."""
        return self.micro_batch_size * self.data_parallel_size

    def steps(self, position: Position, /) -> Iterator[Step]:
        """The steps of the pass that begins at *position*, one by one.

        Raises:
            ConfigurationError: at a step whose size does not fall into whole rounds, or at an epoch without a step.
        """
        at, reach = self.canonical(position), self.reach
        size = self._size_at(at.consumed_samples)
        while True:
            taken = size if self.drop_last == "carry" else min(size, reach - at.offset)
            if taken == size:
                self.check_size(size, at.consumed_samples)
            elif self.drop_last:
                raise no_batch(self.length, size, self.drop_last, self.limit)
            after = Position(at.consumed_samples + taken, at.epoch, at.offset + taken)
            size = self._size_at(after.consumed_samples)
            ends = self._settled(after, size)
            yield Step(at, ends, -(-taken // self.per_round))
            if ends.epoch != at.epoch:
                return
            at = ends

    def step_batches(self, position: Position, /) -> int:
        """Micro batches, on each rank, of the step that begins at *position*."""
        return next(self.steps(position)).batches

    def batches_left(self, position: Position, /) -> int:
        """Micro batches, on each rank, of the pass that begins at *position*."""
        at, reach = self.canonical(position), self.reach
        if not self.drop_last:
            return -(-(reach - at.offset) // self.per_round)
        begins, end = at.consumed_samples, at.consumed_samples + reach - at.offset
        steps = self.schedule.steps_between(begins, end)
        if self.drop_last == "carry":
            steps += self.schedule.samples_after(steps, begins) < end
        elif not steps:
            raise no_batch(self.length, self._size_at(begins), self.drop_last, self.limit)
        return (self.schedule.samples_after(steps, begins) - begins) // self.per_round

    def carried_batches(self, position: Position, origin: Position, /) -> int:
        """Micro batches that the pass of *position* has already trained, in a stream that began at *origin*.

        The pass began with the first step in its epoch. What was trained of that epoch before *origin* counts in
        batches of the current size.
        """
        epoch_begins = position.consumed_samples - position.offset
        begins = origin.consumed_samples
        if epoch_begins <= begins:
            return (position.consumed_samples - begins) // self.per_round + origin.offset // self.per_round
        begins = self.schedule.samples_after(self.schedule.steps_between(begins, epoch_begins), begins)
        if begins < epoch_begins:
            begins = self.schedule.samples_after(1, begins)
        return (position.consumed_samples - begins) // self.per_round

    def canonical(self, position: Position, /) -> Position:
        """The same position; where its epoch has no step left, written as the start of the next."""
        is_dropped = self.drop_last is True and position.offset
        return self._settled(position, self._size_at(position.consumed_samples) if is_dropped else 1)

    def _settled(self, at: Position, size: int) -> Position:
        """The canonical form of *at*, where a step of *size* samples would begin."""
        if self.drop_last == "carry":
            return self.rounds.canonical(at)
        reach = self.reach
        is_over = at.offset and at.offset + (size if self.drop_last else 1) > reach
        return Position(at.consumed_samples, at.epoch + 1, 0) if is_over else at

    def advance(self, position: Position, batches: int, /) -> Position:
        """Where the whole steps among *batches* micro batches lead, in the pass that begins at *position*."""
        at, reach = self.canonical(position), self.reach
        if not batches:
            return at
        samples = min(batches, self.batches_left(at)) * self.per_round
        if not self.drop_last and samples >= reach - at.offset:
            return Position(at.consumed_samples + reach - at.offset, at.epoch + 1, 0)
        steps = self.schedule.steps_between(at.consumed_samples, at.consumed_samples + samples)
        return self._within(at, steps)

    def _within(self, at: Position, steps: int) -> Position:
        """The position *steps* steps after *at*, if the epoch's end cuts none of them."""
        consumed = self.schedule.samples_after(steps, at.consumed_samples)
        return self.canonical(Position(consumed, at.epoch, at.offset + consumed - at.consumed_samples))

    def after(self, position: Position, steps: int, /) -> Position:
        """The position *steps* optimizer steps after *position*, over any number of epochs."""
        at = self.canonical(position)
        if self.drop_last == "carry":
            return self._within(at, steps)
        leg = next(leg for leg in self.legs(at) if leg.has_step(steps))
        epochs, rest = divmod(steps - leg.steps_before, leg.steps)
        return self._within(leg.epoch(epochs), rest)

    def steps_within(self, position: Position, samples: int, /) -> int:
        """Optimizer steps that the *samples* samples after *position* complete."""
        at = self.canonical(position)
        place = at.consumed_samples + samples
        if self.drop_last == "carry":
            return self.schedule.steps_between(at.consumed_samples, place)
        leg = next(leg for leg in self.legs(at) if leg.has_sample(place))
        epochs = (place - leg.begins.consumed_samples) // leg.samples
        begins = leg.epoch(epochs).consumed_samples
        return leg.steps_before + epochs * leg.steps + self.schedule.steps_between(begins, place)

    def position_at(self, consumed_samples: int, /) -> Position:
        """The position of a run that has trained *consumed_samples* by this plan from its first sample."""
        if self.drop_last is not True:
            return Position(consumed_samples, *divmod(consumed_samples, self.reach))
        leg = next(leg for leg in self.legs(Position()) if leg.has_sample(consumed_samples))
        epochs, offset = divmod(consumed_samples - leg.begins.consumed_samples, leg.samples)
        return self.canonical(Position(consumed_samples, leg.begins.epoch + epochs, offset))

    def legs(self, at: Position, /) -> Iterator[Leg]:
        """The run from *at* on, equal epochs taken together. With known stages the last leg has no end.

        There are no legs with "carry", where steps run across the ends of epochs.
        """
        reach, steps_before = self.reach, 0
        while True:
            leg = self._equal_epochs(at, steps_before) if at.offset == 0 else None
            if leg is None or leg.times == 0:
                begins, end = at.consumed_samples, at.consumed_samples + reach - at.offset
                steps = self.schedule.steps_between(begins, end)
                samples = self.schedule.samples_after(steps, begins) - begins
                if not self.drop_last:
                    samples, steps = end - begins, steps + (samples < end - begins)
                elif not steps and not at.offset:
                    raise no_batch(self.length, self._size_at(begins), self.drop_last, self.limit)
                leg = Leg(at, samples, steps, 1, steps_before)
            yield leg
            if leg.times is None:
                return
            at, steps_before = leg.epoch(leg.times), steps_before + leg.steps * leg.times

    def _equal_epochs(self, at: Position, steps_before: int) -> Leg | None:
        """The whole epochs from *at* on whose steps all have the same size; None where the stages are unknown."""
        if not isinstance(self.schedule, PiecewiseSchedule):
            return None
        size, stop = next(self.schedule.stages_from(at.consumed_samples))
        reach = self.reach
        samples = reach - reach % size if self.drop_last else reach
        if not samples:
            raise no_batch(self.length, size, self.drop_last, self.limit)
        times = None if stop is None else (stop - at.consumed_samples) // samples
        return Leg(at, samples, -(-samples // size), times, steps_before)

    def _size_at(self, consumed_samples: int) -> int:
        """The schedule's batch size; a user-defined schedule's is checked."""
        size = self.schedule.batch_size_at(consumed_samples)
        return size if isinstance(self.schedule, PiecewiseSchedule) else whole_number("batch_size_at()", size, least=1)

    def check_size(self, size: int, consumed_samples: int, /) -> None:
        """Raise ConfigurationError unless the step of *size* samples at *consumed_samples* falls into whole rounds."""
        if size % self.per_round:
            raise not_divisible(size, consumed_samples, self.micro_batch_size, self.data_parallel_size)
