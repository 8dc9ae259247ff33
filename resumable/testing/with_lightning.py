"""A LightningDataModule is trained by Lightning's own Trainer, on the CPU, with a model of one weight."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from typing_extensions import override

from resumable.testing.sessions import Kill, Run

__all__ = ["train_datamodule"]


class _Model(L.LightningModule):
    """Trains nothing, and notes each batch."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self._run = run

    @override
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self._run.recorder.read(batch)
        return self.weight.square().sum()

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class _Saver(L.Callback):
    """Saves where the session stops, as ModelCheckpoint does it there."""

    def __init__(self, run: Run, path: Path) -> None:
        self._run, self._recorder, self._path = run, run.recorder, path

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._recorder.is_due("after a step"):
            self._save(trainer)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._recorder.done and not self._recorder.saved:
            self._recorder.step(trainer.current_epoch)
            if self._recorder.is_due("after a step"):
                self._save(trainer)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._recorder.is_due("epoch end"):
            self._save(trainer)

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Kill):
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self._path)
        self._recorder.save(self._path.read_bytes())


def train_datamodule(run: Run, folder: Path) -> None:
    """Train a LightningDataModule until the run ends, or is to stop; checkpoints are written to *folder*."""
    logging.disable(logging.INFO)  # in this process, which ends with the session
    checkpoint = None
    if run.state is not None:
        checkpoint = folder / "resumed.ckpt"
        checkpoint.write_bytes(run.state)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=run.epochs,
        accumulate_grad_batches=run.accumulation,
        callbacks=[_Saver(run, folder / "saved.ckpt")],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    model: Any = _Model(run)
    trainer.fit(model, run.made, ckpt_path=checkpoint)
