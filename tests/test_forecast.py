"""Forecasts against loops: what is foretold of a run's steps is what loaders then do."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable import ConstantBatchSize, LinearRampup, ResumableLoader, StepSchedule
from resumable.errors import ConfigurationError
from resumable.forecast import EpochRow, Resize, StageRow, forecast
from resumable.position import Position
from resumable.saved.ledger import Stretch

SCHEDULES: list[Any] = [
    None,
    ConstantBatchSize(12),
    LinearRampup(12, 36, 12, 50),
    StepSchedule(((0, 12), (20, 24), (30, 12), (31, 48))),
]


def steps_of_loop(stretch: Stretch, epochs: int, resizes: list[Resize]) -> tuple[list[tuple[Position, int]], Position]:
    """Each optimizer step of a real loop, where it begins and what its ranks load, and where the run ends."""
    steps: list[tuple[Position, int]] = []
    sizes = [(resize.step, resize.data_parallel_size, resize.micro_batch_size) for resize in resizes]
    parts = [(0, stretch.data_parallel_size, stretch.micro_batch_size), *sizes, (10**9, 0, 0)]
    saved: dict[str, Any] | None = None
    at, schedule = Position(), cast("Any", stretch.schedule)
    for (_, ranks, micro), (until, *_) in pairwise(parts):
        loader = ResumableLoader(
            range(stretch.length),
            micro,
            schedule=schedule,
            data_parallel_rank=0,
            data_parallel_size=ranks,
            drop_last=stretch.drop_last,
        )
        if saved is not None:
            loader.load_state_dict(saved)
        loader.commit()
        while loader.state.position.epoch < epochs and len(steps) < until:
            window = 0
            for _ in loader:
                window += 1
                if window == loader.num_microbatches:
                    begins, window = loader.state.position, 0
                    loader.commit()
                    steps.append((begins, loader.state.position.consumed_samples - begins.consumed_samples))
                    if len(steps) == until:
                        break
        saved, at = loader.state_dict(), loader.state.position
        if at.epoch >= epochs:
            break
    return steps, at


@given(
    schedule=st.sampled_from(SCHEDULES),
    length=st.integers(1, 90),
    ranks=st.sampled_from([1, 2, 3]),
    micro=st.sampled_from([1, 2, 4]),
    drop_last=st.sampled_from([False, True, "carry"]),
    epochs=st.integers(1, 4),
    resizes=st.lists(st.tuples(st.integers(0, 20), st.sampled_from([1, 2, 3, 6]), st.sampled_from([1, 2])), max_size=2),
)
@settings(max_examples=150, deadline=None)
def test_what_is_foretold_is_what_a_loop_does(
    *,
    schedule: Any,
    length: int,
    ranks: int,
    micro: int,
    drop_last: Any,
    epochs: int,
    resizes: list[tuple[int, int, int]],
) -> None:
    """Steps, samples, stages and epochs are those of real loaders, over resizes too."""
    stretch = Stretch(
        length=length,
        micro_batch_size=micro,
        data_parallel_size=ranks,
        drop_last=drop_last,
        schedule=schedule,
    )
    changes = [Resize(*each) for each in sorted(resizes)]
    try:
        made = forecast(stretch, epochs=epochs, resizes=changes)
    except ConfigurationError:
        return  # sizes that no loader takes, or a resize past the end
    if made.parts[-1].verdict is not None and made.parts[-1].verdict.outcome == "refused":
        return
    steps, ends = steps_of_loop(stretch, epochs, changes)
    assert (len(steps), ends) == (made.total_steps, made.ends)
    assert sum(row.samples * row.epochs for row in made.epochs) == ends.consumed_samples
    assert sum(row.steps * row.epochs for row in made.epochs) == len(steps)
    for stage in made.stages:
        begins, taken = steps[stage.first_step - 1]
        assert (begins.consumed_samples, begins.epoch) == (stage.begins.consumed_samples, stage.begins.epoch)
        assert taken <= stage.batch_size


def test_of_equal_epochs_one_row_is_enough() -> None:
    """A row stands for all epochs that are alike, however many: the tail is dropped or padded in each."""
    stretch = Stretch(length=10, micro_batch_size=2, data_parallel_size=4)
    padded, dropped = forecast(stretch, epochs=10**9), forecast(
        Stretch(length=10, micro_batch_size=2, data_parallel_size=4, drop_last=True), epochs=10**9
    )  # fmt: skip
    assert [EpochRow(0, 10**9, 2, 10, 2, 0, 2)] == padded.epochs
    assert [EpochRow(0, 10**9, 1, 8, 8, 2, 0)] == dropped.epochs


def test_stages_begin_at_steps() -> None:
    """A batch size holds from the first step that begins past its threshold; one that no step meets has no row."""
    made = forecast(Stretch(length=100, schedule=StepSchedule(((0, 8), (20, 16), (30, 24)))), epochs=1)
    rows = [(row.first_step, row.begins.consumed_samples, row.batch_size) for row in made.stages]
    assert [(1, 0, 8), (4, 24, 16), (5, 40, 24)] == rows
    assert StageRow(1, Position(), 8, 8) == made.stages[0]


def test_a_resize_has_a_verdict() -> None:
    """Other sizes are another grouping; those that do not divide a step are refused, and end the forecast."""
    stretch = Stretch(length=96, micro_batch_size=2, data_parallel_size=2, schedule=ConstantBatchSize(8))
    made = forecast(stretch, epochs=2, resizes=[Resize(3, 4, 2), Resize(5, 3, 2), Resize(6, 1, 2)])
    outcomes = [None if part.verdict is None else part.verdict.outcome for part in made.parts]
    assert [None, "regrouped", "refused"] == outcomes
    assert 5 == made.total_steps
    refused = made.parts[-1].verdict
    assert refused is not None
    assert ("4 x 2", "3 x 2") == (refused.differences[0].saved, refused.differences[0].current)


@pytest.mark.parametrize("steps", [[24], [5, 3], [-1]])
def test_a_resize_comes_within_the_run(steps: list[int]) -> None:
    """A resize after the last step, or before the one that precedes it, is refused with both numbers."""
    with pytest.raises(ConfigurationError, match=r"A resize must come within the run"):
        forecast(Stretch(length=96, micro_batch_size=4), epochs=1, resizes=[Resize(step, 2, 2) for step in steps])
