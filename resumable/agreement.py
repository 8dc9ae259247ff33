"""One decision of all ranks: they stop behind the same step, or none of them does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import distributed

from resumable.preemption import request_stop, stop_requested

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["agree_to_stop", "device_of"]


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

    >>> from resumable.preemption import stop_on
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
