"""Batch sizes that change at known places of the consumed samples, and where a number of steps leads from there.

    consumed samples   0 ──────────────── 20 ─────── 30 ───────────────────►
    batch size         │ 8                │ 16       │ 24
    steps begin at     0       8      16      24         40          64 ...

A step takes the size of the place where it begins. So the step that begins at 16 reaches beyond the boundary at
20, the next one beyond that at 30, and a short stage may be leapt over. Every count below follows from one
division for each stage, in whole numbers of any size.

A *round* is one micro batch on each rank: micro_batch_size * data_parallel_size samples. A global batch is a whole number
of rounds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from resumable.checks import whole_number
from resumable.errors import ConfigurationError, explain

__all__ = ["DivisibleSchedule", "Stage", "PiecewiseSchedule", "not_divisible", "steps_that_begin"]


class Stage(NamedTuple):
    """A batch size, and the first consumed count for which it holds no more: None in the last stage."""

    size: int
    stop: int | None


class PiecewiseSchedule(ABC):
    """What every schedule can answer that knows its stages."""

    __slots__ = ()

    @abstractmethod
    def stages_from(self, consumed_samples: int, /) -> Iterator[Stage]:
        """The stage that *consumed_samples* >= 0 lies in and all that follow, each of at least one sample."""

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """Global batch size of the step that begins at *consumed_samples* >= 0, in samples over all ranks.

        >>> from resumable.steps.schedules import StepSchedule
        >>> schedule = StepSchedule(((0, 8), (20, 16), (30, 24)))
        >>> [schedule.batch_size_at(consumed) for consumed in (0, 19, 20, 10**18)]
        [8, 8, 16, 24]
        """
        return next(self.stages_from(whole_number("consumed_samples", consumed_samples))).size

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """Consumed samples when *steps* >= 0 further steps have followed *consumed* >= 0 samples.

        >>> from resumable.steps.schedules import StepSchedule
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

        >>> from resumable.steps.schedules import StepSchedule
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


@dataclass(frozen=True, slots=True)
class DivisibleSchedule(PiecewiseSchedule):
    """The sizes of *schedule*, each rounded down to a multiple of *divisor*; where that is 0 it is refused when asked.

    Stages stay where *schedule* has them in consumed samples, and what a rounded step takes is what it consumes, as
    with megatron-core 0.16.1's `decrease_batch_size_if_needed` (num_microbatches_calculator.py), whatever the schedule.

    >>> from resumable.steps.schedules import StepSchedule
    >>> DivisibleSchedule(StepSchedule(((0, 10), (30, 15))), divisor=4).samples_after(5)
    44
    """

    schedule: PiecewiseSchedule
    divisor: int

    def stages_from(self, consumed_samples: int, /) -> Iterator[Stage]:
        """The schedule's stages, with the sizes that run."""
        for size, stop in self.schedule.stages_from(consumed_samples):
            if size < self.divisor:
                raise ConfigurationError(
                    explain(
                        "A global batch that is rounded down to whole micro batches is empty.",
                        [("global batch size", size), ("micro_batch_size * data_parallel_size", self.divisor)],
                        "Use a smaller micro batch or fewer ranks, or larger global batches.",
                    )
                )
            yield Stage(size - size % self.divisor, stop)


def not_divisible(
    size: int, consumed_samples: int, micro_batch_size: int, data_parallel_size: int, /
) -> ConfigurationError:
    """The error for a global batch of *size* samples that leaves a part of a round over, with the sizes that would do.

    >>> print(not_divisible(20, 0, 4, 2))
    A global batch does not fall into whole micro batches on each rank.
      global batch size:     20
      from consumed_samples: 0
      micro_batch_size:      4
      data_parallel_size:    2
      sizes that would do:   '16 or 24'
    Pass a schedule with such a size, or another batch_size or data_parallel_size, or decrease_batch_size_if_needed=True.
    """
    per_round = micro_batch_size * data_parallel_size
    below = size - size % per_round
    rows: list[tuple[str, object]] = [
        ("global batch size", size),
        ("from consumed_samples", consumed_samples),
        ("micro_batch_size", micro_batch_size),
        ("data_parallel_size", data_parallel_size),
        ("sizes that would do", f"{below} or {below + per_round}" if below else f"{per_round}"),
    ]
    advice = "Pass a schedule with such a size, or another batch_size or data_parallel_size"
    return ConfigurationError(
        explain(
            "A global batch does not fall into whole micro batches on each rank.",
            rows,
            f"{advice}, or decrease_batch_size_if_needed=True." if below else f"{advice}.",
        )
    )
