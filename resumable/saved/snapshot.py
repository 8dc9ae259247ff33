"""The saved form of a position: a small dict of JSON types, versioned, and checked when it is read.

    {"format": 3,
     "consumed_samples": 12800, "epoch": 1, "offset": 2800,     what old code reads too
     "global_step": 400,                                        the trainer's count; null where no trainer counts
     "order": ["shuffled", 10000, 0],                           what the order depends on: kind, length, seed; a further
                                                                value tells the dataset from others, where it has one
     "commits": false,                                          whether the loop commits its steps itself
     "canary": "5eed0f1e",                                      a digest of the indices to come; null for none
     "loaders": [],                                             the positions of several loaders
     "ledger": [[0, 0, 0, 0, 10000, 32, 1, 1, 4, false, null, null]]}     a `Stretch` for each change of configuration;
                                                                two more are `reseed` and `order`, if not null

Below the top there are only lists. torch.distributed.checkpoint takes dicts apart, within lists too, and asks a file
for every key that the present state has: with dicts, a state could not load one of another shape.

A bare `{"consumed_samples": n}`, as NeMo's and BioNeMo's datamodules save it, is read as well, and the older formats: 2,
which had dicts in place of those lists, and 1, which had neither `global_step` nor `canary`, and no `schedule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

from resumable.errors import ConfigurationError, StateError
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.saved.fields import (
    START_AGAIN,
    Fields,
    count,
    field_of,
    flag,
    names_in,
    optional_count,
    optional_text,
    record,
    records,
)
from resumable.saved.ledger import MAY_LACK, SCHEDULE, STRETCH_FIELDS, Ledger, Stretch
from resumable.saved.schedule_format import parse_schedule
from resumable.steps.batch_plan import UNBOUNDED

__all__ = [
    "FORMAT",
    "KEYS",
    "Check",
    "LoaderPosition",
    "Snapshot",
    "dump",
    "parse",
    "save_nothing",
    "saves_nothing",
]

FORMAT = 3
"""The version that this package writes. It reads every version up to it."""

_ORDER = ("kind", "length", "seed", "contents")
_LOADER = ("epoch", "offset", "order", "state", "check")
_LONGEST_CANARY = 32  # characters
_LONGEST_CONTENTS = 96


@dataclass(frozen=True, slots=True)
class Check:
    """The digest of the last trained batch of a stream, and the stream's state *before* it; None for a fresh stream's."""

    digest: str
    before: object = None


@dataclass(frozen=True, slots=True)
class LoaderPosition:
    """The position of one of several loaders: *epoch* completed passes, and *offset* samples of the next.

    *state* is what an iterable dataset gave as its own `state_dict`. A resume reads the batch of *check* once more.
    """

    epoch: int = 0
    offset: int = 0
    order: Identity | None = None
    state: object = None
    check: Check | None = None


class Snapshot(NamedTuple):
    """A saved state as a value. *epoch* and *offset* are None where only the consumed samples are known."""

    consumed_samples: int = 0
    epoch: int | None = 0
    offset: int | None = 0
    order: Identity | None = None
    commits: bool = False
    loaders: tuple[LoaderPosition, ...] = ()
    ledger: Ledger = Ledger()
    global_step: int | None = None
    canary: str | None = None

    @property
    def position(self) -> Position | None:
        """The position, or None where epoch and offset have yet to follow from the dataset's length."""
        if self.epoch is None or self.offset is None:
            return None
        return Position(self.consumed_samples, self.epoch, self.offset)

    @property
    def on_all_ranks(self) -> Snapshot:
        """What is the same on every rank: a dataset's fingerprint is another one where it was drawn at random."""
        places = tuple(replace(at, order=_rows_alone(at.order)) for at in self.loaders)
        return self._replace(order=_rows_alone(self.order), loaders=places)


def _rows_alone(order: Identity | None) -> Identity | None:
    return None if order is None else replace(order, contents=order.rows_digest)


def dump(saved: Snapshot, /) -> dict[str, Any]:
    """A new dict with the keys of `KEYS` and nothing but JSON types (and what an iterable dataset saved).

    >>> dump(Snapshot(8, 0, 8))["offset"]
    8
    """
    consumed_samples, epoch, offset, order, commits, loaders, ledger, global_step, canary = saved
    return {
        "format": FORMAT,
        "consumed_samples": consumed_samples,
        "epoch": epoch,
        "offset": offset,
        "global_step": global_step,
        "order": _dump_order(order),
        "commits": commits,
        "canary": canary,
        "loaders": [_dump_loader(at) for at in loaders] if loaders else [],
        "ledger": [_copy(row) if list in (type(row[SCHEDULE]), type(row[-1])) else row.copy() for row in ledger.rows],
    }


