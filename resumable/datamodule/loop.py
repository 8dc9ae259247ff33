"""A datamodule in a loop: no trainer, or one that only counts its steps."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard, cast

from torch.utils.data import IterableDataset

from resumable.data_sampler.options import SamplerOptions
from resumable.data_sampler.progress import DataSamplerProgress
from resumable.data_sampler.sampler_hooks import StepHook
from resumable.errors import DecorationError
from resumable.feeds.feed import Shard
from resumable.loading.dataloader import is_dataloader
from resumable.loading.loop_progress import loop_progress_of
from resumable.loading.map_loader import MapLoader, TrainLoader
from resumable.progress import Tracker
from resumable.protocols import DataSampler
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy
from resumable.saved.schedule_format import LedgerSchedule

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["LoopAdapter", "is_map_style"]


@dataclass(frozen=True, slots=True)
class LoopAdapter:
    """The loop that trains with *datamodule*: a `TrainerAdapter`. Its position counts one train loader's batches."""

    datamodule: object
    shard: Shard = Shard()

    follows_at_once: ClassVar[bool] = True

    def before_load(self, tracker: Tracker, /) -> bool:
        """Always True: a loop loads a state in order to train."""
        return True

    def before_build(self, tracker: Tracker, /) -> AbstractContextManager[None]:
        """Nothing to correct: a loop counts its own epochs."""
        return nullcontext()

    def check_loader(self, loader: Any, number: int, stretch: Stretch | None, /) -> None:
        """Raise `DecorationError` for a further loader, and for a stream."""
        if number or not is_map_style(loader):
            raise DecorationError(
                "Outside Lightning, the position of one map-style train loader can be counted.",
                [("a further or streaming loader", type(loader).__name__)],
                "Return one DataLoader over a map-style dataset, or use one ResumableLoader for each dataset.",
            )

    def connect(
        self,
        tracker: Tracker,
        loaders: list[TrainLoader],
        mode: str,
        schedule: LedgerSchedule | None,
        policy: Policy,
        /,
    ) -> None:
        """Count what the one loader yields, as a ResumableLoader does."""
        loader = cast("MapLoader", loaders[0])
        progress = loop_progress_of(
            loader.feed, loader.num_workers, schedule=schedule, policy=policy, reseed=loader.reseed
        )
        loader.follow_loop(progress, tracker)
        progress.take_turn(tracker, later=True)

    def follow_sampler(self, tracker: Tracker, sampler: DataSampler, options: SamplerOptions, /) -> DataSamplerProgress:
        """Let *sampler* count the steps of the datamodule's trainer, as soon as it has one."""
        counting = tracker.progress
        if counting is not None and (not isinstance(counting, DataSamplerProgress) or counting.sampler is sampler):
            return cast("DataSamplerProgress", counting)  # or a loader's, built before there was a sampler
        trainer = partial(getattr, self.datamodule, "trainer", None)
        progress = DataSamplerProgress(sampler, trainer, options, judge=tracker.judge)
        StepHook(sampler, progress)
        tracker.follow_or_connect(progress)
        return progress

    def connect_sampled(self, tracker: Tracker, /) -> None:
        """Nothing to set: the loaders read the sampler's count when they start."""


def is_map_style(loader: object) -> TypeGuard[DataLoader[Any]]:
    """Whether *loader* is a DataLoader over a dataset that takes an index."""
    return is_dataloader(loader) and not isinstance(loader.dataset, IterableDataset)
