"""Lightning, asked to stop by a signal of `stop_on`: saved at the next step boundary, ended with 0, resumed exactly."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from resumable import ResumptionWarning, stop_on
from resumable.stopping.signals import request_stop, watched
from tests.support.cuts import Cut, Killed, LoaderPosition, at
from tests.support.lightning_runs import Scenario, check, run_of, train, trainer_of, uninterrupted
from tests.support.recording import Recording, StepPlan, TwoOptimizers
from tests.support.releases import needs_lightning
from tests.support.stops import TERM, USR1, Counting, asked

CUTS = [
    asked("training_step", (0, 2)),
    asked("on_train_batch_start", (1, 0), USR1),
    asked("on_train_batch_end", (1, 3)),
    asked("training_step", (1, 5), USR1),
    asked("on_train_epoch_end", (0, 5), USR1),
    asked("on_train_epoch_start", (1, 5)),  # the batch before it is still the last
]


@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 16}], ids=str)
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_the_fit_ends_at_a_step(cut: Cut, limit: dict[str, int]) -> None:
    """Wherever the signal comes."""
    check(Scenario(trainer=limit, module=Counting), cut)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("accumulation", [2, 4])
def test_the_fit_ends_behind_an_accumulation_window(cut: Cut, accumulation: int) -> None:
    """No batch is trained twice: the window is finished, and what each batch moves beside the weights is saved once."""
    check(Scenario(module=Counting, trainer={"accumulate_grad_batches": accumulation}), cut)


@pytest.mark.parametrize("module", [StepPlan, TwoOptimizers])
def test_whatever_a_module_steps_the_fit_ends_at_a_step(module: Callable[[], Recording]) -> None:
    """However the module steps, over a chain of sessions."""
    cuts = asked("training_step", (0, 2)), asked("training_step", (1, 4), USR1), asked("training_step", (2, 5))
    check(Scenario(module=module), *cuts)


def test_the_fit_ends_during_a_validation() -> None:
    """It is not awaited."""
    scenario = Scenario(trainer={"limit_val_batches": 1.0, "val_check_interval": 2})
    check(scenario, asked("on_validation_batch_start", (0, 3)), asked("validation_step", (1, 5), USR1))


def test_a_request_from_before_the_first_batch() -> None:
    """It waits for the first step, and not for a batch that Lightning's own answer would end the fit at."""
    options = {"accumulate_grad_batches": 4, "limit_val_batches": 1, "num_sanity_val_steps": 1}
    scenario = Scenario(module=Counting, trainer=options)
    check(scenario, asked("on_sanity_check_start", (0, -1)), asked("on_fit_start", (0, -1), USR1))


# -- what saves


def ended(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    """A trainer that was asked to stop in its third batch, and whose fit has ended."""
    scenario = Scenario(trainer=options)
    trainer = trainer_of(scenario, *callbacks, AsksAt(2))
    with stop_on(), pytest.raises(SIGTERMException) as raised:
        trainer.fit(scenario.module(), scenario.data(scenario))
    assert raised.value.code is None  # the interpreter's exit status is then 0
    assert 3 == trainer.global_step
    return trainer


class AsksAt(L.Callback):
    """Asks in the batch of this number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 0 and batch_idx == self.number:
            request_stop()


def names_in(folder: Path) -> list[str]:
    """The files in *folder*."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


EPOCHS: dict[str, Any] = {"every_n_epochs": 1}
LAST: dict[str, Any] = {"every_n_train_steps": 100, "save_last": True}


def test_a_checkpoint_callback_that_keeps_the_last_saves(tmp_path: Path) -> None:
    """Of several it is that one, so that `ckpt_path="last"` goes on from it."""
    best, last = ModelCheckpoint(tmp_path / "best", **EPOCHS), ModelCheckpoint(tmp_path / "last", **LAST)
    ended(best, last)
    assert ([], ["epoch=0-step=3.ckpt", "last.ckpt"]) == (names_in(tmp_path / "best"), names_in(tmp_path / "last"))
    assert str(tmp_path / "last" / "last.ckpt") == last.last_model_path
    scenario = Scenario()
    resumed = trainer_of(scenario, *(ModelCheckpoint(tmp_path / "last", **kept) for kept in (EPOCHS, LAST)))
    resumed.fit(scenario.module(), scenario.data(scenario), ckpt_path="last")
    assert uninterrupted(scenario) == run_of(resumed)


def test_a_step_that_is_saved_already_is_not_saved_again(tmp_path: Path) -> None:
    """Whoever saves each step has saved this one."""
    ended(ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1))
    assert [f"epoch=0-step={step}.ckpt" for step in (1, 2, 3)] == names_in(tmp_path)


