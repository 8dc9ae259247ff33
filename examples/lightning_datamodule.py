"""A LightningDataModule: stopped in the middle of an epoch, the training goes on with the exact next sample.

Run it: python examples/lightning_datamodule.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from resumable import resumable


@resumable  # the one new line
class Numbers(L.LightningDataModule):
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        ids, inputs = torch.arange(1_000), torch.linspace(-1, 1, 1_000)
        return DataLoader(TensorDataset(ids, inputs), batch_size=32, shuffle=True, num_workers=2)


class Parabola(L.LightningModule):
    """Fits a line to a parabola, and notes the ids of the samples that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        self.trained: list[int] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        ids, x = batch
        self.trained += ids.tolist()
        loss: Tensor = (self.line(x[:, None]) - x[:, None] ** 2).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(checkpoint: Path, max_steps: int) -> list[int]:
    """Train until *max_steps* and save. Returns the samples' ids, in the order of training."""
    model = Parabola()
    trainer = L.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, Numbers(), ckpt_path=checkpoint if checkpoint.exists() else None)
    trainer.save_checkpoint(checkpoint)
    return model.trained


def main() -> int:
    """Compare a run that is stopped and resumed with one that is not. An epoch has 32 steps."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(Path(folder, "whole.ckpt"), max_steps=96)
        first = train(Path(folder, "stopped.ckpt"), max_steps=42)
        second = train(Path(folder, "stopped.ckpt"), max_steps=96)
    exact = first + second == whole
    print(f"{len(first)} samples, stopped, {len(second)} samples: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
