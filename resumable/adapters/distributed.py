"""torch.distributed: which rank this process is, and what all ranks have to say to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import distributed

from resumable.agreement import device_of
from resumable.errors import ConfigurationError, explain

__all__ = ["AllGather", "Ranks"]


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
