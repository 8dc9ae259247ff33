"""One state in one file, whole at every moment: written beside, synced, renamed, and the state before it kept.

    state.json                         the last state written
    state.json.previous                the state before it
    state.json.41-0a1b.new             a writer's own file, locked while it works, removed at its end
    state.json.41-0a1b.new.previous    its second name for the current file, on the way to `.previous`

What a reader finds where a writer was killed before a step:

    write and sync  .new                         the old state, and the one before it
    link            state.json → .new.previous   the old state, and the one before it
    rename          .new.previous → .previous    the old state, twice
    rename          .new → state.json            the old state, twice
    sync            the directory                the new state, and the old one

A damaged file never takes the place of a whole `.previous`. Nothing waits for another writer.

The text is JSON that people can read, rejected unless it is byte for byte what was written:

    {
      "resumable": 1,
      "sha256": "5eed0f1e...",                 of the state as JSON with sorted keys and no spaces
      "state": {
        "consumed_samples": 12800,             a line for each of its keys
        ...
      }
    }
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final, NamedTuple, cast

from resumable.errors import ConfigurationError, MissingStateError, StateError

__all__ = ["Flaw", "parse", "read", "render", "write"]

if sys.platform != "win32":
    import fcntl

_PREVIOUS: Final = ".previous"
_VERSION: Final = 1  # of the file's form; the state inside has its own
_HEAD: Final = b'{\n  "resumable": '
_TAIL: Final = b"}\n"


class Flaw(NamedTuple):
    """Why a file's text is rejected."""

    what: str
    values: tuple[tuple[str, object], ...] = ()


def write(path: str | os.PathLike[str], state: Mapping[str, Any], /) -> None:
    """Write *state* to the file *path*, and keep the state that it held in `<path>.previous`.

    When this returns, the state is on the disk. A symbolic link is followed, and the file has the mode that a plain
    `open` would give it. Several processes may write the same file: the last one wins.

    Raises:
        StateError: if JSON would not give the state back as it is.
        ConfigurationError: if *path* is a directory or a device.
        OSError: from the system (no space, no permission); the old file stays as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/state.json", {"consumed_samples": 8})
    ...     write(f"{folder}/state.json", {"consumed_samples": 16})
    ...     read(f"{folder}/state.json"), read(f"{folder}/state.json.previous")
    ({'consumed_samples': 16}, {'consumed_samples': 8})
    """
    _check_json(state)
    text, target = render(state), os.path.realpath(os.fsdecode(path))
    if os.path.lexists(target) and not os.path.isfile(target):
        raise ConfigurationError(
            "A state is saved to a regular file.", [("path", target)], "Pass the path of a file of its own."
        )
    _remove_stale(target)
    with _temporary(target, text) as new:
        _keep(target, new + _PREVIOUS)
        os.replace(new, target)
    _sync_directory(target)


