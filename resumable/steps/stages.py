"""Batch sizes that change at known consumed samples, and where a number of steps leads.

    consumed samples   0 ──────────────── 20 ─────── 30 ───────────────────►
    batch size         │ 8                │ 16       │ 24
    steps begin at     0       8      16      24         40          64 ...

The place where a step begins decides its size. So the step that begins at 16 reaches past the boundary at 20, the next
one past that at 30, and a short stage may be skipped. Every count below takes one division for each stage, in whole
numbers of any size.

A *round* is one micro batch on each rank: micro_batch_size * data_parallel_size samples. A global batch is a whole number
of rounds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from typing_extensions import override

from resumable.checks import whole_number
from resumable.errors import ConfigurationError

__all__ = ["DivisibleSchedule", "PiecewiseSchedule", "Stage", "rounded_down"]


class Stage(NamedTuple):
    """A batch size, and the consumed samples from which it no longer holds: None in the last stage."""

    size: int
    stop: int | None


class PiecewiseSchedule(ABC):
    """A schedule whose stages are known: a `BatchSchedule` that any number of steps leads through in closed form.

    >>> from resumable.steps.schedules import StepSchedule
    >>> schedule = StepSchedule(((0, 8), (20, 16), (30, 24)))
    >>> [schedule.batch_size_at(consumed) for consumed in (0, 19, 20, 10**18)]
    [8, 8, 16, 24]
    >>> [schedule.samples_after(steps) for steps in range(6)], schedule.samples_after(10**12, 40)
    ([0, 8, 16, 24, 40, 64], 24000000000040)
    >>> [schedule.steps_between(0, later) for later in (0, 7, 8, 39, 40)]
    [0, 0, 1, 3, 4]
    """

    __slots__ = ()

    @abstractmethod
    def stages_from(self, consumed_samples: int, /) -> Iterator[Stage]:
        """The stage that *consumed_samples* >= 0 lies in and all later ones, each of at least one sample."""

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """Global batch size of the step that begins at *consumed_samples* >= 0, in samples over all ranks."""
        return next(self.stages_from(whole_number("consumed_samples", consumed_samples))).size

    def equal_steps_from(self, place: int, /) -> Iterator[tuple[int, int, int | None]]:
        """The steps from *place* on, equal ones together: where the first begins, their size, how many (None: no end)."""
        while True:
            size, stop = next(self.stages_from(place))  # a step may have leapt over any number of them
            if stop is None:
                yield place, size, None
                return
            steps = -((place - stop) // size)
            yield place, size, steps
            place += steps * size

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """Consumed samples *steps* >= 0 steps after *consumed* >= 0 samples."""
        steps, place = whole_number("steps", steps), whole_number("consumed", consumed)
        for begins, size, count in self.equal_steps_from(place):
            taken = steps if count is None else min(steps, count)
            place = begins + taken * size
            steps -= taken
            if not steps:
                break
        return place

    def steps_between(self, consumed: int, later: int, /) -> int:
        """The largest number of steps with `samples_after(steps, consumed) <= later`, for *later* >= *consumed* >= 0."""
        consumed, later = whole_number("consumed", consumed), whole_number("later", later)
        if later < consumed:
            raise ConfigurationError(
                "Steps lead forward only.", [("consumed", consumed), ("later", later)], "Pass the smaller count first."
            )
        steps = 0
        for begins, size, count in self.equal_steps_from(consumed):
            taken = (later - begins) // size
            if count is None or taken < count:
                return steps + taken
            steps += count
        return steps


@dataclass(frozen=True, slots=True)
class DivisibleSchedule(PiecewiseSchedule):
    """The sizes of *schedule*, each rounded down to a multiple of *divisor*; a size of 0 is refused when it is reached.

    Stages stay where *schedule* has them in consumed samples, and a step consumes its rounded size, as with
    megatron-core 0.16.1's `decrease_batch_size_if_needed` (num_microbatches_calculator.py), whatever the schedule.

    >>> from resumable.steps.schedules import StepSchedule
    >>> DivisibleSchedule(StepSchedule(((0, 10), (30, 15))), divisor=4).samples_after(5)
    44
    """

    schedule: PiecewiseSchedule
    divisor: int

    @override
    def stages_from(self, consumed_samples: int, /) -> Iterator[Stage]:
        for size, stop in self.schedule.stages_from(consumed_samples):
            yield Stage(rounded_down(size, self.divisor), stop)


def rounded_down(size: int, divisor: int, /) -> int:
    """The largest multiple of *divisor* that is at most *size*; ConfigurationError if that is 0.

    >>> rounded_down(20, 8)
    16
    """
    if size < divisor:
        raise ConfigurationError(
            "A global batch that is rounded down to whole micro batches is empty.",
            [("global batch size", size), ("micro_batch_size * data_parallel_size", divisor)],
            "Use a smaller micro batch or fewer ranks, or larger global batches.",
        )
    return size - size % divisor
