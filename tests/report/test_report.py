"""What became of a run's data: the counts hold for every chain of kills, and the table and the picture show them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image
from rich.console import Console

from resumable.errors import ConfigurationError
from resumable.report import Counts, Run, Session, Step, compare_weights, counts
from resumable.report.picture import draw
from resumable.report.table import as_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES, EPOCHS, BATCH = 10, 2, 3
# Every epoch in its own order, its last batch short.
STEPS = tuple(
    Step(epoch, tuple((index * 3 + epoch) % SAMPLES for index in range(start, min(start + BATCH, SAMPLES))))
    for epoch in range(EPOCHS)
    for start in range(0, SAMPLES, BATCH)
)
RED, BLACK = (0xCC, 0x33, 0x11), (0x22, 0x22, 0x22)


def made_run(*sessions: Session, name: str = "made up", digest: str | None = None) -> Run:
    """A run with *sessions* over the samples and epochs of this file."""
    return Run(name, SAMPLES, EPOCHS, sessions, weights_digest=digest)


WHOLE = made_run(Session(0, STEPS))
# The second session begins its epoch anew in the third step: 0, 3 and 6 again, and the epoch ends without 8, 1 and 4.
BROKEN = made_run(
    Session(0, STEPS[:3], killed=True), Session(2, (*STEPS[:1], *STEPS[3:])), name="broken", digest="other weights"
)


def exact_chain(cuts: list[tuple[int, int]]) -> Run:
    """A run killed at the second of each pair of steps, and gone on with from the first."""
    stops, starts = [stop for _, stop in cuts] + [len(STEPS)], [0] + [start for start, _ in cuts]
    return made_run(
        *(
            Session(start, STEPS[start:stop], killed=stop < len(STEPS))
            for start, stop in zip(starts, stops, strict=True)
        )
    )


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Kills of a run, each a step to go on from and the step that was reached, at or behind it."""
    cuts: list[tuple[int, int]] = []
    start = 0
    for _ in range(draw(st.integers(0, 5))):
        stop = draw(st.integers(start, len(STEPS) - 1))
        start = draw(st.integers(0, stop))
        cuts.append((start, stop))
    return cuts


@given(chains())
def test_what_a_kill_undid_does_not_count(cuts: list[tuple[int, int]]) -> None:
    """However often a run goes back to a checkpoint, it has trained what its last way through the steps trained."""
    run = exact_chain(cuts)
    assert [step for _, step in run.history()] == list(STEPS)
    undone = sum(len(session.steps) for session in run.sessions) - len(STEPS)
    assert counts(run) == Counts(trained=SAMPLES * EPOCHS, repeated=0, lost=0, undone_steps=undone)


@given(st.lists(st.tuples(st.integers(0, EPOCHS - 1), st.lists(st.integers(0, SAMPLES - 1), max_size=4))))
def test_trained_is_repeated_and_all_that_is_not_lost(steps: list[tuple[int, list[int]]]) -> None:
    """Each sample of each epoch is lost, or trained once and then repeated."""
    count = counts(made_run(Session(0, tuple(Step(epoch, tuple(indices)) for epoch, indices in steps))))
    assert count.trained - count.repeated == SAMPLES * EPOCHS - count.lost
    assert count.trained == sum(len(indices) for _, indices in steps)


def test_repeated_and_lost_are_counted_by_epoch() -> None:
    """A sample that an epoch has twice is repeated once; the other epoch's does not make up for one that is lost."""
    assert counts(BROKEN) == Counts(trained=20, repeated=3, lost=3, undone_steps=1)


def test_an_epoch_behind_the_planned_ones_loses_nothing() -> None:
    """A run that is not over: what follows the epochs asked for can be repeated, not lost."""
    run = Run("going on", SAMPLES, 1, (Session(0, (*STEPS[:4], Step(1, (5, 5)))),))
    assert counts(run) == Counts(trained=12, repeated=1, lost=0, undone_steps=0)


def test_a_session_from_nowhere_is_refused() -> None:
    """A step that no session reached cannot be gone on from: a session is missing."""
    with pytest.raises(ConfigurationError) as caught:
        made_run(Session(0, STEPS[:2]), Session(5, STEPS[5:])).history()
    assert str(caught.value) == (
        "Session 1 of 'made up' goes on from a step that no session reached.\n"
        "  start_step:       5\n"
        "  steps until then: 2\n"
        "Pass all sessions of the run, in the order in which they ran."
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [("5f", "5f", "bit-equal"), ("5f", "60", "differ"), (None, "5f", ""), ("5f", None, "")],
)
def test_weights_are_compared_only_where_both_are_known(ours: str | None, theirs: str | None, expected: str) -> None:
    """An unknown digest equals nothing, not even another unknown one."""
    assert compare_weights(made_run(digest=ours), made_run(digest=theirs)) == expected


def test_the_table_tells_the_counts() -> None:
    """A row for each run: what was counted, and its weights against the first run's."""
    console = Console(width=100)
    with console.capture() as shown:
        console.print(as_table([made_run(Session(0, STEPS), digest="weights"), BROKEN]))
    rows = [line.split() for line in shown.get().splitlines() if "made" in line or "broken" in line]
    assert rows == [
        ["made", "up", "1", "20", "0", "0", "reference"],
        ["broken", "2", "20", "3", "3", "differ"],
    ]


def pixels_of(picture: Path, colour: tuple[int, int, int]) -> int:
    """How many pixels of *picture*, its legend left out, have *colour*."""
    pixels: NDArray[np.float32] = np.asarray(image.imread(picture), dtype=np.float32)
    return int((np.rint(pixels[:600, :, :3] * 255) == colour).all(axis=-1).sum())


def test_the_picture_has_its_size(tmp_path: Path) -> None:
    """A PNG of 1600 x 700 pixels, by its own header."""
    draw([WHOLE, BROKEN], tmp_path / "picture.png")
    head = (tmp_path / "picture.png").read_bytes()[:24]
    assert (head[:8], struct.unpack(">II", head[16:])) == (b"\x89PNG\r\n\x1a\n", (1600, 700))


def test_the_picture_shows_trouble_where_there_is_some(tmp_path: Path) -> None:
    """Red cells and black bars cover as much as was repeated and lost; an exact run has neither."""
    picture = tmp_path / "picture.png"
    draw([WHOLE, exact_chain([(2, 4), (5, 7)])], picture)
    assert (pixels_of(picture, RED), pixels_of(picture, BLACK)) == (0, 0)
    draw([BROKEN], picture)
    red, black = pixels_of(picture, RED), pixels_of(picture, BLACK)
    assert red > 10_000
    assert black == pytest.approx(red, rel=0.25)  # the words on the bars, and the red of the header


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(made_run(), id="no session"),
        pytest.param(made_run(Session(0, ())), id="no step"),
        pytest.param(made_run(Session(0, STEPS[:1], killed=True)), id="one step"),
        pytest.param(made_run(Session(0, (Step(0, (1,)), Step(7, (1, 1))))), id="an epoch too many"),
        pytest.param(exact_chain([(step, step) for step in range(8)]), id="more sessions than colours"),
    ],
)
def test_any_run_can_be_drawn(run: Run, tmp_path: Path) -> None:
    """A run cut short, or stranger, is drawn like any other."""
    draw([run], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 0


def test_no_run_cannot_be_drawn(tmp_path: Path) -> None:
    """Nothing to draw is an error, not an empty picture."""
    with pytest.raises(ConfigurationError, match="There is nothing to draw"):
        draw([], tmp_path / "picture.png")
