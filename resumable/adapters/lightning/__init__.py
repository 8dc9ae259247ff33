"""Lightning: its loop counters give the trained position, and its loops are set to the position that was loaded.

    dm.load_state_dict ──► before_load    a hook object joins the trainer's callbacks
    on_load_checkpoint                    it keeps the loop counters of the checkpoint
    dm.train_dataloader ──► connect       the position is resolved, the counters are rewritten, the loaders follow
    on_train_batch_start / epoch_end      counting begins with an epoch's first batch and is folded at its end

A loaded position meets its data in `connect`, so a MismatchError comes from there and not from the load. Only the
Callback class is imported from Lightning, from the package that the trainer comes from.

    progress                 the trained position by the loop counters
    schedule_progress        the same where a schedule sizes the optimizer steps
    data_sampler_progress    the same where a data sampler counts the samples
    several_loaders          the position of each train loader, where there are several
    handed                   loaders that were handed to `trainer.fit` without a decorated datamodule
    counters                 how many batches were trained
    hooks                    the callback that hears of the trainer's doings
    logged                   the position in the trainer's loggers
    reseeding                random numbers seeded as a batch leaves a fetcher
    placement, restart       the loops set to the position, and their saved counters rewritten
    versions                 the loops of older releases made to go on as those of newer ones
    samplers, ranks          what Lightning looks for in a loader, and this process's rank
    stopping                 a fit that saves and ends at a step boundary, once it was asked to stop
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from resumable.adapters.lightning.data_sampler_progress import LightningSamplerProgress
from resumable.adapters.lightning.handed import passes_of
from resumable.adapters.lightning.hooks import Hooks, hooks_of
from resumable.adapters.lightning.placement import TrainerProgress, built_at, epoch_of_loaders, place
from resumable.adapters.lightning.progress import LightningProgress
from resumable.adapters.lightning.ranks import Ranks, shard_of
from resumable.adapters.lightning.restart import SavedLoops
from resumable.adapters.lightning.schedule_progress import LightningScheduleProgress
from resumable.adapters.lightning.versions import adapt
from resumable.data_sampler.options import SamplerOptions
from resumable.errors import DecorationError
from resumable.feeds.feed import Shard
from resumable.loading.loop_passes import LoopPasses
from resumable.loading.map_loader import TrainLoader
from resumable.progress import Tracker
from resumable.protocols import DataSampler
from resumable.saved.ledger import Ledger, Stretch
from resumable.saved.resolve import Policy
from resumable.saved.schedule_format import LedgerSchedule
from resumable.saved.snapshot import Snapshot

__all__ = ["Adapter", "Ranks"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A Lightning trainer, for `@resumable`: a `resumable.datamodule.trainer.TrainerAdapter`."""

    trainer: Any

    follows_at_once: ClassVar[bool] = False  # an evaluation looks at the state too

    def __post_init__(self) -> None:
        adapt(self.trainer)

    @property
    def shard(self) -> Shard:
        """The part of the data that Lightning would give this process."""
        return shard_of(self.trainer)

    def before_load(self, tracker: Tracker, /) -> bool:
        """Get ready for a state to be loaded; False where an evaluation loads the checkpoint."""
        trainer = self.trainer
        if trainer.state.fn is not None and trainer.state.fn != "fit":
            return False
        hooks = hooks_of(trainer, tracker)
        if hooks.progress is None or not hooks.progress.is_running:
            hooks.progress, hooks.is_loaded = None, True
            tracker.disconnect()
            fit = trainer.fit_loop
            if fit._combined_loader is not None:  # loaders that were built already do not know the position
                hooks.built, fit._combined_loader = fit._combined_loader, None
        return True

    def before_build(self, tracker: Tracker, /) -> AbstractContextManager[None]:
        """Let `trainer.current_epoch` be the epoch that goes on: Lightning takes one that was stopped for finished.

        In the block it is the one in which the uninterrupted run asked for the loaders.
        """
        fit = self.trainer.fit_loop
        saved, epoch = tracker.snapshot(), fit.epoch_progress.current
        if tracker.progress is not None or not fit.is_resuming:
            return nullcontext()
        if saved.epoch is not None and epoch.completed == saved.epoch + 1:
            epoch.completed = saved.epoch
        return built_at(epoch, epoch_of_loaders(self.trainer))

    def check_loader(self, loader: Any, number: int, stretch: Stretch | None, /) -> None:
        """Refuse what a ResumableLoader does in a loop and Lightning's epochs would not follow."""
        if stretch is not None and stretch.drop_last == "carry":
            raise DecorationError(
                "Lightning ends its epochs where the data ends, so no batch can lead into the next.",
                [("drop_last", "carry")],
                "Pass drop_last=False or True, or train in a loop of your own.",
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
        """Let *loaders*, combined in Lightning's *mode*, follow *tracker*, which counts with the trainer."""
        trainer = self.trainer
        hooks = hooks_of(trainer, tracker)
        tracker, progress = hooks.tracker, hooks.progress
        if not isinstance(progress, LightningProgress):
            tracker.end_run((LightningProgress, LightningSamplerProgress))
            if schedule is None:
                progress = LightningProgress(trainer, policy)
            else:
                progress = LightningScheduleProgress(trainer, schedule, policy)
        before, progress.tracker = progress.with_loaders(loaders, mode), tracker
        try:
            saved = tracker.snapshot()
            is_restored = trainer.fit_loop.is_resuming and hooks.tried_for is None
            if saved == Snapshot() and not hooks.is_loaded and is_restored:
                saved = progress.position_without_state()
                tracker.load_snapshot(saved, is_resume=True)
            if progress.is_in_epoch:  # the epoch goes on with the loaders that it began with
                progress.lend(saved)
                progress.undo(before)
            else:
                tracker.connect(progress)
        except BaseException:
            progress.undo(before)
            raise
        hooks.progress = progress
        _place(hooks, progress, saved)

    def passes_of(self, passes: LoopPasses, /) -> Callable[[Any], Any] | None:
        """The passes of a loader that was handed to the fit, and has *passes* in loops; None if nothing follows it."""
        return passes_of(self, passes)

    def follow_sampler(
        self, tracker: Tracker, sampler: DataSampler, options: SamplerOptions, /
    ) -> LightningSamplerProgress:
        """Let *sampler* count what the trainer trains."""
        trainer = self.trainer
        hooks = hooks_of(trainer, tracker)
        progress = hooks.progress
        if isinstance(progress, LightningSamplerProgress) and progress.sampler is sampler:
            return progress
        if not hooks.is_loaded:
            if isinstance(tracker.progress, LightningSamplerProgress):
                tracker.progress.end_of_run()
            tracker.end_run((LightningProgress, LightningSamplerProgress))
        progress = LightningSamplerProgress(
            sampler,
            trainer,
            options,
            judge=tracker.judge,
            place_anew=lambda: self.connect_sampled(tracker),
        )
        if tracker.follow_or_connect(progress) and not hooks.is_loaded and trainer.fit_loop.is_resuming:
            tracker.load_snapshot(progress.position_without_state(), is_resume=True)
        hooks.progress = progress
        return progress

    def connect_sampled(self, tracker: Tracker, /) -> None:
        """Set the trainer's loops to the sampler's position."""
        hooks = hooks_of(self.trainer, tracker)
        if isinstance(hooks.progress, LightningSamplerProgress):
            # the loops' counters are those of the saved batches, whatever size those had
            _place(hooks, hooks.progress, tracker.snapshot()._replace(ledger=Ledger()))


def _place(hooks: Hooks, progress: TrainerProgress, saved: Snapshot) -> None:
    fit = progress.trainer.fit_loop
    if not progress.is_running:
        if hooks.loops is None and fit.is_resuming:  # restored before these hooks were there
            hooks.loops = SavedLoops(fit.state_dict())
        hooks.placement = place(progress, hooks.loops, saved)
    hooks.is_loaded = False
