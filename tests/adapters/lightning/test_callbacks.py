"""Lightning's own callbacks beside the position: those that ask for metrics, set accumulation, or look for a rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.tuner.tuning import Tuner
from torch.utils.data import SubsetRandomSampler

from resumable import Position, resumption_of, stop_on
from tests.support.cuts import Cut, raised_in, saved_after_step, saved_at_epoch_end, stopped
from tests.support.lightning_runs import Numbers, Scenario, check, numbers, resumed, uninterrupted
from tests.support.recording import Recording


@pytest.mark.filterwarnings("ignore:When using `Trainer\\(accumulate_grad_batches != 1\\)`")
@pytest.mark.parametrize("step", [1, 6, 7, 11])
def test_an_accumulation_schedule_has_the_factor_of_the_epoch_that_goes_on(step: int) -> None:
    """The factor of the epoch that goes on is set, as where an epoch begins."""
    scenario = Scenario(callbacks=lambda: [GradientAccumulationScheduler({0: 1, 1: 2})])
    assert uninterrupted(scenario) == resumed(scenario, saved_after_step(step))


@pytest.mark.parametrize("step", [3, 6, 12])
def test_early_stopping_behind_an_epochs_last_batch(step: int) -> None:
    """A checkpoint that is saved before the epoch's validation asks nobody for a metric that it does not hold."""
    options = {"limit_val_batches": 1.0}
    scenario = Scenario(callbacks=lambda: [EarlyStopping("validation_loss", patience=9)], trainer=options)
    assert uninterrupted(scenario).steps == resumed(scenario, saved_after_step(step)).steps


def test_the_learning_rate_finder_moves_nothing(tmp_path: Path) -> None:
    """It trains some steps and puts everything back, the position too."""
    data = Numbers(Scenario())
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        max_epochs=1,
        default_root_dir=tmp_path,
    )
    module: Any = Recording()
    module.lr = 0.05
    Tuner(trainer).lr_find(module, datamodule=data, num_training=4, update_attr=False)
    assert Position() == resumption_of(data).position


def test_a_batch_size_for_each_epoch() -> None:
    """Loaders that are built anew for each epoch are built with what that epoch says, in a resumed run too."""

    def growing(scenario: Scenario) -> Any:
        return scenario.loader(numbers(12), batch_size=1 + trainers[-1].current_epoch)

    trainers: list[L.Trainer] = []

    class Grown(Numbers):
        def train_dataloader(self) -> Any:
            trainer: Any = self.trainer
            trainers.append(trainer)
            return super().train_dataloader()

    scenario = Scenario(loaders=growing, data=Grown, trainer={"reload_dataloaders_every_n_epochs": 1})
    whole = uninterrupted(scenario)
    assert [12, 6, 4] == [whole.batches(epoch) for epoch in whole.epochs]
    assert whole.steps == resumed(scenario, saved_at_epoch_end(0)).steps


EACH: dict[str, Callable[[Scenario, int], Any]] = {
    "a batch size": lambda scenario, epoch: scenario.loader(numbers(12), batch_size=1 + epoch),
    "a part of the data": lambda scenario, epoch: scenario.loader(numbers(100 * epoch, 100 * epoch + 22)),
    "more of the data": lambda scenario, epoch: scenario.loader(numbers(22 + 4 * epoch)),
    "a sampler": lambda scenario, epoch: scenario.loader(
        sampler=SubsetRandomSampler(range(5 * epoch, 5 * epoch + 12)),
    ),
}


@pytest.mark.parametrize("each", EACH)
@pytest.mark.parametrize("limit", [{}, {"max_steps": 1000}], ids=str)
@pytest.mark.parametrize("accumulates", [1, 2])
@pytest.mark.parametrize(
    "cut", [stopped((1, 0)), stopped((1, 1)), raised_in("training_step", (1, 1)), saved_at_epoch_end(0)], ids=str
)
def test_loaders_of_each_epoch(cut: Cut, accumulates: int, limit: dict[str, int], each: str) -> None:
    """They see the epoch that goes on, which Lightning counts as finished where the run was stopped in its middle."""

    class Each(Numbers):
        def train_dataloader(self) -> Any:
            trainer: Any = self.trainer
            return EACH[each](self.scenario, trainer.current_epoch)

    options = {"reload_dataloaders_every_n_epochs": 1, "accumulate_grad_batches": accumulates, "max_epochs": 3, **limit}
    check(Scenario(data=Each, trainer=options), cut)


@pytest.mark.parametrize("each", EACH)
@pytest.mark.parametrize(
    "cut",
    [
        stopped((1, 1)),
        stopped((2, 1)),
        raised_in("training_step", (3, 1)),
        saved_at_epoch_end(0),
        saved_at_epoch_end(1),
    ],
    ids=str,
)
@pytest.mark.parametrize("every", [2, 3])
def test_loaders_of_several_epochs(every: int, cut: Cut, each: str) -> None:
    """They are those that were built in the first of these epochs, wherever among them the run is resumed."""

    class Each(Numbers):
        def train_dataloader(self) -> Any:
            trainer: Any = self.trainer
            return EACH[each](self.scenario, trainer.current_epoch)

    options = {"reload_dataloaders_every_n_epochs": every, "max_epochs": 5}
    check(Scenario(samples=40, data=Each, trainer=options), cut)


class Opened(Profiler):
    """A profiler that notes which hooks of the decorator's own callback Lightning opens it for."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: list[str] = []

    def start(self, action_name: str) -> None:
        callback, _, hook = action_name.rpartition(".")
        if callback == "[Callback]ResumptionHooks":
            self.hooks.append(hook)

    def stop(self, action_name: str) -> None:
        """Nothing is timed."""


def opened(samples: int) -> list[str]:
    """The hooks that Lightning opens its profiler for, in a validated fit of two epochs with *samples* samples."""
    profiler = Opened()
    trainer = L.Trainer(
        accelerator="cpu",
        profiler=profiler,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        max_epochs=2,
    )
    trainer.fit(Recording(), Numbers(Scenario(samples=samples, batch_size=2)))
    return profiler.hooks


@pytest.mark.parametrize("samples", [8, 20])
def test_no_batch_costs_a_hook(samples: int) -> None:
    """Each hook costs Lightning a profiler's context: there are none of ours in a batch, but in the first of an epoch."""
    of_batches = [hook for hook in opened(samples) if "_batch_" in hook or hook.startswith(("on_before", "on_after"))]
    assert ["on_train_batch_start"] * 2 == of_batches


def test_a_fit_that_may_be_asked_to_stop_hears_each_batch() -> None:
    """Where signals are watched, the end of each batch is a place to stop at."""
    with stop_on():
        assert opened(8).count("on_train_batch_end") == 8
