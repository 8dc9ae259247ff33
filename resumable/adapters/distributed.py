"""torch.distributed: which rank this process is, and what all ranks have to say to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import distributed

from resumable.errors import ConfigurationError, explain
from resumable.stopping.signals import request_stop, stop_requested

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["AllGather", "Ranks", "agree_to_stop", "device_of"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """The rank and size of a process group, all processes where *group* is None: a `resumable.Ranks`.

    Raises ConfigurationError when it is asked, unless the process group is initialized and this process belongs to it.
    """

    group: distributed.ProcessGroup | None = None

    @property
    def data_parallel_rank(self) -> int:
        """This process in the group."""
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
                explain(
                    "This process has no rank in the process group.",
                    [("initialized", is_initialized), ("group", self.group)],
                    "Call torch.distributed.init_process_group() before the loader is built, and pass a group that this "
                    "process belongs to.",
                )
            )


@dataclass(frozen=True, slots=True)
class AllGather:
    """One all-gather of a short record over the ranks of *group*, all where it is None: a `resumable.AllGather`.

    *device* is where the record lies meanwhile: without one the CPU where the group can gather there, else the accelerator.
    Without an initialized process group this process is the only one.
    """

    group: distributed.ProcessGroup | None = None
    device: torch.device | str | None = None

    def __call__(self, record: bytes, /) -> Sequence[bytes]:
        """The records of all ranks of the group, in their order."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return [record]
        device = device_of(self.group) if self.device is None else self.device
        mine = torch.frombuffer(bytearray(record), dtype=torch.uint8).to(device)
        everyones = [torch.empty_like(mine) for _ in range(distributed.get_world_size(self.group))]
        distributed.all_gather(everyones, mine, group=self.group)
        return [record.cpu().numpy().tobytes() for record in everyones]


def agree_to_stop(group: ProcessGroup | None = None, *, device: torch.device | str | None = None) -> bool:
    """Whether any rank of *group* was asked to stop; the same answer on each of them.

    A scheduler's signal reaches the ranks at different steps, or one of them alone. A rank that leaves its loop by
    itself lets the others wait in their next collective for ever. So ask here instead of `state.stop_requested`, on
    every rank and behind the same steps: it is a collective, one all-reduce of one number. On a GPU it waits for the
    step to end; asking behind every tenth step costs a tenth, and up to ten steps of the scheduler's grace.

    Args:
        group: the ranks that must agree; all of them by default.
        device: where the number lies. Without it the CPU where the group can reduce there, else the accelerator.

    Without an initialised process group it is this process's own flag. Where the answer is yes, `state.stop_requested`
    is set on every rank.

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
    """Where the tensors of *group*'s collectives lie: its backend is "nccl", "gloo", or "cpu:gloo,cuda:nccl"."""
    backend = str(distributed.get_backend_config(group))
    on_cpu = "cpu:" in backend
    accelerator = None if on_cpu else torch.accelerator.current_accelerator()
    return torch.device("cpu") if accelerator is None else accelerator
