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
from typing import Final, NamedTuple

from resumable.checks import whole_number
from resumable.errors import ConfigurationError
from resumable.position import Position
from resumable.protocols import BatchSchedule
from resumable.steps.batch_plan import BatchPlan
from resumable.steps.stages import PiecewiseSchedule

__all__ = ["Step", "StepPlan"]

_LAST: Final = 2**63 - 1
"""The largest count that a state can hold: a schedule's last stage begins before it, or is never reached."""

_MOST_LEGS: Final = 1 << 14
"""Epochs that are counted through one by one, in some hundredths of a second."""


class Step(NamedTuple):
    """One optimizer step: where it begins, where the next one does, and its micro batches on each rank."""

    begins: Position
    ends: Position
    batches: int


class _Leg(NamedTuple):
    """Equal epochs in a row, or one epoch or its rest: *steps* steps over *samples* samples, *times* times.

    *times* is None for a leg without end; *steps_before* counts the steps of all earlier legs.
    """

    begins: Position
    samples: int
    steps: int
    times: int | None
    steps_before: int

    def has_sample(self, consumed_samples: int) -> bool:
        """Whether the sample after *consumed_samples* is in this leg, given that no earlier leg has it."""
        return self.times is None or consumed_samples < self.begins.consumed_samples + self.samples * self.times

    def epoch(self, number: int) -> Position:
        """Where epoch *number* of this leg begins, counted from 0."""
        at = self.begins
        return Position(at.consumed_samples + number * self.samples, at.epoch + number, 0) if number else at


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The steps of a run with the global batch sizes of *schedule*, over epochs that fall into *rounds*.

    >>> from resumable.steps.schedules import StepSchedule
    >>> run = StepPlan(BatchPlan(length=20, batch_size=4), StepSchedule(((0, 4), (8, 8))), micro_batch_size=4)
    >>> [(step.begins.offset, step.batches) for step in run.steps(Position())]
    [(0, 1), (4, 1), (8, 2), (16, 1)]
    >>> run.advance(Position(), 3)
    Position(consumed_samples=8, epoch=0, offset=8)
    >>> run.after(Position(), 5)
    Position(consumed_samples=28, epoch=1, offset=8)
    >>> run.steps_within(Position(), 28)
    5
    >>> StepPlan(BatchPlan(10, 2, drop_last=True), StepSchedule(((0, 4),)), 2).position_at(12)
    Position(consumed_samples=12, epoch=1, offset=4)
    """

    rounds: BatchPlan
    schedule: BatchSchedule
    micro_batch_size: int

    def steps(self, position: Position, /) -> Iterator[Step]:
        """The steps of the pass that begins at *position*, one by one.

        Raises:
            ConfigurationError: at a step whose size does not fall into whole rounds, or at an epoch without a step.
        """
        at, rounds, reach, carries = self.canonical(position), self.rounds, self.rounds.reach, self.rounds.carries
        size = self._size_at(at.consumed_samples)
        while True:
            taken = size if carries else min(size, reach - at.offset)
            if taken == size:
                self._check_size(size, at.consumed_samples)
            elif rounds.drop_last:
                raise rounds.no_batch(size)
            after = Position(at.consumed_samples + taken, at.epoch, at.offset + taken)
            size = self._size_at(after.consumed_samples)
            ends = self._settled(after, size)
            yield Step(at, ends, -(-taken // rounds.batch_size))
            if ends.epoch != at.epoch:
                return
            at = ends

    def step_batches(self, position: Position, /) -> int:
        """Micro batches, on each rank, of the step that begins at *position*."""
        return next(self.steps(position)).batches

    def batches_left(self, position: Position, /) -> int:
        """Micro batches, on each rank, of the pass that begins at *position*."""
        return -(-self._samples_left(self.canonical(position)) // self.rounds.batch_size)

    def _samples_left(self, at: Position) -> int:
        """Samples of the pass that begins at *at*, with those of a step that reaches into the next epoch."""
        rounds, begins = self.rounds, at.consumed_samples
        end = begins + rounds.reach - at.offset
        if not rounds.drop_last:
            return end - begins
        steps = self.schedule.steps_between(begins, end)
        if rounds.carries:
            steps += self.schedule.samples_after(steps, begins) < end
        elif not steps:
            raise rounds.no_batch(self._size_at(begins))
        return self.schedule.samples_after(steps, begins) - begins

    def carried_batches(self, position: Position, origin: Position, /) -> int:
        """Micro batches that the pass of *position* has already trained, in a stream that began at *origin*.

        The pass began with the first step in its epoch. What was trained of that epoch before *origin* counts in
        batches of the current size.
        """
        epoch_begins, per_round = position.consumed_samples - position.offset, self.rounds.batch_size
        begins = origin.consumed_samples
        if epoch_begins <= begins:
            return (position.consumed_samples - begins) // per_round + origin.offset // per_round
        begins = self.schedule.samples_after(self.schedule.steps_between(begins, epoch_begins), begins)
        if begins < epoch_begins:
            begins = self.schedule.samples_after(1, begins)
        return (position.consumed_samples - begins) // per_round

    def canonical(self, position: Position, /) -> Position:
        """The same position; where its epoch has no step left, written as the start of the next."""
        is_dropped = self.rounds.drop_last is True and position.offset
        return self._settled(position, self._size_at(position.consumed_samples) if is_dropped else 1)

    def _settled(self, at: Position, size: int) -> Position:
        """The canonical form of *at*, where a step of *size* samples would begin."""
        rounds = self.rounds
        if rounds.drop_last == "carry":
            return rounds.canonical(at)
        is_over = at.offset and at.offset + (size if rounds.drop_last else 1) > rounds.reach
        return Position(at.consumed_samples, at.epoch + 1, 0) if is_over else at

    def advance(self, position: Position, batches: int, /) -> Position:
        """Where the whole steps among *batches* micro batches lead, in the pass that begins at *position*."""
        at = self.canonical(position)
        if not batches:
            return at
        rounds = self.rounds
        left = self._samples_left(at) if rounds.carries else rounds.reach - at.offset
        samples = min(batches * rounds.batch_size, left)
        if samples == left and not rounds.drop_last:
            return Position(at.consumed_samples + left, at.epoch + 1, 0)
        return self._within(at, self.schedule.steps_between(at.consumed_samples, at.consumed_samples + samples))

    def _within(self, at: Position, steps: int) -> Position:
        """The position *steps* steps after *at*, if the epoch's end cuts none of them."""
        consumed = self.schedule.samples_after(steps, at.consumed_samples)
        return self.canonical(Position(consumed, at.epoch, at.offset + consumed - at.consumed_samples))

    def after(self, position: Position, steps: int, /) -> Position:
        """The position *steps* optimizer steps after *position*, over any number of epochs."""
        at = self.canonical(position)
        if self.rounds.carries:
            return self._within(at, steps)
        legs = self._legs(at)
        leg = next(leg for leg in legs if leg.times is None or steps < leg.steps_before + leg.steps * leg.times)
        epochs, rest = divmod(steps - leg.steps_before, leg.steps)
        return self._within(leg.epoch(epochs), rest)

    def steps_within(self, position: Position, samples: int, /) -> int:
        """Optimizer steps that the *samples* samples after *position* complete."""
        at = self.canonical(position)
        place = at.consumed_samples + samples
        if self.rounds.carries:
            return self.schedule.steps_between(at.consumed_samples, place)
        leg = next(leg for leg in self._legs(at) if leg.has_sample(place))
        epochs = (place - leg.begins.consumed_samples) // leg.samples
        begins = leg.epoch(epochs).consumed_samples
        return leg.steps_before + epochs * leg.steps + self.schedule.steps_between(begins, place)

    def position_at(self, consumed_samples: int, /) -> Position:
        """The position of a run that has trained *consumed_samples* by this plan from its first sample.

        Raises:
            ConfigurationError: if its epoch is too far on to be found.
        """
        if self.rounds.drop_last is not True:
            return Position(consumed_samples, *divmod(consumed_samples, self.rounds.reach))
        leg = next(leg for leg in self._legs(Position()) if leg.has_sample(consumed_samples))
        epochs, offset = divmod(consumed_samples - leg.begins.consumed_samples, leg.samples)
        return self.canonical(Position(consumed_samples, leg.begins.epoch + epochs, offset))

    def _legs(self, at: Position) -> Iterator[_Leg]:
        """The run from *at* on, epochs whose steps all have the same size taken together. There are none with "carry".

        Where the stages of the schedule are known, the last leg has no end. Otherwise each epoch is a leg.

        Raises:
            ConfigurationError: after `_MOST_LEGS` of those.
        """
        steps_before, first, are_known = 0, at, isinstance(self.schedule, PiecewiseSchedule)
        while are_known or at.epoch - first.epoch < _MOST_LEGS:
            leg = self._equal_epochs(at, steps_before)
            if leg is None:
                begins, samples = at.consumed_samples, self._samples_left(at)
                steps = self.schedule.steps_between(begins, begins + samples)
                steps += self.schedule.samples_after(steps, begins) < begins + samples  # the last one is cut
                leg = _Leg(at, samples, steps, 1, steps_before)
            yield leg
            if leg.times is None:
                return
            at, steps_before = leg.epoch(leg.times), steps_before + leg.steps * leg.times
        raise ConfigurationError(
            "This count is too far on to be found: a user-defined schedule is counted through epoch by epoch.",
            [("schedule", self.schedule), ("from", first), ("epochs counted", _MOST_LEGS)],
            "Load a state that holds its epoch and offset, or leave drop_last=True out.",
        )

    def _equal_epochs(self, at: Position, steps_before: int) -> _Leg | None:
        """The whole epochs from *at* on that lie in one stage; None if there is none, or the stages are unknown."""
        if at.offset or not isinstance(self.schedule, PiecewiseSchedule):
            return None
        (size, stop), reach = next(self.schedule.stages_from(at.consumed_samples)), self.rounds.reach
        beyond = None if stop is None else stop - at.consumed_samples - reach
        if beyond is not None and beyond < 0:
            return None
        samples = reach - reach % size if self.rounds.drop_last else reach
        if not samples:
            raise self.rounds.no_batch(size)
        return _Leg(at, samples, -(-samples // size), None if beyond is None else 1 + beyond // samples, steps_before)

    def _size_at(self, consumed_samples: int) -> int:
        """The schedule's batch size; a user-defined schedule's is checked."""
        size = self.schedule.batch_size_at(consumed_samples)
        return size if isinstance(self.schedule, PiecewiseSchedule) else whole_number("batch_size_at()", size, least=1)

    # -- whether every step falls into whole rounds: found before the run begins, not when it gets there

    def check_from(self, position: Position, /) -> None:
        """Check that every step from *position* on falls into whole rounds.

        Where the stages of the schedule are unknown, only the first step is checked; later ones are checked as they begin.

        Raises:
            ConfigurationError: if one does not, with sizes that do, or if an epoch has no step.

        >>> from resumable.steps.schedules import StepSchedule
        >>> run = StepPlan(BatchPlan(length=100, batch_size=8), StepSchedule(((0, 12), (24, 16))), micro_batch_size=8)
        >>> run.check_from(Position(24, 0, 24))
        >>> run.check_from(Position(12, 0, 12))
        Traceback (most recent call last):
        resumable.errors.ConfigurationError: A global batch does not fall into whole micro batches on each rank.
          global batch size:     12
          from consumed_samples: 12
          micro_batch_size:      8
          data_parallel_size:    1
          sizes that would do:   '8 or 16'
        Pass a schedule with such a size, or another batch_size or data_parallel_size, or decrease_batch_size_if_needed=True.
        """
        at, schedule = self.canonical(position), self.schedule
        if not isinstance(schedule, PiecewiseSchedule):
            next(self.steps(at))
        elif self._all_fit(schedule, at.consumed_samples):
            return
        elif self.rounds.carries:
            for begins, size, _ in schedule.equal_steps_from(at.consumed_samples):
                self._check_size(size, begins)
        else:
            for leg in self._legs(at):
                end = leg.begins.consumed_samples + leg.samples
                for begins, size, _ in schedule.equal_steps_from(leg.begins.consumed_samples):
                    if begins + size > end:
                        break
                    self._check_size(size, begins)

    def check_for_ever(self) -> bool:
        """Whether every step from the first sample on falls into whole rounds.

        If not, a state may still be loaded, since what it has already trained need not fit: a run may get more ranks
        after its small batches.

        Raises:
            ConfigurationError: if the sizes that every such run reaches do not fit.

        >>> from resumable.steps.schedules import StepSchedule
        >>> StepPlan(BatchPlan(length=100, batch_size=8), StepSchedule(((0, 12), (24, 16))), 8).check_for_ever()
        False
        """
        try:
            self.check_from(Position())
        except ConfigurationError:
            if isinstance(self.schedule, PiecewiseSchedule) and not self._all_fit(self.schedule, _LAST):
                raise
            return False
        return True

    def _all_fit(self, schedule: PiecewiseSchedule, consumed_samples: int) -> bool:
        """Whether the sizes of all stages from *consumed_samples* on do, so that no step needs to be looked at."""
        rounds = self.rounds
        largest = rounds.reach if rounds.drop_last is True else _LAST
        stages = schedule.stages_from(consumed_samples)
        return all(size % rounds.batch_size == 0 and size <= largest for size, _ in stages)

    def _check_size(self, size: int, consumed_samples: int) -> None:
        """Raise ConfigurationError unless the step of *size* samples at *consumed_samples* falls into whole rounds."""
        per_round = self.rounds.batch_size
        if not size % per_round:
            return
        below = size - size % per_round
        rows: list[tuple[str, object]] = [
            ("global batch size", size),
            ("from consumed_samples", consumed_samples),
            ("micro_batch_size", self.micro_batch_size),
            ("data_parallel_size", per_round // self.micro_batch_size),
            ("sizes that would do", f"{below} or {below + per_round}" if below else f"{per_round}"),
        ]
        advice = "Pass a schedule with such a size, or another batch_size or data_parallel_size"
        raise ConfigurationError(
            "A global batch does not fall into whole micro batches on each rank.",
            rows,
            f"{advice}, or decrease_batch_size_if_needed=True." if below else f"{advice}.",
        )
