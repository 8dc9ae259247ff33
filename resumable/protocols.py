"""What this package asks of the things it works with, as structural types.

Nothing here is `runtime_checkable`: an `isinstance` check would run users' properties, and Lightning's raise.
Data members are read-only properties where they are only read, so that attributes, properties and
narrower types all fit; where they are written too, the setter says what is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, SupportsInt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "AllGather",
    "BatchSchedule",
    "CountsSamples",
    "DataSampler",
    "MicrobatchCalculator",
    "Order",
    "Ranks",
    "SavesState",
    "SupportsSampling",
    "SupportsTraining",
    "Trainer",
]


class Trainer(Protocol):
    """Whatever counts the optimizer steps of a run."""

    @property
    def global_step(self) -> int:
        """Optimizer steps completed since the run began, over all sessions."""
        ...


class Order(Protocol):
    """A pure function of (epoch, start, stop): which dataset index comes at which place of an epoch."""

    def __len__(self) -> int:
        """How many samples one epoch holds."""
        ...

    def indices(self, epoch: int, start: int, stop: int, /) -> NDArray[np.int64]:
        """Dataset indices at the places *start* to *stop* of *epoch*, shape (stop - start,)."""
        ...


class BatchSchedule(Protocol):
    """A pure function of the consumed samples: how many samples an optimizer step takes."""

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """Global batch size of the step that begins at *consumed_samples*."""
        ...

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """Consumed samples when *steps* further steps have followed *consumed* samples."""
        ...

    def steps_between(self, consumed: int, later: int, /) -> int:
        """Steps that lead from *consumed* to *later* consumed samples."""
        ...


class CountsSamples(Protocol):
    """The one question that resumption asks a sampler."""

    def compute_consumed_samples(self, steps_since_resume: int, /) -> SupportsInt:
        """Samples consumed over all data-parallel ranks, *steps_since_resume* steps after the last rebase."""
        ...


class DataSampler(CountsSamples, Protocol):
    """The shape of NeMo's `MegatronDataSampler`: it counts, and takes the position in four attributes.

    A getter may give anything that is a number, a 0-d tensor too; what resumption writes is an `int`.
    """

    @property
    def init_global_step(self) -> SupportsInt: ...
    @init_global_step.setter
    def init_global_step(self, value: int, /) -> None: ...
    @property
    def init_consumed_samples(self) -> SupportsInt: ...
    @init_consumed_samples.setter
    def init_consumed_samples(self, value: int, /) -> None: ...
    @property
    def prev_consumed_samples(self) -> SupportsInt: ...
    @prev_consumed_samples.setter
    def prev_consumed_samples(self, value: int, /) -> None: ...
    @property
    def if_first_step(self) -> SupportsInt: ...
    @if_first_step.setter
    def if_first_step(self, value: int, /) -> None: ...


class MicrobatchCalculator(Protocol):
    """What a process knows of its batch size at this moment, where a framework keeps that in a global of its own.

    A framework sets it up at some time after its import. Before that there is nothing to ask or to tell, so
    `is_initialized` is asked first; the other two then raise an error. One that varies the batch size may tell its
    `schedule` as well, a BatchSchedule or None.
    """

    @property
    def is_initialized(self) -> bool:
        """Whether the framework has set it up in this process."""
        ...

    @property
    def current_global_batch_size(self) -> int:
        """Samples over all ranks that the step which begins now takes: as rounded, where the framework rounds it."""
        ...

    def update(self, consumed_samples: int, /) -> None:
        """Move the batch size to that of the step which begins at *consumed_samples*."""
        ...


class Ranks(Protocol):
    """Which part of the data this process loads: that of one data-parallel rank.

    Processes that share a rank, tensor- and pipeline-parallel ones, load the same samples. It is asked when a loader is
    built, so it may be made before the processes have found each other.
    """

    @property
    def data_parallel_rank(self) -> int:
        """This process among those that share the data, 0 to data_parallel_size - 1."""
        ...

    @property
    def data_parallel_size(self) -> int:
        """How many ranks share the data."""
        ...


class AllGather(Protocol):
    """A collective: what each rank gives, and all ranks get."""

    def __call__(self, record: bytes, /) -> Sequence[bytes]:
        """The records of all ranks, equally long, that of rank 0 first."""
        ...


class SavesState(Protocol):
    """The two methods of `torch.distributed.checkpoint.stateful.Stateful`."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None: ...


class SupportsTraining(Protocol):
    """What `@resumable` asks of a class: a train loader, and the trainer once there is one."""

    @property
    def trainer(self) -> Trainer | None: ...
    def train_dataloader(self) -> Any: ...


class SupportsSampling(SupportsTraining, Protocol):
    """What `@resumable(sampler="data_sampler")` asks of a class besides: the sampler, in the attribute of that name."""

    @property
    def data_sampler(self) -> DataSampler: ...
