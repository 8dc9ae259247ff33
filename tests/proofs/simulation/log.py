"""What a simulated run has trained, against what it should have: the log that is a part of each checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.proofs.simulation.walk import LoaderPosition

__all__ = ["Checkpoint", "Counts", "Entry", "Failure", "Log", "counted"]


class Failure(Exception):
    """The first thing that a simulated run did and the walk did not: what, what the walk has, what there was."""

    def __init__(self, what: str, expected: object, actual: object, /) -> None:
        super().__init__(what, expected, actual)

    def __str__(self) -> str:
        what, expected, actual = self.args
        return f"{what}\n  expected: {_short(expected)}\n  got:      {_short(actual)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:350]} ... {text[-40:]}"


class Entry(NamedTuple):
    """A round of a step that began in *epoch*: the samples of the ranks that are played, without what is padded."""

    epoch: int
    expected: list[int]
    trained: list[int]


@dataclass(frozen=True, slots=True)
class Counts:
    """Samples that should have been trained and were not, that were trained again, or in another place of the run."""

    lost: int = 0
    repeated: int = 0
    out_of_order: int = 0


def counted(entries: Iterable[Entry], /) -> Counts:
    """How the samples that were trained differ from those expected, each in the epoch in which it was.

    >>> counted([Entry(0, [4, 2], [4, 2]), Entry(0, [7, 1], [2, 7])])
    Counts(lost=1, repeated=1, out_of_order=1)
    """
    entries = list(entries)
    if all(entry.expected == entry.trained for entry in entries):
        return Counts()
    should = Counter((entry.epoch, index) for entry in entries for index in entry.expected)
    did = Counter((entry.epoch, index) for entry in entries for index in entry.trained)
    repeated = sum(number for sample, number in (did - should).items() if did[sample] > 1)
    elsewhere = sum(
        here != there for entry in entries for here, there in zip(entry.expected, entry.trained, strict=False)
    )
    return Counts((should - did).total(), repeated, max(0, elsewhere - repeated))


@dataclass(slots=True)
class Log:
    """The rounds in the order of training; *ends* are the consumed samples behind each step, the run's beginning first."""

    entries: list[Entry] = field(default_factory=list[Entry])
    ends: list[int] = field(default_factory=list[int])

    def cut(self, entries: int, steps: int, /) -> None:
        """Take back all behind so many, as the weights of a checkpoint do that is loaded."""
        del self.entries[entries:], self.ends[steps + 1 :]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is on the disk: the state as JSON, None before the first save; and how much of the log it holds."""

    text: str | None
    place: LoaderPosition
    commits: bool = False
    entries: int = 0
    steps: int = 0
