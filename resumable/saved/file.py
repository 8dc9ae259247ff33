"""One state in one file, whole at every moment: written beside, synced, renamed, and the one before it kept.

    state.json             {"resumable": 1, "sha256": "...", "state": {...}}      the last that was written
    state.json.previous    the same                                              the one before it
    state.json.41-0a1b.new                 a writer's own, locked while it lives, gone when it is done
    state.json.41-0a1b.new.previous        its second name for the present file, on the way to `.previous`

What a writer leaves that is killed before a step, and what a reader finds then:

    write and sync  .new                         the old state, and the one before it
    link            state.json → .new.previous   the old state, and the one before it
    rename          .new.previous → .previous    the old state, twice
    rename          .new → state.json            the old state, twice
    sync            the directory                the new state, and the old one

A damaged file never takes the place of a whole `.previous`. Nothing waits for another writer.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final

from resumable.errors import ConfigurationError, MissingStateError, StateError, explain
from resumable.saved.file_text import Flaw, check_json, parse, render

__all__ = ["PREVIOUS", "read", "write"]

if sys.platform != "win32":
    import fcntl

PREVIOUS: Final = ".previous"
"""What is added to a file's name for the state before it."""


def write(path: str | os.PathLike[str], state: Mapping[str, Any], /) -> None:
    """Write *state* to the file *path*; the state that it held goes to `<path>.previous`.

    A symbolic link is followed, and the file has the mode that a plain `open` would give it. When this returns, the
    state is on the disk. Any number of processes may write the same file: the last one stands.

    Raises:
        StateError: if JSON would not give the state back as it is.
        ConfigurationError: if *path* is a directory or a device.
        OSError: as the system gave it (no space, no permission); the old file is as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/state.json", {"consumed_samples": 8})
    ...     write(f"{folder}/state.json", {"consumed_samples": 16})
    ...     read(f"{folder}/state.json"), read(f"{folder}/state.json.previous")
    ({'consumed_samples': 16}, {'consumed_samples': 8})
    """
    check_json(state)
    text = render(state)
    target = _file_of(path)
    if os.path.lexists(target) and not os.path.isfile(target):
        raise ConfigurationError(
            explain("A state is saved to a regular file.", [("path", target)], "Pass the path of a file of its own.")
        )
    _remove_stale(target)
    with _temporary(target, text) as new:
        _keep(target, new + PREVIOUS)
        os.replace(new, target)
    _sync_directory(target)


def read(path: str | os.PathLike[str], /) -> dict[str, Any]:
    """The state in the file *path*.

    Raises:
        StateError: if the file is torn, damaged, of a newer version or no state file. Where a whole state lies in
            `<path>.previous`, the message names it; it is never taken by itself.
        MissingStateError: if neither file is there.
        OSError: as the system gave it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read(f"{folder}/state.json")
    Traceback (most recent call last):
    resumable.errors.MissingStateError: There is no state file.
      path: ...
    A first run has none: begin it without one. Otherwise look at the path.
    """
    target = _file_of(path)
    try:
        found = parse(_bytes_of(target))
    except FileNotFoundError:
        found = Flaw("There is no state file.")
        if not os.path.lexists(target + PREVIOUS):
            advice = "A first run has none: begin it without one. Otherwise look at the path."
            raise MissingStateError(explain(found.what, [("path", target)], advice)) from None
    if isinstance(found, Flaw):
        raise _refusal(target, found)
    return found


# What is offered.


def _refusal(target: str, flaw: Flaw) -> StateError:
    """The error for a file that cannot be read, with the way to the state before it."""
    previous = target + PREVIOUS
    advice = f"To go on from the state before it, call ResumptionState.load({previous!r}). Nothing was loaded."
    try:
        before = parse(_bytes_of(previous))
    except OSError as error:
        offered: list[tuple[str, object]] = [("previous", None if isinstance(error, FileNotFoundError) else error)]
        advice = "No state before it can be read: load another checkpoint. Nothing was loaded."
    else:
        offered = [("previous", previous)]
        if isinstance(before, Flaw):
            offered += [("its flaw", before.what)]
            advice = "The state before it is damaged too: load another checkpoint. Nothing was loaded."
        else:
            offered += [("its consumed_samples", before.get("consumed_samples"))]
    return StateError(explain(flaw.what, [("path", target), *flaw.values, *offered], advice))


# The files.


def _file_of(path: str | os.PathLike[str]) -> str:
    return os.path.realpath(os.fsdecode(path))


def _bytes_of(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read()


@contextmanager
def _temporary(target: str, text: bytes) -> Generator[str]:
    """A file beside *target* that holds *text*, synced; at the end it is gone, unless it was renamed."""
    name, descriptor = _create(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _fill(file, text, like=target)
            if sys.platform == "win32":  # where an open file cannot be renamed; elsewhere its lock is needed until then
                file.close()
            yield name
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _create(target: str) -> tuple[str, int]:
    """A new file with a name of its own, and the lock that tells other writers that this one lives."""
    while True:
        name = f"{target}.{os.getpid()}-{os.urandom(8).hex()}.new"
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if _claim(descriptor):
            return name, descriptor
        os.close(descriptor)


def _claim(descriptor: int) -> bool:
    """Lock a new file; False where another writer took it for a dead one's before it was locked."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where nobody removes anything
        return True
    return os.fstat(descriptor).st_nlink > 0


def _fill(file: BinaryIO, text: bytes, *, like: str) -> None:
    if sys.platform != "win32":
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(os.stat(like).st_mode)
            if mode != stat.S_IMODE(os.fstat(file.fileno()).st_mode):
                os.fchmod(file.fileno(), mode)
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def _keep(target: str, name: str) -> None:
    """Let `.previous` be the present file, by way of *name*; a damaged one is not worth keeping."""
    try:
        text = _bytes_of(target)
    except FileNotFoundError:
        return
    if isinstance(parse(text), Flaw):
        return
    try:
        try:
            os.link(target, name)
        except OSError:  # a file system without hard links, or with too many already: a copy does as well
            with open(name, "xb") as copy:
                _fill(copy, text, like=target)
        os.replace(name, target + PREVIOUS)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)  # renaming one of a file's names to another one leaves both, says rename(2)


def _remove_stale(target: str) -> None:
    """Remove what killed writers of *target* left. A process's locks end with it, whatever its id and host."""
    if sys.platform == "win32":
        return
    directory, name = os.path.split(target)
    pattern = re.compile(re.escape(name) + r"\.\d+-[0-9a-f]{16}\.new")
    for found in filter(pattern.fullmatch, os.listdir(directory)):
        stale = os.path.join(directory, found)
        # A courtesy, which fails on a live writer's file, on another user's, and where there are no locks: it stays.
        with suppress(OSError), open(stale, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                os.unlink(stale + PREVIOUS)
            os.unlink(stale)


def _sync_directory(target: str) -> None:
    """Let the new name outlive a power cut. Windows has no way to; it keeps its names in order by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
