"""The cursor: what was read, what was trained, and where the next pass begins."""

from __future__ import annotations

import pytest

from resumable.loading.cursor import Cursor
from resumable.position import Position
from resumable.steps.batch_plan import BatchPlan

TEN = BatchPlan(length=10, batch_size=4)


def read(cursor: Cursor, batches: int) -> None:
    """Open a pass and take *batches* batches of it."""
    this = cursor.begin()
    this.taken += batches


def test_what_is_yielded_counts_where_nobody_commits() -> None:
    """Each batch moves the position, and the last of an epoch moves it to the next."""
    cursor = Cursor(TEN)
    this = cursor.begin()
    places = [cursor.position]
    for _ in range(3):
        this.taken += 1
        places.append(cursor.position)
    assert [Position(), Position(4, 0, 4), Position(8, 0, 8), Position(10, 1, 0)] == places


def test_only_what_is_committed_counts_from_the_first_commit_on() -> None:
    """Reading on moves nothing, and a commit moves to everything that was read."""
    cursor = Cursor(TEN)
    this = cursor.begin()
    this.taken = 1
    cursor.commit()
    this.taken = 3
    assert (Position(4, 0, 4), Position(10, 1, 0)) == (cursor.position, cursor.read_position)
    cursor.commit()
    assert Position(10, 1, 0) == cursor.position


@pytest.mark.parametrize(("batches", "offset"), [(0, 0), (1, 0), (2, 8)])
def test_a_pass_left_after_one_batch_was_a_look(batches: int, offset: int) -> None:
    """A pass that was left after two batches was training."""
    cursor = Cursor(TEN)
    read(cursor, batches)
    assert offset == cursor.begin().begun_at.offset


def test_a_look_that_was_saved_was_training() -> None:
    """What a saved position counts as trained stays counted, in the next pass alone."""
    cursor = Cursor(TEN)
    read(cursor, 1)
    cursor.note_saved()
    assert 4 == cursor.begin().begun_at.offset
    cursor.current.taken = 1
    assert 4 == cursor.begin().begun_at.offset


def test_a_pass_of_one_batch_that_came_to_its_end_was_training() -> None:
    """Where an epoch has one batch, its end tells training from a look."""
    cursor = Cursor(BatchPlan(length=3, batch_size=4))
    read(cursor, 1)
    cursor.current.ended = True
    assert Position(3, 1, 0) == cursor.begin().begun_at


def test_an_abandoned_pass_is_read_again_from_the_last_commit() -> None:
    """After an exception the uncommitted batches come again."""
    cursor = Cursor(TEN, Position(4, 0, 4), commits=True)
    read(cursor, 2)
    assert Position(4, 0, 4) == cursor.begin().begun_at


def test_an_uncommitted_end_of_an_epoch_does_not_bring_the_epoch_back() -> None:
    """A window that reaches into the next epoch is committed there, and until then the position waits."""
    cursor = Cursor(TEN, commits=True)
    read(cursor, 3)
    cursor.current.ended = True
    this = cursor.begin()
    assert (Position(10, 1, 0), Position()) == (this.begun_at, cursor.position)
    this.taken = 1
    cursor.commit()
    assert Position(14, 1, 4) == cursor.position


def test_a_place_at_the_end_of_an_epoch_is_the_start_of_the_next() -> None:
    """Seeking gives a place its one form, whoever says what is trained."""
    for commits in (False, True):
        assert Position(10, 1, 0) == Cursor(TEN, Position(10, 0, 10), commits=commits).position
