"""Real signals: SIGTERM, which Lightning answers with a checkpoint, and SIGKILL, which nothing answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cuts import Cut, interrupted, sigkill, sigterm
from tests.support.lightning_runs import Scenario, check, run_of, train, uninterrupted

if TYPE_CHECKING:
    import lightning as L

WORKERS = Scenario(num_workers=2)


@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 16}], ids=str)
@pytest.mark.parametrize(
    "cut",
    [
        sigterm("training_step", (0, 2)),
        sigterm("on_train_batch_start", (1, 0)),
        sigterm("on_train_batch_end", (1, 3)),
        sigterm("training_step", (1, 5)),
    ],
    ids=str,
)
def test_after_sigterm_the_saved_batch_counts(cut: Cut, limit: dict[str, int]) -> None:
    """Lightning ends the batch, behind the last batch the epoch, and saves on the way out."""
    check(Scenario(trainer=limit), cut)


def test_sigterm_during_a_validation_leaves_no_trace() -> None:
    """A validation is ended before Lightning answers."""
    scenario = Scenario(trainer={"limit_val_batches": 1.0, "val_check_interval": 2})
    check(scenario, sigterm("validation_step", (0, 3)), sigterm("validation_step", (1, 5)))


@pytest.mark.parametrize(
    "cuts",
    [
        (sigterm("training_step", (0, 3)), sigterm("training_step", (1, 5))),
        (interrupted("training_step", (0, 3)), interrupted("on_train_batch_end", (1, 1))),
    ],
    ids=lambda cuts: "+".join(map(str, cuts)),
)
def test_signals_leave_no_trace_of_what_workers_read(cuts: tuple[Cut, ...]) -> None:
    """Workers are alive when the checkpoint is saved, and have read ahead."""
    check(WORKERS, *cuts)


@pytest.mark.parametrize("scenario", [Scenario(), WORKERS], ids=["0 workers", "2 workers"])
@pytest.mark.parametrize(
    "cuts",
    [
        (sigkill((0, 4), every_n_steps=3), sigkill((1, 2), every_n_steps=3), sigkill((2, 1), every_n_steps=5)),
        (sigkill((1, 1), every_n_steps=6), sigkill((2, 0), every_n_steps=6)),
        (sigkill((0, 4), every_n_steps=1), sigkill((0, 5), every_n_steps=5)),
    ],
    ids=lambda cuts: "+".join(map(str, cuts)),
)
def test_after_sigkill_the_last_saved_file_counts(cuts: tuple[Cut, ...], scenario: Scenario) -> None:
    """The process is gone between two instructions; what counts is the last file it saved."""
    check(scenario, *cuts)


def test_after_sigkill_a_window_is_trained_again() -> None:
    """The same with windows of three batches."""
    scenario = Scenario(samples=28, trainer={"accumulate_grad_batches": 3})
    check(scenario, sigkill((0, 5), every_n_steps=1), sigkill((1, 4), every_n_steps=2))


def test_sigterm_to_the_whole_process_group(tmp_path: Path) -> None:
    """A scheduler signals the workers too. In a new process, and resumed in another, the run is the same."""
    command = [sys.executable, "-m", "tests.adapters.lightning.test_signals", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ended = subprocess.run(
        command, env=environment, start_new_session=True, capture_output=True, timeout=120, check=False
    )
    checkpoint = tmp_path / "cut.ckpt"
    assert checkpoint.exists(), ended.stderr.decode()
    assert uninterrupted(WORKERS) == run_of(train(WORKERS, checkpoint, session=1))


def _signal_the_group(_: L.Trainer) -> None:
    os.killpg(0, signal.SIGTERM)


def _session_of_a_process_group(folder: Path) -> None:
    cut = sigterm("training_step", (1, 2))
    cut = replace(cut, action=_signal_the_group, ends_with=BaseException)
    cut.carry_out(lambda *callbacks: train(WORKERS, None, *callbacks), folder)


if __name__ == "__main__":
    _session_of_a_process_group(Path(sys.argv[1]))
