"""A sample that cannot be loaded, and a loop that catches its error: the next batch comes, and the count goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from resumable import ConstantBatchSize, Position, resumable, resumption_of
from tests.support.loader_runs import WITH_WORKERS
from tests.support.reference import Loader

PERSISTENT: dict[str, Any] = {**WITH_WORKERS, "persistent_workers": True}


class Corrupt(Exception):
    """A sample's."""


class Samples(Dataset[int]):
    """The numbers below *n*, of which the *bad* ones cannot be read."""

    def __init__(self, n: int, bad: set[int]) -> None:
        self.n = n
        self.bad = bad

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        if index in self.bad:
            raise Corrupt(index)
        return index


def going_on(loader: Any, epochs: int) -> Iterator[list[int] | None]:
    """The batches of a loop that leaves out what fails; None for each error."""
    for _ in range(epochs):
        batches = iter(loader)
        while (batch := after_errors(batches)) is not None:
            yield None if isinstance(batch, Corrupt) else batch.tolist()


def after_errors(batches: Iterator[Any]) -> Any:
    """The next batch, or its error; None at the end."""
    try:
        return next(batches, None)
    except Corrupt as error:
        return error.with_traceback(None)


@settings(max_examples=60)
@given(
    st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=6))),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
def test_batches_and_errors_are_those_of_torch(
    drawn: tuple[int, set[int]], size: int, drop_last: bool, commits: bool
) -> None:
    """The same batches and errors in the same order; every epoch ends, and a resume from any batch yields the rest."""
    samples = Samples(*drawn)
    if drop_last and size > len(samples):
        return
    options: dict[str, Any] = {"batch_size": size, "drop_last": drop_last}
    expected = list(going_on(DataLoader(samples, **options), 2))
    loader = Loader(samples, **options)
    found: list[list[int] | None] = []
    for batch in going_on(loader, 2):
        found.append(batch)
        if commits:
            loader.commit()
        resumed = Loader(samples, **options)
        resumed.load_state_dict(loader.state_dict())
        left = expected[len(found) :] if batch is not None else None
        if left:
            assert left == list(going_on(resumed, 2 - resumed.epoch)), "after a batch, the rest"
    assert expected == found
    per_epoch = len(samples) // size * size if drop_last else len(samples)
    assert commits or Position(2 * per_epoch, 2, 0) == loader.state.position


@pytest.mark.parametrize("options", [WITH_WORKERS, PERSISTENT], ids=str)
def test_batches_and_errors_of_workers(options: dict[str, Any]) -> None:
    """The same in workers, which load ahead."""
    samples = Samples(23, {9, 22})
    loader = Loader(samples, 4, **options)
    assert list(going_on(DataLoader(samples, 4), 3)) == list(going_on(loader, 3))
    assert Position(69, 3, 0) == loader.state.position


@pytest.mark.parametrize("options", [{}, WITH_WORKERS], ids=str)
@pytest.mark.parametrize("commits", [False, True])
def test_a_failed_batch_counts_once_the_loop_goes_on(commits: bool, options: dict[str, Any]) -> None:
    """A run that ends with the error tries the batch again; one that goes on has passed over it."""
    loader = Loader(Samples(23, {9}), 4, **options)
    batches = iter(loader)
    counted: list[int] = []
    for _ in range(4):
        try:
            next(batches)
        except Corrupt:
            assert 0 == loader.batches_done % 2
        if commits:
            loader.commit()
        counted.append(loader.state.consumed_samples)
    assert [4, 8, 8, 16] == counted


def test_a_state_may_be_loaded_where_the_error_is_caught() -> None:
    """What the error's traceback holds alive is no pass that goes on."""
    loader = Loader(Samples(23, {9}), 4)
    before = loader.state_dict()
    held: list[Corrupt] = []
    try:
        list(loader)
    except Corrupt as error:
        held.append(error)
        loader.load_state_dict(before)
    assert [0, 1, 2, 3] == next(iter(loader)).tolist()
    loader.dataset.bad.clear()
    assert 6 == len(list(loader))
    assert Position(23, 1, 0) == loader.state.position


def test_a_failed_batch_of_a_step() -> None:
    """It takes its place in the optimizer step, which then has a micro batch less."""
    loader = Loader(Samples(24, {5, 23}), 2, schedule=ConstantBatchSize(8))
    counted = [loader.state.consumed_samples for _ in going_on(loader, 1)]
    assert [0, 0, 0, 8, 8, 8, 8, 16, 16, 16, 16, 16] == counted
    assert Position(24, 1, 0) == loader.state.position


class Failing:
    """An order whose draws fail in the middle of each epoch."""

    def __len__(self) -> int:
        return 2_000

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        """A list, up to a point."""
        if stop > 1_000:
            raise Corrupt(stop)
        return list(range(start, stop))


def test_draws_that_fail_pass_over_nothing() -> None:
    """No batch was lost with them: the pass is over, as torch's is, and the next one begins where they failed."""
    loader = Loader(range(2_000), 4, order=Failing())
    batches = [batch for batch in going_on(loader, 1) if batch is not None]
    assert Position(4 * len(batches), 0, 4 * len(batches)) == loader.state.position
    assert 0 < len(batches) < 500


def test_the_loader_of_a_datamodule_goes_on_too() -> None:
    """In a loop without Lightning, a decorated class's loader is counted in the same way."""

    @resumable
    class Data:
        trainer: Any = None

        def train_dataloader(self) -> Any:
            return DataLoader(Samples(23, {9}), batch_size=4)

    data = Data()
    assert list(going_on(DataLoader(Samples(23, {9}), 4), 2)) == list(going_on(data.train_dataloader(), 2))
    assert Position(46, 2, 0) == resumption_of(data).position


def test_an_iterator_that_has_ended_stays_so() -> None:
    """Its workers may serve another pass by then."""
    loader = Loader(range(23), 4, **PERSISTENT)
    first = iter(loader)
    assert 6 == len(list(first))
    second = iter(loader)
    next(second)
    assert [] == list(first)
    assert 5 == len(list(second))
    assert Position(46, 2, 0) == loader.state.position


@pytest.mark.parametrize("options", [{}, WITH_WORKERS], ids=str)
def test_an_error_holds_no_pass(options: dict[str, Any]) -> None:
    """Its traceback outlives the loop, with workers in a cycle of torch's: the next loop goes on and counts."""
    loader = Loader(Samples(23, {4}), 4, **options)
    batches, held = iter(loader), list[BaseException]()
    next(batches)
    with pytest.raises(Corrupt) as caught:
        next(batches)
    held.append(caught.value)
    next(batches)
    del batches
    assert 3 == len(list(loader))
    assert Position(23, 1, 0) == loader.state.position
