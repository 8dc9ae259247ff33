"""`loader.windows(n)`: validations of n batches each go on where the last one was."""

from __future__ import annotations

import copy
import pickle
from itertools import islice
from typing import Any

import pytest

from resumable import ConfigurationError, ConstantBatchSize, ResumableLoader
from resumable.loading.endless import Windows
from tests.support.loader_runs import WITH_WORKERS

SAMPLES, BATCHES = 13, 3


def windows_of(batches: int = BATCHES, **options: Any) -> Windows[Any]:
    """Windows of a shuffled loader."""
    return ResumableLoader(range(SAMPLES), 2, True, seed=1, **options).windows(batches)


def all_batches(count: int) -> list[list[int]]:
    """The first batches over all epochs."""
    endless = ResumableLoader(range(SAMPLES), 2, True, seed=1).forever()
    return [batch.tolist() for batch in islice(endless, count)]


@pytest.mark.parametrize("options", [{}, pytest.param(WITH_WORKERS, marks=pytest.mark.slow)])
def test_each_window_goes_on(options: dict[str, Any]) -> None:
    """Over the ends of epochs, after a resume at each of them, with other sizes, left early, and with iterators that stay."""
    whole = all_batches(40)
    windows = windows_of(**options)
    held, seen = list[Any](), list[list[int]]()
    for number in range(10):
        assert len(windows) == BATCHES
        held.append(iter(windows))
        taken = BATCHES - (number == 4)  # a loop that leaves it early
        seen += [batch.tolist() for batch in islice(held[-1], taken)]
        assert whole[: len(seen)] == seen
        again = windows_of(5, **options)
        again.load_state_dict(windows.state_dict())
        assert again.state.position == windows.state.position
        assert whole[len(seen) : len(seen) + 5] == [batch.tolist() for batch in again]
    assert [] == [batch for iterator in held for batch in iterator]


def test_a_pass_that_begins_ends_the_one_before_it() -> None:
    """Of any windows of the loader, and a load ends it too, so no two count at once."""
    loader = ResumableLoader(range(20), 2)
    first, second = loader.windows(2), loader.windows(3)
    held = iter(first)
    assert [0, 1] == next(held).tolist()
    assert [[2, 3], [4, 5], [6, 7]] == [batch.tolist() for batch in second]
    assert [] == list(held)
    assert 8 == loader.state.consumed_samples
    held = iter(first)
    next(held)
    first.load_state_dict({"consumed_samples": 4})
    assert [] == list(held)
    assert [[4, 5], [6, 7]] == [batch.tolist() for batch in first]
    with pytest.raises(ConfigurationError, match="within a step"):
        ResumableLoader(range(20), 2, schedule=ConstantBatchSize(4)).windows(3)


def test_a_copy_goes_on_by_itself() -> None:
    """A copied or pickled one stands at the same place."""
    windows = windows_of()
    next(iter(windows))
    for copied in (copy.deepcopy(windows), pickle.loads(pickle.dumps(windows))):
        assert all_batches(4)[1:] == [batch.tolist() for batch in copied]
    with pytest.raises(ConfigurationError, match="batches is too small"):
        windows_of(0)


def test_a_sample_that_fails_is_passed_over() -> None:
    """As in every pass: a loop that catches the error goes on with the next batch."""

    class Failing:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            if index == 1:
                raise ValueError("no such sample")
            return index

    windows = ResumableLoader(Failing(), 1).windows(3)
    batches = iter(windows)
    assert 0 == next(batches)
    with pytest.raises(ValueError, match="no such sample"):
        next(batches)
    assert [2, 3] == [int(batch) for batch in batches]
    assert 4 == windows.state.consumed_samples
