"""Schedules in a ledger, and their form in a saved state.

["ConstantBatchSize", 768]
["LinearRampup", 16, 1024, 16, 1000000]           start, end, increment, samples, and a divisor other than 1
["StepSchedule", [0, 768], [250000, 1536]]
["RoundedDown", 64, ["ConstantBatchSize", 768]]   the sizes of another schedule, rounded down
"MySchedule"                                      the class name of a user-defined schedule

Format 2 of a state wrote {"StepSchedule": [[0, 768], ...], "rounded_to": 64} and the like.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

from resumable.checks import whole_number
from resumable.errors import ConfigurationError, StateError
from resumable.protocols import BatchSchedule
from resumable.saved.fields import START_AGAIN, Fields, listed, mapping
from resumable.steps.schedules import ConstantBatchSize, LinearRampup, StepSchedule
from resumable.steps.stages import DivisibleSchedule

__all__ = ["LedgerSchedule", "UserSchedule", "dump_schedule", "parse_schedule", "ledger_schedule"]


@dataclass(frozen=True, slots=True)
class UserSchedule:
    """A user-defined schedule. Saved states keep only its class name; equal names compare equal."""

    name: str
    schedule: BatchSchedule | None = field(default=None, compare=False, repr=False)

    @property
    def known(self) -> BatchSchedule:
        """The schedule itself; StateError where only its name was saved."""
        if self.schedule is None:
            raise StateError(
                "The ledger holds only the name of a user-defined schedule, so its steps cannot be counted.",
                [("schedule", self.name)],
                "Load the state into a loader that has this schedule.",
            )
        return self.schedule


_TOO_LARGE: Final = 1 << 1024

_Own: TypeAlias = ConstantBatchSize | LinearRampup | StepSchedule

LedgerSchedule: TypeAlias = _Own | DivisibleSchedule | UserSchedule
"""A schedule in a ledger: a value that can be compared and saved."""


def ledger_schedule(schedule: BatchSchedule, /) -> LedgerSchedule:
    """*schedule* itself if it is one of this package's, otherwise a `UserSchedule` named by its class.

    Raises:
        ConfigurationError: as `LinearRampup.check_increments`.

    >>> ledger_schedule(ConstantBatchSize(8))
    ConstantBatchSize(batch_size=8)
    """
    if isinstance(schedule, LinearRampup):
        schedule.check_increments()
    if type(schedule) in (ConstantBatchSize, LinearRampup, StepSchedule, UserSchedule):
        return cast("LedgerSchedule", schedule)
    name = type(schedule).__qualname__
    if isinstance(schedule, DivisibleSchedule):
        inner = ledger_schedule(schedule.schedule)
        if not isinstance(inner, UserSchedule):
            return schedule
        name = f"{inner.name} rounded down to {schedule.divisor}"
    return UserSchedule(name, schedule)


def dump_schedule(schedule: LedgerSchedule | None, /) -> list[object] | str | None:
    """The JSON form of a schedule, short enough for every saved state.

    >>> dump_schedule(LinearRampup(16, 1024, 16, 1_000_000))
    ['LinearRampup', 16, 1024, 16, 1000000]
    """
    match schedule:
        case None:
            return None
        case UserSchedule(name):
            return name
        case DivisibleSchedule(inner, divisor):
            return ["RoundedDown", divisor, dump_schedule(cast("_Own", inner))]
        case ConstantBatchSize(size):
            return ["ConstantBatchSize", size]
        case LinearRampup(start, end, increment, samples):
            divisors = [schedule.divisor] if schedule.divisor > 1 else []
            return ["LinearRampup", start, end, increment, samples, *divisors]
        case StepSchedule(steps):
            return ["StepSchedule", *map(list, steps)]


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
    row = listed(value)
    if row is None:
        row = _format_2(mapping(value, "schedule"))
    try:
        _check_size(row)
        return _parse_own(row)
    except (ConfigurationError, TypeError, ValueError) as error:
        raise StateError(
            "This version of resumable does not know the saved schedule.",
            [("schedule", value), ("reason", str(error).partition("\n")[0])],
            START_AGAIN,
        ) from None


def _check_size(value: object, levels: int = 4) -> None:
    """Refuse what no schedule holds: more levels of lists, and numbers of thousands of digits."""
    parts = listed(value)
    if not levels or (isinstance(value, int) and abs(value) >= _TOO_LARGE):
        raise ConfigurationError("it is nested too deeply" if not levels else "it holds a number of 1024 bits or more")
    for part in parts or ():
        _check_size(part, levels - 1)


def _format_2(fields: Fields) -> list[object]:
    """What format 2 wrote, as it is written now; anything else becomes an unknown schedule."""
    names = [name for name in fields if name != "rounded_to"]
    arguments = listed(fields[names[0]]) if len(names) == 1 else None
    own: list[object] = [*names, *(arguments or [])]
    return own if "rounded_to" not in fields else ["RoundedDown", fields["rounded_to"], own]


def _parse_own(row: list[Any]) -> _Own | DivisibleSchedule:
    match row:
        case ["RoundedDown", divisor, inner]:
            schedule = _parse_own(listed(inner) or [])
            if isinstance(schedule, DivisibleSchedule):
                raise ConfigurationError(f"{schedule!r} is rounded down twice")
            return DivisibleSchedule(schedule, whole_number("divisor", divisor, least=1))
        case ["ConstantBatchSize", size]:
            return ConstantBatchSize(size)
        case ["LinearRampup", start, end, increment, samples, *divisors] if len(divisors) < 2:
            ramp = LinearRampup(start, end, increment, samples, divisor=divisors[0] if divisors else 1)
            ramp.check_increments()
            return ramp
        case ["StepSchedule", *steps]:
            return StepSchedule(tuple(steps))
        case _:
            raise ConfigurationError(f"no schedule is written as {row!r}")
