"""Callbacks that try something out in the middle of a fit, and restore the checkpoint that they saved before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lightning.pytorch.callbacks import LearningRateFinder

from tests.support.cuts import Cut, raised_in, saved_after_step, saved_at_epoch_end
from tests.support.lightning_runs import Scenario, check, train, uninterrupted
from tests.support.recording import Recording

if TYPE_CHECKING:
    import lightning as L


class AtMilestones(LearningRateFinder):
    """Trains some steps with growing rates where an epoch begins, or ends, and puts everything back."""

    def __init__(self, at_end: bool) -> None:
        super().__init__(num_training_steps=3, early_stop_threshold=None, update_attr=False)
        self.at_end = at_end

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pass

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch and not self.at_end:
            self.lr_find(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1 and self.at_end:
            self.lr_find(trainer, pl_module)


def scenario_of(at_end: bool, folder: Path, **options: Any) -> Scenario:
    """A run with such a finder, which needs a folder of its own."""
    trainer = {"default_root_dir": folder, "limit_val_batches": 1.0}
    return Scenario(callbacks=lambda: [AtMilestones(at_end)], trainer=trainer, **options)


@pytest.mark.parametrize("at_end", [False, True])
def test_a_trial_in_a_fit_moves_nothing(at_end: bool, tmp_path: Path) -> None:
    """The run has the steps of the one without it, also where it is resumed around it."""
    scenario = scenario_of(at_end, tmp_path)
    without = uninterrupted(Scenario(trainer={"limit_val_batches": 1.0}))
    assert without.steps == uninterrupted(scenario).steps


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(
    "cut",
    [saved_after_step(4), saved_after_step(8), raised_in("training_step", (1, 2)), saved_at_epoch_end(0)],
    ids=str,
)
def test_a_run_with_trials_is_resumed(cut: Cut, at_end: bool, tmp_path: Path) -> None:
    """Wherever it was cut: what the finder restores is the position that it found."""
    check(scenario_of(at_end, tmp_path), cut)


def test_an_error_in_a_trial_is_the_user_s(tmp_path: Path) -> None:
    """What the finder restores on the way out does not hide it."""

    class Failing(Recording):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.trainer.current_epoch == 1:
                raise KeyError("a bug")
            return super().training_step(batch, batch_idx)

    with pytest.raises(KeyError, match="a bug"):
        train(scenario_of(at_end=False, folder=tmp_path, module=Failing))
