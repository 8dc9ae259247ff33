"""One state in one file, whole at every moment: written beside, synced, renamed, and the state before it kept.

    state.json                           the last state written
    state.json.previous                  the state before it
    .resumable-5eed0f1e-0.new            a writer's own file, locked while it works, removed at its end
    .resumable-5eed0f1e-0.new.previous   its second name for the current file, on the way to `.previous`

The names of writers' files are few and the same for all state files of a folder: the host's digest, and the first number
that no living writer of that host has. So every save finds what killed writers left without a look at the whole folder,
whatever state they wrote. A name too long for `.previous` behind it is cut, with its digest in place of the rest.

What a reader finds where a writer was killed before a step:

    write and sync  .new                         the old state, and the one before it
    link            state.json → .new.previous   the old state, and the one before it
    rename          .new.previous → .previous    the old state, twice
    rename          .new → state.json            the old state, twice
    sync            the directory                the new state, and the old one

A damaged file never takes the place of a whole `.previous`. Nothing waits for another writer.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import stat
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, BinaryIO, Final
from zlib import crc32

from resumable.errors import ConfigurationError, MissingStateError, StateError
from resumable.saved.file_text import Flaw, parse, render

__all__ = ["NAME", "read", "write"]

if sys.platform != "win32":
    import fcntl

_PREVIOUS: Final = ".previous"
NAME: Final = f".resumable-{crc32(os.fsencode(platform.node())):08x}-{{}}.new"
"""The name of a writer's own file, but for its number. Locks may reach no further than the host."""

_SWEPT: Final = 8  # so many writers' files are looked for at each save


def write(path: str | os.PathLike[str], state: Mapping[str, Any], /) -> None:
    """Write *state* to the file *path*, and keep the state that it held in `<path>.previous`.

    When this returns, the state is on the disk. A symbolic link is followed, and the file has the mode that a plain
    `open` would give it. Several processes may write the same file: the last one wins.

    Raises:
        StateError: if JSON would not give the state back as it is.
        ConfigurationError: if *path* is a directory or a device, or its folder does not exist.
        OSError: from the system (no space, no permission); the old file stays as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/state.json", {"consumed_samples": 8})
    ...     write(f"{folder}/state.json", {"consumed_samples": 16})
    ...     read(f"{folder}/state.json"), read(f"{folder}/state.json.previous")
    ({'consumed_samples': 16}, {'consumed_samples': 8})
    """
    text, target = render(state), os.path.realpath(os.fsdecode(path))
    _check_place(target)
    with _temporary(target, text) as new:
        _keep(target, new + _PREVIOUS)
        os.replace(new, target)
    _sync_directory(target)


def read(path: str | os.PathLike[str], /) -> dict[str, Any]:
    """The state in the file *path*.

    Raises:
        StateError: if the file is torn, damaged, of a newer version or not a regular state file. The message names
            `<path>.previous` where that is whole; it is never loaded in silence.
        MissingStateError: if neither file exists.
        OSError: from the system.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read(f"{folder}/state.json")
    Traceback (most recent call last):
    resumable.errors.MissingStateError: There is no state file.
      path: ...
    In a first run, begin without a state. Otherwise check the path.
    """
    target = os.path.realpath(os.fsdecode(path))
    try:
        found = _state_in(target)
    except FileNotFoundError:
        found = Flaw("There is no state file.")
        if not os.path.lexists(_previous_of(target)):
            advice = "In a first run, begin without a state. Otherwise check the path."
            raise MissingStateError(found.what, [("path", target)], advice) from None
    if isinstance(found, Flaw):
        raise _refusal(target, found)
    return found


def _refusal(target: str, flaw: Flaw) -> StateError:
    """The error for a file that cannot be read; it leads to the state before it."""
    previous = _previous_of(target)
    rows: list[tuple[str, object]] = [("path", target), *flaw.values]
    try:
        before = _state_in(previous)
    except OSError as error:
        rows += [("previous", None if isinstance(error, FileNotFoundError) else error)]
        advice = "The state before it cannot be read either: load another checkpoint."
    else:
        if isinstance(before, Flaw):
            rows += [("previous", previous), ("its flaw", before.what)]
            advice = "The state before it is damaged too: load another checkpoint."
        else:
            rows += [("previous", previous), ("its consumed_samples", before.get("consumed_samples"))]
            advice = f"To go on from the state before it, call ResumptionState.load({previous!r})."
    return StateError(flaw.what, rows, f"{advice} Nothing was loaded.")


def _state_in(name: str) -> dict[str, Any] | Flaw:
    """The state in the file *name*, or why there is none. A FIFO is not opened: its reader waits for a writer."""
    kind = stat.S_IFMT(os.stat(name).st_mode)
    if kind != stat.S_IFREG:
        named = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}.get(kind, "a device")
        return Flaw("A state file is a regular file, and this is something else.", (("it is", named),))
    with open(name, "rb") as file:
        return parse(file.read())


