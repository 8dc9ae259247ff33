"""Whether every step to come falls into whole rounds: found before the run begins, not when it gets there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from resumable.errors import ConfigurationError
from resumable.position import Position
from resumable.steps.stages import PiecewiseSchedule, Stage, steps_that_begin
from resumable.steps.step_plan import StepPlan

__all__ = ["check_for_ever", "check_from"]

_LAST: Final = 2**63 - 1
"""The largest count that a state can hold: a schedule's last stage begins before it, or is never reached."""


def check_from(run: StepPlan, position: Position, /) -> None:
    """Check that every step of *run* from *position* on falls into whole rounds.

    Where the stages of the schedule are unknown, only the first step is checked; later ones are checked as they begin.

    Raises:
        ConfigurationError: if one does not, with sizes that do, or if an epoch has no step.

    >>> from resumable.steps.schedules import StepSchedule
    >>> run = StepPlan(length=100, micro_batch_size=8, schedule=StepSchedule(((0, 12), (24, 16))))
    >>> check_from(run, Position(24, 0, 24))
    >>> check_from(run, Position(12, 0, 12))
    Traceback (most recent call last):
    resumable.errors.ConfigurationError: A global batch does not fall into whole micro batches on each rank.
      global batch size:     12
      from consumed_samples: 12
      micro_batch_size:      8
      data_parallel_size:    1
      sizes that would do:   '8 or 16'
    Pass a schedule with such a size, or another batch_size or data_parallel_size, or decrease_batch_size_if_needed=True.
    """
    at, schedule = run.canonical(position), run.schedule
    if not isinstance(schedule, PiecewiseSchedule):
        next(run.steps(at))
    elif not _all_fit(run, schedule.stages_from(at.consumed_samples)):
        for consumed, size in _reached(run, at, schedule):
            run.check_size(size, consumed)


def check_for_ever(run: StepPlan, /) -> bool:
    """Whether every step of *run* from the first sample on falls into whole rounds.

    If not, a state may still be loaded, since what it has already trained need not fit: a run may get more ranks after
    its small batches.

    Raises:
        ConfigurationError: if the sizes that every such run reaches do not fit.

    >>> from resumable.steps.schedules import StepSchedule
    >>> check_for_ever(StepPlan(length=100, micro_batch_size=8, schedule=StepSchedule(((0, 12), (24, 16)))))
    False
    """
    try:
        check_from(run, Position())
    except ConfigurationError:
        if isinstance(run.schedule, PiecewiseSchedule) and not _all_fit(run, run.schedule.stages_from(_LAST)):
            raise
        return False
    return True


def _all_fit(run: StepPlan, stages: Iterator[Stage]) -> bool:
    per_round = run.per_round
    largest = run.reach if run.drop_last is True else _LAST
    return all(size % per_round == 0 and size <= largest for size, _ in stages)


def _reached(run: StepPlan, at: Position, schedule: PiecewiseSchedule) -> Iterator[tuple[int, int]]:
    """Where the first step of each size begins, and its size; a short stage may be skipped."""
    if run.drop_last == "carry":
        yield from _begun(schedule, at.consumed_samples, None)
        return
    for leg in run.legs(at):
        begins = leg.begins.consumed_samples
        yield from _begun(schedule, begins, begins + leg.samples)


def _begun(schedule: PiecewiseSchedule, place: int, end: int | None) -> Iterator[tuple[int, int]]:
    """The same for the steps from *place* on that are complete at *end*; None means no end."""
    for size, stop in schedule.stages_from(place):
        if end is not None and place + size > end:
            return
        if stop is None:
            yield place, size
            return
        steps = steps_that_begin(place, stop, size)
        if steps:
            yield place, size
        place += steps * size
