"""The saved form: read with care, refused with both values, and old files stay readable for ever."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable.errors import StateError
from resumable.orders.identity import Identity
from resumable.saved.ledger import STRETCH_FIELDS, Ledger, Stretch
from resumable.saved.schedule_format import UserSchedule, ledger_schedule
from resumable.saved.snapshot import FORMAT, KEYS, LoaderPosition, Snapshot, dump, parse
from resumable.steps.schedules import ConstantBatchSize, LinearRampup, StepSchedule
from resumable.steps.stages import DivisibleSchedule

FILES = Path(__file__).parents[1] / "golden"
GOLDEN: dict[int, dict[str, Any]] = {
    version: json.loads((FILES / f"state_format_{version}.json").read_text()) for version in (1, 2, 3)
}
GOOD: dict[str, Any] = GOLDEN[3]["two stretches"]
GOOD_2: dict[str, Any] = GOLDEN[2]["two stretches"]
MISSING = object()

counts = st.integers(0, 2**63 - 1)
identities = st.builds(Identity, st.text(max_size=8), st.integers(1, 2**60), st.none() | st.integers(0, 2**64 - 1))
sizes = st.integers(1, 2**70)
own = st.one_of(
    st.builds(ConstantBatchSize, st.integers(1, 2**40)),
    st.builds(LinearRampup, st.integers(1, 9), st.just(29), st.just(1), counts, divisor=st.integers(1, 29)),
    st.builds(StepSchedule, st.tuples(st.tuples(st.just(0), sizes), st.tuples(sizes, sizes))),
)
schedules = st.one_of(own, st.builds(DivisibleSchedule, own, st.integers(1, 9)), st.builds(UserSchedule, st.text()))
stretches = st.builds(
    Stretch,
    step=counts,
    epoch=counts,
    length=st.integers(50, 2**60),
    micro_batch_size=st.integers(1, 10),
    data_parallel_size=st.integers(1, 3),
    accumulation=st.integers(1, 2**20),
    num_workers=st.integers(0, 99),
    drop_last=st.booleans() | st.just("carry"),
    limit=st.none() | st.integers(1, 99),
    schedule=st.none() | schedules,
)


@st.composite
def saveds(draw: st.DrawFn) -> Snapshot:
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
    return Snapshot(
        consumed,
        epoch if where == "known" else None,
        offset if where == "known" else None,
        order,
        draw(st.booleans()),
        tuple(
            draw(
                st.lists(
                    st.builds(LoaderPosition, counts, st.just(0), st.none() | identities, st.just({"a": [1]})),
                    max_size=2,
                )
            )
        ),
        Ledger(() if last is None else (last,)),
        draw(st.none() | counts),
        draw(st.none() | st.text(max_size=32)),
    )


@pytest.mark.parametrize("name", GOLDEN[3])
def test_golden_files_are_read_for_ever(name: str) -> None:
    """What format 3 wrote is read, and written again to the letter: another form is another format."""
    assert 3 == FORMAT
    assert GOLDEN[3][name] == dump(parse(GOLDEN[3][name]))
    assert list(KEYS) == list(GOLDEN[3][name])


@pytest.mark.parametrize("name", GOLDEN[2])
def test_format_2_is_read_for_ever(name: str) -> None:
    """It says what format 3 says, with dicts in place of lists, and is written again as format 3."""
    assert parse(GOLDEN[3][name]) == parse(GOLDEN[2][name])
    assert GOLDEN[3][name] == dump(parse(GOLDEN[2][name]))
    assert set(GOLDEN[3][name]) == set(GOLDEN[2][name])


@pytest.mark.parametrize("name", GOLDEN[1])
def test_format_1_is_read_for_ever(name: str) -> None:
    """It says what format 2 says, but for what it could not say yet, and is written again as format 3."""
    assert parse(GOLDEN[2][name]) == parse(GOLDEN[1][name])
    assert GOLDEN[3][name] == dump(parse(GOLDEN[1][name]))
    assert {"global_step", "canary"} == set(GOLDEN[2][name]) - set(GOLDEN[1][name])


def has_dict(value: object) -> bool:
    """Whether *value* is a dict, or holds one."""
    return isinstance(value, dict) or (isinstance(value, list) and any(map(has_dict, cast("list[object]", value))))


@pytest.mark.parametrize("name", GOLDEN[3])
def test_below_the_top_there_are_lists_alone(name: str) -> None:
    """torch.distributed.checkpoint would take a dict apart into keys that another state does not have."""
    state = {**GOLDEN[3][name], "loaders": [loader[:-1] for loader in GOLDEN[3][name]["loaders"]]}
    assert not any(map(has_dict, state.values()))


def test_what_format_1_did_not_know_is_passed_over() -> None:
    """A key of format 2 in a state of format 1 is not ours."""
    state = {**GOLDEN[1]["two stretches"], "global_step": "a", "canary": 7}
    assert parse(GOLDEN[1]["two stretches"]) == parse(state)


def test_golden_values() -> None:
    """The keys mean what they meant."""
    first = Stretch(length=64, micro_batch_size=4)
    then = Stretch(
        step=10, sample=40, offset=40, length=64, micro_batch_size=2, data_parallel_size=4, accumulation=2,
        num_workers=2, drop_last=True, limit=7,
    )  # fmt: skip
    expected = Snapshot(120, 1, 56, Identity("shuffled", 64, 2**64 - 1), True, (), Ledger((first, then)))
    assert [expected] * 3 == [parse(GOLDEN[version]["two stretches"]) for version in GOLDEN]
    counted = parse(GOLDEN[3]["a trainer's count and a canary"])
    assert (26, "0f1e2d3c4b5a6978") == (counted.global_step, counted.canary)


def test_golden_schedules() -> None:
    """A schedule of ours comes back as it was, a user-defined one as its name."""
    expected = [
        ConstantBatchSize(8),
        LinearRampup(8, 32, 8, 96),
        LinearRampup(8, 32, 8, 96, divisor=8),
        StepSchedule(((0, 16), (200, 32))),
        DivisibleSchedule(StepSchedule(((0, 20), (200, 30))), 8),
        UserSchedule("MySchedule"),
    ]
    ledger = parse(GOLDEN[3]["schedules"]).ledger
    assert expected == [stretch.schedule for stretch in ledger]
    assert [False, False, True, "carry", "carry", "carry"] == [stretch.drop_last for stretch in ledger]


class Squares:
    """A user-defined schedule."""

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """One more with each step."""
        return next(n for n in range(1, 99) if n * (n + 1) // 2 > consumed_samples)

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """From the first sample on, the triangular numbers."""
        for _ in range(steps):
            consumed += self.batch_size_at(consumed)
        return consumed

    def steps_between(self, consumed: int, later: int, /) -> int:
        """Step by step."""
        steps = 0
        while consumed + self.batch_size_at(consumed) <= later:
            consumed, steps = self.samples_after(1, consumed), steps + 1
        return steps


def test_a_user_defined_schedule_is_saved_as_its_name() -> None:
    """It counts as long as its program runs; read from a file, only its name is left, which says so when asked."""
    stretch = Stretch(length=50, schedule=ledger_schedule(Squares()))
    state = {**GOOD, "ledger": [dump(Snapshot(ledger=Ledger((stretch,))))["ledger"][0]]}
    assert "Squares" == state["ledger"][0][-1]
    read = parse(json.loads(json.dumps(state))).ledger
    assert (stretch, 6) == (read.stretches[0], Ledger((stretch,)).consumed_samples_at(3))
    with pytest.raises(StateError, match="holds only the name") as caught:
        read.consumed_samples_at(3)
    assert "schedule: 'Squares'" in str(caught.value)
    rounded = ledger_schedule(DivisibleSchedule(cast("Any", Squares()), 4))
    assert UserSchedule("Squares rounded down to 4") == rounded


@settings(max_examples=30)
@given(saveds())
def test_reading_undoes_writing(saved: Snapshot) -> None:
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
    assert Snapshot(int(count), epoch=None, offset=None) == parse({"consumed_samples": count})
    assert int is type(parse({"consumed_samples": count}).consumed_samples)


def test_what_later_versions_add_is_passed_over() -> None:
    """An unknown key of the same format changes nothing."""
    assert parse(GOOD) == parse({**GOOD, "something": 1})


@pytest.mark.parametrize("state", [None, 7, "state", [1], [("consumed_samples", 1)], {1}, torch.zeros(1)])
def test_no_mapping(state: Any) -> None:
    """What is not a mapping is distinguished from an empty one."""
    with pytest.raises(StateError, match="A saved position must be a mapping") as caught:
        parse(state)
    assert f"got:      '{type(state).__name__}'" in str(caught.value)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key: str) -> None:
    """Half a state is no state."""
    with pytest.raises(StateError, match=f"The saved position lacks '{key}'.") as caught:
        parse({name: value for name, value in GOOD.items() if name != key})
    assert "Load another checkpoint" in str(caught.value)


@pytest.mark.parametrize("state", [{}, {"state_dict": {}}, {"Consumed_samples": 1}])
def test_a_state_of_another_object(state: dict[str, Any]) -> None:
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
    with pytest.raises(StateError) as caught:
        parse({**GOOD, key: value})
    assert str(caught.value).startswith(
        f"The saved {key!r} must be a whole number from 0 to 2**63 - 1.\n  got: {value!r}\n"
    )


@pytest.mark.parametrize("value", IMPOSSIBLE, ids=repr)
def test_impossible_bare_counts(value: Any) -> None:
    """A bare count is looked at as carefully."""
    with pytest.raises(StateError, match="The saved 'consumed_samples' must be a whole number"):
        parse({"consumed_samples": value})


@pytest.mark.parametrize("version", [0, 4, 99])
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
    """A position past the end of its epoch is refused."""
    with pytest.raises(StateError, match="The saved offset is past the end of its epoch") as caught:
        parse({**GOOD, "consumed_samples": 65, "epoch": 0, "offset": 65})
    assert "offset: 65\n  length: 64" in str(caught.value)


def last(**changes: Any) -> list[Any]:
    """The last stretch, with some values changed."""
    return list((dict(zip(STRETCH_FIELDS, GOOD["ledger"][-1], strict=True)) | changes).values())


def order(**changes: Any) -> dict[str, Any]:
    """The order, with some values changed."""
    return {"order": list((dict(zip(("kind", "length", "seed"), GOOD["order"], strict=True)) | changes).values())}


LAST = last()
DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "order is a dict": ({"order": GOOD_2["order"]}, "The saved 'order' must be a list of its values"),
    "order without a seed": ({"order": ["shuffled", 64]}, r"of its values, \[kind, length, seed\]\."),
    "order of a nameless kind": (order(kind=7), "kind must be a string"),
    "order with a float for a length": (order(length=64.0), "The saved 'length' must be a whole number"),
    "order with a negative seed": (order(seed=-1), "The saved 'seed' must be a whole number"),
    "order with a huge seed": (order(seed=2**64), "The saved 'seed' must be a whole number"),
    "order with a bool for a seed": (order(seed=True), "The saved 'seed' must be a whole number"),
    "commits is a number": ({"commits": 1}, "The saved 'commits' must be true or false"),
    "loaders is a dict": ({"loaders": {}}, "The saved 'loaders' must be a list"),
    "loaders holds numbers": ({"loaders": [1]}, r"The saved 'loaders\[0\]' must be a list of its values"),
    "a place lacks its state": ({"loaders": [[0, 0, None]]}, r"of its values, \[epoch, offset, order, state\]\."),
    "ledger is nothing": ({"ledger": None}, "The saved 'ledger' must be a list"),
    "a stretch lacks a value": ({"ledger": [[0]]}, r"The saved 'ledger\[0\]' must be a list of its values"),
    "a stretch has one more": ({"ledger": [[*LAST, 1]]}, r"The saved 'ledger\[0\]' must be a list of its values"),
    "a stretch of no samples": ({"ledger": [last(length=0)]}, "A stretch of the saved ledger holds a size of 0"),
    "a batch of nothing": ({"ledger": [last(micro_batch_size=0)]}, "holds a size of 0"),
    "a step of nothing": ({"ledger": [last(accumulation=0)]}, "holds a size of 0"),
    "a negative step": ({"ledger": [last(step=-1)]}, "The saved 'step' must be a whole number"),
    "a fractional limit": ({"ledger": [last(limit=1.5)]}, "The saved 'limit' must be a whole number"),
    "drop_last is text": ({"ledger": [last(drop_last="yes")]}, "The saved 'drop_last' must be true or false"),
    "a step that is none": ({"global_step": -1}, "The saved 'global_step' must be a whole number"),
    "a fractional step": ({"global_step": 1.5}, "The saved 'global_step' must be a whole number"),
    "a canary of numbers": ({"canary": 7}, "The saved 'canary' must be null, or a string"),
    "a canary too long": ({"canary": 33 * "a"}, "must be null, or a string of at most 32 characters."),
    "a schedule of numbers": ({"ledger": [last(schedule=7)]}, "The saved 'schedule' must be a mapping"),
}
LAST_2 = GOOD_2["ledger"][-1]
DAMAGED_2: dict[str, tuple[dict[str, Any], str]] = {
    "order is a list": ({"order": [1]}, "The saved 'order' must be a mapping"),
    "order without a seed": ({"order": {"kind": "shuffled", "length": 64}}, "lacks 'seed'"),
    "order without a length": ({"order": {"kind": "shuffled", "seed": 1}}, "lacks 'length'"),
    "loaders is a dict": ({"loaders": {}}, "The saved 'loaders' must be a list"),
    "loaders holds numbers": ({"loaders": [1]}, r"The saved 'loaders\[0\]' must be a mapping"),
    "a place lacks its state": ({"loaders": [{"epoch": 0, "offset": 0, "order": None}]}, "lacks 'state'"),
    "a stretch lacks a key": ({"ledger": [{"step": 0}]}, "A stretch of the saved ledger has other keys"),
    "a stretch has one more": ({"ledger": [{**LAST_2, "more": 1}]}, "A stretch of the saved ledger has other keys"),
    "a stretch is a list": ({"ledger": [LAST]}, r"The saved 'ledger\[0\]' must be a mapping"),
}
NO_SCHEDULES: list[Any] = [
    [],
    ["Unknown", 1],
    ["ConstantBatchSize"],
    ["ConstantBatchSize", 0],
    ["ConstantBatchSize", 1.5],
    ["ConstantBatchSize", [8]],
    ["RoundedDown", 8],
    ["RoundedDown", 0, ["ConstantBatchSize", 8]],
    ["RoundedDown", 8, []],
    ["RoundedDown", 8, ["RoundedDown", 8, ["ConstantBatchSize", 8]]],
    ["LinearRampup", 1, 2, 3],
    ["LinearRampup", 1, 3, 5, 7],
    ["StepSchedule", 1, 2],
    ["StepSchedule", [1, 2]],
    # of format 2
    {},
    {"rounded_to": 8},
    {"Unknown": [1]},
    {"ConstantBatchSize": 8},
    {"ConstantBatchSize": []},
    {"ConstantBatchSize": [0]},
    {"ConstantBatchSize": [8], "rounded_to": 0},
    {"ConstantBatchSize": [8], "StepSchedule": [[0, 1]]},
    {"StepSchedule": [[1, 2]]},
]
CONTRADICTORY: dict[str, list[list[Any]]] = {
    "an epoch without a batch": [last(length=3, drop_last=True, offset=0)],
    "a limit of nothing": [last(limit=0)],
    "an offset past the end": [last(offset=65)],
    "a stretch that begins after the position": [last(sample=121)],
    "samples that go backwards": [last(sample=50), last(sample=40)],
    "steps that go backwards": [last(step=11), last(step=10, sample=50)],
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


@pytest.mark.parametrize("damage", DAMAGED_2)
def test_damaged_parts_of_format_2_are_named(damage: str) -> None:
    """An older state is looked at as carefully."""
    change, message = DAMAGED_2[damage]
    with pytest.raises(StateError, match=message):
        parse({**GOOD_2, **change})


@pytest.mark.parametrize("schedule", NO_SCHEDULES, ids=repr)
def test_schedules_that_are_none(schedule: Any) -> None:
    """A schedule that nobody could have built is refused with what is wrong, before anything is counted by it."""
    with pytest.raises(StateError, match="This version of resumable does not know the saved schedule") as caught:
        parse({**GOOD, "ledger": [last(schedule=schedule)]})
    assert f"schedule: {schedule!r}\n  reason:   " in str(caught.value)


@pytest.mark.parametrize("what", CONTRADICTORY)
def test_ledgers_that_contradict_themselves(what: str) -> None:
    """A ledger that no run could have written is refused when it is read, not when it is first asked."""
    with pytest.raises(StateError, match="ledger"):
        parse({**GOOD, "ledger": CONTRADICTORY[what]})
