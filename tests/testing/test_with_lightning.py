"""Datamodules, which Lightning's Trainer trains."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# (a lambda for a function of the user's has no types)

from __future__ import annotations

import sys
from typing import Any

import lightning as L
import pytest
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from resumable import MissingExtraError, resumable
from resumable.testing import Matrix, check_resume
from tests.support.reference import numbers


class Plain(L.LightningDataModule):
    """As Lightning alone resumes it."""

    loader: Any = DataLoader

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = {"batch_size": 4, **options}

    def train_dataloader(self) -> Any:
        return self.loader(numbers(20), shuffle=True, **self.options)


class Stateful(Plain):
    """With torchdata's loader, which keeps its place."""

    loader = StatefulDataLoader


@resumable
class Decorated(Plain):
    """Decorated."""


def outcomes(matrix: Matrix, stopped: str) -> set[str]:
    """The outcomes of the runs that were stopped so."""
    return {cell.outcome for cell in matrix.cells if cell.stopped == stopped}


def test_a_decorated_datamodule_is_exact() -> None:
    """Each way to stop it, with accumulation, in other batch sizes."""
    matrix = check_resume(lambda batch_size: Decorated(batch_size=batch_size), accumulation=[2], cuts=3)
    assert matrix.is_exact, matrix
    assert {"after a step", "exception", "epoch end", "twice", "saved again", "resized"} == {
        cell.stopped for cell in matrix.cells
    }


@pytest.mark.slow
def test_a_decorated_datamodule_is_exact_in_the_default_grid() -> None:
    """With workers too."""
    matrix = check_resume(lambda num_workers, batch_size: Decorated(num_workers=num_workers, batch_size=batch_size))
    assert matrix.is_exact, matrix


def test_a_plain_datamodule_is_not() -> None:
    """Lightning warns of it, which the cell says."""
    matrix = check_resume(lambda batch_size: Plain(batch_size=batch_size), batch_sizes=[4], cuts=3, accumulation=[1])
    assert "repeated" in outcomes(matrix, "after a step")
    (cell, *_) = [cell for cell in matrix.cells if cell.outcome == "repeated"]
    assert "your dataloader is not resumable" in cell.text


def test_a_stateful_loader_loses_an_epoch_in_silence() -> None:
    """Saved on the last batch of an epoch, Lightning with torchdata's loader leaves the next one out."""
    matrix = check_resume(lambda batch_size: Stateful(batch_size=batch_size), batch_sizes=[4], cuts=2, accumulation=[1])
    (cell,) = [cell for cell in matrix.cells if (cell.stopped, cell.cuts) == ("after a step", (5,))]
    assert ("lost", 20, "") == (cell.outcome, cell.lost, cell.text)
    assert {"lost"} == outcomes(matrix, "exception")


def test_a_missing_lightning_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Lightning, the message says what to install."""
    made = Plain()
    monkeypatch.delitem(sys.modules, "resumable.testing.with_lightning", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightning"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(MissingExtraError, match=r'pip install "resumable-training\[lightning\]"'):
        check_resume(lambda: made)
