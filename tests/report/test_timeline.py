"""A timeline shows what the audit holds: steps, sessions, resizes and what became of each epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from resumable import StepSchedule
from resumable.audit import read_records, runs_of
from resumable.report.timeline import EpochCover, Piece, Timeline, timeline_of
from tests.support.audited_runs import session

SCHEDULE = StepSchedule(((0, 16), (700, 32), (2000, 64)))


def timeline(folder: Path) -> Timeline:
    """That of the one run in *folder*."""
    (run,) = runs_of(read_records(folder))
    return timeline_of(run)


def test_sessions_are_counted_in_steps(tmp_path: Path) -> None:
    """Each session begins at the step at which the one before it counts no more; what came after that was undone."""
    state = session(tmp_path, (2, 4), 30, beyond=10, schedule=SCHEDULE)
    state = session(tmp_path, (2, 4), 25, beyond=6, state=state, schedule=SCHEDULE)
    state = session(tmp_path, (4, 4), 20, state=state, schedule=SCHEDULE)
    made = timeline(tmp_path)
    assert [(0, 30, 40), (30, 55, 61), (55, 75, 75)] == [
        (bar.first_step, bar.last_step, bar.reached) for bar in made.bars
    ]
    assert (75, state["consumed_samples"]) == (made.steps, made.bars[-1].curve[-1][1])
    assert [((2, 4), (4, 4))] == [
        ((before.ranks, before.micro_batch_size), (after.ranks, after.micro_batch_size))
        for before, after in made.resizes
    ]
    sizes = [(stage.first_step, stage.batch_size) for bar in made.bars for stage in bar.stages]
    assert [(1, 16), (31, 16), (45, 32), (56, 32)] == sizes


def test_epochs_are_covered(tmp_path: Path) -> None:
    """The pieces of an epoch are those that its sessions trained, in its order, and a fault stands out."""
    state = session(tmp_path, (1, 5), 7, samples=50)
    session(tmp_path, (1, 10), 8, state=state, samples=50)
    session(tmp_path, (1, 10), 1, state=session(None, (1, 10), 14, samples=50), samples=50)
    assert [
        (Piece(0, 35, 0), Piece(35, 50, 1)),
        (Piece(0, 50, 1),),
        (Piece(0, 10, 1), Piece(40, 50, 2), Piece(10, 40, None, "lost")),
    ] == [cover.pieces for cover in timeline(tmp_path).epochs]


@pytest.mark.parametrize("epochs", [61, 1_000_000])
def test_many_equal_epochs_are_one_row(epochs: int, tmp_path: Path) -> None:
    """Epochs that one session trained whole share a row where there are many."""
    session(tmp_path, (1, 10), 5, samples=50)
    (record,) = read_records(tmp_path)
    ends = record.stretch.position_after(5 * epochs + 2)
    (longer,) = runs_of([replace(record, trained=ends, read=ends)])
    covers = timeline_of(longer).epochs
    assert [EpochCover(0, epochs, 50, (Piece(0, 50, 0),)), EpochCover(epochs, 1, 50, (Piece(0, 20, 0),))] == list(
        covers
    )
    assert f"0 to {epochs - 1}" == covers[0].name
