"""Ray Train: a loader for the workers of a `TorchTrainer`, whose batches are moved to the worker's device.

    def train_loop(config):
        context = ray.train.get_context()
        loader = prepare(context, ResumableLoader(..., ranks=Ranks(context)))
        checkpoint = ray.train.get_checkpoint()        each worker loads what one of them has saved
        ...
        ray.train.report(metrics, checkpoint=...)      with `loader.save` or `loader.state_dict()` in its folder

`ray.train.torch.prepare_data_loader` would put a loader around it that reads a batch ahead, so it is refused.

Source: ray 2.60 (ray/train/torch/train_loop_utils.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from ray.train.torch import get_device

from resumable.errors import ConfigurationError
from resumable.loading.counted import Counted
from resumable.loading.prepared import MovedPass, passes_of, prepared

__all__ = ["Ranks", "prepare"]

L = TypeVar("L")


class Context(Protocol):
    """What `ray.train.get_context()` returns, in the version 1 and 2 of Ray Train."""

    def get_world_rank(self) -> int:
        """The number of this worker."""
        ...

    def get_world_size(self) -> int:
        """How many workers train."""
        ...


@dataclass(frozen=True, slots=True)
class Ranks:
    """The rank and size of the worker of *context*, which is `ray.train.get_context()`: a `resumable.Ranks`."""

    context: Context

    @property
    def data_parallel_rank(self) -> int:
        """The number of this worker."""
        return int(self.context.get_world_rank())

    @property
    def data_parallel_size(self) -> int:
        """How many workers train."""
        return int(self.context.get_world_size())


def prepare(context: Context, loader: L, /) -> L:
    """The same *loader*, for the loop of a Ray Train worker: call it in place of `ray.train.torch.prepare_data_loader`.

    Each batch is moved to the worker's device when the loop asks for it: nothing is read ahead.

    Raises:
        ConfigurationError: if the loader is not resumable, is prepared already, or loads another worker's part.
    """
    if not hasattr(context, "get_world_rank"):
        raise ConfigurationError(
            "prepare() takes the context first, and then the loader.",
            [("got", type(context).__name__)],
            "Call prepare(ray.train.get_context(), loader).",
        )
    passes = passes_of("ray", loader, Ranks(context))
    return prepared(loader, passes, "ray", partial(_follow, get_device()))


def _follow(device: torch.device, batches: Counted[Any]) -> Iterator[Any]:
    frame, package = inspect.currentframe(), "resumable"
    while frame is not None and package in ("resumable", "torch"):
        frame = frame.f_back
        package = "" if frame is None else str(frame.f_globals.get("__name__")).partition(".")[0]
    if package == "ray":
        raise ConfigurationError(
            "This loader is prepared already, and ray.train.torch.prepare_data_loader would read a batch ahead of the training.",
            (),
            "Leave prepare_data_loader out: the loader has its part of the data, and moves its batches by itself.",
        )
    return MovedPass(batches, partial(_moved, device))


def _moved(device: torch.device, batch: Any) -> Any:
    """*batch* on *device*, whatever mappings, tuples and lists it is made of."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: _moved(device, each) for name, each in batch.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(batch, (list, tuple)):
        parts: Any = [_moved(device, each) for each in batch]  # pyright: ignore[reportUnknownVariableType]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return batch.to(device) if hasattr(batch, "to") else batch
