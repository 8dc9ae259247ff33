"""Schedules as a ledger holds them, and as a saved state names them.

["ConstantBatchSize", 768]
["LinearRampup", 16, 1024, 16, 1000000]           start, end, increment, samples, and a divisor other than 1
["StepSchedule", [0, 768], [250000, 1536]]
["RoundedDown", 64, ["ConstantBatchSize", 768]]   the sizes of another one, rounded down
"MySchedule"                                      a class of somebody else's, by its name alone

Format 2 of a state wrote {"StepSchedule": [[0, 768], ...], "rounded_to": 64} and the like.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from resumable.checks import whole_number
from resumable.errors import ConfigurationError, StateError, explain
from resumable.protocols import BatchSchedule
from resumable.saved.fields import START_AGAIN, Fields, listed, mapping
from resumable.steps.schedules import ConstantBatchSize, LinearRampup, StepSchedule
from resumable.steps.stages import DivisibleSchedule

__all__ = ["UserSchedule", "LedgerSchedule", "dump_schedule", "parse_schedule", "ledger_schedule"]


@dataclass(frozen=True, slots=True)
class UserSchedule:
    """A schedule of somebody else's. A saved state knows its name alone, and two of one name count as the same."""

    name: str
    schedule: BatchSchedule | None = field(default=None, compare=False, repr=False)

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """See `BatchSchedule`; raises StateError where the name alone is known."""
        return self._known.batch_size_at(consumed_samples)

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """See `BatchSchedule`; raises StateError where the name alone is known."""
        return self._known.samples_after(steps, consumed)

    def steps_between(self, consumed: int, later: int, /) -> int:
        """See `BatchSchedule`; raises StateError where the name alone is known."""
        return self._known.steps_between(consumed, later)

    @property
    def _known(self) -> BatchSchedule:
        if self.schedule is None:
            raise StateError(
                explain(
                    "The ledger names a schedule that only its own program knows, so its steps cannot be counted.",
                    [("schedule", self.name)],
                    "Load the state into a loader that has this schedule.",
                )
            )
        return self.schedule


_Own: TypeAlias = ConstantBatchSize | LinearRampup | StepSchedule

LedgerSchedule: TypeAlias = _Own | DivisibleSchedule | UserSchedule
"""What a ledger holds of a schedule: a value that compares, and can be written down."""


def ledger_schedule(schedule: BatchSchedule, /) -> LedgerSchedule:
    """*schedule* as a value that compares: itself if it is one of this package's, else by its class's name.

    >>> ledger_schedule(ConstantBatchSize(8))
    ConstantBatchSize(batch_size=8)
    """
    if type(schedule) in (ConstantBatchSize, LinearRampup, StepSchedule):
        return cast("_Own", schedule)
    if isinstance(schedule, DivisibleSchedule):
        own = ledger_schedule(schedule.schedule)
        return (
            UserSchedule(f"{own.name} rounded down to {schedule.divisor}", schedule)
            if isinstance(own, UserSchedule)
            else schedule
        )
    return schedule if isinstance(schedule, UserSchedule) else UserSchedule(type(schedule).__qualname__, schedule)


def dump_schedule(schedule: LedgerSchedule | None, /) -> list[object] | str | None:
    """The JSON form of a schedule, short enough to stand in every saved state.

    >>> dump_schedule(LinearRampup(16, 1024, 16, 1_000_000))
    ['LinearRampup', 16, 1024, 16, 1000000]
    """
    match schedule:
        case None:
            return None
        case UserSchedule(name):
            return name
        case DivisibleSchedule(inner, divisor):
            return ["RoundedDown", divisor, _dump_own(cast("_Own", inner))]
        case _:
            return _dump_own(schedule)


def _dump_own(schedule: _Own) -> list[object]:
    match schedule:
        case ConstantBatchSize(size):
            return ["ConstantBatchSize", size]
        case LinearRampup(start, end, increment, samples):
            divisor = [schedule.divisor] if schedule.divisor > 1 else []
            return ["LinearRampup", start, end, increment, samples, *divisor]
        case StepSchedule(steps):
            return ["StepSchedule", *(list(step) for step in steps)]


def parse_schedule(value: object, /) -> LedgerSchedule | None:
    """Read what `dump_schedule` wrote, now or for format 2.

    Raises:
        StateError: if it is anything else.

    >>> parse_schedule(["ConstantBatchSize", 8])
    ConstantBatchSize(batch_size=8)
    """
    if value is None:
        return None
    if isinstance(value, str):
        return UserSchedule(value)
    told = listed(value)
    if told is None:
        told = _format_2(mapping(value, "schedule"))
    try:
        return _parse_own(told)
    except (ConfigurationError, TypeError, ValueError) as error:
        raise StateError(
            explain(
                "The saved schedule is none that this version of resumable knows.",
                [("schedule", value), ("it says", str(error).partition("\n")[0])],
                START_AGAIN,
            )
        ) from None


def _format_2(told: Fields) -> list[object]:
    """What format 2 wrote, as it is written now; anything else comes to nothing that is known."""
    names = [name for name in told if name != "rounded_to"]
    arguments = listed(told[names[0]]) if len(names) == 1 else None
    own: list[object] = [*names, *(arguments or [])]
    return own if "rounded_to" not in told else ["RoundedDown", told["rounded_to"], own]


def _parse_own(told: list[object]) -> LedgerSchedule:
    name, numbers = told[0] if told else None, cast("list[Any]", told[1:])
    match name, len(numbers):
        case "RoundedDown", 2:
            inner = _parse_own(listed(numbers[1]) or [])
            if isinstance(inner, (DivisibleSchedule, UserSchedule)):
                raise ConfigurationError(f"{inner!r} is not written rounded down")
            return DivisibleSchedule(inner, whole_number("a divisor", numbers[0], least=1))
        case "ConstantBatchSize", 1:
            return ConstantBatchSize(*numbers)
        case "LinearRampup", 4 | 5:
            return LinearRampup(*numbers[:4], divisor=numbers[4] if len(numbers) == 5 else 1)
        case "StepSchedule", _:
            return StepSchedule(tuple(numbers))
        case _:
            raise ConfigurationError(f"no schedule is called {name!r} and has {len(numbers)} numbers")
