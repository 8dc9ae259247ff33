"""Loops with accelerate, stopped anywhere: what they train is what the uninterrupted loop trains."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("accelerate")

from tests.support.accelerate_runs import EPOCHS, Loop, Trained
from tests.support.ranks import in_ranks


@cache
def uninterrupted(accumulation: int, accumulates: bool, syncs_at_end: bool, is_noisy: bool = False) -> Trained:
    """The same loop, without a stop."""
    options = {"reseed": True} if is_noisy else {}
    return Loop(
        accumulation=accumulation,
        accumulates=accumulates,
        syncs_at_end=syncs_at_end,
        is_noisy=is_noisy,
        options=options,
    ).session()


@settings(max_examples=60, deadline=None)
@given(
    accumulation=st.integers(1, 3),
    stops=st.lists(st.integers(0, 17), min_size=1, max_size=3),
    saves=st.sampled_from(["after", "before"]),
    syncs_at_end=st.booleans(),
    commits=st.booleans(),
)
def test_each_stop_goes_on_with_the_exact_next_window(
    accumulation: int, stops: list[int], saves: str, syncs_at_end: bool, commits: bool
) -> None:
    """In and at epochs and in windows, and after second resumes: each optimizer step has its samples, and the weights."""
    if saves == "after":
        stops = [stop + 1 for stop in stops]
    loop = Loop(accumulation=accumulation, saves=saves, syncs_at_end=syncs_at_end, commits=commits)
    assert uninterrupted(accumulation, True, syncs_at_end) == loop.chain(stops)


@pytest.mark.parametrize("saves", ["backward", "step"])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_a_batch_that_fails_in_its_window(saves: str, accumulation: int) -> None:
    """Where an error is caught and the state saved, a window counts if its optimizer has stepped, and not otherwise."""
    for stop in range(18):
        loop = Loop(accumulation=accumulation, saves=saves)
        assert uninterrupted(accumulation, True, True) == loop.chain([stop], replace(loop, saves="after"))


@pytest.mark.parametrize("saves", ["after", "before"])
def test_each_stop_of_a_loop_that_steps_by_itself(saves: str) -> None:
    """Without `accumulate`, the step of a prepared optimizer shows what is trained."""
    for stop in range(1, 18):
        assert uninterrupted(1, False, True) == Loop(accumulates=False, saves=saves).chain([stop, 1])


@pytest.mark.parametrize("stop", [1, 4, 6, 7, 13])
def test_other_batches_after_a_resume(stop: int) -> None:
    """In another batch size and another accumulation, every sample of each epoch is trained once."""
    first = Loop(accumulation=2)
    trained = first.chain([stop], replace(first, batch_size=3, accumulation=3))
    ids = [each for step in trained.steps for each in step]
    expected = [each for step in uninterrupted(1, True, True).steps for each in step]
    assert expected == ids


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"num_workers": 1, "persistent_workers": True}], ids=str)
def test_workers_read_ahead_and_count_nothing(options: dict[str, object]) -> None:
    """What workers have loaded and the loop has not trained comes again."""
    for stop in (2, 5, 9):
        assert uninterrupted(2, True, True) == Loop(accumulation=2, options=dict(options)).chain([stop])


def test_random_numbers_follow_the_position() -> None:
    """With reseed=True, dropout's masks are the uninterrupted run's, whatever accelerate has saved of its generators."""
    for stop in (1, 3, 6, 8):
        loop = Loop(accumulation=2, is_noisy=True, options={"reseed": True})
        assert uninterrupted(2, True, True, is_noisy=True) == loop.chain([stop])


def test_two_processes_and_then_one() -> None:
    """Each step of two processes is that of one with twice the batch, and either goes on where the other stopped."""
    one, two = Loop(samples=13, batch_size=4, accumulation=2), Loop(samples=13, batch_size=2, accumulation=2)
    expected = one.session().steps
    whole = in_ranks(2, two.session)
    assert whole is not None
    assert len(expected) == len(whole.steps)
    per_epoch = len(expected) // EPOCHS
    for number, (step, of_two) in enumerate(zip(expected, whole.steps, strict=True)):
        is_tail = number % per_epoch == per_epoch - 1
        assert step == (of_two[: len(step)] if is_tail else of_two)  # the tail is filled up
    for stop in (1, 3, 4, 6):
        with tempfile.TemporaryDirectory() as folder:
            first = in_ranks(2, lambda stop=stop, folder=folder: two.session(folder, stop=stop))  # type: ignore[misc]
            assert first is not None
            rest = one.session(folder, loads=True)
            assert expected[len(first.steps) :] == rest.steps
            again = in_ranks(2, lambda folder=folder: two.session(folder, loads=True))  # type: ignore[misc]
            assert again is not None
            assert whole.steps == first.steps + again.steps


def test_one_process_and_then_two() -> None:
    """Two processes go on with the steps that one would have taken, the tail of an epoch filled up."""
    one, two = Loop(samples=13, batch_size=4, accumulation=2), Loop(samples=13, batch_size=2, accumulation=2)
    expected = one.session().steps
    for stop in (1, 2, 4, 5):
        with tempfile.TemporaryDirectory() as folder:
            first = one.session(folder, stop=stop)
            rest = in_ranks(2, lambda folder=folder: two.session(folder, loads=True))  # type: ignore[misc]
            assert rest is not None
            assert expected == first.steps + [
                step[: len(of_one)] for step, of_one in zip(rest.steps, expected[len(first.steps) :], strict=True)
            ]
