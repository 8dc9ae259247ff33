"""Checkpoints of the undecorated class in a ramp-up: the decorated run goes on with the sample after the last trained one.

Without the decorator each size comes a step late, and the saved count holds the next batch too, once for each session.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from resumable import ResumptionWarning
from tests.support import nemo_shape
from tests.support.cuts import checkpoint_in, saved_after_step
from tests.support.lightning_runs import run_of

if not nemo_shape.has_megatron_core():
    pytest.skip("megatron-core is not installed", allow_module_level=True)

from tests.support.sampler_modules import MicroBatches
from tests.support.sampler_runs import Scenario, ids, train, trained_in

RAMP = Scenario(samples=300, micro_batch_size=2, rampup=(2, 2, 40), module=MicroBatches)


def old_checkpoint(*steps: int, folder: Path, data: str = "mixin", old: Scenario = RAMP) -> Path:
    """What the undecorated class leaves after *steps*, each of which ends a session."""
    checkpoint, scenario = None, replace(old, data=data, rebases={"train": 1} if data == "mixin" else {})
    for number, step in enumerate(steps):
        place = folder / str(number)
        saved_after_step(step).carry_out(partial(train, scenario, checkpoint, session=number), place)
        checkpoint = checkpoint_in(place)
    assert checkpoint is not None
    return checkpoint


def go_on(checkpoint: Path, scenario: Scenario = RAMP) -> tuple[list[int], int]:
    """All that the run has trained, once the decorated class has gone on, and how much of it before that."""
    trained = trained_in(torch.load(checkpoint, weights_only=True))
    return ids(run_of(train(scenario, checkpoint, session=9))), trained


@pytest.mark.parametrize("steps", [(5,), (8,), (15,), (5, 8), (8, 15), (5, 8, 11)], ids=str)
def test_a_count_that_is_ahead_is_corrected(steps: tuple[int, ...], tmp_path: Path) -> None:
    """No sample is lost at the seam, however many sessions the old run had; the correction is said."""
    checkpoint = old_checkpoint(*steps, folder=tmp_path)
    if steps == (5,):  # the size has not moved yet
        found, trained = go_on(checkpoint)
    else:
        with pytest.warns(ResumptionWarning, match="count of a ramp-up is ahead of what was trained"):
            found, trained = go_on(checkpoint)
    last = found[trained - 1]
    assert list(range(last, found[-1] + 1)) == found[trained - 1 :]
    assert RAMP.samples - 16 < found[-1]


@pytest.mark.parametrize("step", [1, 2, 8, 15])
def test_a_ramp_without_any_count(step: int, tmp_path: Path) -> None:
    """It follows from the steps, as the undecorated class takes them."""
    checkpoint = old_checkpoint(step, folder=tmp_path, data="plain")
    if step < 8:
        found, _ = go_on(checkpoint)
    else:
        with pytest.warns(ResumptionWarning, match="holds no count(?s:.*)each size a step late"):
            found, _ = go_on(checkpoint)
    assert list(range(found[-1] + 1)) == found


def test_a_count_that_the_steps_do_not_take(tmp_path: Path) -> None:
    """It may be right, where the batch size was another before, so it stands, with a warning."""
    checkpoint = old_checkpoint(8, folder=tmp_path)
    saved = torch.load(checkpoint, weights_only=True)
    saved["Data"]["consumed_samples"] = 19
    torch.save(saved, checkpoint)
    with pytest.warns(
        ResumptionWarning, match=r"not what the steps(?s:.*)saved consumed_samples: 19\n  by the steps: +16"
    ):
        found, trained = go_on(checkpoint)
    assert 19 == found[trained]


@pytest.mark.parametrize("data", ["mixin", "plain"])
@pytest.mark.parametrize("step", [3, 8, 9, 11, 17])
@pytest.mark.parametrize("samples", [64, 70])
def test_the_rest_of_a_cyclic_epoch_is_no_step(samples: int, step: int, data: str, tmp_path: Path) -> None:
    """Megatron's stream counts the micro batch that an epoch's steps leave over; the trainer's counters tell the epoch."""
    cyclic = Scenario(
        samples=samples, micro_batch_size=4, kind="cyclic", module=MicroBatches, trainer={"max_epochs": 3}
    )
    expected = ids(run_of(train(replace(cyclic, data=data, rebases={}))))
    found, _ = go_on(old_checkpoint(step, folder=tmp_path, data=data, old=cyclic), cyclic)
    assert expected == found
