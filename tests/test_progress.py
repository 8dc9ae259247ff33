"""A load that is refused or undone leaves no trace, whoever counts: the run goes on as if it had never been tried."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from resumable import (
    AgreementError,
    LinearRampup,
    MismatchError,
    ResumptionError,
    ResumptionState,
    StateError,
    resumable,
    resumption_of,
)
from resumable.progress import Tracker, undo_of
from resumable.state import tracker_of
from tests.support.lightning_runs import numbers
from tests.support.reference import Loader


def refusing(record: bytes) -> list[bytes]:
    """Another rank that is somewhere else."""
    return [record, b'{"consumed_samples": 1, "all": "0"}']


def breaking(record: bytes) -> list[bytes]:
    """A collective that fails."""
    raise TimeoutError(len(record))


def alone(record: bytes) -> list[bytes]:
    """No other rank."""
    return [record]


OPTIONS: list[dict[str, Any]] = [
    {"shuffle": True},
    {"shuffle": True, "drop_last": True},
    {"shuffle": True, "drop_last": "carry"},
    {"shuffle": True, "schedule": LinearRampup(4, 12, 4, 60)},
]


def trained(loader: Any, batches: int, *, commits: bool) -> list[Any]:
    """The samples of so many batches, over the ends of epochs; with *commits*, those of every second one are committed."""
    seen: list[Any] = []
    while len(seen) < batches:
        for batch in islice(loader, batches - len(seen)):
            seen.append(batch.tolist())
            if commits and len(seen) % 2 == 0 and loader.num_microbatches == 1:
                loader.commit()
    return seen


@given(
    st.sampled_from(OPTIONS),
    st.integers(0, 12),
    st.booleans(),
    st.tuples(st.integers(0, 12), st.booleans()),
    st.sampled_from([refusing, breaking]),
)
def test_a_loop_goes_on_as_before_an_undone_load(
    options: dict[str, Any], batches: int, commits: bool, other: tuple[int, bool], gather: Any
) -> None:
    """Its state, what counts as trained, and the batches that follow are those of a loop that tried no load."""
    saved = Loader(range(31), batch_size=4, **{**options, "seed": 9})
    trained(saved, other[0], commits=other[1])
    state, runs = saved.state_dict(), list[Any]()
    for tries in (False, True):
        loader = Loader(range(31), batch_size=4, **options)
        seen = trained(loader, batches, commits=commits)
        if tries:
            loader.state.agreement = gather
            with pytest.raises((AgreementError, TimeoutError)):
                loader.load_state_dict(state)
            loader.state.agreement = None
        runs.append(
            [
                seen,
                loader.state.verdict,
                repr(loader),
                loader.batches_done,
                trained(loader, 7, commits=False),
                loader.state_dict(),
            ]
        )
    assert runs[0] == runs[1]


@pytest.mark.parametrize("state", [{}, {"consumed_samples": -1}, {"consumed_samples": 4, "offset": 4}])
def test_a_state_that_cannot_be_read_changes_nothing(state: dict[str, Any]) -> None:
    """On the rank that cannot read it and on the others, which may save then."""
    loader = Loader(range(31), batch_size=4, agreement=alone)
    trained(loader, 3, commits=True)
    before = loader.state_dict()
    with pytest.raises(StateError):
        loader.load_state_dict(state)
    assert before == loader.state_dict()


def test_a_save_that_is_refused_counts_nothing() -> None:
    """A pass that was left after one batch is still a look at the data: nobody has its position."""
    loader = Loader(range(31), batch_size=4)
    first = next(iter(loader)).tolist()
    loader.state.agreement = refusing
    with pytest.raises(AgreementError):
        loader.state_dict()
    loader.state.agreement = None
    assert first == next(iter(loader)).tolist()


def with_own_part(error: Exception) -> Any:
    """A decorated datamodule whose own part cannot be loaded."""

    @resumable
    class Data:
        trainer: Any = None

        def train_dataloader(self) -> Any:
            return DataLoader(numbers(40), batch_size=4, shuffle=True)

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise error

    return Data()


@given(st.integers(0, 12), st.booleans(), st.integers(0, 12), st.booleans(), st.booleans())
def test_a_class_whose_own_part_raises(
    batches: int, commits: bool, others: int, other_commits: bool, is_built: bool
) -> None:
    """The position is as it was before, also where the train loader follows another sampler order."""

    def play(data: Any, batches: int, commits: bool) -> Any:
        loader: Any = data.train_dataloader()
        iterator: Any = iter(loader)
        for number in range(min(batches, 9)):
            next(iterator)
            if commits and number % 2:
                resumption_of(data).commit()
        return loader

    saved, error = with_own_part(KeyError("mine")), KeyError("mine")
    play(saved, others, other_commits)
    state, runs = saved.state_dict(), list[Any]()
    for tries in (False, True):
        data = with_own_part(error)
        loader = play(data, batches, commits) if is_built else None
        if tries:
            with pytest.raises(KeyError):
                data.load_state_dict(state)
        loader = loader or data.train_dataloader()
        runs.append([data.state_dict(), [batch.tolist() for batch in islice(loader, 3)], data.state_dict()])
    assert runs[0] == runs[1]


class Counting:
    """A data sampler of NeMo's shape, with 8 samples a step."""

    def __init__(self) -> None:
        self.init_global_step = self.init_consumed_samples = self.prev_consumed_samples = self.if_first_step = 0

    def compute_consumed_samples(self, steps: int, /) -> int:
        """8 for each."""
        return self.init_consumed_samples + 8 * steps


