"""Dropout and augmentation: stopped in the middle of an epoch, the training ends with the same weights, to the bit.

Run it: python examples/dropout_and_augmentation.py
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from resumable import ResumableLoader

EPOCHS = 3


class Signals(Dataset[tuple[Tensor, Tensor]]):
    """Noisy sine waves, and how fast each of them swings. Every look at one turns it and adds other noise."""

    def __len__(self) -> int:
        return 1_000

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        speed = torch.tensor([index / 1_000])
        angles = torch.linspace(0, 6, 16) * speed + random.uniform(-0.1, 0.1)
        return angles.sin() + 0.05 * torch.randn(16), speed


def train(checkpoint: Path, num_workers: int, stop_after: int | None = None) -> Tensor:
    """Train to the end, or until *stop_after* samples are trained. Returns the weights."""
    torch.manual_seed(0)  # of the weights that the training begins with
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters())
    loader = ResumableLoader(
        Signals(),
        batch_size=32,
        shuffle=True,
        num_workers=num_workers,
        reseed=True,  # random numbers follow the position
    )

    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])

    for _ in range(loader.epoch, EPOCHS):
        for signals, speeds in loader:
            loss = (model(signals) - speeds).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loader.commit()
            if loader.state.consumed_samples == stop_after:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "loader": loader.state_dict(),
                }
                torch.save(state, checkpoint)
                return weights_of(model)
    return weights_of(model)


def weights_of(model: torch.nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def main() -> int:
    """Compare a run that is stopped, and resumed with another number of workers, with one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(Path(folder, "whole.pt"), num_workers=1)
        train(Path(folder, "stopped.pt"), num_workers=2, stop_after=1_320)
        resumed = train(Path(folder, "stopped.pt"), num_workers=0)
    exact = torch.equal(whole, resumed)
    print(f"{len(whole)} weights, stopped and resumed on other workers: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
