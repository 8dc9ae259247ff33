"""Lightning: the trained frontier from its loop counters, and its loops set to the place that was loaded.

    dm.load_state_dict ──► before_load    a hook object joins the trainer's callbacks
    on_load_checkpoint                    it keeps the loop counters of the checkpoint
    dm.train_dataloader ──► connect       the position is resolved, the counters are rewritten, the loaders follow
    on_train_batch_start / epoch_end      counting begins with an epoch's first batch and is folded at its end

Counting reads `batch_progress`, which knows what was processed; what a loader yielded runs ahead after an exception.
The hook object is made from the Callback class of whichever package the trainer comes from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any

from resumable.adapters.lightning_loops import Form, Trained, rewrite, trained
from resumable.batching import UNBOUNDED, Batching
from resumable.errors import MismatchError, ResumptionError, explain
from resumable.lanes import Lane, MapLane
from resumable.ledger import Stretch
from resumable.policy import refuse_or_warn, resolve
from resumable.position import Position
from resumable.saved import Place, Saved
from resumable.state import ResumptionState
from resumable.verdict import Difference, Identity, OnMismatch, Verdict

__all__ = ["before_load", "connect"]


def before_load(state: ResumptionState, trainer: Any) -> bool:
    """Make ready for a state to be loaded; False where an evaluation loads the checkpoint, which moves nothing."""
    if trainer.state.fn is not None and trainer.state.fn != "fit":
        return False
    hooks = _hooks_of(trainer, state)
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
    hooks = _hooks_of(trainer, state)
    frontier = hooks.frontier
    if frontier is None:
        state.forget(LightningFrontier)
        frontier = LightningFrontier(trainer, seed_is_given=seed_is_given, on_mismatch=on_mismatch)
    laned = frontier.with_lanes(lanes, mode)
    try:
        saved = state.snapshot()
        if saved == Saved() and not hooks.is_loaded and trainer.fit_loop.is_resuming:
            saved = frontier.position_without_state()
            state.load_snapshot(saved)
        state.connect(frontier)
    except BaseException:
        frontier.undo(laned)
        raise
    hooks.frontier = frontier
    if not frontier.is_running:
        frontier.place_trainer(hooks.loops, saved)
    hooks.loops, hooks.is_loaded = None, False


@dataclass(frozen=True, slots=True)
class _Lanes:
    """The train loaders, and which one's end is the epoch's end."""

    lanes: tuple[Lane, ...]
    mode: str
    primary: int

    def place(self, number: int, at: Place, batches: int, *, ended: bool) -> Place:
        """Where *batches* batches lead lane *number* from *at*; with *ended*, the epoch's end starts a pass."""
        lane, state = self.lanes[number], at.state
        if batches:
            kept = lane.state_at(at.offset // lane.batching.batch_size + batches)
            state = state if kept is None else kept
        if self.is_cycled(number):
            to = lane.batching.advance(Position(0, at.epoch, at.offset), batches)
            epoch, offset = to.epoch, to.offset
        else:
            epoch, offset = at.epoch, lane.batching.offset_after(at.offset, batches)
        if ended and offset:
            epoch, offset = epoch + 1, 0
        return Place(epoch, offset, lane.identity, state)

    def is_cycled(self, number: int) -> bool:
        """Whether Lightning begins the lane again while the epoch lasts."""
        return self.mode == "max_size_cycle" and number != self.primary


class LightningFrontier:
    """The frontier that Lightning's loop counters tell: an anchor, and the batches that were trained since."""

    init_global_step = 0

    def __init__(self, trainer: Any, *, seed_is_given: bool, on_mismatch: OnMismatch) -> None:
        self._trainer = trainer
        self._seed_is_given = seed_is_given
        self._on_mismatch: OnMismatch = on_mismatch
        self._laned = _Lanes((), "", 0)
        self._anchor = Position()
        self._places: tuple[Place, ...] = (Place(),)
        self._first_batch: int | None = None
        self._committed: int | None = None
        self._is_resumed = False
        self._form: Form | None = None
        self._epoch_length: int | None = None
        self.commits = False
        self.is_running = False
        self.stretch: Stretch | None = None

    # -- the frontier, as the state asks for it

    @property
    def order(self) -> Identity | None:
        """What the order of the loader that makes the epoch depends on."""
        return self._primary.identity

    @property
    def position(self) -> Position:
        """The anchor, advanced by the batches that were trained since."""
        done, ended = self._done()
        at = self._primary.batching.advance(self._anchor, done) if done else self._anchor
        if ended and at.epoch == self._anchor.epoch:
            return Position(at.consumed_samples, at.epoch + 1, 0)
        return at

    def places(self) -> tuple[Place, ...]:
        """Where each loader stands; empty for one over a map-style dataset, whose place is the position."""
        if len(self._laned.lanes) == 1 and self._primary.identity is not None:
            return ()
        return self._places_now()

    def check_can_load(self) -> None:
        """Refuse a load between two batches of a running fit."""
        if self.is_running:
            raise ResumptionError(
                explain(
                    "A state cannot be loaded while the trainer is fitting: the batches on their way are others.",
                    [("position", self.position)],
                    "Pass the checkpoint to trainer.fit(ckpt_path=...). Nothing was loaded.",
                )
            )

    def load(self, saved: Saved, /) -> Verdict:
        """Go on from *saved* with the present loaders."""
        if saved.loaders and len(saved.loaders) != len(self._laned.lanes):
            raise MismatchError(
                explain(
                    "Another number of train loaders.",
                    [("saved", len(saved.loaders)), ("current", len(self._laned.lanes))],
                    "Return the loaders that the run began with. Nothing was loaded.",
                )
            )
        position, places, orders, verdict = self._resolve(saved)
        for lane, order in zip(self._laned.lanes, orders, strict=True):
            if order is not None:
                lane.adopt(order)
        is_counting = self._first_batch is not None and self.is_running
        self._first_batch = self._now().batches if is_counting else None
        self._anchor, self._places, self.commits = position, places, saved.commits
        self._committed = None
        self._is_resumed = not self.is_running
        self.stretch = replace(
            self._stretch_of(self._laned.primary),
            sample=position.consumed_samples,
            epoch=position.epoch,
            offset=position.offset,
        )
        return verdict

    def commit(self) -> None:
        """The batch that is being trained, and all before it, are trained."""
        self.commits = True
        self._committed = self._trainer.fit_loop.epoch_loop.batch_progress.current.started

    def rebase(self) -> None:
        """The anchor moves by itself, with step and count together."""

    def note_saved(self) -> None:
        """Saving moves nothing."""

    def settle(self) -> None:
        """The count does not depend on a loader's passes."""

    # -- the lanes

    @property
    def _primary(self) -> Lane:
        return self._laned.lanes[self._laned.primary]

    def with_lanes(self, lanes: list[Lane], mode: str) -> _Lanes:
        """Take *lanes* in the place of the present ones, which are returned."""
        before, trainer = self._laned, self._trainer
        if trainer.overfit_batches > 0:
            for lane in lanes:
                if isinstance(lane, MapLane):
                    lane.in_order()
        lengths = [_limited(lane.batching, trainer.limit_train_batches) for lane in lanes]
        pick = min if mode == "min_size" else max
        primary = pick(range(len(lanes)), key=lambda number: (lengths[number], -number if pick is max else number))
        batching = lanes[primary].batching
        if lengths[primary] < batching.batches:
            lanes[primary].limit(int(lengths[primary]))
        self._laned = _Lanes(tuple(lanes), mode, primary)
        for number, lane in enumerate(lanes):
            lane.follow(_Start(self, number), endless=self._laned.is_cycled(number) and math.inf not in lengths)
        return before

    def undo(self, laned: _Lanes) -> None:
        """Go back to the lanes that were before."""
        self._laned = laned

    def start_of(self, number: int, /) -> Place:
        """The place of the next batch that lane *number* has to yield."""
        place = self._places_now()[number]
        return place if self._is_resumed else replace(place, state=None)

    def _places_now(self) -> tuple[Place, ...]:
        done, ended = self._done()
        if not done and not ended:
            return self._places
        return tuple(self._laned.place(number, place, done, ended=ended) for number, place in enumerate(self._places))

    def _stretch_of(self, number: int) -> Stretch:
        lane = self._laned.lanes[number]
        return Stretch(
            length=lane.batching.length,
            micro_batch_size=lane.batching.batch_size,
            accumulation=self._accumulation,
            num_workers=lane.num_workers,
            drop_last=lane.batching.drop_last,
            limit=lane.batching.limit,
        )

    def _resolve(self, saved: Saved) -> tuple[Position, tuple[Place, ...], list[Identity | None], Verdict]:
        """The position, each lane's place and order; raises where one of them cannot go on."""
        position, verdict = Position(), Verdict()
        places: list[Place] = []
        orders: list[Identity | None] = []
        for number, lane in enumerate(self._laned.lanes):
            is_primary = number == self._laned.primary
            own = saved
            if saved.loaders:
                place = saved.loaders[number]
                own = replace(saved, order=place.order, epoch=place.epoch, offset=place.offset)
            elif not is_primary and saved.epoch is None:
                own = replace(saved, order=None)
            if not is_primary:
                own = replace(own, ledger=Saved().ledger)
            if own.order is not None and lane.identity is None:
                lane.adopt(own.order)  # a stream says that it cannot
            order = lane.identity or Identity("stream", lane.batching.length)
            found = resolve(
                own,
                order,
                self._stretch_of(number),
                seed_is_given=self._seed_is_given,
                on_mismatch=self._on_mismatch,
            )
            at, state = found.position, None
            if is_primary:
                position, verdict = at, found.verdict
            if saved.loaders:
                state = saved.loaders[number].state
                if not is_primary and not self._laned.is_cycled(number):
                    at = Position(0, saved.loaders[number].epoch, saved.loaders[number].offset)  # it waits at its end
            places.append(Place(at.epoch, at.offset, found.order, state))
            orders.append(None if lane.identity is None else found.order)
        return position, tuple(places), orders, verdict

    # -- Lightning's counters

    @property
    def _accumulation(self) -> int:
        return int(self._trainer.accumulate_grad_batches) if self._is_automatic else 1

    @property
    def _is_automatic(self) -> bool:
        module = self._trainer.lightning_module
        return module is None or bool(module.automatic_optimization)

    def _now(self) -> Trained:
        fit = self._trainer.fit_loop
        batch = fit.epoch_loop.batch_progress
        return trained(
            fit.epoch_progress.current,
            batch.current,
            is_last_batch=batch.is_last_batch,
            max_batches=fit.max_batches,
            accumulation=self._accumulation,
        )

    def _done(self) -> tuple[int, bool]:
        """Batches trained since the anchor, and whether the epoch has ended."""
        if self._first_batch is None:
            return 0, False
        now = self._now()
        if self.commits:
            committed = self._first_batch if self._committed is None else self._committed
            return committed - self._first_batch, now.ended and committed >= now.batches
        return max(0, now.batches - self._first_batch), now.ended

    def batch_starts(self) -> None:
        """The first batch of an epoch, or of its rest, shows what Lightning's counters count from."""
        if self._first_batch is None:
            self._first_batch = self._trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1

    def epoch_ends(self) -> None:
        """Fold what was trained into the anchor."""
        position, places = self.position, self._places_now()
        self._anchor, self._places = position, places
        if self._first_batch is not None:
            self._is_resumed = False
        self._first_batch = self._committed = None
        if self._form == "end":
            self._trainer.fit_loop.epoch_loop.restarting = False  # Lightning clears it behind a batch, and drew none
        self._form = None

    def position_without_state(self) -> Saved:
        """The position that the trainer's restored counters tell, for a checkpoint from before the decoration.

        Raises:
            MismatchError: unless the order is the dataset's own, the one that the old run certainly used, or the
                policy lets the run go on.
        """
        batching, now = self._primary.batching, self._now()
        per_epoch = batching.offset_after(0, batching.batches)
        epoch = now.epoch + (now.ended or (not now.in_epoch and now.batches > 0))
        offset = 0 if epoch > now.epoch else batching.offset_after(0, now.batches)
        position = Position(epoch * per_epoch + offset, epoch, offset)
        order = self._primary.identity
        if position != Position() and (order is None or order.kind != "sequential"):
            missing = Difference(
                "The checkpoint holds no position of the data, so nobody knows the order that it was trained in.",
                None,
                position,
                "The trainer's counters tell the current place; the samples before it may have been others.",
            )
            refuse_or_warn(Verdict("inexact", (missing,)), self._on_mismatch)
        return Saved(position.consumed_samples, epoch, offset)

    def place_trainer(self, loops: dict[str, Any] | None, saved: Saved) -> None:
        """Set Lightning's loops to the position: in *loops*, which it has yet to restore, or in itself."""
        fit, batching, at = self._trainer.fit_loop, self._primary.batching, self._anchor
        left = batching.batches_left(at.offset)
        length = batching.batches
        behind = length - left if batching.length < UNBOUNDED else at.offset // batching.batch_size
        if fit.is_resuming:
            loops = fit.state_dict()
        if loops is None:
            self._form, behind = None, 0
        else:
            behind -= behind % self._accumulation
            self._form = self._rewrite(loops, behind if at.offset else 0, saved)
            if fit.is_resuming:
                fit.load_state_dict(loops)
        is_whole = not at.offset or behind + left == length or batching.length >= UNBOUNDED
        self._epoch_length = None if is_whole else behind + left

    def _rewrite(self, loops: dict[str, Any], behind: int, saved: Saved) -> Form:
        epoch, batch = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
        ended = batch["is_last_batch"] and batch["current"]["processed"] == batch["current"]["ready"]
        form: Form = "begin"
        if behind or self._anchor.offset:
            form = "middle"
        elif epoch["started"] > epoch["processed"] and (ended or saved.offset):
            form = "end"
        then = saved.ledger.stretches[-1] if saved.ledger.stretches else None
        rewrite(
            loops,
            form,
            batches=self._primary.batching.batches if form == "end" else behind,
            accumulation=self._accumulation if then is None else then.accumulation,
            same_batches=then is None or then.micro_batch_size == self._primary.batching.batch_size,
        )
        return form

    def train_starts(self) -> None:
        """Finish what the loop counters cannot say."""
        self.is_running = True
        fit = self._trainer.fit_loop
        if self._form == "end" and not fit.epoch_loop.val_loop.restarted_mid_evaluation:
            fit.epoch_loop.val_loop._has_run = True  # so that the finished epoch is closed without drawing a batch
        if self._form == "begin":
            fit.epoch_loop.restarting = False  # with max_steps, Lightning takes every restored epoch for a begun one
        if self._form in ("begin", "middle"):
            fit._restarting = False  # or the epoch's end would leave out schedulers that wait for a metric
        if self._epoch_length is not None:
            fit.max_batches = fit._data_fetcher.length = self._epoch_length

    def epoch_starts(self) -> None:
        """From the second epoch on, an epoch has its whole length again."""
        self._first_batch = self._committed = None
        fit = self._trainer.fit_loop
        if self._epoch_length is not None and self._anchor.offset == 0:
            self._epoch_length = None
            fit.max_batches = self._primary.batching.batches


@dataclass(frozen=True, slots=True)
class _Start:
    """Tells one lane where its next pass starts."""

    frontier: LightningFrontier
    number: int

    def start_of(self, lane: Lane, /) -> Place:
        return self.frontier.start_of(self.number)


def _limited(batching: Batching, limit: int | float) -> int | float:
    """Batches of an epoch under Lightning's `limit_train_batches`, an int for a number and a float for a share."""
    if batching.length >= UNBOUNDED:
        return limit if isinstance(limit, int) else math.inf
    return min(batching.batches, limit) if isinstance(limit, int) else int(batching.batches * limit)


class _Hooks:
    """What the trainer's callbacks are told, for one state."""

    state: ResumptionState
    package: str
    frontier: LightningFrontier | None = None
    loops: dict[str, Any] | None = None
    is_loaded = False

    def __reduce__(self) -> tuple[Any, ...]:
        """A spawned process makes its own class, and connects anew."""
        return _hooks, (self.package, self.state)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the loop counters, which Lightning restores from this very dict."""
        if trainer.state.fn == "fit":
            self.loops = checkpoint.get("loops", {}).get("fit_loop")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Leave out the loaders' own states, which a class without the decorator could not load."""
        checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.frontier is not None:
            self.frontier.train_starts()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.frontier is not None:
            self.frontier.epoch_starts()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.frontier is not None:
            self.frontier.batch_starts()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.frontier is not None:
            self.frontier.epoch_ends()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.frontier is not None:
            self.frontier.is_running = False

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.frontier is not None:
            self.frontier.is_running = False


@cache
def _hooks_class(package: str) -> type[Any]:
    callback = import_module("lightning.pytorch" if package == "lightning" else package).Callback
    return type("ResumptionHooks", (_Hooks, callback), {"__doc__": _Hooks.__doc__})


def _hooks(package: str, state: ResumptionState) -> _Hooks:
    hooks: _Hooks = _hooks_class(package)()
    hooks.package, hooks.state = package, state
    return hooks


def _hooks_of(trainer: Any, state: ResumptionState) -> _Hooks:
    """The hook object of *state* among the trainer's callbacks, the first of them: the others may save a checkpoint."""
    for callback in trainer.callbacks:
        if isinstance(callback, _Hooks) and callback.state is state:
            return callback
    package = next(
        base.__module__.partition(".")[0]
        for base in type(trainer).__mro__
        if base.__module__.partition(".")[0] in ("lightning", "pytorch_lightning")
    )
    hooks = _hooks(package, state)
    trainer.callbacks = [hooks, *trainer.callbacks]  # a new list: somebody may be iterating over the old one
    return hooks
