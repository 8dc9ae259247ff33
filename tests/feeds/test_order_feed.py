"""Many ranks, schedules and epoch tails: drawn chains of sessions against a run that is walked sample by sample."""

from __future__ import annotations

import copy
import json
import operator
import pickle
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from resumable import (
    ConfigurationError,
    ConstantBatchSize,
    LinearRampup,
    Position,
    ResumptionError,
    StepSchedule,
)
from resumable.orders.orders import Shuffled
from resumable.steps.batch_plan import DropLast
from tests.support.reference import (
    Loader,
    LoaderPosition,
    Setup,
    WalkedStep,
    batches_of,
    order_of,
    run_of,
    settled,
    whole,
)

FOR_EVER = 10**9
TAILS: list[DropLast] = [False, True, "carry"]
WITH_WORKERS: dict[str, Any] = {"num_workers": 2, "prefetch_factor": 3}


def loaders_of(setup: Setup, state: dict[str, Any] | None = None, **options: Any) -> list[Any]:
    """One loader for each rank, as the processes of a session build them; the seed is known to the first alone."""
    seed: dict[str, Any] = {"seed": 7} if state is None else {}
    loaders: list[Any] = []
    for rank in range(setup.ranks):
        loader = Loader(
            range(setup.length), setup.micro, shuffle=True, schedule=StepSchedule(setup.sizes) if setup.sizes else None,
            data_parallel_rank=rank, data_parallel_size=setup.ranks, drop_last=setup.drop_last, **seed, **options,
        )  # fmt: skip
        if state is not None:
            loader.load_state_dict(json.loads(json.dumps(state)))
        loaders.append(loader)
    return loaders


def endless(loader: Any) -> Iterator[list[int]]:
    """Epoch after epoch, as a user's two loops take them."""
    return batches_of(loader, FOR_EVER)


def indices_of(step: WalkedStep, length: int) -> list[list[list[int]]]:
    """What the walk's step trains: in each round, each rank's indices."""
    order = Shuffled(length, seed=7)
    return [
        [[int(order.indices(epoch, place, place + 1)[0]) for epoch, place in share] for share in ranks]
        for ranks in step.rounds
    ]


def place_of(loader: Any) -> LoaderPosition:
    """Where a saved state would go on."""
    at = loader.state.position
    return at.consumed_samples, at.epoch, at.offset


def state_of(loaders: list[Any]) -> dict[str, Any]:
    """The one state that all ranks save."""
    states: list[dict[str, Any]] = [loader.state_dict() for loader in loaders]
    assert states == [states[0]] * len(states)
    return states[0]


@dataclass(frozen=True)
class Session:
    """One run of the program: steps that are saved, and then micro batches that die with it."""

    setup: Setup
    steps: int
    lost: int
    commits: bool


