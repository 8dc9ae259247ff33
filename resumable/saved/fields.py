"""Single values of a saved state, each checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from resumable.checks import as_int
from resumable.errors import StateError

__all__ = [
    "Fields",
    "START_AGAIN",
    "count",
    "field_of",
    "flag",
    "listed",
    "mapping",
    "names_in",
    "optional_count",
    "optional_text",
    "record",
    "records",
]

Fields = Mapping[str, object]
"""What a saved mapping holds, before it is checked."""

START_AGAIN: Final = "Load another checkpoint; this one was not loaded, and the position is as it was."


def field_of(fields: Fields, key: str, /) -> object:
    """The value of *key*, whatever it is.

    Raises:
        StateError: if it is missing, as do all functions here for a value that cannot be.

    >>> field_of({"epoch": 3}, "epoch")
    3
    """
    if key not in fields:
        raise StateError(f"The saved position lacks {key!r}.", [("keys", names_in(fields))], START_AGAIN)
    return fields[key]


def names_in(fields: Fields, /) -> list[str]:
    """The keys that are strings, sorted.

    >>> names_in({"offset": 0, "epoch": 1, 7: None})
    ['epoch', 'offset']
    """
    return sorted(key for key in cast("Mapping[object, object]", fields) if isinstance(key, str))


def _wrong(what: str, expected: str, value: object) -> StateError:
    return StateError(f"The saved {what!r} must be {expected}.", [("got", value)], START_AGAIN)


def count(fields: Fields, key: str, /, *, bits: int = 63) -> int:
    """A number of samples, steps or epochs, below 2**bits; old checkpoints may hold a NumPy integer or a 0-d tensor.

    >>> count({"consumed_samples": 12}, "consumed_samples")
    12
    """
    number = as_int(value := field_of(fields, key))
    if number is None or not 0 <= number < 1 << bits:
        raise _wrong(key, f"a whole number from 0 to 2**{bits} - 1", value)
    return number


def optional_count(fields: Fields, key: str, /, *, bits: int = 63) -> int | None:
    """The same, or None.

    >>> optional_count({"limit": None}, "limit")
    """
    return None if field_of(fields, key) is None else count(fields, key, bits=bits)


def flag(fields: Fields, key: str, /) -> bool:
    """A bool.

    >>> flag({"commits": True}, "commits")
    True
    """
    value = field_of(fields, key)
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def optional_text(fields: Fields, key: str, /, *, longest: int) -> str | None:
    """A string of at most *longest* characters, or None.

    >>> optional_text({"canary": "5eed"}, "canary", longest=32)
    '5eed'
    """
    value = field_of(fields, key)
    if value is not None and not (isinstance(value, str) and len(value) <= longest):
        raise _wrong(key, f"null, or a string of at most {longest} characters", value)
    return value


def mapping(value: object, what: str, /) -> Fields:
    """*value* as a mapping; the error names it *what*.

    >>> mapping({"kind": "shuffled"}, "order")
    {'kind': 'shuffled'}
    """
    if not isinstance(value, Mapping):
        raise _wrong(what, "a mapping", value)
    return cast("Fields", value)


def listed(value: object, /) -> list[object] | None:
    """*value* as a list, if it is a list or a tuple; otherwise None.

    >>> listed((1, 2)), listed("12")
    ([1, 2], None)
    """
    return list(cast("list[object]", value)) if isinstance(value, (list, tuple)) else None


def record(value: object, names: Sequence[str], what: str, /, *, is_row: bool, may_lack: int = 0) -> Fields:
    """A mapping, or with *is_row* a list of values, one for each of *names*; the error names it *what*.

    A list may lack its last *may_lack* values; the mapping lacks them too.

    >>> record(["shuffled", 10, 0], ("kind", "length", "seed"), "order", is_row=True)
    {'kind': 'shuffled', 'length': 10, 'seed': 0}
    """
    if not is_row:
        return mapping(value, what)
    values = listed(value)
    needed = names[: len(names) - may_lack]
    if values is None or not len(needed) <= len(values) <= len(names):
        raise _wrong(what, f"a list of its values, [{', '.join(needed)}]", value)
    return dict(zip(names, values, strict=False))


def records(fields: Fields, key: str, names: Sequence[str], /, *, are_rows: bool, may_lack: int = 0) -> list[Fields]:
    """A list of such records.

    >>> records({"loaders": [[1, 20]]}, "loaders", ("epoch", "offset"), are_rows=True)
    [{'epoch': 1, 'offset': 20}]
    """
    found = listed(value := field_of(fields, key))
    if found is None:
        raise _wrong(key, "a list", value)
    return [record(entry, names, f"{key}[{at}]", is_row=are_rows, may_lack=may_lack) for at, entry in enumerate(found)]
