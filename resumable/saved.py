"""The saved form of a position: a small dict of JSON types, versioned, read with care.

    {"format": 1,
     "consumed_samples": 12800, "epoch": 1, "offset": 2800,         what old code reads too
     "order": {"kind": "shuffled", "length": 10000, "seed": 0},     what the order depends on
     "commits": false,                                              whether the loop commits its steps itself
     "loaders": [],                                                 further places, where there are several loaders
     "ledger": [{"step": 0, "sample": 0, ...}]}                     one entry for each change of configuration

A bare `{"consumed_samples": n}`, as NeMo's and BioNeMo's datamodules save it, is read as well.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from resumable.errors import StateError, explain
from resumable.ledger import STRETCH_FIELDS, Ledger, Stretch
from resumable.position import Position
from resumable.verdict import Identity

__all__ = ["FORMAT", "KEYS", "Place", "Saved", "dump", "parse"]

FORMAT = 1
"""The version that this package writes. It reads every version up to it."""
KEYS = ("format", "consumed_samples", "epoch", "offset", "order", "commits", "loaders", "ledger")
"""The keys of a saved state, always all of them."""
_COUNT_LIMIT = 2**63
_START_AGAIN = "Load another checkpoint; this one was not loaded, and the position is as it was."


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of several loaders stands: *epoch* passes and *offset* samples of the next lie behind.

    *state* is what an iterable dataset gave as its own `state_dict`.
    """

    epoch: int = 0
    offset: int = 0
    order: Identity | None = None
    state: object = None


@dataclass(frozen=True, slots=True)
class Saved:
    """What a state dict says, checked. *epoch* and *offset* are None where only the consumed samples are known."""

    consumed_samples: int = 0
    epoch: int | None = 0
    offset: int | None = 0
    order: Identity | None = None
    commits: bool = False
    loaders: tuple[Place, ...] = ()
    ledger: Ledger = Ledger()

    @property
    def position(self) -> Position | None:
        """The place, or None where epoch and offset have yet to follow from the dataset's length."""
        if self.epoch is None or self.offset is None:
            return None
        return Position(self.consumed_samples, self.epoch, self.offset)


def dump(saved: Saved, /) -> dict[str, Any]:
    """A new dict with the keys of `KEYS` and nothing but JSON types (and what an iterable dataset saved).

    >>> dump(Saved(8, 0, 8))["offset"]
    8
    """
    return {
        "format": FORMAT,
        "consumed_samples": saved.consumed_samples,
        "epoch": saved.epoch,
        "offset": saved.offset,
        "order": _dump_order(saved.order),
        "commits": saved.commits,
        "loaders": [
            {"epoch": at.epoch, "offset": at.offset, "order": _dump_order(at.order), "state": at.state}
            for at in saved.loaders
        ],
        "ledger": [asdict(stretch) for stretch in saved.ledger],
    }


def _dump_order(order: Identity | None) -> dict[str, Any] | None:
    return None if order is None else {"kind": order.kind, "length": order.length, "seed": order.seed}


def parse(state: object, /) -> Saved:
    """Read a saved state, of this format or older, or a bare `{"consumed_samples": n}`.

    Raises:
        StateError: if it is no mapping, empty, of a newer format, or has missing or impossible values.

    >>> parse({"consumed_samples": 12})
    Saved(consumed_samples=12, epoch=None, offset=None, order=None, commits=False, loaders=(), ledger=Ledger(stretches=()))
    """
    if not isinstance(state, Mapping):
        raise StateError(
            explain(
                "A saved position is a mapping.",
                [("expected", "a mapping with the key 'consumed_samples'"), ("got", type(state).__name__)],
                _START_AGAIN,
            )
        )
    fields = cast("Mapping[str, object]", state)
    consumed = _count(fields, "consumed_samples")
    if "format" not in fields and "epoch" not in fields and "offset" not in fields:
        return Saved(consumed, epoch=None, offset=None)
    version = _count(fields, "format")
    if not 1 <= version <= FORMAT:
        raise StateError(
            explain(
                "The saved position has a format that this version of resumable does not know.",
                [("saved format", version), ("newest known", FORMAT)],
                "Update resumable. " + _START_AGAIN,
            )
        )
    if _field(fields, "epoch") is None and _field(fields, "offset") is None:
        epoch = offset = None
    else:
        epoch, offset = _count(fields, "epoch"), _count(fields, "offset")
    order = _identity(_field(fields, "order"))
    ledger = Ledger(tuple(_stretch(entry) for entry in _entries(fields, "ledger")))
    if order is not None and offset is not None and offset > order.length:
        raise StateError(
            explain(
                "The saved offset lies behind the end of its epoch.",
                [("offset", offset), ("length", order.length)],
                _START_AGAIN,
            )
        )
    if epoch is not None and offset is not None:
        lengths = [stretch.length for stretch in ledger] + ([] if order is None else [order.length])
        _check_agreement(consumed, epoch, offset, max(lengths, default=None))
    _check_ledger(ledger, consumed)
    return Saved(
        consumed,
        epoch,
        offset,
        order=order,
        commits=_flag(fields, "commits"),
        loaders=tuple(_place(entry) for entry in _entries(fields, "loaders")),
        ledger=ledger,
    )


