"""Loops with a schedule: each step takes what it says, on any number of ranks."""

from __future__ import annotations

import copy
import json
import operator
import pickle
from itertools import islice
from typing import Any

import pytest

from resumable import ConfigurationError, ConstantBatchSize, LinearRampup, Position, ResumptionError
from resumable.steps.batch_plan import DropLast
from tests.support.reference import Loader
from tests.support.sharded import TAILS, flat, ramped, steps_of, taken
from tests.support.users_own import Squares

SIZES = {
    False: [4, 4, 4, 4, 6, 8, 12, 2, 12, 10],
    True: [4, 4, 4, 4, 8, 8, 12],
    "carry": [4, 4, 4, 4, 8, 8, 12, 12, 12],
}


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("tail", TAILS)
def test_the_steps_of_a_ramp_up(tail: DropLast, commits: bool) -> None:
    """Each step takes exactly the scheduled samples; an epoch's last one is short, left out, or reaches on."""
    steps = list(steps_of(ramped(tail=tail), 3, commits=commits))
    assert SIZES[tail] == [sum(map(len, step)) for step in steps]


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("tail", TAILS)
def test_every_cut_of_a_ramp_up(tail: DropLast, commits: bool) -> None:
    """Saved behind any step, inside the ramp, at its boundaries and behind it, the rest is the uninterrupted run's."""
    expected = list(steps_of(ramped(tail=tail), 3))
    for cut in range(len(expected) + 1):
        loader = ramped(tail=tail)
        state = loader.state_dict()
        for _ in islice(steps_of(loader, 3, commits=commits), cut):
            state = loader.state_dict()
        again = ramped(tail=tail)
        again.load_state_dict(json.loads(json.dumps(state)))
        assert ("exact", expected[cut:]) == (again.state.verdict.outcome, list(steps_of(again, 3)))


def test_steps_taken_one_by_one() -> None:
    """`islice` of so many micro batches, with a new iterator for each step, is the same run."""
    loader, steps = ramped(), list[list[list[int]]]()
    while loader.epoch < 3:
        steps.append([batch.tolist() for batch in islice(loader, loader.num_microbatches)])
        loader.state.commit()
    assert list(steps_of(ramped(), 3)) == steps


def test_a_state_saved_inside_a_step_goes_back_to_its_first_sample() -> None:
    """A state that is saved there goes back to the step's first sample, and so does a loop that is left there."""
    for commits in (False, True):
        loader = ramped()
        if commits:
            loader.state.commit()
        offsets = [loader.state.position.offset, *(loader.state.position.offset for _ in islice(loader, 5))]
        assert ([0, 0, 0, 0, 0, 0] if commits else [0, 0, 4, 4, 8, 8]) == offsets
        assert [0, 1] if commits else [8, 9] == next(iter(loader)).tolist()


@pytest.mark.parametrize("commits", [True, False])
def test_behind_the_last_step_of_a_loop(commits: bool) -> None:
    """Where nobody iterates any more, the next step is told: of the rest of the epoch, or of the next."""
    loader, found = ramped(), list[int]()
    for batches in (8, 3, 10, 1, 11):
        found.append(loader.num_microbatches)
        taken(loader, batches)
        if commits:
            loader.state.commit()
        loader.state_dict()  # and the single batch was no look
    assert [2, 3, 4, 1, 6] == found


def test_a_commit_in_the_middle_of_a_step() -> None:
    """It would say that a part of a global batch was trained: refused with how many are yielded and how many belong."""
    loader = ramped(schedule=ConstantBatchSize(6))
    stream = iter(loader)
    next(stream)
    with pytest.raises(ResumptionError, match=r"commit\(\) came in the middle of an optimizer step") as caught:
        loader.state.commit()
    assert "micro batches of the step: 3\n  yielded of them:           1\nAccumulate loader.num_m" in str(caught.value)
    assert Position() == loader.state.position
    next(stream)
    next(stream)
    loader.state.commit()
    assert Position(6, 0, 6) == loader.state.position


def test_a_step_that_fails() -> None:
    """Its micro batches come again, in the same process and in the next, and nothing else does."""
    expected = list(steps_of(ramped(), 3))
    loader, micro = ramped(), list[list[int]]()
    loader.state.commit()
    for batch in loader:
        micro.append(batch.tolist())
        if micro[-1] == expected[2][-1]:
            break
        if len(micro) % 2 == 0:
            loader.state.commit()
    again = ramped()
    again.load_state_dict(loader.state_dict())
    assert expected[2:] == list(steps_of(again, 3)) == list(steps_of(loader, 3))


