"""State files whose writers are killed with SIGKILL: at each of their steps, and at random.

Run as a program, so that each writer is a fork of a process that has one thread and has imported little:

    python -m tests.support.killed_writers steps FOLDER             killed before, inside and behind each call of a write
    python -m tests.support.killed_writers opcodes FOLDER           killed before each instruction of the interpreter in it
    python -m tests.support.killed_writers loop FOLDER SEED KILLS   one that saves in a loop, killed at random moments
    python -m tests.support.killed_writers crowd FOLDER SEED KILLS  several of them, with one file
    python -m tests.support.killed_writers users FOLDER             another user's, in a folder where owners alone replace files

It prints one JSON object, and fails where a reader would have been left with nothing.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import json
import os
import random
import signal
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from resumable import StateError
from resumable.saved import file as statefile
from resumable.saved.file import read, write
from resumable.saved.file_text import render
from tests.support.killing import exit_code, forked, kill


def state(number: int) -> dict[str, Any]:
    """A state that is told from others by *number*."""
    return {"consumed_samples": number, "filling": "x" * 200}


TRICKY: dict[str, Any] = {
    "consumed_samples": 2**64 - 1, "small": 0.30000000000000004, "large": -1e22, "text": 'é\n"\x1f\ud800', "none": None,
    "nested": {"yes": True, "list": [], "empty": {}},
}  # fmt: skip
"""What JSON writes in more than one way."""


def number_in(path: Path) -> int:
    """The *number* of the state in a file."""
    return int(read(path)["consumed_samples"])


def names(folder: Path) -> list[str]:
    """What lies in *folder*."""
    return sorted(os.listdir(folder))


def previous_of(path: Path) -> Path:
    """Where the state before it is kept."""
    return path.with_name(path.name + ".previous")


def offers(said: str, previous: Path) -> bool:
    """Whether a message holds the line that loads *previous*."""
    return f"call ResumptionState.load({str(previous)!r})" in said


class Calls:
    """Watches the calls that a write makes to the system, and may do something before, inside or behind one."""

    WATCHED = (
        (builtins, "open"), (fcntl, "flock"), (os, "fchmod"), (os, "fsync"), (os, "link"), (os, "open"),
        (os, "replace"), (os, "unlink"),
    )  # fmt: skip

    def __init__(self, *, links: bool = True) -> None:
        self.made: list[str] = []
        self.renamed = 0
        self.links = links
        self.before: Callable[[int], None] = lambda number: None
        self.inside: Callable[[int, int], None] = lambda number, descriptor: None
        self.behind: Callable[[int], None] = lambda number: None

    def watch(self, change: Callable[[object, str, object], None]) -> None:
        """Begin; *change* is `setattr`, or what undoes it in time."""
        for owner, name in self.WATCHED:
            change(owner, name, self._wrapped(name, getattr(owner, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            self.made.append(name)
            number = len(self.made)
            self.before(number)
            if name == "fsync" and stat.S_ISREG(os.fstat(given[0]).st_mode):
                self.inside(number, given[0])
            if name == "link" and not self.links:
                raise PermissionError(errno.EPERM, "Operation not permitted")
            result = real(*given, **options)
            self.renamed += name == "replace"
            self.behind(number)
            return result

        return call


def leave_behind(path: Path, number: int = 0) -> list[str]:
    """What a killed writer leaves, of whatever state: the file of this number, and its second name for the state."""
    new = path.with_name(statefile.NAME.format(number))
    new.write_bytes(b"half")
    previous_of(new).write_bytes(render(state(0)))
    return [new.name, new.name + ".previous"]


def _first(path: Path) -> None:
    path.parent.mkdir()


def _second(path: Path) -> None:
    _first(path)
    write(path, state(1))


def _third(path: Path) -> None:
    _second(path)
    write(path, state(2))


def _damaged(path: Path) -> None:
    _third(path)
    path.write_bytes(path.read_bytes()[:100])


def _two_names(path: Path) -> None:
    _third(path)
    previous_of(path).unlink()
    os.link(path, previous_of(path))


def _left(path: Path) -> None:
    _third(path)
    leave_behind(path)


# What lies there before the write that is killed, and the states that a reader may find where the new one is not yet.
SCENARIOS: dict[str, tuple[Callable[[Path], None], int | None]] = {
    "nothing": (_first, None),
    "one state": (_second, 1),
    "two states": (_third, 2),
    "damaged": (_damaged, None),
    "two names": (_two_names, 2),
    "left by a killed one": (_left, 2),
    "no links": (_third, 2),
}


def die() -> None:
    """Go as a lost machine goes."""
    os.kill(os.getpid(), signal.SIGKILL)


def was_killed(child: int) -> bool:
    """Wait for a fork; whether SIGKILL ended it."""
    code = exit_code(child)
    assert code in (0, -signal.SIGKILL), "a writer failed"
    return code != 0


def check_after_kill(path: Path, name: str) -> None:
    """What a reader finds, and that the next write makes all well."""
    old = SCENARIOS[name][1]
    held = names(path.parent)
    before = number_in(previous_of(path)) if previous_of(path).exists() else None  # always whole
    found, said = None, ""
    try:
        found = number_in(path)
    except StateError as refusal:
        said = str(refusal)
    if found is not None:
        assert found in (old, 3)
    elif before is not None:
        assert ("damaged", 1, True) == (name, before, offers(said, previous_of(path)))
    else:
        assert ("nothing", True) == (name, said.startswith("There is no state file."))
    assert len(held) <= 4 + 2 * (name == "left by a killed one"), held
    write(path, state(4))
    assert 4 == number_in(path)
    kept = before if found is None else found
    assert ["state.json", "state.json.previous"][: 1 + (kept is not None)] == names(path.parent)
    if kept is not None:
        assert kept == number_in(previous_of(path))


def run_steps(folder: Path) -> dict[str, int]:
    """Kill a write before, inside and behind each of its calls."""

    def dying(path: Path, name: str, moment: str, number: int) -> None:
        def at(made: int) -> None:
            if made == number:
                die()

        def torn(made: int, descriptor: int) -> None:
            if made >= number:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                die()

        calls = Calls(links=name != "no links")
        setattr(calls, moment, torn if moment == "inside" else at)
        calls.watch(setattr)
        write(path, state(3))

    moments = ("before", "inside", "behind")
    return {name: sum(kills_of(folder, name, moment, dying) for moment in moments) for name in SCENARIOS}


def run_opcodes(folder: Path) -> dict[str, int]:
    """Kill a write before each instruction of the interpreter."""

    def dying(path: Path, name: str, moment: str, number: int) -> None:
        seen = 0

        def trace(frame: FrameType, event: str, given: object) -> Any:
            nonlocal seen
            if frame.f_code.co_filename != statefile.__file__:
                return None
            frame.f_trace_opcodes = True
            seen += 1
            if seen == number:
                die()
            return trace

        if name == "no links":
            Calls(links=False).watch(setattr)
        sys.settrace(trace)
        write(path, state(3))
        sys.settrace(None)

    return {name: kills_of(folder, name, "opcodes", dying) for name in SCENARIOS}


def kills_of(folder: Path, name: str, moment: str, dying: Callable[[Path, str, str, int], None]) -> int:
    """Kill at the first step, the second, and so on, until one write comes to its end; how many did not."""
    for number in count(1):
        path = folder / f"{name} {moment} {number}" / "state.json"
        SCENARIOS[name][0](path)
        if not was_killed(forked(partial(dying, path, name, moment, number))):
            assert 3 == number_in(path)
            return number - 1
        check_after_kill(path, name)
    raise AssertionError


class Told:
    """A pipe on which writers tell how far they are: `.` at each call, `!` for each state saved, `?` where one fails."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def save_for_ever(self, path: Path, first: int) -> None:
        """Save state after state, from *first* on, until killed or alone."""
        os.close(self._read)
        calls = Calls()
        calls.before = calls.behind = lambda number: self._say(b".")
        calls.watch(setattr)
        try:
            for number in count(first):
                write(path, state(number))
                self._say(b"!")
        finally:
            self._say(b"?")

    def _say(self, what: bytes) -> None:
        os.write(self._write, what)

    def hear(self) -> bytes:
        """The next moment of any writer."""
        heard = os.read(self._read, 1)
        assert heard != b"?", "a writer failed"
        return heard

    def rest(self) -> bytes:
        """What was said before all writers had ended."""
        os.close(self._write)
        heard = b"".join(iter(lambda: os.read(self._read, 4096), b""))
        os.close(self._read)
        return heard


