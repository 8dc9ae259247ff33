"""The trained frontier that Lightning's loop counters tell.

Counting reads `batch_progress`, which knows what was processed: what a loader yielded runs ahead after an exception,
and `global_step` counts twice with two optimizers and half with two accumulated batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from resumable.adapters.lightning.combined import Combined, combine
from resumable.adapters.lightning.loops import Trained, trained
from resumable.errors import MismatchError, explain
from resumable.lanes import Lane, MapLane
from resumable.ledger import Stretch
from resumable.policy import refuse_or_warn, resolve
from resumable.position import Position
from resumable.saved import Place, Saved
from resumable.verdict import Difference, Identity, OnMismatch, Verdict

__all__ = ["LightningFrontier"]


class LightningFrontier:
    """The frontier that Lightning's loop counters tell: an anchor, and the batches that were trained since."""

    init_global_step = 0
    knows_epochs = True

    def __init__(self, trainer: Any, *, seed_is_given: bool, on_mismatch: OnMismatch) -> None:
        self.trainer = trainer
        self._seed_is_given = seed_is_given
        self._on_mismatch: OnMismatch = on_mismatch
        self._combined = Combined((), "", 0)
        self.anchor = Position()
        self._places: tuple[Place, ...] = (Place(),)
        self._first_batch: int | None = None
        self._committed: int | None = None
        self._is_resumed = False
        self.commits = False
        self.is_running = False
        self.stretch: Stretch | None = None

    # -- the frontier, as the state asks for it

    @property
    def order(self) -> Identity | None:
        """What the order of the loader that makes the epoch depends on."""
        return self.primary.identity

    @property
    def position(self) -> Position:
        """The anchor, advanced by the batches that were trained since."""
        done, ended = self._done()
        at = self.primary.batching.advance(self.anchor, done) if done else self.anchor
        if ended and at.epoch == self.anchor.epoch:
            return Position(at.consumed_samples, at.epoch + 1, 0)
        return at

    def places(self) -> tuple[Place, ...]:
        """Where each loader stands; empty for one over a map-style dataset, whose place is the position."""
        if len(self._combined.lanes) == 1 and self.primary.identity is not None:
            return ()
        return self._places_now()

    def load(self, saved: Saved, /) -> Verdict:
        """Go on from *saved* with the present loaders."""
        if saved.loaders and len(saved.loaders) != len(self._combined.lanes):
            raise MismatchError(
                explain(
                    "Another number of train loaders.",
                    [("saved", len(saved.loaders)), ("current", len(self._combined.lanes))],
                    "Return the loaders that the run began with. Nothing was loaded.",
                )
            )
        position, places, orders, verdict = self._resolve(saved)
        for lane, order in zip(self._combined.lanes, orders, strict=True):
            if order is not None:
                lane.adopt(order)
        is_counting = self._first_batch is not None and self.is_running
        self._first_batch = self._now().batches if is_counting else None
        self.anchor, self._places, self.commits = position, places, saved.commits
        self._committed = None
        self._is_resumed = not self.is_running
        self.stretch = replace(
            self._stretch_of(self._combined.primary),
            sample=position.consumed_samples,
            epoch=position.epoch,
            offset=position.offset,
        )
        return verdict

    def commit(self) -> None:
        """The batch that is being trained, and all before it, are trained."""
        self.commits = True
        self._committed = self.trainer.fit_loop.epoch_loop.batch_progress.current.started

    def rebase(self) -> None:
        """The anchor moves by itself, with step and count together."""

    def note_saved(self) -> None:
        """Saving moves nothing."""

    def settle(self) -> None:
        """The count does not depend on a loader's passes."""

    # -- the lanes

    @property
    def primary(self) -> Lane:
        """The loader whose end is the epoch's end."""
        return self._combined.lanes[self._combined.primary]

    def with_lanes(self, lanes: list[Lane], mode: str) -> Combined:
        """Take *lanes* in the place of the present ones, which are returned."""
        before, trainer = self._combined, self.trainer
        if trainer.overfit_batches > 0:
            for lane in lanes:
                if isinstance(lane, MapLane):
                    lane.in_order()
        self._combined = combine(lanes, mode, trainer.limit_train_batches)
        for number, lane in enumerate(lanes):
            is_endless = self._combined.is_cycled(number) and self._combined.is_finite
            lane.follow(_Start(self, number), endless=is_endless)
        return before

    def undo(self, combined: Combined) -> None:
        """Go back to the lanes that were before."""
        self._combined = combined

    def start_of(self, number: int, /) -> Place:
        """The place of the next batch that lane *number* has to yield."""
        place = self._places_now()[number]
        return place if self._is_resumed else replace(place, state=None)

    def _places_now(self) -> tuple[Place, ...]:
        done, ended = self._done()
        if not done and not ended:
            return self._places
        return tuple(
            self._combined.place(number, place, done, ended=ended) for number, place in enumerate(self._places)
        )

    def _stretch_of(self, number: int) -> Stretch:
        lane = self._combined.lanes[number]
        return Stretch(
            length=lane.batching.length,
            micro_batch_size=lane.batching.batch_size,
            accumulation=self.accumulation,
            num_workers=lane.num_workers,
            drop_last=lane.batching.drop_last,
            limit=lane.batching.limit,
        )

    def _resolve(self, saved: Saved) -> tuple[Position, tuple[Place, ...], list[Identity | None], Verdict]:
        """The position, each lane's place and order; raises where one of them cannot go on."""
        position, verdict = Position(), Verdict()
        places: list[Place] = []
        orders: list[Identity | None] = []
        for number, lane in enumerate(self._combined.lanes):
            is_primary = number == self._combined.primary
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
                if not is_primary and not self._combined.is_cycled(number):
                    at = Position(0, saved.loaders[number].epoch, saved.loaders[number].offset)  # it waits at its end
            places.append(Place(at.epoch, at.offset, found.order, state))
            orders.append(None if lane.identity is None else found.order)
        return position, tuple(places), orders, verdict

    # -- Lightning's counters

    @property
    def accumulation(self) -> int:
        """Batches that an optimizer step accumulates; 1 where the module steps by hand."""
        return int(self.trainer.accumulate_grad_batches) if self._is_automatic else 1

    @property
    def _is_automatic(self) -> bool:
        module = self.trainer.lightning_module
        return module is None or bool(module.automatic_optimization)

    def _now(self) -> Trained:
        fit = self.trainer.fit_loop
        batch = fit.epoch_loop.batch_progress
        return trained(
            fit.epoch_progress.current,
            batch.current,
            is_last_batch=batch.is_last_batch,
            max_batches=fit.max_batches,
            accumulation=self.accumulation,
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

    def epoch_starts(self) -> None:
        """Nothing of the epoch is counted before its first batch: the counters are still those of the last."""
        self._first_batch = self._committed = None

    def batch_starts(self) -> None:
        """The first batch of an epoch, or of its rest, shows what Lightning's counters count from."""
        if self._first_batch is None:
            self._first_batch = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1

    def epoch_ends(self) -> None:
        """Fold what was trained into the anchor."""
        position, places = self.position, self._places_now()
        self.anchor, self._places = position, places
        if self._first_batch is not None:
            self._is_resumed = False
        self._first_batch = self._committed = None

    def position_without_state(self) -> Saved:
        """The position that the trainer's restored counters tell, for a checkpoint from before the decoration.

        Raises:
            MismatchError: unless the order is the dataset's own, the one that the old run certainly used, or the
                policy lets the run go on.
        """
        batching, now = self.primary.batching, self._now()
        per_epoch = batching.offset_after(0, batching.batches)
        epoch = now.epoch + now.ended
        offset = 0 if epoch > now.epoch else batching.offset_after(0, now.batches)
        position = Position(epoch * per_epoch + offset, epoch, offset)
        order = self.primary.identity
        if position != Position() and (order is None or order.kind != "sequential"):
            missing = Difference(
                "The checkpoint holds no position of the data, so nobody knows the order that it was trained in.",
                None,
                position,
                "The trainer's counters tell the current place; the samples before it may have been others.",
            )
            refuse_or_warn(Verdict("inexact", (missing,)), self._on_mismatch)
        return Saved(position.consumed_samples, epoch, offset)


@dataclass(frozen=True, slots=True)
class _Start:
    """Tells one lane where its next pass starts."""

    frontier: LightningFrontier
    number: int

    def start_of(self, lane: Lane, /) -> Place:
        return self.frontier.start_of(self.number)
