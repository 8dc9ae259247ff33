"""Batch sizes that grow: every count is what the steps really took, at every step and after every load.

NeMo's calculator lags by the first batch of a fresh session, and validation steps move it. Here each training step finds
it where the step begins, so that a resumed run takes its steps in the sizes of the run without a cut.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L
import pytest

from tests.support import nemo_shape
from tests.support.cuts import (
    Cut,
    raised_after,
    raised_in,
    saved_after_step,
    saved_at_epoch_end,
    saved_at_validation,
    saved_in,
    stopped,
)

if not nemo_shape.has_megatron_core():
    pytest.skip("megatron-core is not installed", allow_module_level=True)

from tests.support.sampler_modules import MicroBatches, StopsWhereTheRampMoves, WholeBatches
from tests.support.sampler_runs import (
    AsksForLoaders,
    CountsEachStep,
    Saves,
    Scenario,
    check,
    check_counts,
    resumed,
    train,
)

RAMP = Scenario(samples=160, micro_batch_size=2, rampup=(2, 2, 40), module=MicroBatches)
RAMPS: dict[str, Scenario] = {
    "by_twos": RAMP,
    "by_fours": replace(RAMP, rampup=(4, 4, 30), global_batch_size=16),
    "one_leap": replace(RAMP, rampup=(2, 6, 25)),
    "uneven": replace(RAMP, micro_batch_size=4, rampup=(6, 2, 40), global_batch_size=12),
    "uneven_at_its_end": replace(RAMP, micro_batch_size=4, rampup=(4, 1, 60), global_batch_size=11),
    "long": replace(RAMP, rampup=(2, 2, 120)),
}
EPOCHS: dict[str, Any] = {"max_epochs": 2}
VALIDATED = {"limit_val_batches": 2, "val_check_interval": 5}

also = partial(pytest.param, marks=pytest.mark.slow)
by_ramp = pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(scenario, id=name, marks=[pytest.mark.slow] if name in ("long", "uneven_at_its_end") else [])
        for name, scenario in RAMPS.items()
    ],
)


@by_ramp
@pytest.mark.parametrize("step", [1, 2, 6, 7, 8, 12, 14])
def test_a_ramp_is_cut_behind_any_step(scenario: Scenario, step: int) -> None:
    """Before the batch size first moves, within the ramp, at its boundaries and behind its end."""
    check(replace(scenario, samples=240), saved_after_step(step))


@pytest.mark.slow
@by_ramp
@pytest.mark.parametrize("step", range(1, 26))
def test_each_step_of_a_ramp_can_be_the_last(scenario: Scenario, step: int) -> None:
    """Saved behind any step that comes before the data's end, by a checkpoint or on the way out of an exception."""
    for cut in (saved_after_step(step), raised_after(step)):
        check(replace(scenario, samples=400), cut)


@by_ramp
@pytest.mark.parametrize("steps", [also((4, 8)), (7, 8, 9), (8, 12, 16), also((6, 10))], ids=str)
def test_a_ramp_is_cut_again_and_again(scenario: Scenario, steps: tuple[int, ...]) -> None:
    """No error stays or compounds over resumes."""
    check(replace(scenario, samples=400), *map(saved_after_step, steps))


@by_ramp
@pytest.mark.parametrize("cut", [None, saved_after_step(3), saved_after_step(9)], ids=str)
def test_the_count_is_the_truth_behind_each_step(scenario: Scenario, cut: Cut | None) -> None:
    """In a fresh session, where NeMo's calculator would lag, and in a resumed one, where it would not."""
    scenario, saves = replace(scenario, callbacks=lambda: [CountsEachStep()]), list[tuple[int, int]]()
    if cut is None:
        train(scenario, saves=saves)
    else:
        resumed(scenario, cut, saves=saves)
    check_counts(saves)


OPTIONS: dict[str, Scenario] = {
    "exceptions": RAMP,
    "validated": replace(RAMP, trainer=VALIDATED),
    "validated_and_rebased": replace(RAMP, trainer=VALIDATED, rebases={"train": 1, "validation": 1}),
    "validated_in_the_mixin": replace(RAMP, trainer=VALIDATED, data="both", rebases={"train": 1, "validation": 1}),
    "loaders_asked_for": replace(RAMP, callbacks=lambda: [AsksForLoaders("val", "train")], rebases={"validation": 1}),
    "restored_first": replace(RAMP, restores_first=True),
    "transformed_by_itself": replace(RAMP, transforms=frozenset({"datamodule"})),
    "bare": replace(RAMP, data="bare"),
    "cyclic": replace(RAMP, kind="cyclic"),
    "epochs": replace(RAMP, samples=80, trainer=EPOCHS),
    "epochs_with_a_rest": replace(RAMP, samples=83, trainer=EPOCHS),
    "epochs_reloaded": replace(RAMP, samples=80, trainer={**EPOCHS, "reload_dataloaders_every_n_epochs": 1}),
    "epochs_validated": replace(RAMP, samples=80, trainer={**EPOCHS, "limit_val_batches": 2}),
    "epochs_cyclic": replace(RAMP, samples=80, kind="cyclic", trainer=EPOCHS),
}
CUTS = [
    also((saved_after_step(4),)),
    also((saved_after_step(10),)),
    also((raised_in("training_step", (0, 5)),)),
    (raised_in("training_step", (0, 9)), raised_in("training_step", (0, 11))),
    (saved_after_step(5), saved_after_step(11)),
]


