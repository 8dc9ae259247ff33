"""The text of a state file: JSON that people can read, rejected unless it is byte for byte what was written.

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
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

from resumable.errors import StateError

__all__ = ["Flaw", "parse", "render"]

_VERSION: Final = 1  # of the file's form; the state inside has its own
_HEAD: Final = b'{\n  "resumable": '
_TAIL: Final = b"}\n"
_DEEPEST: Final = 200  # levels of a state, far below Python's limit when it is read


class Flaw(NamedTuple):
    """Why a file's text is rejected."""

    what: str
    values: tuple[tuple[str, object], ...] = ()


def render(state: Mapping[str, Any], /) -> bytes:
    """The text of *state*: a line for each of its keys, in ASCII.

    Raises:
        StateError: if JSON would return something else: a list for a tuple, a string for a key.

    >>> render({"epoch": 3}).decode().splitlines()[3:5]
    ['  "state": {', '    "epoch": 3']
    """
    found = _not_json(dict(state))
    if found is None:
        try:
            return _text(state)
        except ValueError as error:  # a number of more digits than Python reads
            found = "", str(error)
    where, what = found
    raise StateError(
        "The state holds something that JSON cannot return unchanged.",
        [("where", f"state{where}"), ("what", what)],
        "Let the dataset's state_dict hold only dicts with string keys, lists, strings, finite numbers, bools and "
        "None, or save loader.state_dict() with torch.save. Nothing was written.",
    )


def _text(state: Mapping[str, Any]) -> bytes:
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


def _not_json(value: object, levels: int = _DEEPEST) -> tuple[str, str] | None:
    """The place of the first part of *value* that JSON would change, and what it is."""
    parts: list[tuple[object, object]]
    if not levels:
        return "", f"a value nested more than {_DEEPEST} deep"
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
        if (found := _not_json(part, levels - 1)) is not None:
            return f"[{key!r}]{found[0]}", found[1]
    return None
