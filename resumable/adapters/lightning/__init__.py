"""Lightning: the trained frontier from its loop counters, and its loops set to the place that was loaded.

    dm.load_state_dict ──► before_load    a hook object joins the trainer's callbacks
    on_load_checkpoint                    it keeps the loop counters of the checkpoint
    dm.train_dataloader ──► connect       the position is resolved, the counters are rewritten, the loaders follow
    on_train_batch_start / epoch_end      counting begins with an epoch's first batch and is folded at its end

Nothing is imported from Lightning but the Callback class, of whichever package the trainer comes from.
"""

from __future__ import annotations

from typing import Any

from resumable.adapters.lightning.frontier import LightningFrontier
from resumable.adapters.lightning.hooks import hooks_of
from resumable.adapters.lightning.placement import place
from resumable.lanes import Lane
from resumable.saved import Saved
from resumable.state import ResumptionState
from resumable.verdict import OnMismatch

__all__ = ["before_load", "connect"]


def before_load(state: ResumptionState, trainer: Any) -> bool:
    """Make ready for a state to be loaded; False where an evaluation loads the checkpoint, which moves nothing."""
    if trainer.state.fn is not None and trainer.state.fn != "fit":
        return False
    hooks = hooks_of(trainer, state)
    frontier = hooks.frontier
    if frontier is None or not frontier.is_running:
        hooks.frontier, hooks.is_loaded = None, True
        state.disconnect()
        trainer.fit_loop._combined_loader = None  # loaders that were built already do not know the position
    return True


def connect(
    state: ResumptionState,
    trainer: Any,
    lanes: list[Lane],
    mode: str,
    *,
    seed_is_given: bool,
    on_mismatch: OnMismatch,
) -> None:
    """Let *lanes*, combined in Lightning's *mode*, follow *state*, and the state count with *trainer*."""
    hooks = hooks_of(trainer, state)
    frontier = hooks.frontier
    if frontier is None:
        state.forget(LightningFrontier)
        frontier = LightningFrontier(trainer, seed_is_given=seed_is_given, on_mismatch=on_mismatch)
    before = frontier.with_lanes(lanes, mode)
    try:
        saved = state.snapshot()
        if saved == Saved() and not hooks.is_loaded and trainer.fit_loop.is_resuming:
            saved = frontier.position_without_state()
            state.load_snapshot(saved)
        state.connect(frontier)
    except BaseException:
        frontier.undo(before)
        raise
    hooks.frontier = frontier
    if not frontier.is_running:
        hooks.placement = place(frontier, hooks.loops, saved)
    hooks.loops, hooks.is_loaded = None, False
