"""Batch sizes that change at known places of the consumed samples, and where a number of steps leads from there.

    consumed samples   0 ──────────────── 20 ─────── 30 ───────────────────►
    batch size         │ 8                │ 16       │ 24
    steps begin at     0       8      16      24         40          64 ...

A step takes the size of the place where it begins. So the step that begins at 16 reaches beyond the boundary at
20, the next one beyond that at 30, and a short stage may be leapt over. Every count below follows from one
division for each stage, in whole numbers of any size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from operator import index
from typing import NamedTuple

from resumable.errors import ConfigurationError, explain

__all__ = ["Stage", "Staged", "steps_that_begin", "whole_number"]


class Stage(NamedTuple):
    """A batch size, and the first consumed count for which it holds no more: None in the last stage."""

    size: int
    stop: int | None


class Staged(ABC):
    """What every schedule can answer that knows its stages."""

    __slots__ = ()

    @abstractmethod
    def stages_from(self, consumed_samples: int, /) -> Iterator[Stage]:
        """The stage that *consumed_samples* >= 0 lies in and all that follow, each of at least one sample."""

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """Global batch size of the step that begins at *consumed_samples* >= 0, in samples over all ranks.

        >>> from resumable.schedules import StepSchedule
        >>> schedule = StepSchedule(((0, 8), (20, 16), (30, 24)))
        >>> [schedule.batch_size_at(consumed) for consumed in (0, 19, 20, 10**18)]
        [8, 8, 16, 24]
        """
        return next(self.stages_from(whole_number("consumed_samples", consumed_samples))).size

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """Consumed samples when *steps* >= 0 further steps have followed *consumed* >= 0 samples.

        >>> from resumable.schedules import StepSchedule
        >>> schedule = StepSchedule(((0, 8), (20, 16), (30, 24)))
        >>> [schedule.samples_after(steps) for steps in range(6)]
        [0, 8, 16, 24, 40, 64]
        >>> schedule.samples_after(10**12, 40)
        24000000000040
        """
        steps, place = whole_number("steps", steps), whole_number("consumed", consumed)
        for size, stop in self.stages_from(place):
            taken = steps if stop is None else min(steps, steps_that_begin(place, stop, size))
            place += taken * size
            steps -= taken
            if not steps:
                break
        return place

    def steps_between(self, consumed: int, later: int, /) -> int:
        """Steps that lead from *consumed* >= 0 to *later* >= *consumed* samples.

        Where *later* lies within a step, that step does not count: the answer is the largest number of steps with
        `samples_after(steps, consumed) <= later`.

        >>> from resumable.schedules import StepSchedule
        >>> schedule = StepSchedule(((0, 8), (20, 16), (30, 24)))
        >>> [schedule.steps_between(0, later) for later in (0, 7, 8, 39, 40)]
        [0, 0, 1, 3, 4]
        """
        place, later = whole_number("consumed", consumed), whole_number("later", later)
        if later < place:
            raise ConfigurationError(
                explain(
                    "Steps lead forward only.",
                    [("consumed", place), ("later", later)],
                    "Pass the smaller count first.",
                )
            )
        steps = 0
        for size, stop in self.stages_from(place):
            taken = (later - place) // size
            if stop is not None:
                taken = min(taken, steps_that_begin(place, stop, size))
            place += taken * size
            steps += taken
            if stop is None or place < stop:
                break
        return steps


def steps_that_begin(place: int, stop: int, size: int) -> int:
    """How many steps of *size* begin at *place* or later and before *stop*: 0 where the stage was leapt over.

    >>> steps_that_begin(16, 20, 8), steps_that_begin(24, 20, 8)
    (1, 0)
    """
    return max(0, -((place - stop) // size))


def whole_number(name: str, value: object, *, least: int | None = 0) -> int:
    """*value* as an int of at least *least*, if that is not None; else a ConfigurationError that calls it *name*.

    Integers of NumPy are taken; bool and float are not, since they come from a mistake.

    >>> whole_number("steps", 3)
    3
    """
    try:
        if type(value).__name__ in ("bool", "bool_"):  # both pass for an index, NumPy's in NumPy 1
            raise TypeError
        number = index(value)  # type: ignore[arg-type]  # the TypeError is the question
    except TypeError:
        raise ConfigurationError(
            explain(
                f"{name} must be a whole number.",
                [(name, value), ("type", type(value).__name__)],
                f"Pass {name} as an int.",
            )
        ) from None
    if least is not None and number < least:
        raise ConfigurationError(
            explain(f"{name} is too small.", [(name, number), ("least", least)], f"Pass {name} >= {least}.")
        )
    return number
