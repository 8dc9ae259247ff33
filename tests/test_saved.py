"""The saved form: read with care, refused with both values, and old files stay readable for ever."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable.errors import StateError
from resumable.ledger import Ledger, Stretch
from resumable.saved import FORMAT, KEYS, Place, Saved, dump, parse
from resumable.verdict import Identity

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "state_format_1.json").read_text())
GOOD: dict[str, Any] = GOLDEN["two stretches"]
MISSING = object()

counts = st.integers(0, 2**63 - 1)
identities = st.builds(Identity, st.text(max_size=8), st.integers(1, 2**60), st.none() | st.integers(0, 2**64 - 1))
stretches = st.builds(
    Stretch,
    step=counts,
    epoch=counts,
    length=st.integers(50, 2**60),
    micro_batch_size=st.integers(1, 10),
    data_parallel_size=st.integers(1, 3),
    accumulation=st.integers(1, 2**20),
    num_workers=st.integers(0, 99),
    drop_last=st.booleans(),
    limit=st.none() | st.integers(1, 99),
)


@st.composite
def saveds(draw: st.DrawFn) -> Saved:
    """A state whose numbers agree."""
    order = draw(st.none() | identities)
    epoch = draw(st.integers(0, 2**30))
    offset = draw(st.integers(0, min(2**30, 2**30 if order is None else order.length)))
    length = 1 if order is None else order.length
    consumed = offset + draw(st.integers(epoch, epoch * length))
    last = draw(st.none() | stretches)
    if last is not None:
        last = replace(last, sample=draw(st.integers(0, consumed)))
    where = draw(st.sampled_from(["known", "bare"]))
    return Saved(
        consumed,
        epoch if where == "known" else None,
        offset if where == "known" else None,
        order,
        draw(st.booleans()),
        tuple(
            draw(
                st.lists(st.builds(Place, counts, st.just(0), st.none() | identities, st.just({"a": [1]})), max_size=2)
            )
        ),
        Ledger(() if last is None else (last,)),
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_are_read_for_ever(name: str) -> None:
    """What format 1 wrote is read, and written again to the letter: another form is another format."""
    assert 1 == FORMAT
    assert GOLDEN[name] == dump(parse(GOLDEN[name]))
    assert list(KEYS) == list(GOLDEN[name])


def test_golden_values() -> None:
    """The keys of format 1 mean what they meant."""
    first = Stretch(length=64, micro_batch_size=4)
    then = Stretch(
        step=10, sample=40, offset=40, length=64, micro_batch_size=2, data_parallel_size=4, accumulation=2,
        num_workers=2, drop_last=True, limit=7,
    )  # fmt: skip
    expected = Saved(120, 1, 56, Identity("shuffled", 64, 2**64 - 1), True, (), Ledger((first, then)))
    assert expected == parse(GOLDEN["two stretches"])


@settings(max_examples=30)
@given(saveds())
def test_reading_undoes_writing(saved: Saved) -> None:
    """Every state survives its saved form, through JSON too, with the same keys always."""
    assert saved == parse(dump(saved))
    assert saved == parse(json.loads(json.dumps(dump(saved))))
    assert list(KEYS) == list(dump(saved))


class OnlyAMapping(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


@pytest.mark.parametrize("kind", [dict, OrderedDict, MappingProxyType, OnlyAMapping])
def test_any_mapping_is_read(kind: Any) -> None:
    """A checkpoint library may give another mapping than a dict."""
    assert parse(GOOD) == parse(kind(GOOD))


@pytest.mark.parametrize("count", [0, 12, np.int64(12), torch.tensor(12), torch.tensor([12])])
def test_a_bare_count_is_read(count: Any) -> None:
    """What NeMo and BioNeMo save holds one number, an int or an integer tensor; the place has yet to follow from it."""
    assert Saved(int(count), epoch=None, offset=None) == parse({"consumed_samples": count})
    assert int is type(parse({"consumed_samples": count}).consumed_samples)


def test_what_later_versions_add_is_passed_over() -> None:
    """An unknown key of the same format changes nothing."""
    assert parse(GOOD) == parse({**GOOD, "something": 1})


@pytest.mark.parametrize("state", [None, 7, "state", [1], [("consumed_samples", 1)], {1}, torch.zeros(1)])
def test_no_mapping(state: Any) -> None:
    """What is no mapping is told apart from an empty one."""
    with pytest.raises(StateError, match="A saved position is a mapping") as caught:
        parse(state)
    assert f"got:      '{type(state).__name__}'" in str(caught.value)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key: str) -> None:
    """Half a state is no state."""
    with pytest.raises(StateError, match=f"The saved position lacks '{key}'.") as caught:
        parse({name: value for name, value in GOOD.items() if name != key})
    assert "Load another checkpoint" in str(caught.value)


@pytest.mark.parametrize("state", [{}, {"state_dict": {}}, {"Consumed_samples": 1}])
def test_a_state_of_somebody_else(state: dict[str, Any]) -> None:
    """An empty state, or another object's, never means the first sample."""
    with pytest.raises(StateError, match="lacks 'consumed_samples'") as caught:
        parse(state)
    assert f"keys: {sorted(state)}" in str(caught.value)


