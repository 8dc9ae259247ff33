"""The trained position by Lightning's loop counters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from typing_extensions import override

from resumable.adapters.lightning.counters import BatchCount
from resumable.adapters.lightning.placement import TrainerProgress
from resumable.adapters.lightning.ranks import puts_samplers_in
from resumable.adapters.lightning.reseeding import reseed_from
from resumable.adapters.lightning.samplers import show_sampler, unshuffle
from resumable.adapters.lightning.several_loaders import (
    GroupStart,
    LoaderGroup,
    canary_of,
    combine,
    resolve_loaders,
    stretch_of,
)
from resumable.errors import ConfigurationError
from resumable.loading.map_loader import MapLoader, TrainLoader
from resumable.loading.reseeding import STEP_BEGINS, reseed
from resumable.loading.trainer_loops import trainer_loop
from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.progress import LedgerAt, Tracker, undo_of
from resumable.saved.agreement import Part
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy, refuse_or_warn
from resumable.saved.snapshot import LoaderPosition, Snapshot
from resumable.steps.batch_plan import UNBOUNDED
from resumable.verdict import Difference, Verdict

__all__ = ["LightningProgress", "forget_fetcher"]


def forget_fetcher(trainer: Any, /) -> None:
    """Let an error of a pass that begins be the one that is seen: the fetcher's teardown would raise one in front of it."""
    trainer.fit_loop._data_fetcher = None