@pytest.mark.parametrize("scenario", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_a_ramp_in_whatever_the_trainer_is_told(scenario: Scenario, cuts: tuple[Cut, ...]) -> None:
    """Validation steps, loaders asked for, exceptions and epochs: the samples are the uninterrupted run's."""
    check(scenario, *cuts)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name.startswith("epochs")])
@pytest.mark.parametrize(
    "cuts",
    [
        (saved_at_epoch_end(0),),
        (raised_in("training_step", (1, 0)),),
        (saved_after_step(6), saved_at_epoch_end(0)),
        (saved_at_epoch_end(0), raised_in("training_step", (1, 3))),
    ],
    ids=str,
)
def test_a_ramp_at_the_boundary_of_epochs(name: str, cuts: tuple[Cut, ...]) -> None:
    """The next epoch begins at its first sample, with the batch size that the count says."""
    check(OPTIONS[name], *cuts)


def test_a_ramp_saved_by_a_validation() -> None:
    """The checkpoint of a validation's end, whose steps moved the calculator."""
    check(OPTIONS["validated"], saved_at_validation((0, 7)))


def test_a_ramp_that_stops_the_session_where_it_moves() -> None:
    """NeMo's sampler sets `should_stop` in the first step of another size; each session then ends there."""
    saves: Saves = []
    stops = replace(RAMP, module=StopsWhereTheRampMoves)
    resumed(stops, stopped((0, 3)), stopped((0, 6)), saves=saves, then=RAMP)
    check_counts(saves)


class CountsAtStart(L.Callback):
    """What the state says from the load to the first batch."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.size = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._count(pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._count(pl_module)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        self._count(pl_module)
        self.size = nemo_shape.calculators().get_num_microbatches() * nemo_shape.calculators().get_micro_batch_size()
        trainer.should_stop = True

    def _count(self, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, WholeBatches)
        datamodule: Any = pl_module.datamodule
        self.counts.append(datamodule.state_dict()["consumed_samples"])


@by_ramp
@pytest.mark.parametrize("restores_first", [False, True])
@pytest.mark.parametrize("step", [3, 7, 8, 12])
def test_a_load_gives_back_what_was_saved_and_tells_the_calculator(
    scenario: Scenario, restores_first: bool, step: int, tmp_path: Any
) -> None:
    """Before any step the count is the saved one, and the first step takes what megatron-core says at that count."""
    scenario = replace(scenario, restores_first=restores_first)
    saves: Saves = []
    cut = saved_after_step(step)
    cut.carry_out(lambda *callbacks: train(scenario, None, *callbacks, saves=saves), tmp_path)
    at_start = CountsAtStart()
    train(scenario, tmp_path / "cut.ckpt", at_start)
    assert {saves[0][1]} == set(at_start.counts)
    assert batch_size_at(saves[0][1], scenario) == at_start.size


@by_ramp
@pytest.mark.parametrize("step", [3, 7, 8, 12])
def test_a_resumed_session_takes_what_the_schedule_says(scenario: Scenario, step: int) -> None:
    """NeMo's own moves of the calculator go on from the loaded count, so that none of the steps is of another size."""
    sizes = [len(step.batches) * scenario.micro_batch_size for step in resumed(scenario, saved_after_step(step)).steps]
    expected = [batch_size_at(sum(sizes[:number]), scenario) for number in range(step, len(sizes))]
    assert expected == sizes[step:]


def batch_size_at(consumed_samples: int, scenario: Scenario) -> int:
    """Of the step that begins there, as megatron-core has it."""
    rule = nemo_shape.calculators().RampupBatchsizeNumMicroBatchesCalculator(
        scenario.global_batch_size, scenario.micro_batch_size, 1, False, 0, *(scenario.rampup or ())
    )
    rule.update(consumed_samples, consistency_check=False)
    return int(rule.get()) * scenario.micro_batch_size  # a step takes whole micro batches


def test_saved_by_hand_in_the_middle_of_a_step() -> None:
    """A step that has begun counts for nothing until it is complete."""
    check(RAMP, saved_in("on_train_batch_start", (0, 9)))


@pytest.mark.parametrize("step", [16, 17, 18, 19])
def test_a_step_that_finds_too_little_data_counts_for_nothing(step: int) -> None:
    """It ends its epoch, and the next epoch's first step is counted once."""
    scenario = replace(RAMP, samples=94, rampup=(2, 2, 24), trainer={"max_epochs": 3})
    check(scenario, saved_after_step(step))