def kill_writer(child: int) -> None:
    """Kill a writer that is at work; one that has failed was none."""
    kill([child])
    assert was_killed(child)


def run_loop(folder: Path, seed: int, kills: int) -> dict[str, int]:
    """Kill a writer again and again; the next one goes on from what it finds."""
    draw = random.Random(seed)
    path = folder / "state.json"
    write(path, state(0))
    saves = 0
    for _ in range(kills):
        begun, told = number_in(path), Told()
        child = forked(partial(told.save_for_ever, path, begun + 1))
        heard = b"".join(told.hear() for _ in range(draw.randint(1, 160)))
        kill_writer(child)
        saved = (heard + told.rest()).count(b"!")
        found = number_in(path)
        assert begun + saved <= found <= begun + saved + 1
        if found:
            assert number_in(previous_of(path)) in (found - 1, found)
        assert len(names(folder)) <= 4
        saves += saved
    return {"kills": kills, "saves": saves}


def run_crowd(folder: Path, seed: int, kills: int) -> dict[str, int]:
    """Kill one of several writers again and again, and read all the time."""
    draw = random.Random(seed)
    path, told, reads = folder / "state.json", Told(), 0
    write(path, state(0))
    write(path, state(0))

    def begin(number: int) -> int:
        return forked(partial(told.save_for_ever, path, number * 1_000_000))

    writers = [begin(number) for number in range(3)]
    for number in range(3, 3 + kills):
        for _ in range(draw.randint(1, 160)):
            told.hear()
            number_in(path)
            number_in(previous_of(path))
            reads += 1
        kill_writer(writers.pop(draw.randrange(3)))
        writers.append(begin(number))
    for child in writers:
        kill_writer(child)
    write(path, state(1))
    assert ["state.json", "state.json.previous"] == names(folder)
    return {"kills": kills, "reads": reads}


