"""Real Lightning processes, and their workers, that are asked to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from torch.utils.data import DataLoader, Dataset

from resumable import stop_on
from tests.support.cuts import LoaderPosition, at, checkpoint_in
from tests.support.lightning_runs import Numbers, Scenario, numbers, run_of, train, uninterrupted
from tests.support.stops import TERM, USR1, Counting, saver_in

FORK = multiprocessing.get_context("fork")


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
    with suppress(EOFError, ConnectionError):
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


def test_workers_of_other_loaders_live_through_the_signal(tmp_path: Path) -> None:
    """Several, and of a class of the user's own."""

    class Own(DataLoader[Any]):
        def __iter__(self) -> Any:
            yield from super().__iter__()

    def loaders(scenario: Scenario) -> Any:
        return [scenario.loader(cls=Own), scenario.loader(numbers(100, 109))]

    scenario = Scenario(num_workers=1, loaders=loaders, trainer={"accumulate_grad_batches": 3})
    check_processes(scenario, tmp_path, ("on_train_batch_start", (0, 1), TERM), ("on_train_batch_start", (1, 3), TERM))