IMPOSSIBLE: list[Any] = [
    -1, 1.0, 1.5, float("nan"), float("inf"), True, False, 2**63, 10**30, "1", None, [1], {},
    np.float64(1), np.bool_(True), torch.tensor(1.0), torch.tensor(True), torch.tensor([1, 2]), torch.tensor(-1),
]  # fmt: skip


@pytest.mark.parametrize("value", IMPOSSIBLE, ids=repr)
@pytest.mark.parametrize("key", ["consumed_samples", "epoch", "offset", "format"])
def test_impossible_numbers(key: str, value: Any) -> None:
    """Negative, fractional, huge and untrue numbers are refused, with the value and the range."""
    with pytest.raises(StateError, match=f"The saved '{key}' has an impossible value") as caught:
        parse({**GOOD, key: value})
    assert "expected: 'a whole number from 0 to 2**63 - 1'" in str(caught.value)
    assert f"got:      {value!r}" in str(caught.value)


@pytest.mark.parametrize("value", IMPOSSIBLE, ids=repr)
def test_impossible_bare_counts(value: Any) -> None:
    """A bare count is looked at as carefully."""
    with pytest.raises(StateError, match="The saved 'consumed_samples' has an impossible value"):
        parse({"consumed_samples": value})


@pytest.mark.parametrize("version", [0, 2, 99])
def test_other_formats(version: int) -> None:
    """A newer format is not guessed at."""
    with pytest.raises(StateError, match="a format that this version of resumable does not know") as caught:
        parse({**GOOD, "format": version})
    assert f"saved format: {version}\n  newest known: {FORMAT}\nUpdate resumable." in str(caught.value)


@pytest.mark.parametrize(
    ("consumed", "epoch", "offset"), [(10, 0, 9), (9, 0, 10), (10, 1, 10), (0, 1, 0), (3, 4, 0), (10**6, 1, 5)]
)
def test_numbers_that_contradict_each_other(consumed: int, epoch: int, offset: int) -> None:
    """Samples that cannot lie in so many epochs of this length are refused, all three numbers shown."""
    with pytest.raises(StateError, match="The saved numbers contradict each other") as caught:
        parse({**GOOD, "consumed_samples": consumed, "epoch": epoch, "offset": offset})
    rows = [("consumed_samples: ", consumed), ("epoch:            ", epoch), ("offset:           ", offset)]
    assert [f"  {name}{value}" for name, value in rows] == str(caught.value).splitlines()[1:4]


def test_an_offset_behind_the_end_of_its_own_order() -> None:
    """A place behind the end of the epoch that it was saved in is no place."""
    with pytest.raises(StateError, match="The saved offset lies behind the end of its epoch") as caught:
        parse({**GOOD, "consumed_samples": 65, "epoch": 0, "offset": 65})
    assert "offset: 65\n  length: 64" in str(caught.value)