@st.composite
def setups(draw: st.DrawFn, length: int) -> Setup:
    """A spread over ranks, a schedule or none, and a tail, in which an epoch has a step."""
    micro, ranks = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2, 3, 4]))
    tail, unit = draw(st.sampled_from(TAILS)), micro * ranks
    assume(tail is not True or unit <= length)
    times = st.integers(1, length // unit if tail is True else 5)
    thresholds = [0, *sorted(draw(st.sets(st.integers(1, 150), max_size=3)))] if draw(st.booleans()) else []
    return Setup(length, micro, ranks, tuple((threshold, draw(times) * unit) for threshold in thresholds), tail)


@st.composite
def runs(draw: st.DrawFn) -> list[Session]:
    """A run whose spread, schedule and tail change with each session."""
    length = draw(st.sampled_from([1, 2, 5, 12]) | st.integers(1, 40))
    sessions = st.builds(Session, setups(length), st.integers(0, 9), st.integers(0, 4), st.booleans())
    return draw(st.lists(sessions, min_size=1, max_size=5))


def trained(loaders: list[Any], walk: Iterator[WalkedStep], steps: int, *, commits: bool) -> LoaderPosition:
    """Train so many steps on all ranks at once, and compare each with the walk; where the last one ends."""
    streams = [endless(loader) for loader in loaders]
    ends = place_of(loaders[0])
    for _ in range(steps):
        step = next(walk)
        expected = indices_of(step, len(loaders[0].dataset))
        if commits:
            assert [len(expected)] * len(loaders) == [loader.num_microbatches for loader in loaders]
        for number, shares in enumerate(expected, start=1):
            assert shares == [next(stream) for stream in streams]
            assert [len(expected)] * len(loaders) == [loader.num_microbatches for loader in loaders]
            is_done = number == len(expected) and not commits
            assert (step.ends if is_done else step.begins) == place_of(loaders[0])
        if commits:
            for loader in loaders:
                loader.state.commit()
        ends = step.ends
        assert ends == place_of(loaders[0])
        state_of(loaders)
    return ends


@settings(max_examples=150)
@given(runs())
def test_chains_of_sessions_on_any_number_of_ranks(run: list[Session]) -> None:
    """Each rank of each session trains what the walk says, step by step, and all ranks save one state."""
    state: dict[str, Any] | None = None
    place: LoaderPosition = (0, 0, 0)
    for session in run:
        setup = session.setup
        loaders = loaders_of(setup, state)
        place = settled(setup, place)
        assert place == place_of(loaders[0])
        if session.commits:
            for loader in loaders:
                loader.state.commit()
        commits = session.commits or bool(state and state["commits"])
        walk = run_of(setup, place)
        place = trained(loaders, walk, session.steps, commits=commits)
        state = state_of(loaders)
        assert place == (state["consumed_samples"], state["epoch"], state["offset"])
        for stream in [endless(loader) for loader in loaders]:
            next(islice(stream, session.lost, None))


def taken(batches: Iterable[Any], number: int) -> list[Any]:
    """So many of them."""
    return list(islice(batches, number))


@settings(max_examples=60)
@given(st.integers(1, 40), st.data())
def test_the_ledger_through_changes_of_everything(length: int, data: st.DataObject) -> None:
    """Step by sample and sample by step, through schedules, ranks and tails, from what was saved as JSON."""
    state: dict[str, Any] | None = None
    place: LoaderPosition = (0, 0, 0)
    ends = [0]
    setup = Setup(length)
    for _ in range(data.draw(st.integers(1, 4))):
        setup = data.draw(setups(length))
        loaders = loaders_of(setup, state)[:1]
        place = settled(setup, place)
        for step in islice(run_of(setup, place), data.draw(st.integers(0, 9))):
            taken(loaders[0], len(step.rounds))
            loaders[0].state.commit()
            ends.append(step.ends[0])
            place = step.ends
        state = loaders[0].state_dict()
    assert state is not None
    ledger = loaders_of(setup, state)[0].state.ledger
    assert ends == [ledger.consumed_samples_at(step) for step in range(len(ends))]
    assert list(range(len(ends))) == [ledger.global_step_at(samples) for samples in ends]


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 6), st.sampled_from(TAILS))
def test_every_sample_of_every_epoch(length: int, micro: int, ranks: int, tail: DropLast) -> None:
    """Once each, but for what is dropped, and what is repeated where the shares would not be equal."""
    assume(tail is not True or micro * ranks <= length)
    loaders = loaders_of(Setup(length, micro, ranks, (), tail))
    for _ in range(3):
        at, padded = loaders[0].state.position, loaders[0].padded_samples
        expected = whole(order_of(length, shuffle=True, seed=7), at.epoch + 30)[at.epoch * length :]
        shares = [[batch.tolist() for batch in loader] for loader in loaders]
        assert len({len(batches) for batches in shares}) == 1
        union = flat(flat(batches) for batches in zip(*shares, strict=True))
        behind = loaders[0].state.consumed_samples - at.consumed_samples
        assert expected[at.offset : at.offset + behind] == union[: len(union) - padded]
        assert [expected[n % length] for n in range(padded)] == union[len(union) - padded :]
        assert padded == (-length % ranks if tail is False else 0)
        assert tail is not False or behind == length
        assert tail is not True or behind == length - length % (micro * ranks)


