"""`log=True`: Lightning's loggers are told the position with the steps that Lightning logs, and where a run was resumed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from typing_extensions import override

from resumable import ConfigurationError, StepSchedule, resumable
from tests.support.cuts import checkpoint_in, saved_after_step
from tests.support.lightning_runs import PlainNumbers, Scenario, train


class Recorder(Logger):
    """Keeps what it is told, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int | None, dict[str, float]]] = []

    @property
    @override
    def name(self) -> str:
        return "recorder"

    @property
    @override
    def version(self) -> str:
        return "0"

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to keep."""

    @override
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        ours = {
            name.removeprefix("resumable/"): value for name, value in metrics.items() if name.startswith("resumable/")
        }
        if ours:
            self.told.append((step, ours))


def logged(**options: Any) -> Any:
    """A decorated class, of one name always."""
    cls: Any = type("Numbers", (PlainNumbers,), {})
    decorated: Any = resumable(log=True, **options)
    return decorated(cls)


def scenario(logger: Any, data: Any = None, **options: Any) -> Scenario:
    """Two epochs of six batches of four, the last of them short."""
    trainer = {"max_epochs": 2, "logger": logger, "log_every_n_steps": 1, **options}
    return Scenario(data=logged() if data is None else data, trainer=trainer)


def test_each_logged_step_has_its_position() -> None:
    """After step n, the samples that n steps consumed, and the epoch that goes on; under the step that Lightning logs."""
    recorder = Recorder()
    train(scenario(recorder))
    counts = [(step, told["consumed_samples"], told["epoch"]) for step, told in recorder.told]
    assert [(0, 4, 0), (1, 8, 0), (2, 12, 0), (3, 16, 0), (4, 20, 0), (5, 22, 1), (6, 26, 1)] == counts[:7]
    assert {4} == {told["global_batch_size"] for _, told in recorder.told}


def test_only_logged_steps(tmp_path: Path) -> None:
    """Every other step costs nothing; what is accumulated is one step."""
    recorder = Recorder()
    train(scenario(recorder, log_every_n_steps=2, accumulate_grad_batches=2))
    assert [(1, 16, 8), (3, 30, 8), (5, 44, 8)] == [
        (step, told["consumed_samples"], told["global_batch_size"]) for step, told in recorder.told
    ]


def test_a_schedules_sizes() -> None:
    """With a schedule, the size is that of the next step."""
    recorder = Recorder()
    train(scenario(recorder, logged(schedule=StepSchedule(((0, 4), (8, 8))))))
    assert [(4, 4), (8, 8), (16, 8)] == [
        (told["consumed_samples"], told["global_batch_size"]) for _, told in recorder.told[:3]
    ]


def test_a_resume_is_marked(tmp_path: Path) -> None:
    """A session that goes on says at which sample; one that begins the run does not. The position goes on there."""
    first, second = Recorder(), Recorder()
    saved_after_step(3).carry_out(lambda *more: train(scenario(first), None, *more), tmp_path)
    train(scenario(second), checkpoint_in(tmp_path))
    assert all("resumed_at" not in told for _, told in first.told)
    expected = [(3, {"resumed_at": 12}), (3, {"consumed_samples": 16, "epoch": 0, "global_batch_size": 4})]
    assert expected == second.told[:2]


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_lightnings_own_loggers(kind: str, tmp_path: Path) -> None:
    """The files of CSVLogger hold the values, whole numbers and all; TensorBoard's take them as well."""
    logger: Any = CSVLogger(tmp_path) if kind == "csv" else TensorBoardLogger(tmp_path)
    train(scenario(logger))
    if kind == "csv":
        rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines()))
        counts = [row["resumable/consumed_samples"] for row in rows if row["resumable/consumed_samples"]]
        assert ["4", "8", "12", "16", "20", "22", "26"] == counts[:7]
    else:
        assert any(Path(logger.log_dir).glob("events*"))


def test_without_the_option_nothing_is_told() -> None:
    """A decorated class logs nothing by itself, and neither does one without a logger fail."""
    recorder = Recorder()
    train(scenario(recorder, resumable(type("Numbers", (PlainNumbers,), {}))))
    train(scenario(False))
    assert [] == recorder.told


def test_the_option_is_a_flag() -> None:
    """Anything else is refused where the class is decorated."""
    with pytest.raises(ConfigurationError, match="log"):
        resumable(log="tensorboard")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
