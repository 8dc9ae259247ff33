"""Schedules: how many samples an optimizer step takes, as a function of the consumed samples alone.

    ConstantBatchSize(768)                                the same size in every step
    LinearRampup(start, end, increment, rampup_samples)   Megatron's `rampup_batch_size`
    StepSchedule.parse("0:768 250B:1536")                 its successor, `step_batch_size_schedule`

Sizes are global batch sizes: samples over all data-parallel ranks and all micro batches of the step. The methods that
all of them share are in `resumable.steps.stages`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from typing_extensions import override

from resumable.checks import whole_number
from resumable.errors import ConfigurationError
from resumable.protocols import BatchSchedule
from resumable.steps.schedule_text import check_steps, read_steps, write_steps
from resumable.steps.stages import DivisibleSchedule, PiecewiseSchedule, Stage, rounded_down

__all__ = ["ConstantBatchSize", "LinearRampup", "StepSchedule", "in_whole_rounds"]

_MOST_INCREMENTS: Final = 1 << 14
_FLOATS_END: Final = 1 << 1023  # up to here no double of the ramp-up's rule overflows


@dataclass(frozen=True, slots=True)
class ConstantBatchSize(PiecewiseSchedule):
    """Every step takes *batch_size* >= 1 samples.

    >>> ConstantBatchSize(8).samples_after(5, 100)
    140
    """

    batch_size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", whole_number("batch_size", self.batch_size, least=1))

    @override
    def stages_from(self, consumed_samples: int, /) -> Iterator[Stage]:
        yield Stage(self.batch_size, None)


@dataclass(frozen=True, slots=True)
class LinearRampup(PiecewiseSchedule):
    """The batch size grows from *start* to *end* by *increment*, in equal parts of *rampup_samples*.

    While consumed <= rampup_samples the size is `start + int(consumed / samples_per_increment) * increment` with
    `samples_per_increment = rampup_samples / increments`; after that it is *end*. Both divisions round to doubles, which
    moves some boundaries by a sample, and by more above `2**52` samples. Here every boundary is where Megatron's
    calculator has it. From `2**1023` samples on, where doubles overflow, the same rule holds in exact numbers.

    The calculator divides by zero for two ramps. They are valid here: with start == end the size is constant, and with
    rampup_samples == 0 it is *end* from the first sample on.

    *divisor* is micro_batch_size * data_parallel_size where `decrease_batch_size_if_needed` is set. Each size is then
    rounded down to a multiple of it, and that is what Megatron-LM counts as consumed. A size that would become 0 is
    refused only when it is reached: a run may get more ranks after it has trained its small batches.

    All are whole numbers: start, increment and divisor >= 1, end = start + n * increment with n >= 0, end >= divisor,
    rampup_samples >= 0. Anything else raises ConfigurationError.

    Source: megatron-core 0.16.1, megatron/core/num_microbatches_calculator.py,
    `RampupBatchsizeNumMicroBatchesCalculator`.

    >>> ramp = LinearRampup(start=4, end=16, increment=4, rampup_samples=30)
    >>> [ramp.batch_size_at(consumed) for consumed in (0, 9, 10, 20, 30, 31)]
    [4, 4, 8, 12, 16, 16]
    """

    start: int
    end: int
    increment: int
    rampup_samples: int
    divisor: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        for name, least in (("start", 1), ("end", 1), ("increment", 1), ("rampup_samples", 0), ("divisor", 1)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=least))
        if self.end < self.start or (self.end - self.start) % self.increment:
            raise ConfigurationError(
                "The ramp-up does not lead from start to end.",
                [("start", self.start), ("end", self.end), ("increment", self.increment)],
                "Pass end = start + a whole number of increments.",
            )
        rounded_down(self.end, self.divisor)  # raises where no size is left

    @classmethod
    def from_megatron(
        cls, rampup_batch_size: Sequence[int | str], global_batch_size: int, divisor: int = 1
    ) -> LinearRampup:
        """The ramp-up of Megatron's arguments.

        *rampup_batch_size* is [start, increment, samples], as ints or as strings from a command line. Anything else,
        and numbers that make no ramp-up, raise ConfigurationError.

        >>> LinearRampup.from_megatron(["16", "8", "300000"], global_batch_size=1024).batch_size_at(150_000)
        520
        """
        try:
            # a string is a sequence of its characters
            given = () if isinstance(rampup_batch_size, str) else tuple(rampup_batch_size)
            start, increment, samples = (int(each) if isinstance(each, str) else each for each in given)
        except (TypeError, ValueError):
            raise ConfigurationError(
                "rampup_batch_size must be a list of three whole numbers.",
                [("rampup_batch_size", rampup_batch_size), ("expected", "[start, increment, samples]")],
                "Pass the list that Megatron takes, or ConstantBatchSize(global_batch_size) for None.",
            ) from None
        return cls(start, global_batch_size, increment, samples, divisor=divisor)

    def to_steps(self) -> StepSchedule:
        """The step schedule with the same size at every consumed count.

        Newer Megatron-LM ignores `rampup_batch_size`. To go on there with a run that began with a ramp-up, pass it
        `to_steps().to_string(seq_length)` as `step_batch_size_schedule`. The sizes are already rounded down to
        *divisor*, since step schedules there are not. Raises ConfigurationError where a rounded size is 0, and as
        `check_increments`.

        >>> str(LinearRampup(start=8, end=20, increment=4, rampup_samples=30, divisor=8).to_steps())
        '0:8 20:16'
        """
        self.check_increments()
        steps: list[tuple[int, int]] = []
        begin = 0
        for size, stop in self.stages_from(0):
            if not steps or steps[-1][1] != size:
                steps.append((begin, size))
            begin = stop or begin
        return StepSchedule(tuple(steps))

    def check_increments(self) -> None:
        """Raise ConfigurationError where the size grows so often that a run's steps could not be counted in seconds."""
        increments = min(self._all_increments, self.rampup_samples + 1)
        if increments > _MOST_INCREMENTS:
            raise ConfigurationError(
                "The batch size grows too often for its steps to be counted.",
                [("ramp-up", self), ("increments", increments), ("most", _MOST_INCREMENTS)],
                "Use larger increments.",
            )

    @property
    def _all_increments(self) -> int:
        return (self.end - self.start) // self.increment

    @override
    def stages_from(self, consumed_samples: int, /) -> Iterator[Stage]:
        increments, last = self._increments_at(consumed_samples), self._all_increments
        while increments < last:
            stop = self._first_with(increments + 1)
            yield Stage(self._running(increments), stop)
            increments = self._increments_at(stop)
        yield Stage(self._running(last), None)

    def _running(self, increments: int) -> int:
        return rounded_down(self.start + increments * self.increment, self.divisor)

    def _increments_at(self, consumed: int) -> int:
        """How often the size has grown by *consumed* samples: the calculator's own arithmetic, doubles included.

        It can round to more increments than there are only above `2**51` of them.
        """
        samples, increments = self.rampup_samples, self._all_increments
        if not increments or not samples or consumed > samples:
            return increments
        if max(samples, increments) >= _FLOATS_END:
            return consumed * increments // samples
        return int(consumed / (samples / increments))

    def _first_with(self, increments: int) -> int:
        """The first consumed count at which the size has grown *increments* times.

        Three roundings, each by at most one part in `2**53`, move it no further from the exact place than is searched.
        """
        exact = -(-increments * self.rampup_samples // self._all_increments)
        room = 2 + (exact >> 50)
        low, high = max(0, exact - room), min(self.rampup_samples + 1, exact + room)
        while low < high:
            middle = (low + high) // 2
            if self._increments_at(middle) < increments:
                low = middle + 1
            else:
                high = middle
        return low


@dataclass(frozen=True, slots=True)
class StepSchedule(PiecewiseSchedule):
    """From each threshold on, in consumed samples, a batch size: *steps* is ((0, size), (threshold, size), ...).

    The first threshold is 0, the thresholds increase, and sizes are >= 1. Anything else raises ConfigurationError.

    >>> StepSchedule(((0, 768), (1000, 1536))).samples_after(3)
    3072
    """

    steps: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        try:
            given: Sequence[object] = tuple(self.steps)
            pairs = [(threshold, size) for threshold, size in self.steps]
        except (TypeError, ValueError):
            raise ConfigurationError(
                "The steps of a schedule must be pairs.",
                [("steps", self.steps), ("expected", "((0, batch size), (threshold, batch size), ...)")],
                'Pass pairs, or read a text like "0:768 250B:1536" with StepSchedule.parse.',
            ) from None
        steps = tuple(
            (whole_number("a threshold", threshold, least=None), whole_number("a batch size", size, least=None))
            for threshold, size in pairs
        )
        check_steps(steps, given)
        object.__setattr__(self, "steps", steps)

    @classmethod
    def parse(cls, text: str, seq_length: int | None = None) -> StepSchedule:
        """The schedule that newer Megatron-LM reads from *text*; see `resumable.steps.schedule_text` for the grammar.

        With *seq_length* >= 1, in tokens, thresholds are tokens and are floored to samples; without it they are samples.
        Raises ConfigurationError with the part of *text* that is wrong.

        >>> StepSchedule.parse("0:768 250B:1536 500B:3072", seq_length=4096)
        StepSchedule(steps=((0, 768), (61035156, 1536), (122070312, 3072)))
        """
        return cls(read_steps(text, seq_length))

    def to_string(self, seq_length: int | None = None) -> str:
        """The text that newer Megatron-LM, with the same *seq_length* >= 1, reads as this schedule.

        `parse(to_string(seq_length), seq_length)` is the same schedule. Numbers are read as doubles: a threshold or
        batch size above `2**52` that no double gives raises ConfigurationError. `str` writes every threshold in samples
        and in full.

        >>> StepSchedule(((0, 768), (61035156, 1536))).to_string(seq_length=4096)
        '0:768 250B:1536'
        """
        return write_steps(self.steps, seq_length)

    def __str__(self) -> str:
        return " ".join(f"{threshold}:{size}" for threshold, size in self.steps)

    @override
    def stages_from(self, consumed_samples: int, /) -> Iterator[Stage]:
        at = bisect_right(self.steps, consumed_samples, key=lambda step: step[0]) - 1
        for number in range(at, len(self.steps) - 1):  # without a copy of the rest: most ask for the first stage alone
            yield Stage(self.steps[number][1], self.steps[number + 1][0])
        yield Stage(self.steps[-1][1], None)


def in_whole_rounds(schedule: BatchSchedule, per_round: int, /) -> BatchSchedule:
    """*schedule*, its sizes rounded down to whole rounds of *per_round* samples where some are not; a user-defined one as it is.

    >>> print(in_whole_rounds(StepSchedule(((0, 6), (12, 8))), 4).batch_size_at(0))
    4
    """
    if isinstance(schedule, LinearRampup):
        is_uneven = schedule.divisor == 1 and (schedule.start % per_round or schedule.increment % per_round)
        return replace(schedule, divisor=per_round) if is_uneven else schedule
    if isinstance(schedule, StepSchedule) and any(size % per_round for _, size in schedule.steps):
        return DivisibleSchedule(schedule, per_round)
    return schedule