@pytest.mark.parametrize("options", [WITH_WORKERS, {**WITH_WORKERS, "persistent_workers": True}], ids=str)
@pytest.mark.parametrize("tail", TAILS)
def test_with_workers(options: dict[str, Any], tail: DropLast) -> None:
    """What workers have prefetched counts for nothing, across the boundaries of a schedule and of epochs."""
    setup = Setup(21, 2, 2, ((0, 4), (8, 12), (30, 8)), tail)
    other = Setup(21, 4, 1, ((0, 4), (8, 12), (50, 16)), tail)
    place: LoaderPosition = (0, 0, 0)
    state: dict[str, Any] | None = None
    for session in (setup, other, setup):
        loaders = loaders_of(session, state, **options)
        place = trained(loaders, run_of(session, place), 5, commits=bool(state))
        for loader in loaders:
            loader.state.commit()
        state = state_of(loaders)


# The loop with a schedule.


def ramped(n: int = 22, tail: DropLast = False, **options: Any) -> Any:
    """A loader in batches of 2 whose steps take 4, 8 and 12 samples."""
    schedule = options.pop("schedule", LinearRampup(start=4, end=12, increment=4, rampup_samples=30))
    return Loader(range(n), batch_size=2, schedule=schedule, drop_last=tail, **options)


def steps_of(loader: Any, epochs: int, *, commits: bool = True) -> Iterator[list[list[int]]]:
    """The loop of the README: so many micro batches as the loader says, then a step."""
    micro: list[list[int]] = []
    for batch in batches_of(loader, epochs):
        micro.append(batch)
        if len(micro) == loader.num_microbatches:
            if commits:
                loader.state.commit()
            yield micro
            micro = []
    assert not micro


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


def test_inside_a_step() -> None:
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


def flat(parts: Iterable[list[int]]) -> list[int]:
    """Lists as one."""
    return [index for part in parts for index in part]


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


# Schedules of somebody else's.


class Squares:
    """Steps of 2, 4, 6, ... samples, by no stages."""

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """Two more with each step."""
        return 2 * next(n for n in range(1, 999) if n * (n + 1) > consumed_samples)

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """Step by step."""
        for _ in range(steps):
            consumed += self.batch_size_at(consumed)
        return consumed

    def steps_between(self, consumed: int, later: int, /) -> int:
        """Step by step."""
        steps = 0
        while (consumed := consumed + self.batch_size_at(consumed)) <= later:
            steps += 1
        return steps


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


