"""Many ranks, schedules and epoch tails: drawn chains of sessions against a run that is walked sample by sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from resumable import Position, ResumptionError, StepSchedule
from resumable.orders.orders import Shuffled
from resumable.steps.batch_plan import DropLast
from tests.support.reference import (
    Loader,
    LoaderPosition,
    Setup,
    WalkedStep,
    endless,
    order_of,
    run_of,
    settled,
    whole,
)
from tests.support.sharded import TAILS, flat, ramped, steps_of, taken
from tests.support.users_own import Backwards

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
        assert place[1] == loaders[0].epoch
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
def test_what_workers_prefetch_on_each_rank_counts_for_nothing(options: dict[str, Any], tail: DropLast) -> None:
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


# What one rank draws.


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


def test_the_walk_fills_the_last_round_from_the_epochs_beginning() -> None:
    """Five samples on four ranks, one each: the last round is filled from the epoch's beginning."""
    shares = [
        [[place for _, place in share] for share in step.rounds[0]]
        for step in taken(run_of(Setup(5, 1, 4), (0, 0, 0)), 2)
    ]
    assert [[[0], [1], [2], [3]], [[4], [0], [1], [2]]] == shares
