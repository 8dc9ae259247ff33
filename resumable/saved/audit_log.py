"""What a rank trains, written as it trains: a file for each session and rank, of some hundred bytes.

    marks, 256 bytes      how far the present part has come; written in place, in a memory map, at each batch
    lines of JSON         {"audit": 1, "rank": 0, "size": 1, ...}                   this process
                          {"part": 0, "state": {"consumed_samples": 0, ...}}        where a part begins, and in what
                          {"part": 0, "passed_over": [32, 0, 32], "batches": 1}     batches that could not be loaded
                          {"part": 0, "marks": [...]}                               its marks, as another part begins

A part is what is trained in one configuration from one place on; a load begins another one. What is written is in the
system's hands at once, so a killed process has left all that it trained.

The marks are 32 numbers of 8 bytes. Each of their two kinds has two banks, of which one is written while the other holds:

    0       the bank of reading that holds:    part, position where the pass began, batches since, of them committed (or -1)
    16      the bank of training that holds:   part, position, time
    31      1 where the session has ended by itself
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
import weakref
from socket import gethostname
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakValueDictionary

from resumable.errors import ConfigurationError
from resumable.position import Position
from resumable.saved.agreement import Part
from resumable.saved.ledger import Ledger, Stretch
from resumable.saved.snapshot import Snapshot, dump

if TYPE_CHECKING:
    from resumable.orders.identity import Identity

__all__ = [
    "BATCHES",
    "COMMITTED",
    "ENDED",
    "FORMAT",
    "MARKS",
    "READ",
    "SUFFIX",
    "TRAINED",
    "AuditLog",
    "Audited",
]

FORMAT: Final = 1
SUFFIX: Final = ".audit"
MARKS: Final = 256
"""Bytes of the marks, before the first line."""

READ: Final = 0
TRAINED: Final = 16
BATCHES: Final = 4
COMMITTED: Final = 5
ENDED: Final = 31
_BANK: Final = 6


class Audited(Protocol):
    """What the log asks of a progress."""

    @property
    def present_stretch(self) -> Stretch | None:
        """The configuration, from the place on where it began or was loaded; None before it is known."""
        ...

    @property
    def position(self) -> Position:
        """The trained position."""
        ...

    @property
    def order(self) -> Identity | None:
        """What the order of the samples depends on."""
        ...

    @property
    def part(self) -> Part | None:
        """Which part of the data this process loads."""
        ...


_WRITING: WeakValueDictionary[tuple[str, int], AuditLog] = WeakValueDictionary()
"""The last log of this process that has begun a session, for each folder and rank."""


class AuditLog:
    """Appends what this process trains to *folder*, which is made if it is not there.

    Raises:
        ConfigurationError: if *folder* is no path, or a file.
        OSError: as the system gave it, where the folder cannot be made.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     AuditLog(folder).is_open
    False
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            self.folder: str = os.path.abspath(os.fsdecode(folder))
        except TypeError:
            raise ConfigurationError(
                "audit= names the folder in which the run's audit is kept.",
                [("audit", folder)],
                "Pass a path, one folder for each run.",
            ) from None
        if os.path.exists(self.folder) and not os.path.isdir(self.folder):
            raise ConfigurationError(
                "audit= must be a folder, and there is a file.", [("audit", self.folder)], "Pass another path."
            )
        os.makedirs(self.folder, exist_ok=True)
        self.moved: bool = True
        """Whether a position was loaded since the last note."""
        self._process = 0
        self._place = (self.folder, 0)
        self._file = -1
        self._marks = memoryview(bytearray(MARKS)).cast("q")  # of no file yet
        self._number = -1
        self._stretch: Stretch | None = None
        self._trained: Position | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return AuditLog, (self.folder,)  # a copy, and another process, has a file of its own

    @property
    def is_open(self) -> bool:
        """Whether something was written."""
        return self._process == os.getpid()

    def note(self, progress: Audited, *, begins: bool = False) -> None:
        """Write how far *progress* has trained; where nothing is trained yet, only if a pass *begins*."""
        stretch = progress.present_stretch
        if stretch is None:
            return
        at = progress.position
        if self.moved or stretch is not self._stretch:
            if at == stretch.begins and not begins:
                return
            if not self.is_open or stretch != self._stretch or (self.moved and at != self._trained):
                self._begin(progress, stretch)
            self._stretch, self.moved = stretch, False
        self._trained = at
        self._write(TRAINED, [self._number, *_numbers(at), time.time_ns()])

    def begin_pass(self, progress: Audited, begun_at: Position, /, *, commits: bool) -> memoryview:
        """The numbers of a pass that begins at *begun_at*; *commits*: only what is committed is trained.

        The pass writes how many batches it has yielded to `BATCHES`, and how many of them are committed to `COMMITTED`.
        """
        self.note(progress, begins=True)
        if _WRITING.get(self._place) is not self:
            raise ConfigurationError(
                "Two loaders of this process take turns, and write their audit to one folder.",
                [("audit", self.folder), ("data-parallel rank", self._place[1])],
                "Give each its own folder: audit= is that of one run.",
            )
        return self._write(READ, [self._number, *_numbers(begun_at), 0, 0 if commits else -1])

    def pass_over(self, at: Position, batches: int) -> None:
        """*batches* batches from *at* on could not be loaded, and the loop goes on after them."""
        self._append({"part": self._number, "passed_over": _numbers(at), "batches": batches})

    # -- the file

    def _begin(self, progress: Audited, stretch: Stretch) -> None:
        """Begin another part, and the file with the first one."""
        if self.is_open:
            self._append({"part": self._number, "marks": list(self._marks)})
        else:
            self._open(progress)
        self._number += 1
        at = stretch.begins
        begins = Snapshot(at.consumed_samples, at.epoch, at.offset, progress.order, ledger=Ledger((stretch,)))
        self._append({"part": self._number, "time": time.time_ns(), "state": dump(begins)})

    def _open(self, progress: Audited) -> None:
        world = _rank_in_world()
        part = progress.part or Part(*world, is_own=True)
        began, process = time.time_ns(), os.getpid()
        name = f"{began}-{process}-rank{part.rank}{SUFFIX}"
        self._file = os.open(os.path.join(self.folder, name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        os.write(self._file, bytes(MARKS))
        self._marks = memoryview(mmap.mmap(self._file, MARKS)).cast("q")
        self._process, self._number = process, -1
        self._append(
            {
                "audit": FORMAT,
                "rank": part.rank,
                "size": part.size,
                "world": world,
                "process": process,
                "host": gethostname(),
                "time": began,
            }
        )
        self._place = (self.folder, part.rank)
        _WRITING[self._place] = self
        weakref.finalize(self, _end, self._marks, self._file, process)

    def _append(self, line: dict[str, Any]) -> None:
        os.write(self._file, (json.dumps(line) + "\n").encode())

    def _write(self, kind: int, numbers: list[int]) -> memoryview:
        """Write the bank of *kind* that does not hold, and let it hold."""
        marks = self._marks
        other = 1 - marks[kind]
        bank = marks[kind + 1 + _BANK * other :][:_BANK]
        for place, number in enumerate(numbers):
            bank[place] = number
        marks[kind] = other
        return bank


def _numbers(at: Position) -> list[int]:
    return [at.consumed_samples, at.epoch, at.offset]


def _rank_in_world() -> tuple[int, int]:
    """This process among all of the run, with those that load the same part of the data."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _end(marks: memoryview, file: int, process: int) -> None:
    """The session has come to its end: its loader is let go of, or Python exits."""
    if os.getpid() == process:
        marks[ENDED] = 1
        os.close(file)
