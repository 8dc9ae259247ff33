"""What the demo trains: a byte-level language model with dropout, on random crops of text, with `@resumable` and without.

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

__all__ = ["ByteModel", "Crops", "PlainText", "ResumableText"]

_WINDOW: Final = 40  # bytes
_CROP: Final = 33  # bytes of a window; all but the first are predicted


class Crops(Dataset[tuple[int, Tensor]]):
    """Random crops of windows of real text; each comes with its index, so that a log can show what was trained."""

    def __init__(self, samples: int) -> None:
        text = torch.frombuffer(bytearray(read_windows(samples, _WINDOW)), dtype=torch.uint8)
        self.windows: Tensor = text.view(samples, _WINDOW).long()

    def __len__(self) -> int:
        """The number of windows."""
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        """The index, and some of its window: int64, another crop each time."""
        first = int(torch.randint(_WINDOW - _CROP + 1, ()))
        return index, self.windows[index, first : first + _CROP]


class ByteModel(L.LightningModule):
    """Guesses the next byte from those before it: an embedding, a GRU, dropout and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding: nn.Embedding = nn.Embedding(256, 32)
        self.recurrent: nn.GRU = nn.GRU(32, 64, batch_first=True)
        self.dropout: nn.Dropout = nn.Dropout(0.1)
        self.output: nn.Linear = nn.Linear(64, 256)

    def loss(self, windows: Tensor) -> Tensor:
        """Mean cross-entropy per byte in nats, for *windows* of shape (batch, bytes)."""
        hidden, _ = self.recurrent(self.embedding(windows[:, :-1]))
        guesses = self.output(self.dropout(hidden))
        return nn.functional.cross_entropy(guesses.flatten(0, 1), windows[:, 1:].flatten())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch of (indices, crops)."""
        return self.loss(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, whose moments the checkpoint carries."""
        return torch.optim.Adam(self.parameters(), lr=4e-3)


class PlainText(L.LightningDataModule):
    """A datamodule as everyone writes it."""

    def __init__(self, samples: int, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.crops: Crops = Crops(samples)
        self.options: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}

    def train_dataloader(self) -> DataLoader[tuple[int, Tensor]]:
        """A shuffled loader with workers."""
        return DataLoader(self.crops, shuffle=True, **self.options)


@resumable(reseed=True)
class ResumableText(PlainText):
    """The same. The decorator is all that was added."""
