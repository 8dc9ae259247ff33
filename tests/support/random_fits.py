"""Fits whose samples, transforms and steps draw random numbers, and what is left of them: the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from resumable import resumable
from tests.support.random_samples import Augmented, disturb, drawn_now

__all__ = ["Data", "Net", "PlainData", "checkpoint_after", "checkpoints", "fit", "weights"]

SAMPLES = 14


class PlainData(L.LightningDataModule):
    """Augmented samples, transformed at random on the device."""

    def __init__(self, loader: Callable[[], Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.loader = loader
        self.options: dict[str, Any] = {"batch_size": 2, "shuffle": True} | options

    def train_dataloader(self) -> Any:
        return DataLoader(Augmented(SAMPLES), **self.options) if self.loader is None else self.loader()

    def val_dataloader(self) -> Any:
        return DataLoader(Augmented(4), batch_size=2)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """A transform on the device."""
        return batch if self.trainer is None or not self.trainer.training else (batch, torch.rand(()))


@resumable(reseed=True, seed=5)
class Data(PlainData):
    """The same, whose random numbers follow the position."""


def flat(batch: Any) -> torch.Tensor:
    """The samples of a batch of one loader or of several."""
    parts: Any = batch
    if isinstance(batch, torch.Tensor):
        parts = [batch]
    elif hasattr(batch, "values"):
        parts = batch.values()
    return torch.cat([part.float() for part in parts])


class Net(L.LightningModule):
    """A net with dropout, whose steps draw from all three libraries."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        samples, noise = batch
        return self.loss(flat(samples) + noise)

    def loss(self, samples: torch.Tensor) -> torch.Tensor:
        """Of the samples, and of what the step draws."""
        loss: torch.Tensor = self.net(samples).mean() * sum(drawn_now())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        drawn_now()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


class Saving(L.Callback):
    """Saves after each batch, inside of accumulation windows too, and at each epoch's end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches += 1
        trainer.save_checkpoint(self.folder / f"{self.batches:03}.ckpt")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{self.batches:03}-end.ckpt")


def fit(
    data: Any, folder: Path | None = None, *, net: Net | None = None, resume: Path | None = None, **options: Any
) -> Net:
    """A net trained with *data*, a datamodule or a loader; with a *folder*, each batch leaves its checkpoint there."""
    net = Net() if net is None else net
    disturb()
    chosen: dict[str, Any] = {"max_epochs": 2, "num_sanity_val_steps": 2, "val_check_interval": 3} | options
    callbacks: list[Any] = [*([] if folder is None else [Saving(folder)]), *chosen.pop("callbacks", ())]
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=callbacks,
        **chosen,
    )
    given: dict[str, Any] = (
        {"datamodule": data} if isinstance(data, L.LightningDataModule) else {"train_dataloaders": data}
    )
    trainer.fit(net, **given, ckpt_path=None if resume is None else str(resume))
    return net


def checkpoints(folder: Path) -> list[Path]:
    """All that a fit has left, in order."""
    return sorted(folder.iterdir())


def checkpoint_after(batches: int, folder: Path) -> Path:
    """The checkpoint that a fit has left after so many batches."""
    return folder / f"{batches:03}.ckpt"


def weights(net: Net) -> list[float]:
    """All weights, to be compared bit by bit."""
    flattened: Any = torch.cat([parameter.flatten() for parameter in net.parameters()])
    kept: list[float] = flattened.tolist()
    return kept