def _check_agreement(consumed: int, epoch: int, offset: int, longest: int | None) -> None:
    # every finished epoch has trained a sample at least, its dataset's length at most, and the first one all so far
    is_too_little = consumed < epoch + offset
    is_too_much = longest is not None and consumed > epoch * longest + offset
    if is_too_little or is_too_much or (epoch == 0 and consumed != offset):
        raise StateError(
            explain(
                "The saved numbers contradict each other.",
                [("consumed_samples", consumed), ("epoch", epoch), ("offset", offset)],
                _START_AGAIN,
            )
        )


def _check_ledger(ledger: Ledger, consumed: int) -> None:
    """Stretches follow each other, begin before the position, and have epochs that hold a batch."""
    before: Stretch | None = None
    for stretch in ledger:
        follows = before is None or (before.sample < stretch.sample and before.step <= stretch.step)
        has_epochs = stretch.offset <= stretch.length and stretch.batching.batches > 0
        if not (follows and has_epochs and stretch.sample <= consumed):
            raise StateError(
                explain(
                    "The saved ledger contradicts itself.",
                    [("stretch", stretch), ("before it", before), ("consumed_samples", consumed)],
                    _START_AGAIN,
                )
            )
        before = stretch


def _field(fields: Mapping[str, object], key: str) -> object:
    if key not in fields:
        raise StateError(
            explain(f"The saved position lacks {key!r}.", [("keys", sorted(map(str, fields)))], _START_AGAIN)
        )
    return fields[key]


def _count(fields: Mapping[str, object], key: str) -> int:
    """A number of samples, steps or epochs; NumPy's integers and 0-d integer tensors (old checkpoints) count."""
    value = _field(fields, key)
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        raise _impossible(key, value)
    try:
        number = operator.index(cast("Any", value))
    except TypeError:
        raise _impossible(key, value) from None
    if not 0 <= number < _COUNT_LIMIT:
        raise _impossible(key, value)
    return number


def _impossible(key: str, value: object) -> StateError:
    return StateError(
        explain(
            f"The saved {key!r} has an impossible value.",
            [("expected", "a whole number from 0 to 2**63 - 1"), ("got", value)],
            _START_AGAIN,
        )
    )


def _flag(fields: Mapping[str, object], key: str) -> bool:
    value = _field(fields, key)
    if not isinstance(value, bool):
        raise StateError(
            explain(
                f"The saved {key!r} is no truth value.", [("expected", "true or false"), ("got", value)], _START_AGAIN
            )
        )
    return value


def _entries(fields: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    value = _field(fields, key)
    entries = cast("list[object]", value) if isinstance(value, (list, tuple)) else [None]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise StateError(explain(f"The saved {key!r} is no list of mappings.", [("got", repr(entries))], _START_AGAIN))
    return cast("list[Mapping[str, object]]", entries)


def _identity(value: object) -> Identity | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise StateError(explain("The saved 'order' is no mapping.", [("got", value)], _START_AGAIN))
    fields = cast("Mapping[str, object]", value)
    kind = _field(fields, "kind")
    if not isinstance(kind, str):
        raise StateError(explain("The saved order's kind is no text.", [("got", kind)], _START_AGAIN))
    return Identity(kind, _count(fields, "length"), None if _field(fields, "seed") is None else _seed(fields))


def _seed(fields: Mapping[str, object]) -> int:
    value = fields["seed"]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise StateError(
            explain("The saved seed is impossible.", [("expected", "0 to 2**64 - 1"), ("got", value)], _START_AGAIN)
        )
    return value


def _place(fields: Mapping[str, object]) -> Place:
    return Place(
        _count(fields, "epoch"), _count(fields, "offset"), _identity(_field(fields, "order")), _field(fields, "state")
    )


def _stretch(fields: Mapping[str, object]) -> Stretch:
    if set(fields) != set(STRETCH_FIELDS):
        raise StateError(
            explain(
                "A stretch of the saved ledger has other keys.",
                [("expected", sorted(STRETCH_FIELDS)), ("got", sorted(map(str, fields)))],
                _START_AGAIN,
            )
        )
    limit = None if fields["limit"] is None else _count(fields, "limit")
    drop_last = _flag(fields, "drop_last")
    counts = {name: _count(fields, name) for name in STRETCH_FIELDS if name not in ("limit", "drop_last")}
    if not all(counts[name] for name in ("length", "micro_batch_size", "data_parallel_size", "accumulation")):
        raise StateError(
            explain("A stretch of the saved ledger holds a size of 0.", [("stretch", dict(fields))], _START_AGAIN)
        )
    return Stretch(**counts, drop_last=drop_last, limit=limit)