def _copy(row: list[Any]) -> list[Any]:
    """A copy of a row with a schedule of any number of stages, or an order: a state may be saved after every batch.

    A list in it whose last value is no list holds none.
    """
    copies: list[Any] = []
    for each in row:
        value: Any = each
        if type(each) is list:
            value = _copy(value) if type(value[-1]) is list else value.copy()
        copies.append(value)
    return copies


def _dump_loader(at: LoaderPosition) -> list[Any]:
    row = [at.epoch, at.offset, _dump_order(at.order), at.state]
    return row if at.check is None else [*row, [at.check.digest, at.check.before]]


def _dump_order(order: Identity | None) -> list[Any] | None:
    if order is None:
        return None
    row = [order.kind, order.length, order.seed]
    return row if order.contents is None else [*row, order.contents]


KEYS = tuple(dump(Snapshot()))
"""The keys of a saved state, always all of them."""


def parse(state: object, /) -> Snapshot:
    """Read a saved state, of this format or older, or a bare `{"consumed_samples": n}`.

    Raises:
        StateError: if it is not a mapping, is empty, of a newer format, or has missing or impossible values.

    >>> parse({"consumed_samples": 12}) == Snapshot(12, epoch=None, offset=None)
    True
    """
    if not isinstance(state, Mapping):
        raise StateError(
            "A saved position must be a mapping.",
            [("expected", "a mapping with the key 'consumed_samples'"), ("got", type(state).__name__)],
            START_AGAIN,
        )
    fields = cast("Fields", state)
    consumed = count(fields, "consumed_samples")
    if "format" not in fields and "epoch" not in fields and "offset" not in fields:
        return Snapshot(consumed, epoch=None, offset=None)
    version = _version(fields)
    is_bare = field_of(fields, "epoch") is None and field_of(fields, "offset") is None
    saved = Snapshot(
        consumed,
        None if is_bare else count(fields, "epoch"),
        None if is_bare else count(fields, "offset"),
        order=_identity(field_of(fields, "order"), version),
        commits=flag(fields, "commits"),
        loaders=tuple(
            _loader_position(entry, version)
            for entry in records(fields, "loaders", _LOADER, are_rows=version > 2, may_lack=1)
        ),
        ledger=Ledger(
            tuple(
                _stretch(entry, version)
                for entry in records(fields, "ledger", STRETCH_FIELDS, are_rows=version > 2, may_lack=len(MAY_LACK))
            )
        ),
        global_step=optional_count(fields, "global_step") if version > 1 else None,
        canary=optional_text(fields, "canary", longest=_LONGEST_CANARY) if version > 1 else None,
    )
    _check_position(saved)
    _check_ledger(saved)
    return saved


def _version(fields: Fields) -> int:
    version = count(fields, "format")
    if not 1 <= version <= FORMAT:
        raise StateError(
            "The saved position has a format that this version of resumable does not know.",
            [("saved format", version), ("newest known", FORMAT)],
            "Update resumable. " + START_AGAIN,
        )
    return version


def _check_position(saved: Snapshot) -> None:
    consumed, epoch, offset, order = saved.consumed_samples, saved.epoch, saved.offset, saved.order
    if epoch is None or offset is None:
        return
    is_drawn = any(stretch.length == UNBOUNDED for stretch in saved.ledger)  # epochs longer than the dataset, maybe
    for place in (LoaderPosition(epoch, offset, order), *saved.loaders):
        if place.order is not None and place.offset > place.order.length and not is_drawn:
            raise StateError(
                "The saved offset is past the end of its epoch.",
                [("offset", place.offset), ("length", place.order.length)],
                START_AGAIN,
            )
    lengths = [stretch.length for stretch in saved.ledger] + ([] if order is None else [order.length])
    longest = max(lengths, default=None)
    is_too_much = longest is not None and consumed > epoch * longest + offset
    if is_too_much or not _fits(consumed, epoch, offset):
        raise StateError(
            "The saved numbers contradict each other.",
            [("consumed_samples", consumed), ("epoch", epoch), ("offset", offset)],
            START_AGAIN,
        )


def _check_ledger(saved: Snapshot) -> None:
    """Stretches have epochs that hold a batch, and each leads to the next one, the last one to the position."""
    before: Stretch | None = None
    for stretch in saved.ledger:
        has_epochs = stretch.offset <= stretch.length and stretch.batching.batches > 0
        follows = _begins(stretch) if before is None else before.sample < stretch.sample and _leads(before, stretch)
        if not (has_epochs and follows and stretch.sample <= saved.consumed_samples):
            raise _contradictory(stretch, before, saved)
        before = stretch
    if before is not None and not _ends(before, saved):
        raise _contradictory(before, None, saved)


def _contradictory(stretch: Stretch, before: Stretch | None, saved: Snapshot) -> StateError:
    return StateError(
        "The saved ledger contradicts itself.",
        [("stretch", stretch), ("before it", before), ("position", saved.position or saved.consumed_samples)],
        START_AGAIN,
    )


