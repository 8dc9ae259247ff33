"""What this package needs from the user's objects, as structural types: any class with these members fits.

Nothing here is `runtime_checkable`: an `isinstance` check would run the user's properties, and Lightning's raise.
A data member that is only read is a read-only property, so that attributes, properties and narrower types all fit.
Where it is written too, its setter has the type that is written.
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
    """Counts the optimizer steps of a run: a Lightning trainer, or an object of the user's loop."""

    @property
    def global_step(self) -> int:
        """Optimizer steps completed since the run began, over all sessions."""
        ...


class Order(Protocol):
    """Which dataset index comes at which place of an epoch: a pure function, the same on every rank and after every restart.

    Two optional attributes tell saved orders apart: `kind`, a string (by default the class's name), and `seed`, an int.
    With a third one, `interleaves = True`, the samples of a round are dealt out to the ranks one by one, as some of
    Megatron's samplers do it, and not in one part after another.
    """

    def __len__(self) -> int:
        """Samples of one epoch."""
        ...

    def indices(self, epoch: int, start: int, stop: int, /) -> NDArray[np.int64]:
        """Dataset indices at the places *start* to *stop* of *epoch*, both counted from 0, int64 of shape (stop - start,)."""
        ...


class BatchSchedule(Protocol):
    """How many samples an optimizer step takes: a pure function of the consumed samples.

    Consumed samples and batch sizes count the samples of all data-parallel ranks.
    """

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """Global batch size of the step that begins at *consumed_samples*, at least 1."""
        ...

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """Consumed samples *steps* steps after *consumed* samples."""
        ...

    def steps_between(self, consumed: int, later: int, /) -> int:
        """Whole steps from *consumed* to *later* consumed samples; a step that ends past *later* does not count."""
        ...


class CountsSamples(Protocol):
    """A sampler that counts the consumed samples itself."""

    def compute_consumed_samples(self, steps_since_resume: int, /) -> SupportsInt:
        """Consumed samples of all data-parallel ranks, *steps_since_resume* training steps after the last resume.

        A training step takes a global batch, however many micro batches it is drawn in. The count begins at the samples
        consumed before that resume, not at 0.
        """
        ...


class DataSampler(CountsSamples, Protocol):
    """A sampler of the shape of NeMo's `MegatronDataSampler`: it counts, and keeps its position in four attributes.

    A resume writes all four, as ints. When they are read, any whole number will do, also a 0-d tensor.
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
    """A framework's own record of the current batch size, in this process: megatron-core's, or Apex's.

    The framework sets it up some time after its import. Until then `is_initialized` is False and the other members
    raise an error. A calculator that varies the batch size may also have a `schedule`: a BatchSchedule, or None.
    """

    @property
    def is_initialized(self) -> bool:
        """Whether the framework has set the calculator up in this process."""
        ...

    @property
    def current_global_batch_size(self) -> int:
        """Samples of all ranks in the step that begins now, as rounded where the framework rounds down."""
        ...

    def update(self, consumed_samples: int, /) -> None:
        """Set the batch size to that of the step which begins at *consumed_samples*."""
        ...


class Ranks(Protocol):
    """Which part of the data this process loads: that of one data-parallel rank.

    Processes that share a rank, such as tensor- and pipeline-parallel ones, load the same samples. Both properties are
    read when a loader is built, so the object may be made before the process group is initialized.
    """

    @property
    def data_parallel_rank(self) -> int:
        """This process's rank among those that share the data, from 0 to data_parallel_size - 1."""
        ...

    @property
    def data_parallel_size(self) -> int:
        """How many ranks share the data, at least 1."""
        ...


class AllGather(Protocol):
    """A collective operation: each rank passes a record, and every rank gets all of them."""

    def __call__(self, record: bytes, /) -> Sequence[bytes]:
        """The records of all ranks, that of rank 0 first. Every rank's *record* has the same length."""
        ...


class SavesState(Protocol):
    """The two methods of `torch.distributed.checkpoint.stateful.Stateful`."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None: ...


class SupportsTraining(Protocol):
    """What `@resumable` needs of a class: a train loader, and a `trainer` attribute, None until there is one."""

    @property
    def trainer(self) -> Trainer | None: ...
    def train_dataloader(self) -> Any: ...


class SupportsSampling(SupportsTraining, Protocol):
    """What `@resumable(sampler="data_sampler")` needs of a class as well: the sampler, in the attribute of that name."""

    @property
    def data_sampler(self) -> DataSampler: ...
