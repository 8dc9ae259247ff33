"""Random numbers that follow the position on several ranks, in real processes that are killed and come back in another number."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from resumable import resumable
from tests.support.random_samples import Augmented, disturb
from tests.support.ranks import in_ranks
from tests.support.reseeded_ranks import (
    BATCHES,
    EPOCHS,
    GLOBAL,
    MICRO,
    SAMPLES,
    drawn_in,
    keep,
    loop,
    net,
    note,
    weights_in,
)
from tests.support.torchrun import ROOT, Torchrun

SCRIPT = ROOT / "tests" / "support" / "reseeded_ranks.py"


def check_alike(folder: Path, whole: Path) -> None:
    """Each micro batch drew what it draws in the whole run: gradients are equal up to the order of summation."""
    assert BATCHES == len(drawn_in(whole))
    assert drawn_in(whole) == drawn_in(folder)
    torch.testing.assert_close(weights_in(whole), weights_in(folder), rtol=0, atol=1e-12)


def killed_loop(folder: Path, kills: list[int]) -> None:
    """Two ranks under torchrun, in each of whose rounds the second one dies in such a step."""
    with Torchrun(SCRIPT, folder) as run:
        run.start("--nproc-per-node=2", f"--max-restarts={len(kills) - 1}")
        for worker in run.steps():
            if kills and (worker.rank, worker.step) == (1, kills[0]):
                kills.pop(0)
                worker.die()
            else:
                worker.go_on()
    assert ([], [1]) == (kills, run.codes), run.printed[0]


def test_a_loop_under_torchrun(tmp_path: Path) -> None:
    """Killed and restarted on 2 ranks, killed again, and ended by one."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    in_ranks(2, partial(loop, whole))
    killed_loop(killed, [2, 2])
    in_ranks(1, partial(loop, killed))
    check_alike(killed, whole)


@resumable(reseed=True, seed=3)
class Data(L.LightningDataModule):
    """Samples that draw."""

    def train_dataloader(self) -> Any:
        return DataLoader(Augmented(SAMPLES), batch_size=MICRO, shuffle=True)


class Net(L.LightningModule):
    """Notes what its steps draw; with *dies_after* so many batches, its process does."""

    def __init__(self, folder: Path, dies_after: int | None) -> None:
        super().__init__()
        self.net = net()
        self.folder = folder
        self.dies_after = dies_after

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.net(batch).mean()
        note(self.folder, self.current_epoch, batch)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.dies_after is not None and self.trainer.fit_loop.total_batch_idx + 1 == self.dies_after:
            self.trainer.save_checkpoint(self.folder / "last.ckpt")
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_end(self) -> None:
        if self.trainer.is_global_zero:
            keep(self.folder, self)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(ranks: int, folder: Path, *, resume: Path | None = None, dies_after: int | None = None) -> None:
    """One session on so many ranks; each step takes the same samples on any number of them."""
    folder.mkdir(exist_ok=True)
    ends_with = 0 if dies_after is None else -signal.SIGKILL
    in_ranks(ranks, partial(_fit, ranks, folder, resume, dies_after), ends_with=ends_with)


def _fit(ranks: int, folder: Path, resume: Path | None, dies_after: int | None) -> None:
    disturb()
    trainer = L.Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=ranks,
        max_epochs=EPOCHS,
        accumulate_grad_batches=GLOBAL // MICRO // ranks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Net(folder, dies_after), Data(), ckpt_path=resume)


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.parametrize("dies_after", [1, 5])
def test_ddp_under_lightning(tmp_path: Path, dies_after: int) -> None:
    """Killed within an accumulation window; resumed on as many ranks to the same bits, and on one to the same masks."""
    whole, again, fewer = (tmp_path / name for name in ("whole", "again", "fewer"))
    fit(2, whole)
    for folder, ranks in ((again, 2), (fewer, 1)):
        fit(2, folder, dies_after=dies_after)
        fit(ranks, folder, resume=folder / "last.ckpt")
        check_alike(folder, whole)
    assert torch.equal(weights_in(whole), weights_in(again))
