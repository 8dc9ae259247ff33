"""A fit's checkpoint, and what the fit trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.lightning_runs import Run

if TYPE_CHECKING:
    import lightning as L


def ids_by_epoch(run: Run) -> list[list[int]]:
    """The ids of each epoch, in their order."""
    return [run.ids(epoch) for epoch in run.epochs]


def datamodule_of(trainer: L.Trainer) -> Any:
    """The datamodule of a running fit, which Lightning's types leave out."""
    return trainer.datamodule  # type: ignore[attr-defined]