class Steps:
    """A trainer that counts steps, and no more."""

    global_step = 0


class Calculator:
    """Knows where the run is."""

    is_initialized = True
    current_global_batch_size = 8
    told = 0

    def update(self, consumed_samples: int, /) -> None:
        """Note it."""
        self.told = consumed_samples


@pytest.mark.parametrize("gather", [refusing, breaking])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_data_sampler_is_as_it_was(steps: int, gather: Any) -> None:
    """What a load writes into it, and what the calculator is told."""
    sampler, trainer, calculator = Counting(), Steps(), Calculator()
    state = ResumptionState(sampler, trainer, calculator=calculator)
    state.load_state_dict({"consumed_samples": 80})
    trainer.global_step = steps
    before, held = state.state_dict(), dict(vars(sampler))
    state.agreement = gather
    with pytest.raises((AgreementError, TimeoutError)):
        state.load_state_dict({"consumed_samples": 640})
    state.agreement = None
    assert (before, held, 80 + 8 * steps) == (state.state_dict(), dict(vars(sampler)), calculator.told)
    trainer.global_step += 2
    assert 80 + 8 * (steps + 2) == state.consumed_samples


def several() -> dict[str, Any]:
    """The state of two loaders, without a canary."""
    places = [[0, 8, ["sequential", 31, None], None], [0, 16, ["shuffled", 50, 3], None]]
    return {
        **Loader(range(31), batch_size=4).state_dict(),
        "consumed_samples": 8,
        "offset": 8,
        "canary": None,
        "loaders": places,
    }


SINGLE: list[Callable[[], Any]] = [
    lambda: Loader(range(31), batch_size=4),
    lambda: Loader(range(31), batch_size=4, on_mismatch="warn"),
    lambda: Loader(range(31), batch_size=4, on_mismatch="adopt"),
    lambda: ResumptionState(Counting(), Steps()),
]


@pytest.mark.parametrize("number", range(len(SINGLE)))
def test_the_state_of_several_loaders_is_not_that_of_one(number: int) -> None:
    """Whatever the policy, the other loaders' places would be lost; a state connected to nothing keeps them."""
    one = SINGLE[number]()
    before = one.state_dict()
    with pytest.raises(MismatchError, match="that of several train loaders") as caught:
        one.load_state_dict(several())
    assert "(0, 16, Identity(kind='shuffled', length=50, seed=3))" in str(caught.value)
    assert before == one.state_dict()
    alone = ResumptionState()
    alone.load_state_dict(several())
    assert several() == alone.state_dict()


def test_a_connection_that_other_ranks_refuse() -> None:
    """The state follows what it followed before, and the loader that was to be connected begins at its beginning."""
    loader, tracker = Loader(range(31), batch_size=4), Tracker()
    tracker.load({"consumed_samples": 8})
    tracker.agreement = refusing
    progress: Any = tracker_of(loader.state).progress
    with pytest.raises(AgreementError):
        tracker.connect(progress)
    assert (None, 8, 0) == (tracker.progress, tracker.position.consumed_samples, progress.position.consumed_samples)


def test_attributes_come_back() -> None:
    """Changed ones, new ones and deleted ones."""
    thing: Any = SimpleNamespace(kept=1, changed=2, gone=3)
    undo = undo_of(thing)
    thing.changed, thing.new = 4, 5
    del thing.gone
    undo()
    assert SimpleNamespace(kept=1, changed=2, gone=3) == thing


def test_a_loop_that_is_running_refuses_a_state() -> None:
    """And goes on."""
    loader = Loader(range(31), batch_size=4)
    running = iter(loader)
    next(running)
    with pytest.raises(ResumptionError, match="while the loader is being iterated"):
        loader.load_state_dict({"consumed_samples": 8})
    assert [4, 5, 6, 7] == next(running).tolist()
