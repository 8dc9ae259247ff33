"""The text of a state file: JSON that people can read, refused unless it is to the letter what was written.

{
  "resumable": 1,
  "sha256": "5eed0f1e...",                 of the state as JSON with sorted keys and no spaces
  "state": {
    "format": 2,                           a line for each of its keys
    "consumed_samples": 12800,
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

from resumable.errors import StateError, explain

__all__ = ["Flaw", "VERSION", "check_json", "parse", "render"]

VERSION: Final = 1
"""The version of the file's form. That of the state inside is the state's own."""

_HEAD: Final = b'{\n  "resumable": '
_TAIL: Final = b"}\n"


class Flaw(NamedTuple):
    """Why a file's text is refused."""

    what: str
    values: tuple[tuple[str, object], ...] = ()


def render(state: Mapping[str, Any], /) -> bytes:
    """The one text that stands for *state*: a line for each of its keys, in ASCII.

    >>> render({"epoch": 3}).decode().splitlines()[3:5]
    ['  "state": {', '    "epoch": 3']
    """
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in state.items())
    head = f'{_HEAD.decode()}{VERSION},\n  "sha256": "{_digest(state)}",\n  "state": {{\n'
    return f"{head}{lines}\n  }}\n".encode("ascii") + _TAIL


def _digest(state: Mapping[str, Any]) -> str:
    canonical = json.dumps(dict(state), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def parse(raw: bytes, /) -> dict[str, Any] | Flaw:
    """The state that *raw* stands for, or why it stands for none.

    >>> parse(render({"epoch": 3}))
    {'epoch': 3}
    >>> parse(render({"epoch": 3})[:-1])
    Flaw(what='The state file is torn: its end is missing.', values=(('bytes', 133),))
    """
    if not raw.startswith(_HEAD) and not _HEAD.startswith(raw):
        begins = ("begins with", raw[:16])
        return Flaw("This is no state file of resumable, or its beginning is destroyed.", (begins,))
    if not raw.endswith(_TAIL):
        return Flaw("The state file is torn: its end is missing.", (("bytes", len(raw)),))
    digests: tuple[tuple[str, object], ...] = ()
    try:
        held = json.loads(raw)
        version, state = held["resumable"], held["state"]
        if isinstance(version, int) and version > VERSION:
            known = (("its version", version), ("newest known", VERSION))
            return Flaw("A newer version of resumable wrote this state file, or it has been damaged.", known)
        # flips that leave the values as they are show here too: spaces, 1e5 and 1E5, digits that a float has no bits for
        if raw == render(state):
            return cast("dict[str, Any]", state)
        digests = (("sha256 as written", held["sha256"]), ("sha256 as found", _digest(state)))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # no JSON, or none of this shape
        pass
    return Flaw("The state file has changed since it was written.", digests)


def check_json(state: Mapping[str, Any], /) -> None:
    """Refuse what would come back from JSON as something else: tuples as lists, and keys as texts.

    Raises:
        StateError: it names the place.

    >>> check_json({"loaders": [{"state": {"at": (1, 2)}}]})
    Traceback (most recent call last):
    resumable.errors.StateError: The state holds something that JSON would not give back as it is.
      where: "state['loaders'][0]['state']['at']"
      what:  'a tuple'
    ...
    """
    if (found := _not_json(dict(state))) is not None:
        where, what = found
        raise StateError(
            explain(
                "The state holds something that JSON would not give back as it is.",
                [("where", f"state{where}"), ("what", what)],
                "Let the dataset's state_dict hold dicts with text keys, lists, texts, finite numbers, truth values and "
                "None alone, or save loader.state_dict() with torch.save. Nothing was written.",
            )
        )


def _not_json(value: object) -> tuple[str, str] | None:
    """Where the first part of *value* lies that would not come back, and what it is."""
    parts: list[tuple[object, object]]
    if isinstance(value, dict):
        parts = list(cast("dict[object, object]", value).items())
        for key, _ in parts:
            if not isinstance(key, str):
                return "", f"the key {key!r}, which is no text"
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
