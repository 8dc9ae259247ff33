"""From the base class to the decorator and back: each goes on from the other's checkpoint, at the exact next sample.

Run it: python examples/migration.py
It needs megatron-core: pip install "resumable-training[megatron]"
"""

# megatron-core has no types
# pyright: reportMissingImports=false, reportUnknownVariableType=false

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import lightning as L
import migration_after
import migration_before
import torch
from megatron.core.num_microbatches_calculator import init_num_microbatches_calculator
from torch import Tensor


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


def train(data: L.LightningDataModule, checkpoint: Path, max_steps: int) -> list[int]:
    """Go on until *max_steps* and save. Returns the samples' ids, in the order of training."""
    model = Parabola()
    trainer = L.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, data, ckpt_path=checkpoint if checkpoint.exists() else None)
    trainer.save_checkpoint(checkpoint)
    return model.trained


def main() -> int:
    """Let the two forms take turns. An epoch has 64 steps."""
    init_num_microbatches_calculator(
        rank=0, rampup_batch_size=None, global_batch_size=8, micro_batch_size=4, data_parallel_size=1
    )
    trained: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn, form in enumerate((migration_before, migration_after) * 2, start=1):
            ids = train(form.Numbers(), Path(folder, "last.ckpt"), max_steps=10 * turn)
            print(f"{form.__name__:16} trained {ids[0]:3} to {ids[-1]:3}")
            trained += ids
    exact = trained == list(range(320))
    print(f"{len(trained)} samples, before, after, before, after: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