def test_peeking_at_a_step() -> None:
    """A look at the first micro batch moves nothing, and says how many belong to it."""
    loader = ramped()
    assert [0, 1] == next(iter(loader)).tolist()
    assert (2, Position(), 0) == (loader.num_microbatches, loader.state.position, loader.epoch)
    assert list(steps_of(ramped(), 3)) == list(steps_of(loader, 3))


@pytest.mark.parametrize("micro", [1, 2, 4])
@pytest.mark.parametrize("ranks", [1, 2])
def test_another_micro_batch_in_a_ramp_up(micro: int, ranks: int) -> None:
    """The steps stay what they were, at every cut; only their micro batches are others, which the verdict says."""
    schedule = LinearRampup(start=8, end=24, increment=8, rampup_samples=60)
    expected = [sorted(flat(step)) for step in steps_of(ramped(50, schedule=schedule), 3)]
    for cut in range(len(expected)):
        loader = ramped(50, schedule=schedule)
        for _ in islice(steps_of(loader, 3), cut):
            pass
        state, shares = loader.state_dict(), list[list[list[int]]]()
        for rank in range(ranks):
            again = Loader(
                range(50), batch_size=micro, schedule=schedule, data_parallel_rank=rank, data_parallel_size=ranks
            )
            again.load_state_dict(state)
            shares.append([flat(step) for step in steps_of(again, 3)])
            is_same = (micro, ranks) == (2, 1) or not cut
            assert ("exact" if is_same else "regrouped") == again.state.verdict.outcome
        assert expected[cut:] == [sorted(flat(step)) for step in zip(*shares, strict=True)]


def test_the_length_of_an_epoch() -> None:
    """`len` is that of the present epoch, in its middle too, whatever an epoch before has taken of it."""
    for tail in TAILS:
        loader = ramped(tail=tail)
        for epoch in range(3):
            expected = [len(loader)]
            passed = 0
            for _ in loader:
                passed += 1
                expected.append(len(loader))
                again = ramped(tail=tail)
                again.load_state_dict(loader.state_dict())
                if again.epoch == epoch:
                    expected.append(len(again))
            assert [passed] * len(expected) == expected


def test_a_copy_stands_where_its_original_stood() -> None:
    """Inside of a step too, and with a schedule of somebody else's."""
    for schedule in (ConstantBatchSize(6), Squares()):
        loader = ramped(schedule=schedule)
        for _ in islice(loader, 2):
            pass
        for twin in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
            assert loader.state_dict() == twin.state_dict()
            assert list(steps_of(copy.deepcopy(loader), 2)) == list(steps_of(twin, 2))


def test_a_schedule_of_ones_own() -> None:
    """It is followed, resumed and counted as ours are; a saved state names its class."""
    expected = list(steps_of(ramped(schedule=Squares()), 3))
    assert [2, 4, 6, 8, 2, 10, 12, 14, 8] == [sum(map(len, step)) for step in expected]
    for cut in range(len(expected)):
        loader = ramped(schedule=Squares())
        for _ in islice(steps_of(loader, 3), cut):
            pass
        state = json.loads(json.dumps(loader.state_dict()))
        again = ramped(schedule=Squares())
        again.load_state_dict(state)
        assert ("exact", expected[cut:]) == (again.state.verdict.outcome, list(steps_of(again, 3)))
        assert not cut or state["ledger"][0][-1] == "Squares"
        assert len(expected) == again.state.ledger.global_step_at(66)


class Odd(Squares):
    """A schedule whose third step does not fall into micro batches of two."""

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """2, 4, 7, ..."""
        return super().batch_size_at(consumed_samples) + (consumed_samples == 6)


def test_a_size_of_ones_own_is_refused_when_it_is_met() -> None:
    """Nobody knows its stages, so the steps before are trained, and none of the bad one's samples is."""
    loader = ramped(schedule=Odd())
    steps = steps_of(loader, 3)
    assert [[[0, 1]], [[2, 3], [4, 5]]] == taken(steps, 2)
    with pytest.raises(ConfigurationError, match="global batch size:     7\n  from consumed_samples: 6\n"):
        next(steps)
    assert Position(6, 0, 6) == loader.state.position


class Muddled(Squares):
    """A schedule whose closed form is wrong."""

    def __init__(self, by: int) -> None:
        self.by = by

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """Wrong by a few."""
        return super().samples_after(steps, consumed) + self.by


@pytest.mark.parametrize("by", [-2, 2])
def test_a_schedule_that_contradicts_itself(by: int) -> None:
    """Batches that are counted otherwise than they come would end in a wrong place: both counts are told."""
    with pytest.raises(ConfigurationError, match="The schedule contradicts itself") as caught:
        list(steps_of(ramped(schedule=Muddled(by), tail=True), 3))
    assert f"micro batches by steps_between and samples_after:       {10 + by // 2}\n" in str(caught.value)
    assert "micro batches of the steps that came, by batch_size_at: 10\n" in str(caught.value)


