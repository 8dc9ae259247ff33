"""`loader.forever()`: one iterator over all epochs, stopped at every batch, goes on as the uninterrupted one."""

from __future__ import annotations

import gc
import multiprocessing
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from resumable import ConfigurationError, ConstantBatchSize, LinearRampup, ResumableLoader
from resumable.loading.endless import EndlessBatches
from tests.support.loader_runs import WITH_WORKERS, N, cut, expected, loader_of, restarted
from tests.support.reference import Loader

OPTIONS: list[Any] = [
    pytest.param({}, id="plain"),
    pytest.param({"drop_last": True}, id="drop_last"),
    pytest.param({"drop_last": "carry"}, id="carry"),
    pytest.param({"batch_size": N}, id="epochs of one batch"),
    pytest.param({"batch_size": None}, id="single samples"),
    pytest.param(WITH_WORKERS, id="workers", marks=pytest.mark.slow),
    pytest.param({**WITH_WORKERS, "persistent_workers": True}, id="workers that stay", marks=pytest.mark.slow),
]


def taken(batches: Iterator[Any], count: int) -> list[Any]:
    """The next *count* batches, as lists."""
    return [batch if isinstance(batch, int) else batch.tolist() for batch in islice(batches, count)]


@pytest.mark.parametrize("options", OPTIONS)
def test_each_stop_goes_on_with_the_next_batch(options: dict[str, Any]) -> None:
    """Stopped after each batch, at the ends of epochs too, without a commit and with one, and stopped again."""
    whole = taken(loader_of(**options).forever(), 14)
    for commits in (False, True):
        for stop in range(14):
            loader = loader_of(**options)
            batches = loader.forever()
            first = taken(batches, stop)
            if commits:
                loader.commit()
            again = restarted(loader.state_dict(), **options)
            second = taken(again.forever(), 1)
            if commits:
                again.commit()
            third = restarted(again.state_dict(), **options)
            assert whole == first + second + taken(third.forever(), 13 - stop)
            batches.close()


def test_it_is_the_passes_one_after_another() -> None:
    """Its batches are those of a loop over epochs, and its states as well: each can take the other's place."""
    for stop in range(len(expected()) + 1):
        loader = loader_of()
        assert expected()[:stop] == taken(loader.forever(), stop)
        if stop not in (0, len(expected())):
            assert cut(loader_of(), stop)[1] == loader.state_dict()


def test_a_kill_within_an_accumulation_repeats_its_window() -> None:
    """Windows of two batches reach across the ends of epochs of three; only a committed one counts."""
    whole = taken(loader_of().forever(), 20)
    for stop in range(1, 14):
        loader = loader_of()
        loader.commit()
        batches = loader.forever()
        for number in range(1, stop + 1):
            next(batches)
            if not number % 2:
                loader.commit()
        done = stop - stop % 2
        assert whole[done:] == taken(restarted(loader.state_dict()).forever(), 20 - done)
        batches.close()
        assert whole[done:] == taken(loader.forever(), 20 - done), "in the same process"


@pytest.mark.parametrize("drop_last", [False, "carry"])
def test_a_schedule_is_followed_over_epochs(drop_last: Any) -> None:
    """Each step takes `num_microbatches`, as in a loop over epochs, from each step on."""

    def steps(loader: Any, count: int) -> list[list[Any]]:
        batches = loader.forever()
        found: list[list[Any]] = []
        for _ in range(count):
            found.append(taken(batches, loader.num_microbatches))
            loader.commit()
        return found

    ramp = LinearRampup(start=2, end=6, increment=2, rampup_samples=12)
    for schedule in (ConstantBatchSize(6), ramp):
        options: dict[str, Any] = {"batch_size": 2, "schedule": schedule, "drop_last": drop_last}
        whole = steps(loader_of(**options), 12)
        for stop in range(12):
            loader = loader_of(**options)
            first = steps(loader, stop)
            assert whole == first + steps(restarted(loader.state_dict(), **options), 12 - stop)


def test_its_first_batch_is_no_look() -> None:
    """One batch counts, whatever follows it; a look beside it moves nothing."""
    loader = loader_of()
    assert expected()[:1] == taken(loader.forever(), 1)
    assert expected()[1:2] == taken(loader.forever(), 1), "a new one goes on"
    batches = loader.forever()
    assert expected()[2:4] == taken(batches, 2), "of which the second begins an epoch"
    at = loader.state.position
    look: list[Any] = list(islice(iter(loader), 2))
    assert (at, 2) == (loader.state.position, len(look))
    assert expected()[4:6] == taken(batches, 2)
    assert 2 == loader.epoch


def test_a_resume_at_an_epochs_start_is_told_nothing() -> None:
    """A loop without epochs has no number of its own to go on with."""
    loader = restarted(cut(loader_of(), 3)[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert expected()[3:4] == taken(loader.forever(), 1)


class Failing:
    """The number 4 cannot be loaded the first time."""

    fails = True

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 4 and self.fails:
            self.fails = False
            raise OSError
        return index


def test_a_sample_that_fails_is_passed_over_as_in_a_pass() -> None:
    """The iterator goes on after an error that the loop catches."""
    batches = Loader(Failing(), batch_size=4).forever()
    assert [[0, 1, 2, 3]] == taken(batches, 1)
    with pytest.raises(OSError):  # noqa: PT011  # it has no text
        next(batches)
    assert [[0, 1, 2, 3], [4, 5, 6, 7]] == taken(batches, 2)


def test_what_nobody_committed_comes_again_from_a_past_epoch_too() -> None:
    """A window that reaches into the next epoch, where it fails, is begun anew by the next iterator of this process."""

    class FailingLater(Failing):
        fails = False

        def __getitem__(self, index: int) -> int:
            return super().__getitem__(4 if self.fails else index)

    dataset = FailingLater()
    loader = Loader(dataset, batch_size=4)
    batches = loader.forever()
    taken(batches, 1)
    loader.commit()
    taken(batches, 1)
    dataset.fails = True
    with pytest.raises(OSError):  # noqa: PT011  # it has no text
        next(batches)
    del batches
    assert [[4, 5, 6, 7], [0, 1, 2, 3]] == taken(loader.forever(), 2)


@pytest.mark.parametrize("persistent_workers", [False, True])
def test_closing_ends_the_pass_and_its_workers(persistent_workers: bool) -> None:
    """Workers that end with their pass end with it; it gives nothing more, and another one goes on."""
    loader = loader_of(num_workers=1, persistent_workers=persistent_workers)
    others = set(multiprocessing.active_children())
    batches = loader.forever()
    first = taken(batches, 4)
    batches.close()
    gc.collect()
    assert persistent_workers == bool(set(multiprocessing.active_children()) - others)
    assert [] == taken(batches, 1)
    assert expected()[:6] == first + taken(loader.forever(), 2)


def test_an_epoch_without_a_batch_is_an_error() -> None:
    """An endless iterator without batches would hang."""
    empty: EndlessBatches[int] = EndlessBatches(lambda is_first: iter(()))
    with pytest.raises(ConfigurationError, match="An epoch has no batch"):
        next(empty)
    numbers: list[int] = [0, 1]
    loader: ResumableLoader[Any] = ResumableLoader(numbers, batch_size=2)  # pyright: ignore[reportUnknownVariableType]
    batches = loader.forever()
    next(batches)
    numbers.clear()
    with pytest.raises(ConfigurationError):
        next(batches)