LAST = GOOD["ledger"][-1]
DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "order is a list": ({"order": [1]}, "The saved 'order' is no mapping"),
    "order without a seed": ({"order": {"kind": "shuffled", "length": 64}}, "lacks 'seed'"),
    "order without a length": ({"order": {"kind": "shuffled", "seed": 1}}, "lacks 'length'"),
    "order of a nameless kind": ({"order": {**GOOD["order"], "kind": 7}}, "kind is no text"),
    "order with a float for a length": ({"order": {**GOOD["order"], "length": 64.0}}, "'length' has an impossible"),
    "order with a negative seed": ({"order": {**GOOD["order"], "seed": -1}}, "The saved seed is impossible"),
    "order with a huge seed": ({"order": {**GOOD["order"], "seed": 2**64}}, "The saved seed is impossible"),
    "order with a bool for a seed": ({"order": {**GOOD["order"], "seed": True}}, "The saved seed is impossible"),
    "commits is a number": ({"commits": 1}, "The saved 'commits' is no truth value"),
    "loaders is a dict": ({"loaders": {}}, "The saved 'loaders' is no list of mappings"),
    "loaders holds numbers": ({"loaders": [1]}, "The saved 'loaders' is no list of mappings"),
    "a place lacks its state": ({"loaders": [{"epoch": 0, "offset": 0, "order": None}]}, "lacks 'state'"),
    "ledger is nothing": ({"ledger": None}, "The saved 'ledger' is no list of mappings"),
    "a stretch lacks a key": ({"ledger": [{"step": 0}]}, "A stretch of the saved ledger has other keys"),
    "a stretch has one more": ({"ledger": [{**LAST, "more": 1}]}, "A stretch of the saved ledger has other keys"),
    "a stretch of no samples": ({"ledger": [{**LAST, "length": 0}]}, "A stretch of the saved ledger holds a size of 0"),
    "a batch of nothing": ({"ledger": [{**LAST, "micro_batch_size": 0}]}, "holds a size of 0"),
    "a step of nothing": ({"ledger": [{**LAST, "accumulation": 0}]}, "holds a size of 0"),
    "a negative step": ({"ledger": [{**LAST, "step": -1}]}, "The saved 'step' has an impossible value"),
    "a fractional limit": ({"ledger": [{**LAST, "limit": 1.5}]}, "The saved 'limit' has an impossible value"),
    "drop_last is text": ({"ledger": [{**LAST, "drop_last": "yes"}]}, "The saved 'drop_last' is no truth value"),
}
CONTRADICTORY: dict[str, list[dict[str, Any]]] = {
    "an epoch without a batch": [{**LAST, "length": 3, "drop_last": True, "offset": 0}],
    "a limit of nothing": [{**LAST, "limit": 0}],
    "an offset behind the end": [{**LAST, "offset": 65}],
    "a stretch that begins behind the position": [{**LAST, "sample": 121}],
    "samples that go backwards": [{**LAST, "sample": 50}, {**LAST, "sample": 40}],
    "steps that go backwards": [{**LAST, "step": 11}, {**LAST, "step": 10, "sample": 50}],
    "the same stretch twice": [LAST, LAST],
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_parts_are_named(damage: str) -> None:
    """Every part is looked at before anything is loaded, and errors survive pickling."""
    change, message = DAMAGED[damage]
    with pytest.raises(StateError, match=message) as caught:
        parse({**GOOD, **change})
    assert "the position is as it was" in str(caught.value)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


@pytest.mark.parametrize("what", CONTRADICTORY)
def test_ledgers_that_contradict_themselves(what: str) -> None:
    """A ledger that no run could have written is refused when it is read, not when it is first asked."""
    with pytest.raises(StateError, match="ledger"):
        parse({**GOOD, "ledger": CONTRADICTORY[what]})
