"""A step of a trivial Lightning fit on the CPU, with the decorator, with `reseed=True` and without either.

The fits take turns after each few steps, so that a busy moment of the machine meets all of them: a whole fit after
another differs by more than what is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Semaphore, Thread
from time import thread_time
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from resumable import resumable

from .figures import Figure

__all__ = ["figures"]

BATCH_SIZE, STEPS, EPOCHS, TURN = 4, 1_000, 3, 20
PLAIN, OURS, RESEEDED, AGAIN = "undecorated", "@resumable", "@resumable(reseed=True)", "undecorated again"


class Net(L.LightningModule):
    """As little as trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch).mean()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-3)


class Plain(L.LightningDataModule):
    """Zeros."""

    def train_dataloader(self) -> Any:
        return DataLoader(torch.zeros(STEPS * BATCH_SIZE, 1), BATCH_SIZE, shuffle=True)  # type: ignore[arg-type]


@resumable
class Ours(Plain):
    """The same, decorated."""


@resumable(reseed=True)
class Reseeded(Plain):
    """The same, whose random numbers follow the position."""


class Turns(L.Callback):
    """Passes the turn on after each few steps, and notes what they took of the processor."""

    def __init__(self, own: Semaphore, following: Semaphore) -> None:
        self.own = own
        self.following = following
        self.microseconds: list[float] = []
        self._began: float | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.own.acquire()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % TURN:
            return
        if batch_idx and self._began is not None:
            self.microseconds.append((thread_time() - self._began) / TURN * 1e6)
        self.following.release()
        self.own.acquire()
        self._began = thread_time()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.following.release()


def figures() -> list[Figure]:
    """Measure all fits, each in a thread of its own; one runs at a time."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kinds: dict[str, Callable[[], L.LightningDataModule]] = {PLAIN: Plain, OURS: Ours, RESEEDED: Reseeded, AGAIN: Plain}
    turns = [Semaphore(int(number == 0)) for number in range(len(kinds))]
    callbacks = [Turns(own, turns[(number + 1) % len(turns)]) for number, own in enumerate(turns)]
    fits = [
        Thread(target=_fit, args=(made, callback)) for made, callback in zip(kinds.values(), callbacks, strict=True)
    ]
    for fit in fits:
        fit.start()
    for fit in fits:
        fit.join()
    took = dict(zip(kinds, (callback.microseconds for callback in callbacks), strict=True))
    plain = took[PLAIN]
    return [
        Figure(f"a step, {OURS}", "µs", took[OURS], plain),
        Figure("  over the turn beside it", "times", _ratios(took[OURS], plain), at_most=1.02),
        Figure(f"a step, {RESEEDED}", "µs", took[RESEEDED], plain),
        Figure("  over the turn beside it", "times", _ratios(took[RESEEDED], plain)),
        Figure(f"a step, {AGAIN}: the machine", "µs", took[AGAIN], plain),
        Figure("  over the turn beside it", "times", _ratios(took[AGAIN], plain)),
    ]


def _ratios(took: list[float], plain: list[float]) -> list[float]:
    return [one / other for one, other in zip(took, plain, strict=True)]


def _fit(made: Callable[[], L.LightningDataModule], turns: Turns) -> None:
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        max_epochs=EPOCHS,
        callbacks=[turns],
    )
    trainer.fit(Net(), made())
