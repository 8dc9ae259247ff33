"""The trainer that a datamodule has, as the decorator's wiring uses it.

adapter_of(datamodule) ──► adapters.lightning.Adapter    a Lightning Trainer, of either package
                           LoopAdapter                   no trainer, or one that only counts its steps
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from resumable.adapters import adapter_for
from resumable.data_sampler.options import SamplerOptions
from resumable.data_sampler.progress import DataSamplerProgress
from resumable.progress import Tracker
from resumable.protocols import DataSampler
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy
from resumable.saved.schedule_format import LedgerSchedule

if TYPE_CHECKING:
    from resumable.feeds.feed import Shard
    from resumable.loading.map_loader import TrainLoader

__all__ = ["TrainerAdapter", "adapter_of"]


class TrainerAdapter(Protocol):
    """What the wiring asks of a trainer, in the order of a run.

    A framework's file in adapters/ has one as `Adapter(trainer)`, and `adapters.TRAINERS` names the file.
    """

    follows_at_once: ClassVar[bool]
    """Whether a data sampler counts from the first look at the state on; otherwise from a load or a loader on."""

    @property
    def shard(self) -> Shard:
        """The part of the data that the trainer gives this process."""
        ...

    def before_load(self, tracker: Tracker, /) -> bool:
        """Get ready for *tracker* to be loaded; False where the load is not the training's and must move nothing."""
        ...

    def before_build(self, tracker: Tracker, /) -> AbstractContextManager[None]:
        """Let the user's `train_dataloader`, called in the block that is returned, see the epoch that its loaders are of."""
        ...

    def check_loader(self, loader: Any, number: int, stretch: Stretch | None, /) -> None:
        """Raise `DecorationError` if this trainer's batches of *loader*, the *number*-th from 0, cannot be counted."""
        ...

    def connect(
        self,
        tracker: Tracker,
        loaders: list[TrainLoader],
        mode: str,
        schedule: LedgerSchedule | None,
        policy: Policy,
        /,
    ) -> None:
        """Let *loaders*, combined in Lightning's *mode*, start where *tracker* is, and *tracker* count what they yield.

        *schedule* groups their batches into optimizer steps.
        """
        ...

    def follow_sampler(self, tracker: Tracker, sampler: DataSampler, options: SamplerOptions, /) -> DataSamplerProgress:
        """Let *tracker* count with *sampler*, if it does not yet, as *options* say."""
        ...

    def connect_sampled(self, tracker: Tracker, /) -> None:
        """Go on from the sampler's count: its train loaders are built."""
        ...


def adapter_of(datamodule: object, /) -> TrainerAdapter:
    """The adapter of the trainer that *datamodule* has now, chosen by the trainer's class."""
    adapter: TrainerAdapter | None = adapter_for(getattr(datamodule, "trainer", None))
    if adapter is not None:
        return adapter
    from resumable.datamodule.loop import LoopAdapter  # brings torch

    return LoopAdapter(datamodule)
