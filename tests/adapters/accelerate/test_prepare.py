"""What `prepare(accelerator, loader)` gives accelerate, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate")

from resumable import ConfigurationError, ResumableLoader, ResumptionWarning, StepSchedule
from resumable.adapters.accelerate import prepare
from tests.support.accelerate_runs import new_accelerator
from tests.support.ranks import in_ranks

NUMBERS = torch.arange(11)


def gathered() -> list[list[int]]:
    """What the metrics of an epoch are made of, batch by batch, on any number of processes."""
    from resumable.adapters.accelerate import Ranks

    accelerator = new_accelerator()
    loader: Any = prepare(accelerator, ResumableLoader(NUMBERS, 2, ranks=Ranks(accelerator)))
    return [accelerator.gather_for_metrics(batch).tolist() for batch in loader]


def test_metrics_are_of_each_sample_once() -> None:
    """The samples that fill up the last round of two processes are cut off, as by accelerate's own loaders."""
    assert [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]] == gathered()
    assert [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]] == in_ranks(2, gathered)


def test_windows_follow_the_schedule() -> None:
    """Each optimizer step of a schedule is one window of `accumulate`."""
    accelerator = new_accelerator()
    loader: Any = prepare(accelerator, ResumableLoader(NUMBERS, 1, schedule=StepSchedule(((0, 2), (4, 3)))))
    steps: list[int] = []
    for _ in loader:
        with accelerator.accumulate():
            steps.append(accelerator.sync_gradients)
    assert [0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 1] == steps


def test_what_is_refused(tmp_path: Path) -> None:
    """Another rank's part, a loader that is prepared, one that is not resumable; a folder without it is told of."""
    accelerator = new_accelerator()
    accelerator.save_state(str(tmp_path))
    loader: Any = prepare(accelerator, ResumableLoader(NUMBERS, 2))
    with pytest.raises(ConfigurationError, match="prepared already"):
        prepare(accelerator, loader)
    with pytest.raises(ConfigurationError, match="disagree"):
        prepare(accelerator, ResumableLoader(NUMBERS, 2, data_parallel_rank=1, data_parallel_size=2))
    with pytest.raises(ConfigurationError, match="Only a resumable loader"):
        prepare(accelerator, [])
    with pytest.warns(ResumptionWarning, match="no position for a loader"):
        accelerator.load_state(str(tmp_path))
    prepare(new_accelerator(), copy.deepcopy(loader))  # a copy is prepared for nothing


def test_a_checkpoint_that_was_loaded_before_is_told_of(tmp_path: Path) -> None:
    """Nothing of it has reached the loader, and nothing else would show that."""
    accelerator = new_accelerator()
    prepare(accelerator, ResumableLoader(NUMBERS, 2))
    accelerator.save_state(str(tmp_path))
    later = new_accelerator()
    later.load_state(str(tmp_path))
    with pytest.warns(ResumptionWarning, match="before the loader was prepared"):
        prepare(later, ResumableLoader(NUMBERS, 2))


def by_itself(*, save_after: int, counts_on: bool = False, commits: bool = False) -> None:
    """A loop that accumulates three batches of an epoch's six, or *counts_on* into the next one, without `accumulate`."""
    accelerator = new_accelerator()
    model = torch.nn.Linear(1, 1)
    loader: Any = prepare(accelerator, ResumableLoader(NUMBERS, 2))
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.1))
    if commits:
        loader.commit()
    done = 0
    for _ in range(2):
        for batch in loader:
            accelerator.backward(model(batch[:, None].float()).mean())
            done += 1
            if done % (4 if counts_on else 3) == 0:
                optimizer.step()
                optimizer.zero_grad()
                if commits:
                    loader.commit()
            if done == save_after:
                loader.state_dict()


def test_a_loop_that_accumulates_by_itself_is_told_where_its_window_is_lost() -> None:
    """Before its first step, and at an epoch's end; elsewhere its steps are seen, and its commits always are."""
    with pytest.warns(ResumptionWarning, match="no prepared optimizer has stepped since the loop began"):
        by_itself(save_after=2)
    with pytest.warns(ResumptionWarning, match="An epoch has ended while the loop accumulates by itself") as caught:
        by_itself(save_after=7, counts_on=True)
    assert len(caught) == 1
    by_itself(save_after=7)
    by_itself(save_after=2, commits=True)
