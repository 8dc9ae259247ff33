"""What is found in a checkpoint: positions, and what else says how far a run has come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from resumable.checks import as_int
from resumable.errors import ResumptionError, StateError
from resumable.importers.unpickle import Inert, TensorRef
from resumable.saved.snapshot import KEYS, Snapshot, parse

__all__ = ["Found", "FoundState", "items_of", "nothing_in", "number_of", "states_in"]

_COUNT: Final = "consumed_samples"
_DEEPEST: Final = 12
_MOST: Final = 1_000
"""Entries of a list that are looked into: positions are near its head."""


@dataclass(frozen=True, slots=True)
class FoundState:
    """A position, by its *name* in the checkpoint; *state* is the saved form. Where only counts are known, *facts* has them."""

    name: str
    snapshot: Snapshot | None
    state: Mapping[str, Any] | None = None
    facts: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What *tool* has saved at *path*: its positions, and the optimizer *steps*, None where it does not say."""

    tool: str
    path: Path
    states: tuple[FoundState, ...]
    steps: int | None = None


def states_in(content: object, name: str = "") -> list[FoundState]:
    """The positions in *content*, at any depth: states of this package, and bare counts of NeMo's kind.

    Raises:
        StateError: for a state of this package that is damaged.

    >>> [(each.name, each.snapshot.consumed_samples) for each in states_in({"data": {"consumed_samples": 640}})]
    [('data', 640)]
    """
    return list(_search(content, name, _DEEPEST, set()))


def _search(content: object, name: str, depth: int, met: set[int]) -> Iterator[FoundState]:
    if not depth or id(content) in met:
        return
    met.add(id(content))
    if isinstance(content, (list, tuple)):
        for number, value in enumerate(cast("Sequence[object]", content)[:_MOST]):
            yield from _search(value, f"{name}[{number}]", depth - 1, met)
        return
    items = items_of(content)
    if _COUNT in items:
        found = _state(items, name)
        if found is not None:
            yield found
            return
    for key, value in items.items():
        yield from _search(value, f"{name}.{key}" if name else str(key), depth - 1, met)


def _state(items: Mapping[Any, object], name: str) -> FoundState | None:
    count = number_of(items[_COUNT])
    if set(KEYS) <= items.keys() or {"format", "epoch", "offset"} <= items.keys():
        try:
            return FoundState(name, parse(items), cast("Mapping[str, Any]", items))
        except ResumptionError as error:
            raise StateError(f"The position {name or 'of the file'!r} is damaged: {error}") from None
    return None if count is None or count < 0 else FoundState(name, Snapshot(count, None, None), {_COUNT: count})


def items_of(content: object) -> Mapping[Any, object]:
    """The items of a mapping, or the attributes of an object that was not built; nothing for anything else.

    >>> items_of([1])
    {}
    """
    if isinstance(content, Mapping):
        return cast("Mapping[Any, object]", content)
    return vars(content) if isinstance(content, Inert) else {}


def number_of(value: object) -> int | None:
    """A whole number, also one that was saved as a tensor of one element.

    >>> number_of(7), number_of("7")
    (7, None)
    """
    return value.number if isinstance(value, TensorRef) else as_int(value)


def nothing_in(path: Path, looked_for: str) -> StateError:
    """The error for a checkpoint that holds no position.

    >>> print(nothing_in(Path("a.ckpt"), "a state of @resumable"))
    The checkpoint holds no position of the data.
      file:       'a.ckpt'
      looked for: 'a state of @resumable'
    Save it with a decorated datamodule, or with the state of a ResumableLoader in it.
    """
    return StateError(
        "The checkpoint holds no position of the data.",
        [("file", str(path)), ("looked for", looked_for)],
        "Save it with a decorated datamodule, or with the state of a ResumableLoader in it.",
    )