def _previous_of(target: str) -> str:
    """Where the state before that of *target* is kept: `<target>.previous`, its name cut where it would be too long."""
    folder, name = os.path.split(target)
    try:
        longest = os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):  # no such folder or limit, or Windows
        longest = 255
    ending = _PREVIOUS
    if len(os.fsencode(name + ending)) > longest:
        ending = f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{_PREVIOUS}"
    while name and len(os.fsencode(name + ending)) > longest:
        name = name[:-1]
    return os.path.join(folder, name + ending)


def _check_place(target: str) -> None:
    """Refuse a place where no state file can be, before anything is written."""
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise ConfigurationError(
            "The folder of the state file does not exist.",
            [("path", target), ("folder", folder)],
            "Make it first, or pass another path.",
        )
    if os.path.basename(target).startswith(NAME.partition("{")[0]):
        raise ConfigurationError(
            "Files of this name are the writers' own, and are removed.", [("path", target)], "Pass another file name."
        )
    if os.path.lexists(target) and not os.path.isfile(target):
        raise ConfigurationError(
            "A state is saved to a regular file.", [("path", target)], "Pass the path of a file of its own."
        )
    if sys.platform != "win32":
        place, me = os.stat(folder), os.geteuid()
        if place.st_mode & stat.S_ISVTX and me not in (0, place.st_uid):
            with suppress(FileNotFoundError):
                if os.stat(target).st_uid != me:  # the rename would fail, when `.previous` is this user's already
                    raise PermissionError(
                        errno.EPERM, "Another user's file, in a folder where only owners replace theirs", target
                    )


@contextmanager
def _temporary(target: str, text: bytes) -> Generator[str]:
    """A synced file beside *target* that holds *text*; removed at the end, unless it was renamed."""
    name, descriptor = _create(os.path.dirname(target))
    with os.fdopen(descriptor, "wb") as file:
        mine = os.fstat(descriptor)
        try:
            _fill(file, text, like=target)
            if sys.platform == "win32":  # cannot rename an open file; elsewhere the lock is needed until then
                file.close()
            yield name
        finally:
            with suppress(FileNotFoundError):
                if os.path.samestat(mine, os.lstat(name)):  # after the rename, another writer may have the name
                    os.unlink(name)


def _create(folder: str) -> tuple[str, int]:
    """A new file of a name that no living writer has, locked to show them that its writer lives."""
    for number in range(_SWEPT):
        _remove_stale(os.path.join(folder, NAME.format(number)))
    for number in count():
        name = os.path.join(folder, NAME.format(number))
        try:
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        except FileExistsError:
            _remove_stale(name)  # of a crowd of killed writers; for the next one
            continue
        if _claim(descriptor):
            return name, descriptor
        os.close(descriptor)
    raise AssertionError  # there is always another number


def _claim(descriptor: int) -> bool:
    """Lock a new file. False if another writer has removed it before, as a dead writer's."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nothing is ever removed there
        return True
    return os.fstat(descriptor).st_nlink > 0


def _remove_stale(name: str) -> None:
    """Remove the file *name*, if a killed writer left it. A process's locks end with it."""
    if sys.platform == "win32":
        return
    # Fails, and leaves the file, where its writer lives, where it is another user's, and where there are no locks.
    with suppress(OSError):
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # before the lock, another writer may have removed it and a third one taken the name
            if os.path.samestat(os.fstat(descriptor), os.lstat(name)):
                with suppress(FileNotFoundError):
                    os.unlink(name + _PREVIOUS)
                os.unlink(name)
        finally:
            os.close(descriptor)


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
    """Make `.previous` the current file, by way of *name*; a damaged file is not kept."""
    try:
        if isinstance(_state_in(target), Flaw):
            return
    except FileNotFoundError:
        return
    with suppress(FileNotFoundError):
        os.unlink(name)  # of a killed writer, whose own file was removed by hand
    try:
        _link(target, name)
        os.replace(name, _previous_of(target))
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)  # rename(2): renaming a file to another name of itself leaves both


def _link(target: str, name: str) -> None:
    """Give *target* the second name *name*, or a copy where there are no links. A link to another user's file may stay."""
    if sys.platform == "win32" or os.stat(target).st_uid == os.geteuid():
        with suppress(OSError):  # no hard links, or too many
            return os.link(target, name)
    with open(target, "rb") as file, open(name, "xb") as copy:
        _fill(copy, file.read(), like=target)
    return None


def _sync_directory(target: str) -> None:
    """Make the new name survive a power cut. Windows has no way to, and keeps its names in order by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
