"""Which loop asks a loader for a pass. Lightning tells a loader nothing of its trainer: only the call itself leads there.

trainer.fit_loop ──► data fetcher ──► CombinedLoader ──► loader.__iter__     a pass that trains
its validation loop, trainer.predict_loop, ...            the same            a pass that evaluates
for batch in loader                                       the same            a pass of the user's own loop
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, cast

__all__ = ["TrainerLoop", "evaluation", "is_sanity_check", "trainer_loop"]

_COMBINED: Final = ("lightning.pytorch.utilities.combined_loader", "pytorch_lightning.utilities.combined_loader")
_PACKAGES: Final = ("lightning", "pytorch_lightning")
_TRAINING: Final = ("fit_loop", "training_epoch_loop")


@dataclass(frozen=True, slots=True)
class TrainerLoop:
    """A loop that asks for a pass: of *trainer*, in order to train; where that is None, in order to evaluate.

    *is_beside_training*: it evaluates while a pass that trains is under way.
    """

    trainer: Any = None
    is_beside_training: bool = False

    @property
    def trains(self) -> bool:
        """Whether the pass is there to train with."""
        return self.trainer is not None


def trainer_loop() -> TrainerLoop | None:
    """The trainer's loop that is calling a loader's `__iter__`; None in any other loop, also in one of a callback.

    Only frames of loaders and of the training are asked for their variables: a frame that was asked holds them to its end.

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
    frame = _above(frame, lambda module: module[-1] == "combined_loader")
    if frame is None or _module(frame)[-2:] != ["loops", "fetchers"]:
        return None
    # a training step that fetches its batches by itself may lie between
    frame = _above(frame, lambda module: not _is_of_loop(module))
    if frame is None:
        return None
    if _module(frame)[-1] in _TRAINING:
        return TrainerLoop(frame.f_locals["self"].trainer)
    return TrainerLoop(None, _above(frame, lambda module: module[-1] not in _TRAINING) is not None)


def evaluation() -> TrainerLoop | None:
    """The trainer's loop that is calling a loader's `__iter__` to validate, test or predict; None in any other loop."""
    loop = trainer_loop()
    return None if loop is None or loop.trains else loop


def is_sanity_check() -> bool:
    """Whether Lightning tries the validation out, before it trains.

    >>> is_sanity_check()
    False
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "_run_sanity_check":
        frame = frame.f_back
    return frame is not None and _module(frame)[0] in _PACKAGES


def _is_loaders_own(frame: FrameType) -> bool:
    """Whether *frame* is ours, torch's, or the `__iter__` of a user's class of loaders."""
    if _module(frame)[0] in ("resumable", "torch"):
        return True
    caller: object = frame.f_locals.get("self") if frame.f_code.co_name == "__iter__" else None
    return hasattr(cast("object", type(caller)), "_resumable_pass")


def _is_of_loop(module: list[str]) -> bool:
    return module[0] in _PACKAGES and module[-2:-1] == ["loops"] and module[-1] != "fetchers"


def _above(frame: FrameType | None, skips: Callable[[list[str]], bool]) -> FrameType | None:
    """The first frame from *frame* on whose module is not skipped."""
    while frame is not None and skips(_module(frame)):
        frame = frame.f_back
    return frame


def _module(frame: FrameType) -> list[str]:
    return str(frame.f_globals.get("__name__")).split(".")