class LightningProgress(TrainerProgress):
    """The progress by Lightning's loop counters: an anchor, and the batches that were trained since."""

    def __init__(self, trainer: Any, policy: Policy) -> None:
        self.trainer = trainer
        self._policy = policy
        self._group = LoaderGroup((), "", 0)
        self.anchor: Position = Position()
        self._anchors: tuple[LoaderPosition, ...] = (LoaderPosition(),)
        self._consumed: tuple[int, ...] = (0,)
        self._count = BatchCount(trainer)
        self._is_resumed = False
        self.commits: bool = False
        self.tracker: Tracker | None = None
        self._is_running = False
        self.stretch: Stretch | None = None

    # -- the progress, as the state asks for it

    @property
    @override
    def is_running(self) -> bool:
        return self._is_running

    @property
    @override
    def may_load(self) -> bool:
        """Also in a fit, where a callback has tried something out and restores its checkpoint: Lightning loads the rest."""
        return not self._is_running or bool(self.trainer._checkpoint_connector._loaded_checkpoint)

    @property
    @override
    def position(self) -> Position:
        """The anchor, advanced by the batches that were trained since."""
        return self._position(*self._done())

    def _position(self, done: int, ended: bool) -> Position:
        at = self._advance(done) if done else self.anchor
        if ended and at.epoch == self.anchor.epoch:
            return Position(at.consumed_samples, at.epoch + 1, 0)
        return at

    def _advance(self, done: int) -> Position:
        return self.primary.feed.plan.advance(self.anchor, done)

    @property
    @override
    def padded_samples(self) -> int:
        return self.primary.feed.padded_samples(self.anchor.offset, self.anchor.epoch)

    @property
    @override
    def order(self) -> Identity | None:
        return self.primary.feed.identity

    @override
    def read(self, ledger_at: LedgerAt, /) -> Snapshot:
        done, ended = self._done()
        at, loaders = self._position(done, ended), self._group.loaders
        consumed, order = at.consumed_samples, self.primary.feed.identity
        is_plain = len(loaders) == 1 and order is not None  # a map-style loader, whose position is the run's
        further = () if is_plain else self._places(done, ended)
        places = further or (LoaderPosition(at.epoch, at.offset),)
        canary = canary_of(loaders, [each.feed.identity for each in loaders], places)
        if self.stretch is not None:
            self.stretch = self.primary.feed.noted(self.stretch)
        ledger = ledger_at(self.stretch, consumed)
        return Snapshot(consumed, at.epoch, at.offset, order, self.commits, further, ledger, None, canary)

    @property
    @override
    def present_stretch(self) -> Stretch | None:
        return self.stretch

    @property
    @override
    def part(self) -> Part:
        return self.primary.shard.part

    @override
    def restore_point(self) -> Callable[[], None]:
        return undo_of(self, self._count, *(loader.feed for loader in self._group.loaders))

    @override
    def load(self, saved: Snapshot, /) -> Verdict:
        found = self._adopt(saved)
        self._count.mark()
        for loader in self.loaders:
            loader.mark()
        self.anchor, self._anchors, self.commits = found.position, found.places, saved.commits
        self._consumed = (0,) * len(found.places)
        self._is_resumed = not self.is_running
        self.stretch = replace(
            self._stretch_of(self.primary),
            sample=found.position.consumed_samples,
            epoch=found.position.epoch,
            offset=found.position.offset,
        )
        return found.verdict

    def _stretch_of(self, loader: TrainLoader) -> Stretch:
        return stretch_of(loader, self.accumulation)

    @override
    def commit(self, batches: int | None = None) -> None:
        self._count.commit(batches)
        self.commits = True

    # -- the loaders

    @property
    def primary(self) -> TrainLoader:
        """The loader whose end is the epoch's end."""
        return self._group.loaders[self._group.primary]

    def with_loaders(self, loaders: list[TrainLoader], mode: str) -> LoaderGroup:
        """Take *loaders* in place of the present ones, which are returned."""
        before, trainer = self._group, self.trainer
        if trainer.overfit_batches > 0:
            for loader in loaders:
                if isinstance(loader, MapLoader):
                    unshuffle(loader)
        self._group = combine(loaders, mode, trainer.limit_train_batches)
        for number, loader in enumerate(loaders):
            loader.follow(partial(self.start_of, number), self.batches_from_here)
            loader.is_cycled = self._group.is_cycled(number)  # Lightning cycles a stream by itself
            if isinstance(loader, MapLoader):
                loader.is_endless = self._group.is_finite and self._group.is_cycled(number)
                loader.go_on = self._go_on
                show_sampler(loader, trainer)
        return before

    def _go_on(self) -> bool:
        """Go on with loaders of other lengths, if an epoch begins."""
        if self.tracker is None or self.is_in_epoch or any(place.offset for place in self.places):
            return False
        self.tracker.connect(self)
        return True

    @property
    def is_in_epoch(self) -> bool:
        """Whether batches of an epoch are being trained."""
        return self.is_running and self._count.is_counting

    def lend(self, saved: Snapshot, /) -> None:
        """Let the present loaders start at the position of the training, which goes on with others."""
        self._adopt(saved)

    def undo(self, group: LoaderGroup) -> None:
        """Go back to the loaders that were before."""
        self._group = group

    def start_of(self, number: int, /) -> LoaderPosition:
        """The position of the next batch that loader *number* has to yield.

        Raises:
            ConfigurationError: if another trainer trains with the loader, which would count nothing.
        """
        loop = trainer_loop()
        if loop is not None and loop.trainer is not self.trainer:
            forget_fetcher(loop.trainer)
            raise ConfigurationError(
                "This train loader follows another trainer, which trains with a decorated datamodule.",
                [("loader", self.loaders[number].loader)],
                "Give the fit the datamodule, or what its train_dataloader() returns while it has no other trainer.",
            )
        if self.reseeds and self.trainer.fit_loop._data_fetcher is not None:
            reseed_from(self.trainer.fit_loop, self.reseed_at)  # also one that a callback has made, as finders do
        place = self.places[number]
        plan = self._group.loaders[number].feed.plan
        if number == self._group.primary and self.epochs_vary:
            plan.batches_left(0, place.epoch)  # seen now, before the sampler is being iterated
        return place if self._is_resumed else replace(place, state=None, check=None)

    @property
    def loaders(self) -> tuple[TrainLoader, ...]:
        """The present train loaders."""
        return self._group.loaders

    @property
    def places(self) -> tuple[LoaderPosition, ...]:
        """The position of each loader."""
        return self._places(*self._done())

    @property
    def consumed(self) -> tuple[int, ...]:
        """The samples of each loader that were trained since the load."""
        done, _ = self._done()
        return tuple(
            before + self._group.samples(number, at, done)
            for number, (before, at) in enumerate(zip(self._consumed, self._anchors, strict=True))
        )

    def batches_from_here(self) -> int | None:
        """Batches of the pass that begins now; None for all to the epoch's end."""
        return None

    def _places(self, done: int, ended: bool) -> tuple[LoaderPosition, ...]:
        """Each loader's position, *done* batches after the anchors."""
        if not done and not ended:
            return self._anchors
        return tuple(self._group.place(number, at, done, ended=ended) for number, at in enumerate(self._anchors))

    def _adopt(self, saved: Snapshot) -> GroupStart:
        """Let the loaders go on in their saved orders, once all of them can."""
        loaders = self._group.loaders
        found = resolve_loaders(self._group, saved, [self._stretch_of(each) for each in loaders], self._policy)
        self._check(found.position)
        seed = self.primary.reseed
        for loader, order in zip(loaders, found.orders, strict=True):
            if loader.reseed == seed:  # of several that were handed to a fit, each may have its own
                loader.reseed = found.reseed
            if order is not None:
                loader.feed.adopt(order)
        return found

    def _check(self, position: Position) -> None:
        """Raise where no step can begin at *position*; without a schedule, one can begin anywhere."""

    # -- the epoch, as a placement asks for it

    @property
    @override
    def primary_number(self) -> int:
        return self._group.primary

    @property
    @override
    def epochs_vary(self) -> bool:
        plan = self.primary.feed.plan
        return plan.is_drawn and plan.batches < UNBOUNDED

    @property
    @override
    def accumulation(self) -> int:
        return self._count.accumulation

    @property
    @override
    def batch_size(self) -> int:
        return self.primary.feed.plan.batch_size

    @property
    @override
    def is_at_epochs_start(self) -> bool:
        return self.anchor.offset == 0

    @override
    def is_within_epoch(self, loops: dict[str, Any], /) -> bool:
        return self.anchor.offset > 0

    @override
    def has_moved_on(self, saved: Snapshot, /) -> bool:
        return bool(saved.offset) and not self.anchor.offset

    @override
    def trained_batches(self, loops: dict[str, Any], /) -> int:
        """Batches of this epoch already trained, counted in the current batch size."""
        trained = self.primary.feed.plan.done(self.anchor)
        return trained - trained % self.accumulation

    @override
    def epoch_batches(self, loops: dict[str, Any] | None, /) -> int:
        plan = self.primary.feed.plan
        if not self.epochs_vary:
            return plan.batches
        if loops is not None:
            return int(loops["epoch_loop.batch_progress"]["current"]["processed"])
        return plan.batches_left(self.anchor.offset, self.anchor.epoch)

    @override
    def first_epoch_batches(self, trained: int, /) -> int | None:
        plan, offset = self.primary.feed.plan, self.anchor.offset
        if self.epochs_vary:
            return trained + plan.batches_left(offset, self.anchor.epoch)
        batches = trained + plan.batches_left(offset)
        is_whole = not offset or batches == plan.batches or plan.length >= UNBOUNDED
        return None if is_whole else batches

    # -- what the trainer's callbacks are told

    def _done(self) -> tuple[int, bool]:
        return self._count.done(committed_only=self.commits)

    @override
    def train_starts(self) -> None:
        self._is_running = True

    @override
    def train_ends(self) -> None:
        self._is_running = False

    @override
    def epoch_starts(self) -> None:
        self._count.mark()

    @property
    @override
    def hears_batch_start(self) -> bool:
        return not self._count.is_counting or self.reseeds

    @override
    def batch_starts(self) -> None:
        self._count.batch_starts()

    @override
    def epoch_ends(self) -> None:
        """Move the anchor to the trained position."""
        done, ended = self._done()  # a resumed epoch may have nothing left, where no length says so
        ended = ended or (not done and self.anchor.offset > 0 and self._count.has_read_all)
        if ended:  # or a checkpoint of the epoch's end would say that the epoch goes on
            self.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = True
        self._consumed = self.consumed
        self.anchor, self._anchors = self._position(done, ended), self._places(done, ended)
        if self._count.is_counting:
            self._is_resumed = False
        self._count.mark()
        for loader in self.loaders:
            loader.mark()

    @property
    @override
    def reseeds(self) -> bool:
        return self.stretch is not None and self.stretch.reseed is not None

    @override
    def reseed_at(self, moment: int, number: int | None = None, /) -> None:
        seed = None if self.stretch is None else self.stretch.reseed
        if seed is None:
            return
        if number is None:
            number = self._count.begun - (moment == STEP_BEGINS)
        at = self.primary.feed.plan.advance(self.anchor, number)  # a batch within a schedule's step has its own place
        reseed(moment, seed, at.epoch, self.primary.feed.place(at.epoch, at.offset))

    def position_without_state(self) -> Snapshot:
        """The position by the trainer's restored counters, for a checkpoint from before the decoration.

        Raises:
            MismatchError: unless the order is the dataset's own, which the old run certainly used, or the policy allows it.
        """
        now = self._count.restored
        position = self.primary.feed.plan.position_in(now.epoch + now.ended, 0 if now.ended else now.batches)
        order = self.primary.feed.identity
        is_known = order is not None and order.kind == "sequential" and not puts_samplers_in(self.trainer)
        if position != Position() and not is_known:
            missing = Difference(
                "The checkpoint holds no position of the data, so the order that it was trained in is unknown.",
                None,
                position,
                "The current position follows from the trainer's counters; the samples before it may have been others.",
            )
            refuse_or_warn(Verdict("inexact", (missing,)), self._policy.on_mismatch)
        return Snapshot(position.consumed_samples, position.epoch, position.offset)
