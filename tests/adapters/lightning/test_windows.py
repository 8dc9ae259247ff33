"""Validations of Lightning that go on where the last one was: `loader.windows(n)` in `val_dataloader`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from resumable import ResumableLoader, resumable

BATCHES = 3


def valid_loader() -> ResumableLoader[Any]:
    """Seven batches an epoch, the last of one sample."""
    return ResumableLoader(range(13), 2, shuffle=True, seed=1)


class Model(L.LightningModule):
    """Keeps what it validates, but for the sanity check."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def training_step(self, batch: Any) -> Any:
        return (self.weight * batch.float()).mean()

    def validation_step(self, batch: Any) -> None:
        if not self.trainer.sanity_checking:
            self.seen.append(batch.tolist())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@resumable
class Data(L.LightningDataModule):
    """Its state holds the position of its validation."""

    def __init__(self) -> None:
        super().__init__()
        self.valid = valid_loader().windows(BATCHES)

    def train_dataloader(self) -> Any:
        return DataLoader(list(range(16)), 2)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return self.valid

    def state_dict(self) -> dict[str, Any]:
        return {"valid": self.valid.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.valid.load_state_dict(state_dict["valid"])


def fit(path: Path, steps: int, limit: int | None, *, resumes: bool = False) -> list[list[int]]:
    """What is validated in a fit up to *steps*, from the checkpoint *path* on or from the beginning."""
    model = Model()
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        val_check_interval=3,
        check_val_every_n_epoch=None,
        limit_val_batches=limit,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, Data(), ckpt_path=path if resumes else None)
    trainer.save_checkpoint(path)
    return model.seen


@pytest.mark.parametrize("limit", [None, 2])
def test_each_validation_goes_on(limit: int | None, tmp_path: Path) -> None:
    """Stopped between and at validations: what is validated is that of one fit. A sanity check moves nothing."""
    path = tmp_path / "saved.ckpt"
    whole = fit(path, 20, limit)
    assert [batch.tolist() for batch in islice(valid_loader().forever(), (limit or BATCHES) * 6)] == whole
    for stop in (2, 3, 8):
        assert whole == fit(path, stop, limit) + fit(path, 20, limit, resumes=True)