def _begins(first: Stretch) -> bool:
    """Whether a run's first known stretch can begin where it does: of what was before it, every step took a sample."""
    if first.length == UNBOUNDED:
        return True
    at = first.begins
    return first.step <= at.consumed_samples and _fits(at.consumed_samples, at.epoch, at.offset)


def _ends(last: Stretch, saved: Snapshot) -> bool:
    """Whether the *last* stretch can have led to the position, in steps that can be counted, as the next save does."""
    if saved.position is not None and not _reaches(last, saved.position):
        return False
    samples = saved.consumed_samples - last.sample
    try:
        return not samples or last.is_unknown or last.steps_within(samples) >= 0
    except ConfigurationError:  # it has a step, or an epoch, without a sample
        return False


def _fits(samples: int, epochs: int, offset: int) -> bool:
    """Whether *samples* can lie in *epochs* finished epochs, each of one at least, and *offset* samples more."""
    return samples >= epochs + offset if epochs else samples == offset


def _leads(before: Stretch, stretch: Stretch) -> bool:
    """Whether the steps of *before* can take the samples up to *stretch*."""
    steps, samples = stretch.step - before.step, stretch.sample - before.sample
    least, most = 0, samples
    if before.schedule is None:
        least = samples // before.global_batch_size
        most = min(samples, least + stretch.epoch - before.epoch + 1)  # each epoch's last step may take fewer
    return least <= steps <= most and _reaches(before, stretch.begins)


def _reaches(stretch: Stretch, at: Position) -> bool:
    """Whether *stretch* can lead to *at*; of a stretch without an end the epochs are unknown.

    At a resume with other sizes, an epoch that has no batch left ends without another sample.
    """
    epochs, samples = at.epoch - stretch.epoch, at.consumed_samples - stretch.sample + stretch.offset
    if stretch.length == UNBOUNDED:
        return True
    return epochs >= 0 and _fits(samples, epochs, at.offset) and samples <= epochs * stretch.length + at.offset


def _identity(value: object, version: int) -> Identity | None:
    if value is None:
        return None
    fields = record(value, _ORDER, "order", is_row=version > 2, may_lack=1)
    kind = field_of(fields, "kind")
    if not isinstance(kind, str):
        raise StateError("The saved order's kind must be a string.", [("got", kind)], START_AGAIN)
    contents = optional_text(fields, "contents", longest=_LONGEST_CONTENTS) if "contents" in fields else None
    return Identity(kind, count(fields, "length"), optional_count(fields, "seed", bits=64), contents)


def _loader_position(fields: Fields, version: int) -> LoaderPosition:
    order = _identity(field_of(fields, "order"), version)
    epoch, offset = count(fields, "epoch"), count(fields, "offset")
    return LoaderPosition(epoch, offset, order, field_of(fields, "state"), _check(fields.get("check")))


def _check(value: object) -> Check | None:
    if value is None:
        return None
    fields = record(value, ("digest", "before"), "check", is_row=True)
    digest = optional_text(fields, "digest", longest=_LONGEST_CANARY)
    if digest is None:
        raise StateError("A stream's check lacks its digest.", [("got", value)], START_AGAIN)
    return Check(digest, fields["before"])


def _stretch(fields: Fields, version: int) -> Stretch:
    expected = set(STRETCH_FIELDS) - set(MAY_LACK) - ({"schedule"} if version == 1 else set())
    if set(fields) - set(MAY_LACK) != expected:
        raise StateError(
            "A stretch of the saved ledger has other keys.",
            [("expected", sorted(expected)), ("got", names_in(fields))],
            START_AGAIN,
        )
    others = ("limit", "drop_last", "schedule", *MAY_LACK)
    counts = {name: count(fields, name) for name in STRETCH_FIELDS if name not in others}
    if not all(counts[name] for name in ("length", "micro_batch_size", "data_parallel_size", "accumulation")):
        raise StateError("A stretch of the saved ledger holds a size of 0.", [("stretch", dict(fields))], START_AGAIN)
    tail = fields["drop_last"] if isinstance(fields["drop_last"], str) else None
    return Stretch(
        **counts,
        drop_last="carry" if version > 1 and tail == "carry" else flag(fields, "drop_last"),
        limit=optional_count(fields, "limit"),
        schedule=parse_schedule(fields.get("schedule")),
        reseed=None if fields.get("reseed") is None else count(fields, "reseed", bits=64),
        order=_identity(fields.get("order"), version),
    )


def save_nothing(loader: object, /) -> None:
    """Give *loader* an empty state: Lightning warns of loaders without one, and the position is saved elsewhere."""
    vars(loader).update(state_dict=dict, load_state_dict=_ignore)


def saves_nothing(loader: object, /) -> bool:
    """Whether *loader* was given an empty state.

    >>> saves_nothing([1, 2])
    False
    """
    return getattr(loader, "load_state_dict", None) is _ignore


def _ignore(state_dict: object) -> None:
    """An older checkpoint may hold a position of the loader's own; the saved position supersedes it."""
