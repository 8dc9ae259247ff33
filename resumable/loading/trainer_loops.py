"""Which loop asks a loader for a pass. Lightning tells a loader nothing of its trainer: only the call itself leads there.

trainer.fit_loop ──► data fetcher ──► CombinedLoader ──► loader.__iter__     a pass that trains
its validation loop, trainer.predict_loop, ...            the same            a pass that evaluates
for batch in loader                                       the same            a pass of the user's own loop
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, cast

__all__ = ["TrainerLoop", "evaluation", "trainer_loop"]

_COMBINED: Final = ("lightning.pytorch.utilities.combined_loader", "pytorch_lightning.utilities.combined_loader")
_PACKAGES: Final = ("lightning", "pytorch_lightning")
_TRAINING: Final = ("fit_loop", "training_epoch_loop")


@dataclass(frozen=True, slots=True)
class TrainerLoop:
    """A loop of *trainer* that asks for a pass, in order to train or to evaluate."""

    trainer: Any
    trains: bool

    @property
    def is_beside_training(self) -> bool:
        """Whether it evaluates while a pass that trains is under way."""
        return not self.trains and self.trainer.state.fn == "fit"


def trainer_loop() -> TrainerLoop | None:
    """The trainer's loop that is calling a loader's `__iter__`; None in any other loop, also in one of a callback.

    >>> trainer_loop() is None
    True
    """
    if not any(module in sys.modules for module in _COMBINED):
        return None
    frame = inspect.currentframe()
    while frame is not None and _is_loaders_own(frame):
        frame = frame.f_back
    if frame is None or ".".join(_module(frame)) not in _COMBINED:
        return None
    while frame is not None and _module(frame)[-1] == "combined_loader":
        frame = frame.f_back
    if frame is None or _module(frame)[-2:] != ["loops", "fetchers"]:
        return None
    while frame is not None:  # a training step that fetches its batches by itself may lie between
        if "loops" in _module(frame) and _module(frame)[0] in _PACKAGES:
            trainer: Any = getattr(frame.f_locals.get("self"), "trainer", None)
            if trainer is not None:
                return TrainerLoop(trainer, trains=_module(frame)[-1] in _TRAINING)
        frame = frame.f_back
    return None


def evaluation() -> TrainerLoop | None:
    """The trainer's loop that is calling a loader's `__iter__` to validate, test or predict; None in any other loop."""
    loop = trainer_loop()
    return None if loop is None or loop.trains else loop


def _is_loaders_own(frame: FrameType) -> bool:
    """Whether *frame* is ours, torch's, or of a user's class of loaders."""
    caller: object = frame.f_locals.get("self")
    is_users = hasattr(cast("object", type(caller)), "_resumable_pass")
    return is_users or _module(frame)[0] in ("resumable", "torch")


def _module(frame: FrameType) -> list[str]:
    return str(frame.f_globals.get("__name__")).split(".")