def read(path: str | os.PathLike[str], /) -> dict[str, Any]:
    """The state in the file *path*.

    Raises:
        StateError: if the file is torn, damaged, of a newer version or not a state file. The message names
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
        found = parse(_bytes_of(target))
    except FileNotFoundError:
        found = Flaw("There is no state file.")
        if not os.path.lexists(target + _PREVIOUS):
            advice = "In a first run, begin without a state. Otherwise check the path."
            raise MissingStateError(found.what, [("path", target)], advice) from None
    if isinstance(found, Flaw):
        raise _refusal(target, found)
    return found


def _refusal(target: str, flaw: Flaw) -> StateError:
    """The error for a file that cannot be read; it leads to the state before it."""
    previous = target + _PREVIOUS
    rows: list[tuple[str, object]] = [("path", target), *flaw.values]
    try:
        before = parse(_bytes_of(previous))
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


def _bytes_of(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read()


@contextmanager
def _temporary(target: str, text: bytes) -> Generator[str]:
    """A synced file beside *target* that holds *text*; removed at the end, unless it was renamed."""
    name, descriptor = _create(target)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _fill(file, text, like=target)
            if sys.platform == "win32":  # cannot rename an open file; elsewhere the lock is needed until then
                file.close()
            yield name
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _create(target: str) -> tuple[str, int]:
    """A new file with a unique name, locked to show other writers that its writer lives."""
    while True:
        name = f"{target}.{os.getpid()}-{os.urandom(8).hex()}.new"
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if _claim(descriptor):
            return name, descriptor
        os.close(descriptor)


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
        text = _bytes_of(target)
    except FileNotFoundError:
        return
    if isinstance(parse(text), Flaw):
        return
    try:
        try:
            os.link(target, name)
        except OSError:  # no hard links, or too many: a copy does as well
            with open(name, "xb") as copy:
                _fill(copy, text, like=target)
        os.replace(name, target + _PREVIOUS)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)  # rename(2): renaming a file to another name of itself leaves both


def _remove_stale(target: str) -> None:
    """Remove what killed writers of *target* left behind. A process's locks end with it."""
    if sys.platform == "win32":
        return
    directory, name = os.path.split(target)
    pattern = re.compile(re.escape(name) + r"\.\d+-[0-9a-f]{16}\.new")
    for found in filter(pattern.fullmatch, os.listdir(directory)):
        stale = os.path.join(directory, found)
        # Fails, and leaves the file, where its writer lives, where it is another user's, and where there are no locks.
        with suppress(OSError), open(stale, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                os.unlink(stale + _PREVIOUS)
            os.unlink(stale)


def _sync_directory(target: str) -> None:
    """Make the new name survive a power cut. Windows has no way to, and keeps its names in order by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def render(state: Mapping[str, Any], /) -> bytes:
    """The text of *state*: a line for each of its keys, in ASCII.

    >>> render({"epoch": 3}).decode().splitlines()[3:5]
    ['  "state": {', '    "epoch": 3']
    """
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in state.items())
    head = f'{_HEAD.decode()}{_VERSION},\n  "sha256": "{_digest(state)}",\n  "state": {{\n'
    return f"{head}{lines}\n  }}\n".encode("ascii") + _TAIL


def _digest(state: Mapping[str, Any]) -> str:
    canonical = json.dumps(dict(state), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def parse(raw: bytes, /) -> dict[str, Any] | Flaw:
    """The state whose text is *raw*, or why there is none.

    >>> parse(render({"epoch": 3}))
    {'epoch': 3}
    >>> parse(render({"epoch": 3})[:-1])
    Flaw(what='The state file is torn: its end is missing.', values=(('bytes', 133),))
    """
    if not raw.startswith(_HEAD) and not _HEAD.startswith(raw):
        begins = ("begins with", raw[:16])
        return Flaw("This is not a state file of resumable, or its beginning is destroyed.", (begins,))
    if not raw.endswith(_TAIL):
        return Flaw("The state file is torn: its end is missing.", (("bytes", len(raw)),))
    digests: tuple[tuple[str, object], ...] = ()
    try:
        held = json.loads(raw)
        version, state = held["resumable"], held["state"]
        if isinstance(version, int) and version > _VERSION:
            known = (("its version", version), ("newest known", _VERSION))
            return Flaw("A newer version of resumable wrote this state file, or it has been damaged.", known)
        # this also catches damage that leaves the values the same: spaces, 1e5 and 1E5, a float's surplus digits
        if raw == render(state):
            return cast("dict[str, Any]", state)
        digests = (("sha256 as written", held["sha256"]), ("sha256 as found", _digest(state)))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # not JSON, or of another shape
        pass
    return Flaw("The state file has changed since it was written.", digests)


def _check_json(state: Mapping[str, Any]) -> None:
    """Refuse what JSON would return as something else: a tuple as a list, a key as a string."""
    if (found := _not_json(dict(state))) is not None:
        where, what = found
        raise StateError(
            "The state holds something that JSON cannot return unchanged.",
            [("where", f"state{where}"), ("what", what)],
            "Let the dataset's state_dict hold only dicts with string keys, lists, strings, finite numbers, bools and "
            "None, or save loader.state_dict() with torch.save. Nothing was written.",
        )


def _not_json(value: object) -> tuple[str, str] | None:
    """The place of the first part of *value* that JSON would change, and what it is."""
    parts: list[tuple[object, object]]
    if isinstance(value, dict):
        parts = list(cast("dict[object, object]", value).items())
        for key, _ in parts:
            if not isinstance(key, str):
                return "", f"the key {key!r}, which is not a string"
    elif isinstance(value, list):
        parts = list(enumerate(cast("list[object]", value)))
    elif isinstance(value, float):
        return None if math.isfinite(value) else ("", f"the number {value!r}")
    else:
        return None if value is None or isinstance(value, (str, int)) else ("", f"a {type(value).__name__}")
    for key, part in parts:
        if (found := _not_json(part)) is not None:
            return f"[{key!r}]{found[0]}", found[1]
    return None