def run_users(folder: Path) -> dict[str, list[str]]:
    """Two users save to one file, in a folder with the sticky bit: what the second finds, and what lies there after each."""
    folder.chmod(0o1777)
    path, seen = folder / "state.json", dict[str, list[str]]()

    def save(number: int, mode: int) -> None:
        write(path, state(number))
        path.chmod(mode)

    def refused() -> None:
        with suppress(PermissionError):
            write(path, state(9))
            raise AssertionError("the file is another user's")

    def as_user(name: str, user: int, work: Callable[[], object]) -> None:
        def play() -> None:
            os.setgid(user)
            os.setuid(user)
            work()

        assert 0 == exit_code(forked(play)), name
        seen[name] = names(folder)

    as_user("the owner", 65533, lambda: save(1, 0o666))
    as_user("another", 65534, refused)
    as_user("another, killed", 65534, lambda: [leave_behind(path, number) for number in (0, 2)])
    as_user("the owner again", 65533, lambda: save(2, 0o666))
    as_user("another again", 65534, refused)
    assert (2, 1) == (number_in(path), number_in(previous_of(path)))
    return seen


def _no_sync(fd: object) -> None:
    del fd


def main(kind: str, folder: str, *numbers: str) -> dict[str, Any]:
    """What the command line asks for."""
    if kind == "users":
        return run_users(Path(folder))
    if kind in ("steps", "opcodes"):
        os.fsync = _no_sync  # a kill loses no page, and the order of the syncs has a test of its own
        return {"steps": run_steps, "opcodes": run_opcodes}[kind](Path(folder))
    seed, kills = map(int, numbers)
    return {"loop": run_loop, "crowd": run_crowd}[kind](Path(folder), seed, kills)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
