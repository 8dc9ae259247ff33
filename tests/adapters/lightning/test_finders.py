"""Callbacks that try something out in the middle of a fit, and restore the checkpoint that they saved before."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner.tuning import Tuner

from resumable import resumable, resumption_of
from tests.support.cuts import Cut, raised_in, saved_after_step, saved_at_epoch_end
from tests.support.fits import datamodule_of, ids_by_epoch
from tests.support.lightning_runs import PlainNumbers, Scenario, check, run_of, train, trainer_of, uninterrupted
from tests.support.recording import Recording
from tests.support.releases import needs_lightning

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


@pytest.mark.parametrize(
    "at_end",
    [pytest.param(False, marks=needs_lightning(2, 5, reason="batches are numbered from 0 after a trial")), True],
)
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


class SizesAtMilestones(BatchSizeFinder):
    """Trains with growing batches before the fit, or where its second epoch begins, and puts everything else back."""

    def __init__(self, in_mid_fit: bool) -> None:
        super().__init__(steps_per_trial=2, max_trials=2)
        self.in_mid_fit = in_mid_fit

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.in_mid_fit:
            self.scale_batch_size(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1 and self.in_mid_fit:
            self.scale_batch_size(trainer, pl_module)


class UndecoratedSizes(PlainNumbers):
    """Data whose batch size a finder may change."""

    batch_size = 3

    def train_dataloader(self) -> Any:
        return self.scenario.loader(batch_size=self.batch_size)


@resumable
class Sizes(UndecoratedSizes):
    """The same, decorated."""


def sized(in_mid_fit: bool, folder: Path, data: Any, *, shuffle: bool = True) -> Scenario:
    """A run with a finder of batch sizes."""
    trainer = {"default_root_dir": folder, "limit_val_batches": 1.0}
    finder = partial(SizesAtMilestones, in_mid_fit)
    return Scenario(samples=12, shuffle=shuffle, data=data, callbacks=lambda: [finder()], trainer=trainer)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")  # undecorated
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("in_mid_fit", [False, True])
def test_a_batch_size_is_found_as_undecorated(in_mid_fit: bool, shuffle: bool, tmp_path: Path) -> None:
    """The run that follows takes as many steps of as many samples, which is all that it trains."""
    plain, ours = (train(sized(in_mid_fit, tmp_path, data, shuffle=shuffle)) for data in (UndecoratedSizes, Sizes))
    expected, actual = run_of(plain), run_of(ours)
    assert [len(step.batches) for step in expected.steps] == [len(step.batches) for step in actual.steps]
    assert (expected.global_step, expected.current_epoch) == (actual.global_step, actual.current_epoch)
    trained = resumption_of(datamodule_of(ours))
    assert sum(len(ids) for ids in ids_by_epoch(actual)) == trained.consumed_samples


def test_the_trainer_keeps_its_loader_after_a_search(tmp_path: Path) -> None:
    """A tuner's fit ends without a run, and its loader has the batch size that was found."""
    scenario = sized(False, tmp_path, Sizes)
    trainer, data = trainer_of(replace(scenario, callbacks=list)), Sizes(scenario)
    found = Tuner(trainer).scale_batch_size(scenario.module(), datamodule=data, steps_per_trial=2, max_trials=2)
    loader: Any = trainer.train_dataloader
    assert found == data.batch_size == loader.batch_size
