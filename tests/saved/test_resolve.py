"""Verdicts: what differs between saved and current, and what the policies make of it."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from typing import Any, cast

import pytest

from resumable.errors import ConfigurationError, MismatchError, ResumptionWarning
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.saved.ledger import Ledger, Stretch
from resumable.saved.resolve import Policy, compare, resolve
from resumable.saved.schedule_format import LedgerSchedule, UserSchedule
from resumable.saved.snapshot import Snapshot
from resumable.steps.schedules import ConstantBatchSize, LinearRampup
from resumable.verdict import Difference, OnMismatch, Verdict

ONE = Identity("shuffled", 100, 1)
STRETCH = Stretch(length=100, micro_batch_size=10)
OTHERS = {
    "kind": (Identity("sequential", 100), "The order is of another kind.", "'sequential'", "'shuffled'", "shuffle="),
    "length": (
        Identity("shuffled", 90, 1),
        "The dataset has another length.",
        "90",
        "100",
        "the dataset that it began",
    ),
    "seed": (Identity("shuffled", 100, 7), "The order has another seed.", "7", "1", "Pass seed=7"),
}


def going_on(saved: Snapshot, *, seed_is_given: bool = True, on_mismatch: OnMismatch = "error") -> Any:
    """*saved* resolved in the order of `ONE`."""
    return resolve(saved, ONE, STRETCH, Policy(seed_is_given, on_mismatch))


def test_nothing_differs() -> None:
    """The same identity is exact."""
    assert Verdict("exact") == compare(ONE, ONE, offset=50)
    assert "exact" == str(compare(ONE, ONE, offset=50))


@pytest.mark.parametrize("what", OTHERS)
def test_each_difference_is_named_with_both_values_and_advice(what: str) -> None:
    """A verdict says what differs, both values, and what to do."""
    saved, headline, then, now, advice = OTHERS[what]
    verdict = compare(saved, ONE, offset=50)
    assert ("inexact", False) == (verdict.outcome, verdict.is_exact)
    assert [headline, f"  saved:   {then}", f"  current: {now}"] == str(verdict).splitlines()[1:4]
    assert advice in str(verdict)


def test_all_differences_are_named_at_once() -> None:
    """A user who has to change three things learns of three."""
    regrouped = (Difference("Another micro batch size.", 4, 8, "The samples stay."),)
    verdict = compare(Identity("shuffled", 90, 2), ONE, offset=0, regrouped=regrouped)
    assert ["The dataset has another length.", "The order has another seed.", "Another micro batch size."] == [
        difference.what for difference in verdict.differences
    ]


@pytest.mark.parametrize(("offset", "outcome"), [(90, "inexact"), (100, "inexact"), (101, "refused")])
def test_an_offset_behind_the_end_is_refused(offset: int, outcome: str) -> None:
    """Within the current dataset there is a position to go on from; past its end there is none."""
    assert outcome == compare(Identity("shuffled", 200, 1), ONE, offset=offset).outcome


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("on_mismatch", ["error", "warn", "adopt"])
def test_each_policy_refuses_warns_or_adopts(what: str, on_mismatch: OnMismatch) -> None:
    """Refuse by "error", keep the present order by "warn", take the saved one by "adopt"; none is silent where inexact."""
    saved = OTHERS[what][0]
    state = Snapshot(50, 0, 50, order=saved)
    if on_mismatch == "error":
        with pytest.raises(MismatchError, match="This state cannot go on exactly: not exact") as caught:
            going_on(state)
        assert 'pass on_mismatch="warn", or "adopt"' in str(caught.value)
        assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))
    elif on_mismatch == "adopt" and what != "length":
        assert (saved, Verdict()) == (going_on(state, on_mismatch="adopt").order, Verdict())
        assert "exact" == going_on(state, on_mismatch="adopt").verdict.outcome
    else:
        with pytest.warns(ResumptionWarning, match="The run goes on, but this resume is not exact"):
            found = going_on(state, on_mismatch=on_mismatch)
        assert (ONE, Position(50, 0, 50), "inexact") == (found.order, found.position, found.verdict.outcome)


@pytest.mark.parametrize("on_mismatch", ["error", "warn", "adopt"])
def test_no_policy_invents_a_place(on_mismatch: OnMismatch) -> None:
    """Behind the end of the dataset, every policy refuses."""
    state = Snapshot(150, 0, 150, order=Identity("shuffled", 200, 1))
    with pytest.raises(MismatchError, match="Nothing is left to go on") as caught:
        going_on(state, on_mismatch=on_mismatch)
    assert str(caught.value).endswith("Nothing was loaded.")


def test_a_saved_seed_is_taken_over_unless_another_was_given() -> None:
    """A seed that the user did not choose does not stop a resume."""
    state = Snapshot(50, 0, 50, order=Identity("shuffled", 100, 7))
    found = going_on(state, seed_is_given=False)
    assert (Identity("shuffled", 100, 7), "exact") == (found.order, found.verdict.outcome)
    with pytest.raises(MismatchError, match=re.escape("The order has another seed.\n  saved:   7\n  current: 1")):
        going_on(state)


def test_another_grouping_is_exact_in_its_samples_and_is_told() -> None:
    """Batch size, ranks and accumulation change how the samples are grouped, and workers not even that."""
    then = Stretch(length=100, micro_batch_size=5, data_parallel_size=2, accumulation=3, num_workers=4)
    found = going_on(Snapshot(50, 0, 50, order=ONE, ledger=Ledger((then,))))
    assert ("regrouped", True) == (found.verdict.outcome, found.verdict.is_exact)
    assert [
        ("Another micro batch size.", 5, 10),
        ("Another number of data-parallel ranks.", 2, 1),
        ("Another number of accumulated batches.", 3, 1),
    ] == [(d.what, d.saved, d.current) for d in found.verdict.differences]
    assert "the same samples in another grouping" in str(found.verdict)
    other_workers = Stretch(length=100, micro_batch_size=10, num_workers=4)
    assert "exact" == going_on(Snapshot(50, 0, 50, order=ONE, ledger=Ledger((other_workers,)))).verdict.outcome


OTHER_SCHEDULES: dict[str, tuple[Any, Any, str, str]] = {
    "another ramp-up": (
        LinearRampup(10, 50, 10, 90),
        LinearRampup(10, 50, 20, 90),
        "LinearRampup(start=10, end=50, increment=10, rampup_samples=90, divisor=1)",
        "LinearRampup(start=10, end=50, increment=20, rampup_samples=90, divisor=1)",
    ),
    "a first one": (None, ConstantBatchSize(20), "None", "ConstantBatchSize(batch_size=20)"),
    "none any more": (ConstantBatchSize(20), None, "ConstantBatchSize(batch_size=20)", "None"),
    "a user's": (
        UserSchedule("Mine"),
        ConstantBatchSize(20),
        "UserSchedule(name='Mine')",
        "ConstantBatchSize(batch_size=20)",
    ),
}


@pytest.mark.parametrize("what", OTHER_SCHEDULES)
def test_another_schedule_is_told_with_both_values(what: str) -> None:
    """The samples are the same, the steps that they make are others."""
    then, now, saved, current = OTHER_SCHEDULES[what]
    state = Snapshot(50, 0, 50, order=ONE, ledger=Ledger((replace(STRETCH, schedule=then),)))
    found = resolve(state, ONE, replace(STRETCH, schedule=now), Policy(seed_is_given=True))
    assert ("regrouped", True) == (found.verdict.outcome, found.verdict.is_exact)
    assert [
        "the same samples in another grouping",
        "Another schedule of batch sizes.",
        f"  saved:   {saved}",
        f"  current: {current}",
    ] == str(found.verdict).splitlines()[:4]
    assert ("steps" in str(found.verdict).splitlines()[4]) == (what == "a user's")


def test_the_same_schedule_is_exact() -> None:
    """One of ours by its numbers, a user-defined one by its name."""
    same: list[tuple[LedgerSchedule, LedgerSchedule]] = [
        (LinearRampup(10, 50, 10, 90), LinearRampup(10, 50, 10, 90)),
        (UserSchedule("Mine"), UserSchedule("Mine", ConstantBatchSize(10))),
    ]
    for then, now in same:
        state = Snapshot(50, 0, 50, order=ONE, ledger=Ledger((replace(STRETCH, schedule=then),)))
        found = resolve(state, ONE, replace(STRETCH, schedule=now), Policy(seed_is_given=True))
        assert (Verdict(), Position(50, 0, 50)) == (found.verdict, found.position)


def test_another_tail_is_told() -> None:
    """What an epoch's end trains depends on it, and the order does not."""
    state = Snapshot(50, 0, 50, order=ONE, ledger=Ledger((replace(STRETCH, drop_last=True),)))
    found = resolve(state, ONE, replace(STRETCH, drop_last="carry"), Policy(seed_is_given=True))
    assert "regrouped" == found.verdict.outcome
    assert "Another rule for the end of an epoch.\n  saved:   True\n  current: 'carry'\n" in str(found.verdict)


