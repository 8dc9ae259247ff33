"""Datasets whose samples draw from the global generators, and what a training step draws."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["Augmented", "AugmentedBatches", "disturb", "drawn_now"]


def drawn_now() -> tuple[float, float, float]:
    """A number of each global generator."""
    return random.random(), float(np.random.random()), float(torch.rand((), dtype=torch.float64))  # noqa: NPY002


def disturb() -> None:
    """Leave the global generators anywhere, as a new process does."""
    torch.seed()
    random.seed()
    np.random.seed()  # noqa: NPY002


class Augmented(Dataset[Any]):
    """Samples of an index and of what `__getitem__` draws."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([int(index), *drawn_now()], dtype=torch.float64)


class AugmentedBatches(Augmented):
    """The same, fetched by whole batches."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        """The samples of *indices*."""
        return [self[index] for index in indices]
