"""Which samples a step trained, under Lightning and with a data sampler: against what the trainers' runs recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import ResumptionState, StepSchedule
from tests.support import lightning_runs, sampler_runs
from tests.support.cuts import checkpoint_in, saved_after_step
from tests.support.lightning_runs import Scenario, data_of
from tests.support.recording import flat
from tests.support.sampler_modules import MicroBatches

PLAIN = Scenario(samples=23, trainer={"max_epochs": 4, "accumulate_grad_batches": 2})
LIGHTNING = {
    "accumulation": PLAIN,
    "drop_last": replace(PLAIN, drop_last=True),
    "in its own order": replace(PLAIN, shuffle=False),
    "limit": replace(PLAIN, trainer={"max_epochs": 4, "limit_train_batches": 3}),
    "schedule": replace(PLAIN, data=data_of(StepSchedule(((0, 4), (20, 8)))), trainer={"max_epochs": 4}),
}
WHOLE = sampler_runs.Scenario(trainer={"max_epochs": 3})
SAMPLER = {
    "single": WHOLE,
    "micro batches": sampler_runs.Scenario(
        samples=64, micro_batch_size=2, global_batch_size=8, module=MicroBatches, trainer={"max_epochs": 3}
    ),
    "cyclic": replace(WHOLE, kind="cyclic"),
    "ramp": sampler_runs.Scenario(samples=160, micro_batch_size=2, rampup=(2, 2, 40), module=MicroBatches),
}


def saved_by(session: Any, steps: int, place: Path, key: str) -> Mapping[str, Any]:
    """The state of a session that was killed behind *steps* steps."""
    saved_after_step(steps).carry_out(session, place)
    state: Mapping[str, Any] = torch.load(checkpoint_in(place), weights_only=True)[key]
    return state


def told_by(state: Mapping[str, Any]) -> ResumptionState:
    """The state, connected to nothing."""
    told = ResumptionState()
    told.load_state_dict(state)
    return told


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("scenario", LIGHTNING.values(), ids=LIGHTNING)
def test_the_steps_of_a_trainer_are_those_that_it_takes(scenario: Scenario, steps: int, tmp_path: Path) -> None:
    """Past and to come, from a checkpoint alone."""
    state = saved_by(
        partial(lightning_runs.train, scenario, None), steps, tmp_path, scenario.data(scenario).__class__.__qualname__
    )
    told, expected = told_by(state), lightning_runs.uninterrupted(scenario).steps
    trained = [[number for _, ids in step.batches for number in flat(ids)] for step in expected]
    assert [told.samples_of_step(number) for number in range(1, len(trained) + 1)] == trained
    check_steps_of_each_sample(told, trained, steps)


@pytest.mark.parametrize("steps", [3, 11])
@pytest.mark.parametrize("scenario", SAMPLER.values(), ids=SAMPLER)
def test_the_steps_of_a_data_sampler_s_run_are_those_that_it_takes(
    scenario: sampler_runs.Scenario, steps: int, tmp_path: Path
) -> None:
    """Past and to come, across the ends of epochs."""
    state = saved_by(partial(sampler_runs.train, scenario, None), steps, tmp_path, "Data")
    told, expected = told_by(state), sampler_runs.uninterrupted(scenario).steps
    trained = [[number for _, ids in step.batches for number in flat(ids)] for step in expected]
    assert [told.samples_of_step(number) for number in range(1, len(trained) + 1)] == trained
    check_steps_of_each_sample(told, trained, steps)


def check_steps_of_each_sample(told: ResumptionState, trained: list[list[int]], done: int) -> None:
    """All steps that have trained it, of *done* ones, and the next one."""
    for sample in {sample for ids in trained for sample in ids}:
        held = [number for number, ids in enumerate(trained, start=1) if sample in ids]
        past = [number for number in held if number <= done]
        found = told.steps_of_sample(sample)
        assert found[: len(past)] == past
        assert len(found) <= len(past) + 1
        if len(held) > len(past):
            assert found[-1] == held[len(past)]
