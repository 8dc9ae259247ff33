"""A training script as users start it, once: Lightning launches the other processes itself.

python -m tests.support.launched_script STRATEGY RANKS FOLDER [MAX_STEPS]

Each call goes on from the checkpoint in FOLDER, if there is one. Rank 0 leaves `trained.json` there, with the steps so far.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from resumable import resumable
from tests.support.rank_modules import Gathering

SAMPLES, BATCH_SIZE, EPOCHS = 22, 4, 3


@resumable
class Data(L.LightningDataModule):
    """A datamodule that every process can import."""

    def train_dataloader(self) -> Any:
        return DataLoader(range(SAMPLES), batch_size=BATCH_SIZE, shuffle=True)  # type: ignore[arg-type]


class Writing(Gathering):
    """Writes down what was trained."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.reached = _nothing  # a spawned process cannot be sent a lambda

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.trainer.is_global_zero:
            steps = [(step.epoch, [ids for _, ids in step.batches]) for step in self.history.steps]
            Path(self.folder, "trained.json").write_text(json.dumps(steps), encoding="utf-8")


def _nothing(place: str) -> None:
    pass


def main(strategy: str, ranks: str, folder: str, max_steps: str = "-1") -> None:
    """One session."""
    warnings.simplefilter("ignore")
    checkpoint = Path(folder, "last.ckpt")
    trainer = L.Trainer(
        accelerator="cpu",
        strategy=strategy,
        devices=int(ranks),
        max_epochs=EPOCHS,
        max_steps=int(max_steps),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, filename="last", every_n_train_steps=1, enable_version_counter=False)],
    )
    trainer.fit(Writing(Path(folder)), Data(), ckpt_path=checkpoint if checkpoint.exists() else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