def test_small_batches_behind_a_run_that_came_to_more_ranks() -> None:
    """A loader for many ranks is built before its state is loaded: its early steps are refused when they are met."""
    schedule = LinearRampup(start=4, end=16, increment=4, rampup_samples=30)

    def wide() -> Any:
        return Loader(range(100), batch_size=4, schedule=schedule, data_parallel_rank=3, data_parallel_size=4)

    narrow = Loader(range(100), batch_size=4, schedule=schedule)
    states = [narrow.state_dict(), *(narrow.state_dict() for _ in islice(steps_of(narrow, 1), 8))]
    for early in (iter, operator.attrgetter("num_microbatches")):
        with pytest.raises(ConfigurationError, match="global batch size:     4\n  from consumed_samples: 0\n"):
            early(wide())
    fresh, again = wide(), wide()
    before = again.state_dict()
    with pytest.raises(ConfigurationError, match="global batch size:     8\n  from consumed_samples: 12\n"):
        again.load_state_dict(states[3])
    assert (before, 0) == (again.state_dict(), fresh.state.consumed_samples)
    again.load_state_dict(states[-1])
    at = states[-1]["offset"]
    assert list(range(at + 12, at + 16)) == next(iter(again)).tolist()
    again.load_state_dict(states[0])
    with pytest.raises(ConfigurationError, match="from consumed_samples: 0\n"):
        iter(again)


@pytest.mark.parametrize("ranks", [1, 3])
def test_steps_are_rounded_down_to_whole_rounds(ranks: int) -> None:
    """Each step takes the largest whole number of rounds that the schedule allows, and that is what is consumed."""
    schedule = LinearRampup(start=8, end=23, increment=5, rampup_samples=60)
    options: dict[str, Any] = {"batch_size": 2, "data_parallel_rank": 0, "decrease_batch_size_if_needed": True}
    loader = Loader(range(99), schedule=schedule, data_parallel_size=ranks, **options)
    unit, at, expected = 2 * ranks, 0, list[int]()
    while at + schedule.batch_size_at(at) < 99:
        size = schedule.batch_size_at(at)
        expected.append(size // unit)
        at += size - size % unit
    found = [len(step) for step in steps_of(loader, 1)]
    assert expected == found[: len(expected)]
    assert ["LinearRampup", 8, 23, 5, 60, unit] == loader.state_dict()["ledger"][0][-1]
    other = Loader(range(99), schedule=ConstantBatchSize(7), data_parallel_size=3, **options)
    taken(steps_of(other, 1), 2)
    assert ["RoundedDown", 6, ["ConstantBatchSize", 7]] == other.state_dict()["ledger"][0][-1]
    assert 12 == other.state.consumed_samples


def test_another_schedule_is_told_and_gone_on_with() -> None:
    """The same samples in other steps: the verdict names both schedules, and the ledger keeps them apart."""
    loader = ramped()
    for _ in islice(steps_of(loader, 3), 5):
        pass
    again = ramped(schedule=ConstantBatchSize(6))
    again.load_state_dict(loader.state_dict())
    assert "regrouped" == again.state.verdict.outcome
    assert [
        "Another schedule of batch sizes.",
        "  saved:   LinearRampup(start=4, end=12, increment=4, rampup_samples=30, divisor=1)",
        "  current: ConstantBatchSize(batch_size=6)",
        "  The samples and their order stay the same.",
    ] == str(again.state.verdict).splitlines()[1:]
    assert [6, 6, 6, 4] == [sum(map(len, step)) for step in steps_of(again, 2)]
    assert [0, 4, 8, 12, 16, 22, 28, 34] == [again.state.ledger.consumed_samples_at(step) for step in range(8)]
    assert again.state_dict() == again.state_dict()
    state = again.state_dict()
    state["ledger"][0][-1].clear()
    assert ["LinearRampup", 4, 12, 4, 30] == again.state_dict()["ledger"][0][-1]


def test_a_run_with_a_schedule_fits_in_512_bytes() -> None:
    """The saved JSON of a billion samples on 4096 ranks in a ramp-up is small."""
    n, schedule = 10**9, LinearRampup(start=4096, end=40_960, increment=4096, rampup_samples=10**8)
    loader = Loader(
        range(n), 4, shuffle=True, seed=1234, schedule=schedule, data_parallel_rank=0, data_parallel_size=1024
    )
    taken(steps_of(loader, 1), 2)
    state = loader.state_dict() | {"consumed_samples": 3 * n + n // 2, "epoch": 3, "offset": n // 2, "canary": None}
    loader.load_state_dict(state)
    assert state == {**loader.state_dict(), "canary": None}
    assert len(json.dumps(loader.state_dict())) <= 512
