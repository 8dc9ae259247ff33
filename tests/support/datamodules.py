"""Decorated datamodules, and the batches that a loop takes of them."""

from __future__ import annotations

from itertools import islice
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from resumable import resumable
from tests.support.reference import Reference, numbers, order_of

N, SIZE = 16, 2


@resumable
class Plain:
    """A datamodule that knows nothing of Lightning, and saves nothing of its own."""

    trainer: Any = None
    n = N

    def train_dataloader(self) -> Any:
        """A shuffled loader over a few numbers."""
        return DataLoader(numbers(self.n), batch_size=SIZE, shuffle=True)


@resumable(seed=3)
class Module(L.LightningDataModule):
    """Lightning's datamodule."""

    def __init__(self, n: int = N) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.n = n

    def train_dataloader(self) -> Any:
        """As above."""
        return DataLoader(numbers(self.n), batch_size=SIZE, shuffle=True)

    def val_dataloader(self) -> Any:
        """Not shuffled, and not counted."""
        return DataLoader(numbers(4))


class Child(Module):
    """Undecorated, with a loader and a state of its own."""

    def train_dataloader(self) -> Any:
        """The parent's."""
        return super().train_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """The parent's, and one key more."""
        return {**super().state_dict(), "more": 1}


def trained(datamodule: Any, batches: int) -> list[list[int]]:
    """The next batches of a plain loop."""
    return take(datamodule.train_dataloader(), batches)


def take(loader: Any, batches: int) -> list[list[int]]:
    """The next batches of one loader."""
    return [batch.tolist() for batch in islice(loader, batches)]


def returning(returned: Any) -> Any:
    """A datamodule whose loader method returns *returned*."""

    class Returning(Plain):
        def train_dataloader(self) -> Any:
            return returned

    return Returning()


def expected(batches: int, *, seed: int = 0, n: int = N) -> list[list[int]]:
    """The first batches of the uninterrupted run."""
    reference = Reference(order_of(n, shuffle=True, seed=seed))
    return [reference.take(SIZE) for _ in range(batches)]


class Slotted:
    """Without a place for a state."""

    __slots__ = ("n",)
    trainer = None

    def train_dataloader(self) -> Any:
        """Anything."""
