"""Which samples a step trained, and which steps a sample: against what loops and trainers have recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable import (
    ConfigurationError,
    ResumableLoader,
    ResumptionState,
    ResumptionWarning,
    Sequential,
    Shuffled,
    StateError,
    StepSchedule,
)
from resumable.orders.identity import Identity
from resumable.saved.ledger import Ledger, Stretch
from resumable.saved.snapshot import LoaderPosition, Snapshot, dump
from resumable.steps.batch_plan import UNBOUNDED

N = 23


@dataclass(frozen=True)
class Session:
    """A session of a loop: its micro batch size, ranks and batches."""

    size: int
    ranks: int
    batches: int


@dataclass
class Recorded:
    """What the steps of a run trained: the indices of each rank."""

    steps: list[list[list[int]]] = field(default_factory=list[list[list[int]]])
    state: dict[str, Any] | None = None

    def go(self, session: Session, **options: Any) -> list[ResumableLoader[Any]]:
        """Train one session, with one loader for each rank."""
        loaders = [
            ResumableLoader[Any](range(N), session.size, collate_fn=list, ranks=Rank(rank, session.ranks), **options)
            for rank in range(session.ranks)
        ]
        for loader in loaders:
            if self.state is not None:
                loader.load_state_dict(self.state)
            assert loader.epoch >= 0  # it is told
        left = session.batches
        while left:
            for batches in zip(*loaders, strict=True):
                self.steps.append([list(batch) for batch in batches])
                left -= 1
                if not left:
                    break
        self.state = loaders[0].state_dict()
        return loaders


@dataclass(frozen=True)
class Rank:
    """A rank of some."""

    data_parallel_rank: int
    data_parallel_size: int


SESSIONS = st.lists(
    st.builds(Session, st.integers(1, 5), st.integers(1, 3), st.integers(1, 17)), min_size=1, max_size=4
)
ORDERS: list[dict[str, Any]] = [{"shuffle": True, "seed": 5}, {}, {"order": Shuffled(N, 9)}]


@pytest.mark.parametrize("drop_last", [False, True, "carry"])
@settings(max_examples=10)
@given(sessions=SESSIONS, order=st.sampled_from(ORDERS))
def test_the_steps_of_a_loop_are_those_that_it_recorded(
    sessions: list[Session], order: dict[str, Any], drop_last: Any
) -> None:
    """Past ones through every change of sizes, the next ones as the run then takes them, and each sample's steps."""
    run = Recorded()
    loaders: list[Any] = []
    for session in sessions:
        loaders = run.go(session, drop_last=drop_last, **order)
    done = len(run.steps)
    told = loaders[0].state
    bare = ResumptionState()
    bare.load_state_dict(run.state or {})
    last = sessions[-1]
    run.go(Session(last.size, last.ranks, 2 * N), drop_last=drop_last, **order)
    for number, ranks in enumerate(run.steps, start=1):
        for rank, batch in enumerate(ranks):
            assert told.samples_of_step(number, rank=rank) == batch
        assert bare.samples_of_step(number) == told.samples_of_step(number) == [i for rank in ranks for i in rank]
    for sample in range(N):
        held = [number for number, ranks in enumerate(run.steps, start=1) if any(sample in rank for rank in ranks)]
        expected = [number for number in held if number <= done] + [number for number in held if number > done][:1]
        assert bare.steps_of_sample(sample) == expected


def saved_as(order: Identity | None, *stretches: Stretch, consumed_samples: int = 0, **more: Any) -> ResumptionState:
    """A state that was loaded, connected to nothing."""
    told = ResumptionState()
    told.load_state_dict(dump(Snapshot(consumed_samples, order=order, ledger=Ledger(stretches), **more)))
    return told


def test_a_step_of_the_longest_order_is_found_at_once() -> None:
    """A trillion samples on 4,096 ranks: the step, and each of its samples back to it."""
    n = 10**12
    told = saved_as(Identity("shuffled", n, 3), Stretch(length=n, micro_batch_size=2, data_parallel_size=4096))
    ids = told.samples_of_step(100_000_000)
    assert len(set(ids)) == 8192
    assert ids[:2] == told.samples_of_step(100_000_000, rank=0)
    assert [told.steps_of_sample(index) for index in ids[::1000]] == [[100_000_000]] * 9


def test_a_run_that_changed_its_seed_knows_the_order_of_each_of_its_steps() -> None:
    """What was trained by the old seed stays so, through a further resume too."""
    run = Recorded()
    run.go(Session(4, 1, 7), shuffle=True, seed=1)
    with pytest.warns(ResumptionWarning, match="seed"):
        run.go(Session(4, 1, 7), shuffle=True, seed=2, on_mismatch="warn")
    told = run.go(Session(2, 1, 5), shuffle=True)[0].state
    assert [told.samples_of_step(number) for number in range(1, 20)] == [ids for (ids,) in run.steps]
    assert [stretch.order and stretch.order.seed for stretch in told.ledger] == [1, None, None]


