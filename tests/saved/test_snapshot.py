"""The saved form: read with care, refused with both values, and old files stay readable for ever."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable.errors import StateError
from resumable.orders.identity import Identity
from resumable.saved.ledger import Ledger, Stretch
from resumable.saved.schedule_format import UserSchedule, ledger_schedule
from resumable.saved.snapshot import FORMAT, KEYS, LoaderPosition, Snapshot, dump, parse
from resumable.steps.schedules import ConstantBatchSize, LinearRampup, StepSchedule
from resumable.steps.stages import DivisibleSchedule
from tests.support.snapshots import GOLDEN, GOOD
from tests.support.users_own import Squares

counts = st.integers(0, 2**63 - 1)
identities = st.builds(Identity, st.text(max_size=8), st.integers(1, 2**60), st.none() | st.integers(0, 2**64 - 1))
sizes = st.integers(29, 2**70)  # at least as large as each divisor
own = st.one_of(
    st.builds(ConstantBatchSize, st.integers(29, 2**40)),
    st.builds(LinearRampup, st.integers(29, 37), st.just(57), st.just(1), counts, divisor=st.integers(1, 29)),
    st.builds(StepSchedule, st.tuples(st.tuples(st.just(0), sizes), st.tuples(sizes, sizes))),
)
schedules = st.one_of(own, st.builds(DivisibleSchedule, own, st.integers(1, 9)), st.builds(UserSchedule, st.text()))
stretches = st.builds(
    Stretch,
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
        last = replace(last, length=max(50, 2**30 if order is None else order.length))
        if last.schedule is not None and last.drop_last is True:  # its steps may be larger than an epoch
            last = replace(last, drop_last=False)
        sample = draw(st.integers(0, min(consumed, last.length)))
        last = replace(last, step=draw(st.integers(0, sample)), sample=sample, offset=sample)
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


def test_golden_keys_mean_what_they_meant() -> None:
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


def test_a_user_defined_schedule_is_saved_as_its_name() -> None:
    """It counts as long as its program runs; read from a file, only its name is left, which says so when asked."""
    stretch = Stretch(length=64, schedule=ledger_schedule(Squares()))
    state = {**GOOD, "ledger": [dump(Snapshot(ledger=Ledger((stretch,))))["ledger"][0]]}
    assert "Squares" == state["ledger"][0][-1]
    read = parse(json.loads(json.dumps(state))).ledger
    assert (stretch, 12) == (read.stretches[0], Ledger((stretch,)).consumed_samples_at(3))
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
    """A mapping that is not a dict."""

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
