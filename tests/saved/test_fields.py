"""Saved states that are damaged, impossible, or another program's."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from resumable.errors import StateError
from resumable.saved.snapshot import FORMAT, KEYS, parse
from tests.support.snapshots import GOLDEN, GOOD, last, order

GOOD_2: dict[str, Any] = GOLDEN[2]["two stretches"]


@pytest.mark.parametrize("state", [None, 7, "state", [1], [("consumed_samples", 1)], {1}, torch.zeros(1)])
def test_what_is_no_mapping_is_refused(state: Any) -> None:
    """What is not a mapping is distinguished from an empty one."""
    with pytest.raises(StateError, match="A saved position must be a mapping") as caught:
        parse(state)
    assert f"got:      '{type(state).__name__}'" in str(caught.value)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key: str) -> None:
    """A state that lacks a key is refused."""
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
    b"1", 1e300, np.array([1, 2]), torch.empty((), dtype=torch.int64, device="meta"),
]  # fmt: skip


@pytest.mark.parametrize("value", IMPOSSIBLE, ids=repr)
@pytest.mark.parametrize("key", ["consumed_samples", "epoch", "offset", "format"])
def test_impossible_numbers_are_refused(key: str, value: Any) -> None:
    """Negative, fractional, huge and untrue numbers are refused, with the value and the range."""
    with pytest.raises(StateError) as caught:
        parse({**GOOD, key: value})
    assert str(caught.value).startswith(
        f"The saved {key!r} must be a whole number from 0 to 2**63 - 1.\n  got: {value!r}\n"
    )


def nested(levels: int) -> Any:
    """A list in a list in a list, and so on."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


HUGE = [nested(100_000), 10**5000, "x" * 10**6, [0] * 10**6, {10**5000: 1}]


@pytest.mark.parametrize("value", HUGE, ids=["nested", "digits", "text", "list", "keys"])
@pytest.mark.parametrize("key", KEYS)
def test_what_cannot_be_shown_is_refused_all_the_same(key: str, value: Any) -> None:
    """A value that repr cannot show, or only at great length, makes a message that can be read."""
    with pytest.raises(StateError) as caught:
        parse({**GOOD, key: value})
    assert len(str(caught.value)) < 20_000
    with pytest.raises(StateError):
        parse({**GOOD, "ledger": [last(schedule=value if value != "x" * 10**6 else 7)]})
    with pytest.raises(StateError, match="lacks 'consumed_samples'"):
        parse({10**5000: value, "offset": 1})


@pytest.mark.parametrize("value", IMPOSSIBLE, ids=repr)
def test_impossible_bare_counts_are_refused(value: Any) -> None:
    """A bare count is looked at as carefully."""
    with pytest.raises(StateError, match="The saved 'consumed_samples' must be a whole number"):
        parse({"consumed_samples": value})


@pytest.mark.parametrize("version", [0, 4, 99])
def test_other_formats_are_not_guessed_at(version: int) -> None:
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


def test_an_offset_past_the_end_of_its_own_order() -> None:
    """A position past the end of its epoch is refused."""
    with pytest.raises(StateError, match="The saved offset is past the end of its epoch") as caught:
        parse({**GOOD, "consumed_samples": 65, "epoch": 0, "offset": 65})
    assert "offset: 65\n  length: 64" in str(caught.value)


LAST = last()
DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "a loader past its end": ({"loaders": [[0, 65, ["shuffled", 64, 0], None]]}, "past the end of its epoch"),
    "drop_last is an array": ({"ledger": [last(drop_last=np.array(["carry", "carry"]))]}, "'drop_last' must be true"),
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
    "a stretch has one more": (
        {"ledger": [[*LAST, 1, None, 1]]},
        r"The saved 'ledger\[0\]' must be a list of its values",
    ),
    "an order that is none": ({"ledger": [[*LAST, None, 1]]}, "The saved 'order' must be a list of its values"),
    "a seed of random numbers that is none": ({"ledger": [[*LAST, -1]]}, "The saved 'reseed' must be a whole number"),
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
    ["ConstantBatchSize", 10**400],
    ["StepSchedule", [0, 1], [1, [[[[2]]]]]],
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
FIRST = GOOD["ledger"][0]
CONTRADICTORY: dict[str, list[list[Any]]] = {
    "an epoch without a batch": [last(length=3, drop_last=True, offset=0)],
    "a limit of nothing": [last(limit=0)],
    "an offset past the end": [last(offset=65)],
    "a stretch that begins after the position": [last(sample=121)],
    "samples that go backwards": [last(sample=50), last(sample=40)],
    "steps that go backwards": [last(step=11), last(step=10, sample=50)],
    "the same stretch twice": [LAST, LAST],
    "more steps than samples": [FIRST, last(step=41)],
    "more steps than batches": [FIRST, last(step=12)],
    "fewer steps than batches": [FIRST, last(step=9)],
    "an epoch far ahead": [FIRST, last(epoch=2**31)],
    "an epoch after the position's": [FIRST, last(epoch=2)],
    "an epoch before the one before it": [last(sample=90, epoch=1, offset=26), last(sample=100)],
    "another offset than the samples lead to": [FIRST, last(offset=41)],
    "the first sample in the second epoch": [last(step=0, sample=0, epoch=1, offset=0)],
    "a step before the first sample": [last(step=1, sample=0, offset=0)],
    "epochs too short for the position": [last(step=0, sample=0, offset=0, length=50)],
    "an offset after the position's": [FIRST, last(step=25, sample=100, epoch=1, offset=60)],
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
    """An impossible schedule is refused, with the reason, before it counts anything."""
    with pytest.raises(StateError, match="This version of resumable does not know the saved schedule") as caught:
        parse({**GOOD, "ledger": [last(schedule=schedule)]})
    assert f"schedule: {schedule!r}\n  reason:   " in str(caught.value)


@pytest.mark.parametrize("what", CONTRADICTORY)
def test_ledgers_that_contradict_themselves(what: str) -> None:
    """A ledger that no run could have written is refused when it is read, not when it is first asked."""
    with pytest.raises(StateError, match="ledger"):
        parse({**GOOD, "ledger": CONTRADICTORY[what]})
