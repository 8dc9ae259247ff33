"""A Lightning session that a signal asks to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from resumable import stop_on
from resumable.stopping.signals import stop_requested
from tests.support.cuts import Cut, LoaderPosition, at
from tests.support.recording import Recording

if TYPE_CHECKING:
    import lightning as L

TERM, USR1 = signal.SIGTERM, signal.SIGUSR1


class Counting(Recording):
    """Moves something in each batch that a step alone does not move, as a layer with running statistics does."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.seen.add_(1)
        return super().training_step(batch, batch_idx)


@dataclass(frozen=True, repr=False)
class Asked(Cut):
    """A session that watches signals, and gets one; what saves is a ModelCheckpoint that nothing else makes save."""

    watched: tuple[signal.Signals, ...] = ()

    def carry_out(self, train: Callable[..., L.Trainer], folder: Path) -> None:
        with stop_on(*self.watched):
            super().carry_out(train, folder)
            assert stop_requested()


def saver_in(folder: Path) -> ModelCheckpoint:
    """A callback that never saves by itself."""
    return ModelCheckpoint(folder, filename="cut", enable_version_counter=False, every_n_train_steps=0)


def asked(hook: str, place: LoaderPosition, number: signal.Signals = TERM) -> Asked:
    """*number* comes in *hook* at *place*, and Lightning's own SystemExit ends the fit."""
    return Asked(
        f"asked_by_{number.name}_in_{hook}_{place}",
        saver_in,
        hook,
        at(place),
        lambda trainer: signal.raise_signal(number),
        ends_with=SIGTERMException,
        watched=(TERM, number),
    )
