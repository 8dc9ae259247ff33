"""What the demo trains: a byte-level language model, a dataset of windows, and a datamodule with and without `@resumable`.

This file is what a user would write. The two datamodules differ in one line, the decorator.
"""

from __future__ import annotations

from typing import Any, Final

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from resumable import resumable
from resumable.demo.text import read_windows

__all__ = ["WINDOW", "ByteModel", "PlainText", "ResumableText", "Windows"]

WINDOW: Final = 33  # bytes; all but the first are predicted


class Windows(Dataset[tuple[int, Tensor]]):
    """Windows of real text; each comes with its index, so that a log can show what was trained."""

    def __init__(self, samples: int) -> None:
        self._bytes = torch.frombuffer(bytearray(read_windows(samples, WINDOW)), dtype=torch.uint8).view(
            samples, WINDOW
        )

    def __len__(self) -> int:
        """The number of windows."""
        return len(self._bytes)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        """The index and its window, int64 of shape (WINDOW,)."""
        return index, self._bytes[index].long()


class ByteModel(L.LightningModule):
    """Guesses the next byte from those before it in the window: an embedding, a GRU and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding: nn.Embedding = nn.Embedding(256, 32)
        self.recurrent: nn.GRU = nn.GRU(32, 64, batch_first=True)
        self.output: nn.Linear = nn.Linear(64, 256)

    def loss(self, windows: Tensor) -> Tensor:
        """Mean cross-entropy per byte in nats, for *windows* of shape (batch, WINDOW)."""
        hidden, _ = self.recurrent(self.embedding(windows[:, :-1]))
        return nn.functional.cross_entropy(self.output(hidden).flatten(0, 1), windows[:, 1:].flatten())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch of (indices, windows)."""
        return self.loss(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, whose moments the checkpoint carries."""
        return torch.optim.Adam(self.parameters(), lr=4e-3)


class PlainText(L.LightningDataModule):
    """A datamodule as everyone writes it."""

    def __init__(self, samples: int, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.windows: Windows = Windows(samples)
        self.options: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}

    def train_dataloader(self) -> DataLoader[tuple[int, Tensor]]:
        """A shuffled loader with workers."""
        return DataLoader(self.windows, shuffle=True, **self.options)


@resumable
class ResumableText(PlainText):
    """The same. The decorator is all that was added."""
