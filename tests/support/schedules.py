"""Drawn schedules."""

from __future__ import annotations

from hypothesis import strategies as st

from resumable.steps.schedules import StepSchedule


@st.composite
def step_schedules(draw: st.DrawFn, *, longest: int, most: int = 8) -> StepSchedule:
    """Step schedules whose sizes go up and down, with stages short enough to be leapt over."""
    thresholds = draw(st.lists(st.integers(1, longest), max_size=most, unique=True))
    return StepSchedule(tuple((begin, draw(st.integers(1, 50))) for begin in [0, *sorted(thresholds)]))
