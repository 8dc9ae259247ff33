"""Single values of a saved state, each looked at before it is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from resumable.checks import as_int
from resumable.errors import StateError, explain

__all__ = [
    "Fields",
    "START_AGAIN",
    "count",
    "entries",
    "field_of",
    "flag",
    "listed",
    "mapping",
    "optional_count",
    "optional_seed",
    "row",
    "rows",
    "text",
]

Fields = Mapping[str, object]
"""What a saved mapping holds, before anybody has looked at it."""

START_AGAIN: Final = "Load another checkpoint; this one was not loaded, and the position is as it was."


def field_of(fields: Fields, key: str, /) -> object:
    """The value of *key*, whatever it is.

    Raises:
        StateError: if there is none, as do all functions here for a value that cannot be.

    >>> field_of({"epoch": 3}, "epoch")
    3
    """
    if key not in fields:
        raise StateError(
            explain(f"The saved position lacks {key!r}.", [("keys", sorted(map(str, fields)))], START_AGAIN)
        )
    return fields[key]


def count(fields: Fields, key: str, /) -> int:
    """A number of samples, steps or epochs; NumPy's integers and 0-d integer tensors (old checkpoints) count.

    >>> count({"consumed_samples": 12}, "consumed_samples")
    12
    """
    return _below(fields, key, 63)


def optional_count(fields: Fields, key: str, /) -> int | None:
    """The same, or None.

    >>> optional_count({"limit": None}, "limit")
    """
    return None if field_of(fields, key) is None else count(fields, key)


def optional_seed(fields: Fields, key: str, /) -> int | None:
    """The seed of an order, or None.

    >>> optional_seed({"seed": 2**64 - 1}, "seed")
    18446744073709551615
    """
    return None if field_of(fields, key) is None else _below(fields, key, 64)


def _below(fields: Fields, key: str, bits: int) -> int:
    value = field_of(fields, key)
    number = as_int(value)
    if number is None or not 0 <= number < 1 << bits:
        raise StateError(
            explain(
                f"The saved {key!r} has an impossible value.",
                [("expected", f"a whole number from 0 to 2**{bits} - 1"), ("got", value)],
                START_AGAIN,
            )
        )
    return number


def flag(fields: Fields, key: str, /) -> bool:
    """A truth value.

    >>> flag({"commits": True}, "commits")
    True
    """
    value = field_of(fields, key)
    if not isinstance(value, bool):
        raise StateError(
            explain(
                f"The saved {key!r} is no truth value.", [("expected", "true or false"), ("got", value)], START_AGAIN
            )
        )
    return value


def text(fields: Fields, key: str, /, *, longest: int) -> str | None:
    """A text of at most *longest* characters, or None.

    >>> text({"canary": "5eed"}, "canary", longest=32)
    '5eed'
    """
    value = field_of(fields, key)
    if value is not None and not (isinstance(value, str) and len(value) <= longest):
        raise StateError(
            explain(
                f"The saved {key!r} is no short text.",
                [("expected", f"null, or at most {longest} characters"), ("got", value)],
                START_AGAIN,
            )
        )
    return value


def mapping(value: object, what: str, /) -> Fields:
    """*value* as a mapping; *what* names it in the error.

    >>> mapping({"kind": "shuffled"}, "order")
    {'kind': 'shuffled'}
    """
    if not isinstance(value, Mapping):
        raise StateError(explain(f"The saved {what!r} is no mapping.", [("got", value)], START_AGAIN))
    return cast("Fields", value)


def entries(fields: Fields, key: str, /) -> list[Fields]:
    """A list of mappings.

    >>> entries({"loaders": []}, "loaders")
    []
    """
    value = field_of(fields, key)
    found = cast("list[object]", value) if isinstance(value, (list, tuple)) else [None]
    if not all(isinstance(entry, Mapping) for entry in found):
        raise StateError(explain(f"The saved {key!r} is no list of mappings.", [("got", repr(found))], START_AGAIN))
    return cast("list[Fields]", found)


def listed(value: object, /) -> list[object] | None:
    """*value* as a list, if it is one, or a tuple; else None.

    >>> listed((1, 2)), listed("12")
    ([1, 2], None)
    """
    return list(cast("list[object]", value)) if isinstance(value, (list, tuple)) else None


def row(value: object, names: Sequence[str], what: str, /) -> Fields:
    """A list of values as a mapping from *names*, of which there is one for each; *what* names it in the error.

    >>> row(["shuffled", 10, 0], ("kind", "length", "seed"), "order")
    {'kind': 'shuffled', 'length': 10, 'seed': 0}
    """
    values = listed(value)
    if values is None or len(values) != len(names):
        expected = f"[{', '.join(names)}]"
        raise StateError(
            explain(
                f"The saved {what!r} is no list of its values.", [("expected", expected), ("got", value)], START_AGAIN
            )
        )
    return dict(zip(names, values, strict=True))


def rows(fields: Fields, key: str, names: Sequence[str], /) -> list[Fields]:
    """A list of such lists.

    >>> rows({"loaders": []}, "loaders", ("epoch", "offset"))
    []
    """
    found = listed(value := field_of(fields, key))
    if found is None:
        raise StateError(explain(f"The saved {key!r} is no list.", [("got", value)], START_AGAIN))
    return [row(entry, names, key) for entry in found]
