"""Global batch sizes as plain numbers: what a schedule is built of, and how they are drawn."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final, Literal

from resumable.protocols import BatchSchedule
from resumable.steps.schedules import ConstantBatchSize, LinearRampup, StepSchedule

__all__ = ["Sizes", "divisor_of", "draw_sizes", "draw_unit", "logarithmic"]

_LARGEST_UNIT: Final = 8_192


@dataclass(frozen=True, slots=True)
class Sizes:
    """From each threshold on, in consumed samples, a size; of a ramp, its start, end, increment and samples."""

    kind: Literal["constant", "ramp", "steps"]
    numbers: tuple[tuple[int, int], ...] = ()
    ramp: tuple[int, int, int, int] = (1, 1, 1, 1)
    unit: int = 1
    """Every size is a multiple of it; with *rounds_down*, at least as large."""
    rounds_down: bool = False

    @property
    def largest(self) -> int:
        """The largest size."""
        return self.ramp[1] if self.kind == "ramp" else max(size for _, size in self.numbers)

    @property
    def schedule(self) -> BatchSchedule:
        """The package's own.

        >>> Sizes("steps", ((0, 4), (20, 8))).schedule
        StepSchedule(steps=((0, 4), (20, 8)))
        """
        if self.kind == "constant":
            return ConstantBatchSize(self.numbers[0][1])
        return LinearRampup(*self.ramp) if self.kind == "ramp" else StepSchedule(self.numbers)


def draw_sizes(draw: Random, length: int, start: int, /) -> Sizes:
    """Sizes that change, if they do, within what a run from *start* on trains; in most of them an epoch has a step."""
    unit, rounds_down = draw_unit(draw, length if draw.random() < 0.8 else _LARGEST_UNIT), draw.random() < 0.3
    kind: Literal["constant", "ramp", "steps"] = draw.choice(("constant", "ramp", "steps", "steps"))

    def size(most: int = 6) -> int:
        more = draw.randrange(unit) if rounds_down else 0
        return unit * draw.randint(1, min(most, max(1, length // unit))) + more

    if kind == "ramp":
        first, increment = size(2), unit * draw.randint(1, 2) + (draw.randrange(unit) if rounds_down else 0)
        times = draw.randint(0, 4)
        ramp = (first, first + times * increment, increment, start + draw.randint(1, 12 * first))
        return Sizes(kind, ramp=ramp, unit=unit, rounds_down=rounds_down)
    thresholds = {0}
    if kind == "steps":
        thresholds |= {start + draw.randint(1, 12 * unit) for _ in range(draw.randint(1, 3))}
    numbers = tuple((threshold, size()) for threshold in sorted(thresholds))
    return Sizes(kind, numbers, unit=unit, rounds_down=rounds_down)


def draw_unit(draw: Random, most: int = _LARGEST_UNIT, /) -> int:
    """A number of many divisors, as global batch sizes are, up to about *most*."""
    unit, goal = 1, logarithmic(draw, 1, max(1, min(most, _LARGEST_UNIT)))
    while unit * 2 <= goal:
        unit *= draw.choice((2, 2, 2, 3, 5)) if unit * 5 <= goal else 2
    return unit


def divisor_of(draw: Random, number: int, /, *, most: int) -> int:
    """A divisor of *number*, from 1 to *most*."""
    divisors = _divisors(number)
    return divisors[draw.randrange(bisect_right(divisors, most))]


@lru_cache(maxsize=1024)
def _divisors(number: int) -> tuple[int, ...]:
    return tuple(n for n in range(1, number + 1) if number % n == 0)


def logarithmic(draw: Random, least: int, most: int, /) -> int:
    """A number from *least* to *most*, of each length in binary about as often.

    >>> 3 <= logarithmic(Random(0), 3, 2**50) <= 2**50
    True
    """
    below = 1 << draw.randint(least.bit_length(), most.bit_length())
    return draw.randint(max(least, below >> 1), min(most, below - 1))