def test_a_schedule_s_steps_are_its_own() -> None:
    """A loop that commits its steps, with epochs that cut the last one."""
    schedule = StepSchedule(((0, 2), (8, 6)))
    loader = ResumableLoader[Any](range(N), 2, shuffle=True, seed=4, schedule=schedule, collate_fn=list)
    steps: list[list[int]] = [[]]
    for _ in range(3):
        for batch in loader:
            steps[-1] += batch
            if loader.state.position.consumed_samples == sum(map(len, steps)):
                steps.append([])
    assert [loader.state.samples_of_step(number) for number in range(1, len(steps))] == steps[:-1]


def test_a_data_sampler_s_count_is_one_of_places() -> None:
    """As it counts without a trainer's loops: up to where its first epoch may end, and once that has, beyond it."""
    counted = Stretch(length=UNBOUNDED, drop_last="carry", micro_batch_size=4, data_parallel_size=2)
    told = saved_as(Identity("sequential", N), counted, consumed_samples=8, offset=8)
    assert told.samples_of_step(2) == [8, 9, 10, 11, 12, 13, 14, 15]
    with pytest.raises(StateError, match="only its data sampler knows where its first epoch ends"):
        told.samples_of_step(3)
    later = saved_as(Identity("sequential", N), counted, consumed_samples=24, epoch=1, offset=8)
    assert later.samples_of_step(3) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert later.steps_of_sample(9) == [2, 4]


class Backwards:
    """An order of a user's."""

    def __len__(self) -> int:
        return N

    def indices(self, epoch: int, start: int, stop: int) -> Any:
        """From the last one on."""
        return np.arange(N)[::-1][start:stop]


def test_a_user_s_order_is_asked_where_it_is_at_hand() -> None:
    """A state alone says whose it is."""
    loader = ResumableLoader[Any](range(N), 4, order=Backwards(), collate_fn=list)
    next(iter(loader))
    assert loader.state.samples_of_step(1) == [22, 21, 20, 19]
    assert loader.state.steps_of_sample(20) == [1, 7]
    told = ResumptionState()
    told.load_state_dict(loader.state_dict())
    with pytest.raises(StateError, match="only 'Backwards', which is the user's, knows its order"):
        told.samples_of_step(1)


WRONG: dict[str, tuple[Callable[[ResumptionState], object], str]] = {
    "step 0": (lambda told: told.samples_of_step(0), "step"),
    "a rank too many": (lambda told: told.samples_of_step(1, rank=2), "no such data-parallel rank"),
    "a rank below 0": (lambda told: told.samples_of_step(1, rank=-1), "no such data-parallel rank"),
    "a sample too far": (lambda told: told.steps_of_sample(N), "no such sample"),
    "a sample below 0": (lambda told: told.steps_of_sample(-1), "sample"),
}


@pytest.mark.parametrize(("ask", "says"), WRONG.values(), ids=WRONG)
def test_what_there_cannot_be_is_refused(ask: Callable[[ResumptionState], object], says: str) -> None:
    """With what was asked for, and what there is."""
    told = saved_as(Identity("sequential", N), Stretch(length=N, micro_batch_size=2, data_parallel_size=2))
    with pytest.raises(ConfigurationError, match=says):
        ask(told)


UNTOLD: dict[str, tuple[ResumptionState, str]] = {
    "nothing": (ResumptionState(), "before the first step"),
    "a bare count": (saved_as(None, consumed_samples=4, epoch=None, offset=None), "saved by another program"),
    "later": (
        saved_as(
            Identity("sequential", N), Stretch(step=9, sample=9, offset=9, length=N), consumed_samples=9, offset=9
        ),
        "its ledger begins after step 9",
    ),
    "streams": (saved_as(None, Stretch(length=N), loaders=(LoaderPosition(),)), "several loaders, or from a stream"),
    "drawn": (saved_as(Identity("Mine", N), Stretch(length=UNBOUNDED)), "'Mine', which is the user's"),
}


@pytest.mark.parametrize(("told", "says"), UNTOLD.values(), ids=UNTOLD)
def test_a_state_that_does_not_tell_says_why(told: ResumptionState, says: str) -> None:
    """No count is made up."""
    with pytest.raises(StateError, match=says):
        told.samples_of_step(1)
    with pytest.raises(StateError):
        told.steps_of_sample(1) if says[:3] != "its" else told.samples_of_step(9)


@pytest.mark.parametrize("n", [1, 2, 3, 2048, 2049, 4097, 1 << 20, (1 << 20) + 1, 10**12])
@given(data=st.data())
def test_each_index_is_found_where_it_comes(n: int, data: st.DataObject) -> None:
    """The inverse of an order, on both sides of every change of its making."""
    seed, epoch, place = (
        data.draw(st.integers(0, 2**64 - 1)),
        data.draw(st.integers(0, 9)),
        data.draw(st.integers(0, n - 1)),
    )
    for order in (Shuffled(n, seed), Sequential(n)):
        assert order.place_of(epoch, int(order.indices(epoch, place, place + 1)[0])) == place