# What is refused.


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a rank that is none": (
        {"data_parallel_rank": 4, "data_parallel_size": 4},
        "data_parallel_rank is too large.\n  data_parallel_rank: 4\n  data_parallel_size: 4\nPass a rank from 0 to 3",
    ),
    "a rank without the number of ranks": ({"data_parallel_rank": 1}, "data_parallel_rank: 1\n  data_parallel_size: 1"),
    "a negative rank": ({"data_parallel_rank": -1}, "data_parallel_rank is too small.\n  data_parallel_rank: -1"),
    "a fractional rank": ({"data_parallel_rank": 0.0}, "data_parallel_rank must be a whole number."),
    "a rank that is a truth value": (
        {"data_parallel_rank": True, "data_parallel_size": 2},
        "data_parallel_rank must be a whole number.",
    ),
    "a size without a rank": (
        {"data_parallel_rank": None, "data_parallel_size": 2},
        "data_parallel_rank is missing: several processes share the data.\n"
        "  data_parallel_rank: None\n  data_parallel_size: 2\nPass data_parallel_rank= too, or ranks=",
    ),
    "ranks that say nothing": (
        {"data_parallel_rank": None, "ranks": 3},
        "ranks= must have data_parallel_rank and data_parallel_size.\n"
        "  needed: 'data_parallel_rank, data_parallel_size'\n  ranks:  3\nPass an object that has both",
    ),
    "no ranks": ({"data_parallel_size": 0}, "data_parallel_size is too small.\n  data_parallel_size: 0"),
    "half a rank": ({"data_parallel_size": 1.5}, "data_parallel_size must be a whole number."),
    "an unknown tail": (
        {"drop_last": "drop"},
        "An epoch's tail can be trained, left out, or carried into the next epoch.\n  drop_last: 'drop'\n",
    ),
    "more ranks than samples": (
        {"data_parallel_size": 6, "drop_last": True},
        "An epoch has no batch, so the run could never end.\n  dataset length: 22\n  batch size:     24\n",
    ),
    "a schedule that is a number": (
        {"schedule": 64},
        "schedule= lacks the methods of a BatchSchedule.\n"
        "  needed:   'batch_size_at, samples_after, steps_between'\n  schedule: 64\nPass a schedule, such as Con",
    ),
    "a global batch that is no whole number of rounds": (
        {"schedule": ConstantBatchSize(20), "data_parallel_size": 2},
        "A global batch does not fall into whole micro batches on each rank.\n"
        "  global batch size:     20\n  from consumed_samples: 0\n  micro_batch_size:      4\n"
        "  data_parallel_size:    2\n  sizes that would do:   '16 or 24'\nPass a schedule with such a size, or another "
        "batch_size or data_parallel_size, or decrease_batch_size_if_needed=True.",
    ),
    "a global batch smaller than a round": (
        {"schedule": ConstantBatchSize(2)},
        "sizes that would do:   '4'\nPass a schedule with such a size, or another batch_size or data_parallel_size.",
    ),
    "a ramp-up to such a size": (
        {"schedule": LinearRampup(4, 14, 5, 100)},
        "global batch size:     9\n  from consumed_samples: 52\n",
    ),
    "a global batch larger than the dataset": (
        {"schedule": StepSchedule(((0, 8), (100, 24))), "drop_last": True},
        "An epoch has no batch, so the run could never end.\n  dataset length: 22\n  batch size:     24\n",
    ),
    "rounding down to nothing": (
        {"schedule": ConstantBatchSize(3), "decrease_batch_size_if_needed": True},
        "A global batch that is rounded down to whole micro batches is empty.\n"
        "  global batch size:                     3\n  micro_batch_size * data_parallel_size: 4\n",
    ),
    "a ramp-up rounded down to nothing": (
        {"schedule": LinearRampup(1, 3, 1, 9), "decrease_batch_size_if_needed": True},
        "A global batch that is rounded down to whole micro batches is empty.\n  global batch size:                     3\n",
    ),
    "rounding what nobody knows": (
        {"schedule": Squares(), "decrease_batch_size_if_needed": True},
        "A user-defined schedule cannot be rounded down: its stages are unknown.\n  schedule:                      'Squares'\n",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments(what: str) -> None:
    """Each is said when the loader is built, with its value and what to pass instead, and survives pickling."""
    arguments, message = BAD[what]
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        Loader(**{"dataset": range(22), "batch_size": 4, "data_parallel_rank": 0, **arguments})
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


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
def test_rounding_down(ranks: int) -> None:
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


# What one rank draws.


class Backwards:
    """An order of one's own, which counts what it is asked for."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.n

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        """From the end, begun one further in each epoch."""
        self.asked.append(stop - start)
        return (self.n - 1 - np.arange(start, stop) + epoch) % self.n


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 5), st.sampled_from(TAILS), st.sampled_from([0, 1, 2500]))
def test_an_order_of_ones_own_is_sharded(n: int, micro: int, ranks: int, tail: DropLast, a_call: int) -> None:
    """Whether it is asked for whole rounds or for one rank's slices, each rank gets what the walk says."""
    assume(tail is not True or micro * ranks <= n)
    order, setup = Backwards(n), Setup(n, micro, ranks, (), tail)
    steps = list(islice(run_of(setup, (0, 0, 0)), 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resumable.feeds.order_feed._A_CALL", a_call)
        for rank in range(ranks):
            loader = Loader(
                range(n), micro, order=order, data_parallel_rank=rank, data_parallel_size=ranks, drop_last=tail
            )
            expected = [[(n - 1 - place + epoch) % n for epoch, place in step.rounds[0][rank]] for step in steps]
            assert expected == list(islice(endless(loader), 12))


def test_an_order_that_miscounts_is_sharded_neither() -> None:
    """A place in it would be wrong in silence: it is an error on any rank."""

    class Short(Backwards):
        def indices(self, epoch: int, start: int, stop: int, /) -> Any:
            return super().indices(epoch, start, stop)[1:]

    with pytest.raises(ResumptionError, match="gave fewer indices than its length promises"):
        next(iter(Loader(range(9), 2, order=Short(9), data_parallel_rank=0, data_parallel_size=2)))


@pytest.mark.parametrize("micro", [1, 8])
@pytest.mark.parametrize("n", [10**6, 10**12])
def test_a_rank_draws_its_own_share(n: int, micro: int) -> None:
    """Of 4096 ranks, one draws what it needs and no more, and gets what a single rank gets at its places."""
    order, ranks, rank = Backwards(n), 4096, 1234
    found: dict[str, list[int]] = {}
    both: dict[str, dict[str, Any]] = {"own": {"order": order}, "ours": {"shuffle": True, "seed": 3}}
    for name, options in both.items():
        loader = Loader(range(n), micro, data_parallel_rank=rank, data_parallel_size=ranks, **options)
        found[name] = flat(batch.tolist() for batch in islice(loader, 20))
    places = [k * ranks * micro + rank * micro + i for k in range(20) for i in range(micro)]
    if micro > 1:  # where a round is small, an order of one's own is asked for rounds
        assert sum(order.asked) <= 2 * 16_384
    assert [n - 1 - place for place in places] == found["own"]
    shuffled = Shuffled(n, seed=3)
    assert [int(shuffled.indices(0, place, place + 1)[0]) for place in places] == found["ours"]


def test_single_samples_are_shared_out() -> None:
    """`batch_size=None` gives rank r every n-th sample, uncollated."""
    shares = [list(Loader(range(8), None, data_parallel_rank=rank, data_parallel_size=3)) for rank in range(3)]
    assert [[0, 3, 6], [1, 4, 7], [2, 5, 0]] == shares


def test_a_bare_count_finds_its_place_on_any_number_of_ranks() -> None:
    """Epoch and offset follow from the samples over all ranks."""
    for tail, expected in {False: (2, 2), True: (2, 6), "carry": (2, 2)}.items():
        loader = Loader(range(10), 2, data_parallel_rank=0, data_parallel_size=2, drop_last=tail)
        loader.load_state_dict({"consumed_samples": 22})
        assert Position(22, *expected) == loader.state.position


def test_numbers_of_numpys_are_numbers() -> None:
    """A rank and a size that a launcher has computed are saved as JSON."""
    loader = Loader(range(10), 2, data_parallel_rank=np.int64(1), data_parallel_size=np.int32(2))
    assert [2, 3] == next(iter(loader)).tolist()
    loader.state.commit()
    assert 2 == json.loads(json.dumps(loader.state_dict()))["ledger"][0][6]


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_carried_stream_over_tiny_epochs(ranks: int) -> None:
    """A batch may span several epochs, and a step many more; nothing is lost or repeated."""
    order = whole(order_of(3, shuffle=True, seed=7), 100)
    for sizes in ((), ((0, 12 * ranks),)):
        loaders = loaders_of(Setup(3, 4, ranks, sizes, "carry"))
        rounds = zip(*(taken(endless(loader), 6) for loader in loaders), strict=True)
        assert order[: 24 * ranks] == flat(flat(shares) for shares in rounds)
        assert Position(24 * ranks, 8 * ranks, 0) == loaders[0].state.position


def test_changes_of_the_tail_are_told() -> None:
    """They may change what is trained at the next epoch's end."""
    loader = ramped()
    taken(steps_of(loader, 1), 2)
    again = ramped(tail="carry")
    again.load_state_dict(loader.state_dict())
    assert ["Another rule for the end of an epoch."] == [one.what for one in again.state.verdict.differences]


def test_the_walk_itself() -> None:
    """Five samples on four ranks, one each: the last round is filled from the epoch's beginning."""
    shares = [
        [[place for _, place in share] for share in step.rounds[0]]
        for step in taken(run_of(Setup(5, 1, 4), (0, 0, 0)), 2)
    ]
    assert [[[0], [1], [2], [3]], [[4], [0], [1], [2]]] == shares
