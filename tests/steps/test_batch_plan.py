"""The closed forms of an epoch's batches against a walk through the epoch."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from resumable.errors import ConfigurationError
from resumable.position import Position
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan
from tests.support.reference import rest_of

batchings = st.builds(BatchPlan, st.integers(1, 40), st.integers(1, 50), st.booleans(), st.none() | st.integers(1, 12))


def rest(batching: BatchPlan, offset: int) -> list[tuple[int, int]]:
    """The walk's batches from *offset* on."""
    return rest_of(batching.length, batching.batch_size, offset, drop_last=batching.drop_last, limit=batching.limit)


carrying = st.builds(
    BatchPlan, st.integers(1, 40), st.integers(1, 50), st.just("carry"), st.none() | st.integers(1, 12)
)


def carried(batching: BatchPlan, at: Position) -> Position:
    """One batch further in a stream that runs across the ends of epochs, sample by sample."""
    consumed, epoch, offset = at.consumed_samples, at.epoch, at.offset
    for _ in range(batching.batch_size):
        consumed, offset = consumed + 1, offset + 1
        if offset == batching.reach:
            epoch, offset = epoch + 1, 0
    return Position(consumed, epoch, offset)


@given(carrying, st.integers(0, 40), st.integers(0, 60))
def test_a_stream_that_runs_across_the_ends_of_epochs(batching: BatchPlan, offset: int, batches: int) -> None:
    """Every batch is whole; a pass ends with the batch that reaches the end of its epoch, or several of them."""
    assume(offset < batching.reach)
    walked = [Position(offset, 0, offset)]
    for _ in range(max(batches, 41)):
        walked.append(carried(batching, walked[-1]))
    assert walked[batches] == batching.advance(walked[0], batches)
    assert next(n for n, at in enumerate(walked) if at.epoch) == batching.batches_left(offset)
    assert walked[batches] == batching.position_at(walked[batches].consumed_samples)
    assert walked[batches] == batching.canonical(walked[batches])


def test_a_place_behind_the_end_of_an_epoch_is_in_the_next() -> None:
    """Where a stream runs on, the rest of a longer epoch is carried over."""
    assert Position(25, 2, 5) == BatchPlan(10, 4, "carry").canonical(Position(25, 0, 25))
    assert Position(10, 1, 0) == BatchPlan(10, 4, "carry").canonical(Position(10, 0, 10))


def step(batching: BatchPlan, at: Position) -> Position:
    """One batch further, by walking; an epoch without a batch left is left at once."""
    start, stop = rest(batching, at.offset)[0]
    at = Position(at.consumed_samples + stop - start, at.epoch, stop)
    return at if rest(batching, stop) else Position(at.consumed_samples, at.epoch + 1, 0)


@given(batchings, st.integers(0, 45))
def test_batches_left_are_those_of_a_walk(batching: BatchPlan, offset: int) -> None:
    """What is left of an epoch follows from its samples, whatever the size of the batches already trained."""
    assert len(rest(batching, offset)) == batching.batches_left(offset)
    assert len(rest(batching, 0)) == batching.batches


@given(batchings, st.integers(0, 40), st.integers(0, 45))
def test_offset_after_is_that_of_a_walk(batching: BatchPlan, offset: int, batches: int) -> None:
    """Batches beyond the end of the epoch move nothing."""
    assume(offset <= batching.length)
    walked = [offset, *(stop for _, stop in rest(batching, offset))]
    assert walked[min(batches, len(walked) - 1)] == batching.offset_after(offset, batches)


@given(batchings, st.integers(0, 40), st.integers(0, 60))
def test_advance_is_that_of_a_walk_across_epochs(batching: BatchPlan, offset: int, batches: int) -> None:
    """Any number of batches from any offset leads where single steps lead."""
    assume(rest(batching, 0))
    assume(offset <= batching.length)
    begun = batching.canonical(Position(100 + offset, 3, offset))
    walked = begun
    for _ in range(batches):
        walked = step(batching, walked)
    assert walked == batching.advance(begun, batches)


@given(batchings, st.integers(0, 60))
def test_position_at_finds_every_place_of_a_run_with_one_batching(batching: BatchPlan, batches: int) -> None:
    """A bare count of samples is enough where the batching never changed."""
    assume(rest(batching, 0))
    walked = Position()
    for _ in range(batches):
        walked = step(batching, walked)
    assert walked == batching.position_at(walked.consumed_samples)


@given(batchings, st.integers(0, 40))
def test_the_end_of_an_epoch_is_the_start_of_the_next(batching: BatchPlan, offset: int) -> None:
    """One place has one form, and giving it that form twice changes nothing."""
    assume(offset <= batching.length)
    at = batching.canonical(Position(offset, 0, offset))
    expected = (0, offset) if rest(batching, offset) or not offset else (1, 0)
    assert expected == (at.epoch, at.offset)
    assert at == batching.canonical(at)


def test_closed_forms_do_not_walk() -> None:
    """A trillion samples and a billion epochs cost what ten cost, and an endless stream has no end."""
    batching = BatchPlan(10**12, 32)
    assert Position(10**21 + 64, 10**9, 64) == batching.advance(Position(), 10**9 * batching.batches + 2)
    assert Position(10**21 + 64, 10**9, 64) == batching.position_at(10**21 + 64)
    assert Position(32 * 10**12, 0, 32 * 10**12) == BatchPlan(UNBOUNDED, 32).advance(Position(), 10**12)


@pytest.mark.parametrize(
    ("length", "batch_size", "value"), [(10, 0, "batch_size: 0"), (10, -1, "batch_size: -1"), (0, 4, r"length: +0")]
)
def test_impossible_sizes_are_refused(length: int, batch_size: int, value: str) -> None:
    """Neither an empty dataset nor an empty batch has a next sample."""
    with pytest.raises(ConfigurationError, match=value) as caught:
        BatchPlan(length, batch_size)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


@pytest.mark.parametrize("batching", [BatchPlan(3, 4, drop_last=True), BatchPlan(10, 4, limit=0)])
def test_epochs_without_a_batch_are_refused(batching: BatchPlan) -> None:
    """Where no epoch has a batch, going on would never end: it is said, with the numbers that lead to it."""
    for lead in (partial(batching.advance, Position()), batching.position_at):
        with pytest.raises(ConfigurationError, match="An epoch has no batch") as caught:
            lead(1)
        for line in (
            f"dataset length: {batching.length}",
            f"batch size:     {batching.batch_size}",
            f"drop_last:      {batching.drop_last}",
            f"limit:          {batching.limit}",
            "Use a smaller batch size, or drop_last=False.",
        ):
            assert line in str(caught.value)
