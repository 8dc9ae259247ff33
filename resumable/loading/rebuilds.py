"""Loaders that others build anew from the parts of ours, without its sampler: noticed by what they read of it.

Who only iterates a loader, or wraps it, has no use for its `timeout`. Who builds another loader like it copies all of its
options, whichever of its samplers it leaves out: accelerate's `prepare` that of `batch_size=None`, Ray's `prepare_data_loader`
any that is not a DistributedSampler.
"""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any, Final

from resumable.errors import ConfigurationError, warn
from resumable.feeds.feed import ITERATE_IT

__all__ = ["RebuildNotice"]

_REBUILDS: Final = frozenset({"accelerate", "ray"})
"""Libraries that read the options of a loader in order to build it anew, and for nothing else."""

_FOLLOWED: Final = frozenset({"resumable", "torch", "torchdata", "lightning", "lightning_fabric", "pytorch_lightning"})
"""Those whose iterators read them, and those whose loaders are followed."""

_TOLD: Final = "_resumable_rebuild_is_told"

_WHAT: Final = "the order and the position of a resumable loader are not in its dataset and its options."


_FOR_A_TRAINER: Final = (
    "Return it from get_train_dataloader as resumable.adapters.transformers.prepare(self, loader): the Trainer then trains with "
    "it as it is, and carries its position."
)


def _is_called_by(package: str) -> bool:
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] != package:
        frame = frame.f_back
    return frame is not None


class RebuildNotice:
    """The option *name* of a loader, which is read by whoever builds the loader anew."""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, loader: Any, owner: type[Any] | None = None) -> Any:
        kept: dict[str, Any] = getattr(loader, "__dict__", {})
        if self._name not in kept:
            raise AttributeError(f"{owner!r} has no attribute {self._name!r}", name=self._name, obj=loader)
        # a frame that is kept in a variable would keep itself and the loader
        reader = str(sys._getframe(1).f_globals.get("__name__"))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        package = reader.partition(".")[0]
        found = [("loader", type(loader).__qualname__), ("read by", reader)]
        if package in _REBUILDS:
            advice = _FOR_A_TRAINER if _is_called_by("transformers") else ITERATE_IT
            raise ConfigurationError(f"{package} would build this train loader anew: {_WHAT}", found, advice)
        if package not in _FOLLOWED and _TOLD not in kept:
            kept[_TOLD] = True
            warn(
                f"The {self._name} of a resumable loader was read, as by what builds a loader anew from the parts of another "
                f"one. If that trains, a resume goes on elsewhere: {_WHAT}",
                found,
                ITERATE_IT,
            )
        return kept[self._name]

    def __set__(self, loader: Any, value: object) -> None:
        vars(loader)[self._name] = value