TAIL_TOLD = "  The order stays the same; the tail that drop_last=True leaves out of an epoch may not."


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        ({"micro_batch_size": 6}, {}, True),
        ({"micro_batch_size": 5, "data_parallel_size": 3}, {}, True),
        ({"micro_batch_size": 5}, {}, False),  # both divide the length
        ({"micro_batch_size": 6}, {"drop_last": False}, False),
        ({"schedule": ConstantBatchSize(30)}, {}, True),
    ],
)
def test_other_batches_leave_out_another_tail(then: Any, now: Any, told: bool) -> None:
    """With drop_last=True the batch size says which samples of an epoch are trained, so the verdict does not deny it."""
    saved, current = (replace(STRETCH, **{"drop_last": True, "schedule": None, **one}) for one in (then, now))
    saved = replace(saved, drop_last=current.drop_last)
    state = Snapshot(50, 0, 50, order=ONE, ledger=Ledger((saved,)))
    found = resolve(state, ONE, current, Policy(seed_is_given=True))
    assert "regrouped" == found.verdict.outcome
    assert told == (TAIL_TOLD in str(found.verdict).splitlines())
    assert told != ("  The samples and their order stay the same." in str(found.verdict).splitlines())


def test_a_bare_count_gets_its_place_from_the_length() -> None:
    """Epoch and offset follow from the samples where nothing else is known."""
    assert Position(230, 2, 30) == going_on(Snapshot(230, None, None)).position


def test_an_unknown_policy_is_refused() -> None:
    """A misspelt policy is said at once, with the ones that exist."""
    with pytest.raises(ConfigurationError, match=r"on_mismatch: 'ignore'\nPass 'error', 'warn' or 'adopt'\."):
        Policy(on_mismatch=cast("OnMismatch", "ignore"))
