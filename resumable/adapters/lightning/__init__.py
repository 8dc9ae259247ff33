"""Lightning: its loop counters give the trained position, and its loops are set to the position that was loaded.

    dm.load_state_dict ──► before_load    a hook object joins the trainer's callbacks
    on_load_checkpoint                    it keeps the loop counters of the checkpoint
    dm.train_dataloader ──► connect       the position is resolved, the counters are rewritten, the loaders follow
    on_train_batch_start / epoch_end      counting begins with an epoch's first batch and is folded at its end

A loaded position meets its data in `connect`, so a MismatchError comes from there and not from the load. Only the
Callback class is imported from Lightning, from the package that the trainer comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from resumable.adapters.lightning.data_sampler_progress import LightningSamplerProgress
from resumable.adapters.lightning.hooks import Hooks, hooks_of
from resumable.adapters.lightning.placement import TrainerProgress, place
from resumable.adapters.lightning.progress import LightningProgress
from resumable.adapters.lightning.ranks import Ranks, shard_of
from resumable.adapters.lightning.restart import SavedLoops
from resumable.adapters.lightning.schedule_progress import LightningScheduleProgress
from resumable.errors import DecorationError, explain
from resumable.feeds.feed import Shard
from resumable.loader import ResumableLoader
from resumable.loading.map_loader import TrainLoader
from resumable.protocols import BatchSchedule, DataSampler, MicrobatchCalculator
from resumable.saved.resolve import Policy
from resumable.saved.schedule_format import LedgerSchedule
from resumable.saved.snapshot import Snapshot
from resumable.state import ResumptionState
from resumable.verdict import OnMismatch

__all__ = ["Adapter", "Ranks"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A Lightning trainer, for `@resumable`: a `resumable.datamodule.trainer.TrainerAdapter`."""

    trainer: Any

    follows_at_once: ClassVar[bool] = False  # an evaluation looks at the state too

    @property
    def shard(self) -> Shard:
        """The part of the data that Lightning would give this process."""
        return shard_of(self.trainer)

    def before_load(self, state: ResumptionState, /) -> bool:
        """Get ready for a state to be loaded; False where an evaluation loads the checkpoint."""
        trainer = self.trainer
        if trainer.state.fn is not None and trainer.state.fn != "fit":
            return False
        hooks = hooks_of(trainer, state)
        if hooks.frontier is None or not hooks.frontier.is_running:
            hooks.frontier, hooks.is_loaded = None, True
            state.disconnect()
            trainer.fit_loop._combined_loader = None  # loaders that were built already do not know the position
        return True

    def before_build(self, state: ResumptionState, /) -> None:
        """Let `trainer.current_epoch` be the epoch that goes on: Lightning takes one that was stopped for finished."""
        fit = self.trainer.fit_loop
        saved, epoch = state.snapshot(), fit.epoch_progress.current
        is_placed = state.frontier is not None or not fit.is_resuming
        if not is_placed and saved.epoch is not None and epoch.completed == saved.epoch + 1:
            epoch.completed = saved.epoch

    def check_loader(self, loader: Any, number: int, /) -> None:
        """Refuse what a ResumableLoader does in a loop and Lightning's epochs would not follow."""
        counts = loader.state.frontier if isinstance(loader, ResumableLoader) else None
        if counts is not None and counts.stretch is not None and counts.stretch.drop_last == "carry":
            raise DecorationError(
                explain(
                    "Lightning ends its epochs where the data ends, so no batch can lead into the next.",
                    [("drop_last", "carry")],
                    "Pass drop_last=False or True, or train in a loop of your own.",
                )
            )

    def connect(
        self,
        state: ResumptionState,
        loaders: list[TrainLoader],
        mode: str,
        schedule: LedgerSchedule | None,
        policy: Policy,
        /,
    ) -> None:
        """Let *loaders*, combined in Lightning's *mode*, follow *state*, and the state count with the trainer."""
        trainer = self.trainer
        hooks = hooks_of(trainer, state)
        frontier = hooks.frontier
        if not isinstance(frontier, LightningProgress):
            state.forget((LightningProgress, LightningSamplerProgress))
            if schedule is None:
                frontier = LightningProgress(trainer, policy)
            else:
                frontier = LightningScheduleProgress(trainer, schedule, policy)
        before = frontier.with_loaders(loaders, mode)
        try:
            saved = state.snapshot()
            if saved == Snapshot() and not hooks.is_loaded and trainer.fit_loop.is_resuming:
                saved = frontier.position_without_state()
                state.load_snapshot(saved)
            if frontier.is_in_epoch:  # the epoch goes on with the loaders that it began with
                frontier.lend(saved)
                frontier.undo(before)
            else:
                state.connect(frontier)
        except BaseException:
            frontier.undo(before)
            raise
        hooks.frontier = frontier
        _place(hooks, frontier, saved)

    def follow_sampler(
        self,
        state: ResumptionState,
        sampler: DataSampler,
        /,
        *,
        schedule: BatchSchedule | None,
        calculator: Callable[[], MicrobatchCalculator | None],
        on_mismatch: OnMismatch,
    ) -> LightningSamplerProgress:
        """Let *sampler* count what the trainer trains."""
        trainer = self.trainer
        hooks = hooks_of(trainer, state)
        frontier = hooks.frontier
        if isinstance(frontier, LightningSamplerProgress) and frontier.sampler is sampler:
            return frontier
        if not hooks.is_loaded:
            if isinstance(state.frontier, LightningSamplerProgress):
                state.frontier.end_of_run()
            state.forget((LightningProgress, LightningSamplerProgress))
        frontier = LightningSamplerProgress(
            sampler,
            trainer,
            schedule=schedule,
            calculator=calculator,
            on_mismatch=on_mismatch,
            judge=state.judge,
            place_anew=lambda: self.connect_sampled(state),
        )
        if state.snapshot() != Snapshot():
            state.connect(frontier)
        else:
            state.follow(frontier)
            if not hooks.is_loaded and trainer.fit_loop.is_resuming:
                state.load_snapshot(frontier.position_without_state())
        hooks.frontier = frontier
        return frontier

    def connect_sampled(self, state: ResumptionState, /) -> None:
        """Set the trainer's loops to the place where the sampler's count goes on."""
        hooks = hooks_of(self.trainer, state)
        if isinstance(hooks.frontier, LightningSamplerProgress):
            _place(hooks, hooks.frontier, state.snapshot())


def _place(hooks: Hooks, frontier: TrainerProgress, saved: Snapshot) -> None:
    fit = frontier.trainer.fit_loop
    if not frontier.is_running:
        if hooks.loops is None and fit.is_resuming:  # restored before these hooks were there
            hooks.loops = SavedLoops(fit.state_dict())
        hooks.placement = place(frontier, hooks.loops, saved)
    hooks.is_loaded = False