@needs_lightning(2, 5, 6, reason="ModelCheckpoint has no save_on_exception")
@pytest.mark.filterwarnings("ignore:`?.fit.ckpt_path=")
def test_a_callback_that_saves_on_exceptions_does_so_once(tmp_path: Path) -> None:
    """The fit ends by an exception."""
    ended(ModelCheckpoint(tmp_path, every_n_train_steps=100, save_on_exception=True))
    assert ["epoch=0-step=3.ckpt"] == names_in(tmp_path)
    ended(OnExceptionCheckpoint(tmp_path / "own"))


def test_weights_alone_are_no_checkpoint(tmp_path: Path) -> None:
    """A callback that saves no optimizer and no position is passed over."""
    weights = ModelCheckpoint(tmp_path / "weights", every_n_train_steps=100, save_weights_only=True)
    ended(weights, ModelCheckpoint(tmp_path / "all", every_n_train_steps=50))
    assert ([], ["epoch=0-step=3.ckpt"]) == (names_in(tmp_path / "weights"), names_in(tmp_path / "all"))


def test_where_nobody_saves_it_is_said() -> None:
    """The fit ends all the same, and it is said."""
    said = "The run was asked to stop, and nothing is saved: no callback of the trainer saves whole checkpoints."
    with pytest.warns(ResumptionWarning, match=said):
        ended()


def test_another_exception_saves_nothing(tmp_path: Path) -> None:
    """A step that fails while the run is asked to stop is no step boundary."""
    scenario = Scenario()

    class Fails(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
            request_stop()
            raise Killed

    trainer = trainer_of(scenario, ModelCheckpoint(tmp_path, every_n_train_steps=100), Fails())
    with stop_on(), pytest.raises(Killed):
        trainer.fit(scenario.module(), scenario.data(scenario))
    assert [] == names_in(tmp_path)


def test_a_fast_dev_run_saves_nothing(tmp_path: Path) -> None:
    """It never does."""
    ended(ModelCheckpoint(tmp_path), fast_dev_run=4)
    assert [] == names_in(tmp_path)


# -- Lightning beside it


class Sends(L.Callback):
    """Sends a signal before the batch at this place."""

    def __init__(self, place: LoaderPosition, number: signal.Signals) -> None:
        self._when, self._number = at(place), number

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._when(trainer):
            signal.raise_signal(self._number)


@pytest.mark.filterwarnings("ignore:The run was asked to stop:resumable.ResumptionWarning")
def test_handlers_behind_a_fit() -> None:
    """Ours answer again, not Lightning's; and Python's own behind the watch."""
    scenario = Scenario()
    trainer = trainer_of(scenario, AsksAt(2))
    before = signal.getsignal(TERM)
    with stop_on(TERM, USR1):
        ours = signal.getsignal(TERM)
        with pytest.raises(SIGTERMException):
            trainer.fit(scenario.module(), scenario.data(scenario))
        assert ours is signal.getsignal(TERM)
        assert {TERM, USR1} == watched()
    assert before is signal.getsignal(TERM)


@pytest.mark.filterwarnings("ignore:The run was asked to stop:resumable.ResumptionWarning")
def test_unwatched_signals_are_lightnings_own(tmp_path: Path) -> None:
    """Without `stop_on` nothing of this happens: SIGTERM ends the fit as ever, and nothing more is saved."""
    scenario = Scenario()

    class Terminated(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            signal.raise_signal(TERM)

    with stop_on():
        request_stop()  # and the flag of another watch counts for nothing
    trainer = trainer_of(scenario, ModelCheckpoint(tmp_path, every_n_train_steps=100), Terminated())
    with pytest.raises(SIGTERMException):
        trainer.fit(scenario.module(), scenario.data(scenario))
    assert ([], 1) == (names_in(tmp_path), trainer.global_step)


@pytest.mark.parametrize(("number", "queued"), [(USR1, True), (TERM, False)])
def test_slurm_puts_the_job_into_the_queue_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, queued: bool
) -> None:
    """As Lightning does it by itself, but at a step boundary: for the signal that it asks Slurm for, and no other."""
    queue = tmp_path / "queue"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {queue}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in {"JOB_ID": "7", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")  # else any trainer takes it for a job of its own
    scenario = Scenario(module=Counting, trainer={"accumulate_grad_batches": 4, "default_root_dir": tmp_path})
    callbacks = Sends((0, 1), number), ModelCheckpoint(tmp_path, filename="own", **LAST)
    with stop_on(TERM, USR1), pytest.raises(SIGTERMException):
        train(replace(scenario, trainer={**scenario.trainer, "plugins": [SLURMEnvironment()]}), None, *callbacks)
    assert queued == queue.exists()
    saved = "hpc_ckpt_1.ckpt" if queued else "last.ckpt"
    assert not queued or "requeue 7\n" == queue.read_text()
    assert uninterrupted(scenario) == run_of(train(scenario, tmp_path / saved))
