"""The files of an audit, as values: a record is what one rank trained in one configuration, from one place on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any, Final, cast

from resumable.errors import ResumptionError, StateError
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.saved.audit_log import BATCHES, COMMITTED, ENDED, FORMAT, MARKS, READ, SUFFIX, TRAINED
from resumable.saved.ledger import Stretch
from resumable.saved.snapshot import parse

__all__ = ["Record", "read_records"]

_BANK: Final = 6
_NUMBERS: Final = MARKS // 8


@dataclass(frozen=True, slots=True)
class Record:
    """What *rank* of *size* trained from the beginning of *stretch* on, in *order*, until *trained*.

    *read* is the position after the last batch that it was given: what lies between may have been trained when it was killed.
    *passed_over* are batches that could not be loaded: the position before them, and how many. *process* is the number of
    the process among all of the run, with those that load the same part of the data. *has_ended*: not by a kill; *is_running*:
    its process is there, on this host.
    """

    file: str
    rank: int
    size: int
    process: int
    time: int
    """When it began, in nanoseconds since 1970."""
    stretch: Stretch
    order: Identity | None
    trained: Position
    read: Position
    passed_over: tuple[tuple[Position, int], ...]
    has_ended: bool
    is_running: bool = False

    @property
    def begins(self) -> Position:
        """Where it began."""
        return self.stretch.begins


def read_records(folder: str | os.PathLike[str], /) -> list[Record]:
    """The records in *folder*, in the order in which they began.

    Raises:
        StateError: if there is no such folder, no audit in it, or a file that cannot be read.
    """
    path = Path(folder)
    if not path.is_dir():
        raise StateError(
            "There is no folder with an audit.",
            [("looked for", str(path)), ("found", "a file" if path.exists() else "nothing")],
            "Pass the folder that audit= names.",
        )
    files = sorted(path.glob(f"*{SUFFIX}"))
    if not files:
        raise StateError(
            "The folder holds no audit.",
            [("folder", str(path)), ("looked for", f"*{SUFFIX}")],
            "Pass the folder that audit= of @resumable or ResumableLoader names.",
        )
    return sorted((record for file in files for record in _records_in(file)), key=lambda record: record.time)


def _records_in(file: Path) -> list[Record]:
    content = file.read_bytes()
    if len(content) <= MARKS:  # killed before it wrote who it is
        return []
    try:
        marks = list(memoryview(content[:MARKS]).cast("q"))
        text = content[MARKS:].decode()
        lines = [cast("dict[str, Any]", json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]
        return list(_parsed(file.name, marks, lines)) if lines else []
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, ResumptionError) as error:
        raise StateError(
            "A file of the audit is damaged.",
            [("file", str(file)), ("reason", str(error).partition("\n")[0])],
            "Restore it, or prove the run without it in another folder.",
        ) from None


def _parsed(name: str, marks: Sequence[int], lines: Sequence[dict[str, Any]]) -> Iterator[Record]:
    head, *others = lines
    if head["audit"] != FORMAT:
        raise StateError(f"its format is {head['audit']!r}, and this version of resumable knows {FORMAT}")
    begun = [line for line in others if "state" in line]
    for line in begun:
        number = int(line["part"])
        closed = [each["marks"] for each in others if each["part"] == number and "marks" in each]
        own: Sequence[int] = closed[0] if closed else marks
        saved = parse(line["state"])
        (stretch,) = saved.ledger
        read, trained = _reached(stretch, own, number)
        yield Record(
            file=name,
            rank=int(head["rank"]),
            size=int(head["size"]),
            process=int(head["world"][0]),
            time=int(line["time"]),
            stretch=stretch,
            order=saved.order,
            trained=trained,
            read=read,
            passed_over=tuple(
                (Position(*map(int, each["passed_over"])), int(each["batches"]))
                for each in others
                if each["part"] == number and "passed_over" in each
            ),
            has_ended=bool(closed or marks[ENDED]),
            is_running=not (closed or marks[ENDED]) and _is_running(head),
        )


def _is_running(head: dict[str, Any]) -> bool:
    if head["host"] != gethostname():
        return False
    try:
        os.kill(int(head["process"]), 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _reached(stretch: Stretch, marks: Sequence[int], number: int) -> tuple[Position, Position]:
    """Up to where part *number* has read, and trained, by its *marks*."""
    if len(marks) != _NUMBERS:
        raise StateError(f"it has {len(marks)} marks in place of {_NUMBERS}")
    reached = [stretch.begins]
    trained = _bank(marks, TRAINED)
    if trained[0] == number:
        reached.append(Position(*trained[1:4]))
    reading = _bank(marks, READ)
    read = reached[-1]
    if reading[0] == number:
        begun_at, batches, committed = Position(*reading[1:4]), reading[BATCHES], reading[COMMITTED]
        read = _later(read, stretch.batching.advance(begun_at, batches))
        plan = stretch.batching if stretch.is_unknown else stretch.plan
        reached.append(plan.advance(begun_at, batches if committed < 0 else committed))
    return read, max(reached, key=lambda at: at.consumed_samples)


def _bank(marks: Sequence[int], kind: int) -> Sequence[int]:
    first = kind + 1 + _BANK * marks[kind]
    bank = marks[first : first + _BANK]
    if len(bank) != _BANK or any(number < -1 for number in bank):
        raise StateError("its marks contradict each other")
    return bank


def _later(one: Position, other: Position) -> Position:
    return max(one, other, key=lambda at: at.consumed_samples)
