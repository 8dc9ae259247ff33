"""Lightning, asked to stop by a signal of `stop_on`: saved at the next step boundary, ended with 0, resumed exactly."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resumable import ResumptionWarning, stop_on
from resumable.stopping.signals import request_stop, stop_requested, watched
from tests.support.cuts import Cut, Killed, LoaderPosition, at, checkpoint_in
from tests.support.lightning_runs import Numbers, Scenario, check, numbers, run_of, train, trainer_of, uninterrupted
from tests.support.recording import Recording, StepPlan, TwoOptimizers

FORK = multiprocessing.get_context("fork")
TERM, USR1 = signal.SIGTERM, signal.SIGUSR1


class Counting(Recording):
    """Moves something in each batch that a step alone does not move, as a layer with running statistics does."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.seen.add_(1)
        return super().training_step(batch, batch_idx)


@dataclass(frozen=True, repr=False)
class Asked(Cut):
    """A session that watches signals, and gets one; what saves is a ModelCheckpoint that nothing else makes save."""

    watched: tuple[signal.Signals, ...] = ()

    def carry_out(self, train: Callable[..., L.Trainer], folder: Path) -> None:
        with stop_on(*self.watched):
            super().carry_out(train, folder)
            assert stop_requested()


def saver_in(folder: Path) -> ModelCheckpoint:
    """A callback that never saves by itself."""
    return ModelCheckpoint(folder, filename="cut", enable_version_counter=False, every_n_train_steps=0)


def asked(hook: str, place: LoaderPosition, number: signal.Signals = TERM) -> Asked:
    """*number* comes in *hook* at *place*, and Lightning's own SystemExit ends the fit."""
    return Asked(
        f"asked_by_{number.name}_in_{hook}_{place}",
        saver_in,
        hook,
        at(place),
        lambda trainer: signal.raise_signal(number),
        ends_with=SIGTERMException,
        watched=(TERM, number),
    )


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
def test_other_modules(module: Callable[[], Recording]) -> None:
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


def test_nobody_saves() -> None:
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


# -- real processes


class Halts(L.Callback):
    """Tells the test at one place of a session that it has come there, and waits to go on."""

    def __init__(self, hook: str, place: LoaderPosition) -> None:
        self._when = at(place)
        setattr(self, hook, self._reach)

    def through(self, pipe: Connection) -> Halts:
        """The same, in the process that it halts."""
        self._pipe = pipe
        return self

    def _reach(self, trainer: L.Trainer, *_: object) -> None:
        if self._when(trainer) and not trainer.sanity_checking:
            self._pipe.send("here")
            self._pipe.recv()


class WithValidationWorkers(Numbers):
    """Validation loads in workers too, which the sanity check starts."""

    def val_dataloader(self) -> Any:
        return DataLoader(Ignores(), batch_size=2, num_workers=1, persistent_workers=True)


class Ignores(Dataset[int]):
    """Whether the process that loads a sample ignores SIGTERM."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        return getattr(signal.getsignal(TERM), "__name__", "") == "_do_nothing"


def test_validation_workers_are_shielded() -> None:
    """In each validation; those that the sanity check has started are started anew."""
    seen: list[bool] = []

    class Looks(L.Callback):
        def on_validation_batch_start(
            self,
            trainer: L.Trainer,
            pl_module: L.LightningModule,
            batch: Any,
            batch_idx: int,
            dataloader_idx: int = 0,
        ) -> None:
            if not trainer.sanity_checking:
                seen.extend(batch.tolist())

    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": 2, "max_epochs": 2}
    with stop_on():
        train(Scenario(data=WithValidationWorkers, trainer=options), None, Looks())
    assert [True] * 40 == seen


def one_session(pipe: Connection, scenario: Scenario, halts: Halts, checkpoint: Path | None, folder: Path) -> None:
    """A script: it watches, and trains."""
    os.setsid()
    stop_on(TERM, USR1)
    train(scenario, checkpoint, halts.through(pipe), saver_in(folder), session=1)


def exit_code(number: signal.Signals, *session: Any) -> int | None:
    """That of a session whose whole process group gets *number* where it halts, twice."""
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=one_session, args=(theirs, *session))
    child.start()
    theirs.close()
    assert "here" == ours.recv()
    assert child.pid is not None
    for _ in range(2):
        os.killpg(child.pid, number)
    ours.send("go on")
    with suppress(EOFError, ConnectionResetError):
        while ours.recv():
            ours.send("go on")
    child.join(60)
    code = child.exitcode
    child.kill()
    return code  # None: it did not end


def check_processes(scenario: Scenario, folder: Path, *places: tuple[str, LoaderPosition, signal.Signals]) -> None:
    """One session for each place, in a process of its own that exits with 0, and a last one here."""
    checkpoint = None
    for number, (hook, place, signalled) in enumerate(places):
        assert 0 == exit_code(signalled, scenario, Halts(hook, place), checkpoint, folder / str(number))
        checkpoint = checkpoint_in(folder / str(number))
    assert uninterrupted(scenario) == run_of(train(scenario, checkpoint))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_to_the_whole_group(tmp_path: Path, workers: int) -> None:
    """The workers live on, so that the window is finished and the save does not die with them."""
    scenario = Scenario(samples=60, num_workers=workers, module=Counting, trainer={"accumulate_grad_batches": 6})
    places = ("on_train_batch_start", (0, 1), TERM), ("on_train_batch_end", (1, 7), USR1)
    check_processes(scenario, tmp_path, *places)


def test_a_signal_to_the_whole_group_during_a_validation(tmp_path: Path) -> None:
    """Its workers live on too."""
    options = {"limit_val_batches": 1.0, "val_check_interval": 3, "num_sanity_val_steps": 2}
    scenario = Scenario(num_workers=2, data=WithValidationWorkers, trainer=options)
    check_processes(
        scenario, tmp_path, ("on_validation_batch_start", (0, 2), TERM), ("on_train_batch_start", (1, 4), USR1)
    )


def test_other_loaders(tmp_path: Path) -> None:
    """Several, and of a class of the user's own."""

    class Own(DataLoader[Any]):
        def __iter__(self) -> Any:
            yield from super().__iter__()

    def loaders(scenario: Scenario) -> Any:
        return [scenario.loader(cls=Own), scenario.loader(numbers(100, 109))]

    scenario = Scenario(num_workers=1, loaders=loaders, trainer={"accumulate_grad_batches": 3})
    check_processes(scenario, tmp_path, ("on_train_batch_start", (0, 1), TERM), ("on_train_batch_start", (1, 3), TERM))
