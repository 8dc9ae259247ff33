"""torch.distributed: this process's rank, an all-gather over all ranks, and a stop that all ranks agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import distributed

from resumable.errors import ConfigurationError
from resumable.stopping.signals import request_stop, stop_requested

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["AllGather", "Ranks", "agree_to_stop", "device_of"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's rank in *group*, by default that of all processes, and the group's size: a `resumable.Ranks`.

    Reading them raises ConfigurationError unless the process group is initialized and this process belongs to it.
    """

    group: distributed.ProcessGroup | None = None

    @property
    def data_parallel_rank(self) -> int:
        """This process's rank in the group."""
        self._check()
        return distributed.get_rank(self.group)

    @property
    def data_parallel_size(self) -> int:
        """Processes of the group."""
        self._check()
        return distributed.get_world_size(self.group)

    def _check(self) -> None:
        is_initialized = distributed.is_available() and distributed.is_initialized()
        if not is_initialized or distributed.get_rank(self.group) < 0:
            raise ConfigurationError(
                "This process has no rank in the process group.",
                [("initialized", is_initialized), ("group", self.group)],
                "Call torch.distributed.init_process_group() before the loader is built, and pass a group that this "
                "process belongs to.",
            )


@dataclass(frozen=True, slots=True)
class AllGather:
    """One all-gather of a short record over the ranks of *group*, by default all: a `resumable.AllGather`.

    *device* holds the record meanwhile: by default the CPU where the group can gather there, otherwise the accelerator.
    Without an initialized process group this process is the only rank.
    """

    group: distributed.ProcessGroup | None = None
    device: torch.device | str | None = None

    def __call__(self, record: bytes, /) -> Sequence[bytes]:
        """The records of all ranks of the group, in rank order."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return [record]
        device = device_of(self.group) if self.device is None else self.device
        mine = torch.frombuffer(bytearray(record), dtype=torch.uint8).to(device)
        everyones = [torch.empty_like(mine) for _ in range(distributed.get_world_size(self.group))]
        distributed.all_gather(everyones, mine, group=self.group)
        return [record.cpu().numpy().tobytes() for record in everyones]


def agree_to_stop(group: ProcessGroup | None = None, *, device: torch.device | str | None = None) -> bool:
    """Whether any rank of *group* was asked to stop: the same answer on each of them.

    A scheduler's signal reaches the ranks at different steps, or only one of them. If one rank left its loop alone, the
    others would wait in their next collective for ever. So call this in place of `state.stop_requested`, on every rank
    and after the same steps. It is a collective, one all-reduce of one number, and on a GPU it waits for the step to
    end. A call after every tenth step costs a tenth, and up to ten steps of the scheduler's grace time.

    If the answer is yes, `state.stop_requested` is set on every rank. Without an initialized process group the answer
    is this process's own flag.

    Args:
        group: the ranks that must agree; all of them by default.
        device: where the number is reduced; by default the CPU if the group can reduce there, otherwise the accelerator.

    >>> from resumable.stopping.signals import stop_on
    >>> with stop_on():
    ...     agree_to_stop()
    False
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return stop_requested()
    asked = torch.tensor(int(stop_requested()), device=device_of(group) if device is None else device)
    distributed.all_reduce(asked, op=distributed.ReduceOp.MAX, group=group)
    if asked.item():
        request_stop()
    return stop_requested()


def device_of(group: ProcessGroup | None, /) -> torch.device:
    """The device for *group*'s collectives; its backend is "nccl", "gloo", "cpu:gloo,cuda:nccl" or the like."""
    backend = str(distributed.get_backend_config(group))
    on_cpu = "cpu:" in backend
    accelerator = None if on_cpu else torch.accelerator.current_accelerator()
    return torch.device("cpu") if accelerator is None else accelerator
