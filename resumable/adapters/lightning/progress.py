"""The trained position that Lightning's loop counters tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from resumable.adapters.lightning.counters import BatchCount
from resumable.adapters.lightning.several_loaders import (
    GroupStart,
    LoaderGroup,
    canary_of,
    combine,
    resolve_loaders,
    stretch_of,
)
from resumable.loading.map_loader import MapLoader, TrainLoader
from resumable.position import Position
from resumable.progress import LedgerAt, Progress
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy, refuse_or_warn
from resumable.saved.snapshot import LoaderPosition, Snapshot
from resumable.steps.batch_plan import UNBOUNDED
from resumable.verdict import Difference, Verdict

__all__ = ["LightningProgress"]


class LightningProgress(Progress):
    """The progress that Lightning's loop counters tell: an anchor, and the batches that were trained since."""

    epochs_vary = False
    is_running: bool = False

    def __init__(self, trainer: Any, policy: Policy) -> None:
        self.trainer = trainer
        self._policy = policy
        self._combined = LoaderGroup((), "", 0)
        self.anchor: Position = Position()
        self._places: tuple[LoaderPosition, ...] = (LoaderPosition(),)
        self._count = BatchCount(trainer)
        self._is_resumed = False
        self.commits: bool = False
        self.is_running = False
        self.stretch: Stretch | None = None

    # -- the progress, as the state asks for it

    @property
    def position(self) -> Position:
        """The anchor, advanced by the batches that were trained since."""
        done, ended = self._done()
        at = self._advance(done) if done else self.anchor
        if ended and at.epoch == self.anchor.epoch:
            return Position(at.consumed_samples, at.epoch + 1, 0)
        return at

    def _advance(self, done: int) -> Position:
        return self.primary.batching.advance(self.anchor, done)

    @property
    def padded_samples(self) -> int:
        """Samples that the end of the present epoch trains again, so that all ranks get equally many."""
        return self.primary.padded_samples(self.anchor.offset)

    @override
    def read(self, ledger_at: LedgerAt, /) -> Snapshot:
        at, lanes, places = self.position, self._combined.lanes, self._places_now()
        orders = [lane.identity for lane in lanes]
        is_plain = len(lanes) == 1 and orders[0] is not None  # one map-style loader, whose place is the position
        canary = canary_of(lanes, orders, (LoaderPosition(at.epoch, at.offset),) if len(lanes) == 1 else places)
        consumed, further = at.consumed_samples, () if is_plain else places
        ledger, order = ledger_at(self.stretch, consumed), self.primary.identity
        return Snapshot(consumed, at.epoch, at.offset, order, self.commits, further, ledger, None, canary)

    def load(self, saved: Snapshot, /) -> Verdict:
        """Go on from *saved* with the present loaders."""
        found = self._adopt(saved)
        self._count.mark()
        self.anchor, self._places, self.commits = found.position, found.places, saved.commits
        self._is_resumed = not self.is_running
        self.stretch = replace(
            self._stretch_of(self.primary),
            sample=found.position.consumed_samples,
            epoch=found.position.epoch,
            offset=found.position.offset,
        )
        return found.verdict

    def _stretch_of(self, lane: TrainLoader) -> Stretch:
        return stretch_of(lane, self.accumulation)

    def commit(self) -> None:
        """The batch that is being trained, and all before it, are trained."""
        self.commits = True
        self._count.commit()

    # -- the lanes

    @property
    def primary(self) -> TrainLoader:
        """The loader whose end is the epoch's end."""
        return self._combined.lanes[self._combined.primary]

    def with_loaders(self, lanes: list[TrainLoader], mode: str) -> LoaderGroup:
        """Take *lanes* in the place of the present ones, which are returned."""
        before, trainer = self._combined, self.trainer
        if trainer.overfit_batches > 0:
            for lane in lanes:
                if isinstance(lane, MapLoader):
                    lane.in_order()
        self._combined = combine(lanes, mode, trainer.limit_train_batches)
        for number, lane in enumerate(lanes):
            is_endless = self._combined.is_cycled(number) and self._combined.is_finite
            lane.follow(_Start(self, number), endless=is_endless)
        return before

    @property
    def is_in_epoch(self) -> bool:
        """Whether batches of an epoch are being trained."""
        return self.is_running and self._count.is_counting

    def lend(self, saved: Snapshot, /) -> None:
        """Let the present lanes start where the training stands, which goes on with others."""
        self._adopt(saved)

    def undo(self, combined: LoaderGroup) -> None:
        """Go back to the lanes that were before."""
        self._combined = combined

    def start_of(self, number: int, /) -> LoaderPosition:
        """The place of the next batch that lane *number* has to yield."""
        place = self._places_now()[number]
        return place if self._is_resumed else replace(place, state=None)

    def batches_from_here(self) -> int | None:
        """Batches of the pass that begins now; None for all to the epoch's end."""
        return None

    def _places_now(self) -> tuple[LoaderPosition, ...]:
        done, ended = self._done()
        if not done and not ended:
            return self._places
        return tuple(
            self._combined.place(number, place, done, ended=ended) for number, place in enumerate(self._places)
        )

    def _adopt(self, saved: Snapshot) -> GroupStart:
        """Let the lanes go on in their saved orders, once all of them can."""
        found = resolve_loaders(
            self._combined,
            saved,
            [self._stretch_of(lane) for lane in self._combined.lanes],
            self._policy,
        )
        self._check(found.position)
        for lane, order in zip(self._combined.lanes, found.orders, strict=True):
            if order is not None:
                lane.adopt(order)
        return found

    def _check(self, position: Position) -> None:
        """Any place will do, but for schedules."""

    # -- the epoch, as a placement asks for it

    @property
    def accumulation(self) -> int:
        """Batches that an optimizer step accumulates; 1 where the module steps by hand."""
        return self._count.accumulation

    @property
    def batch_size(self) -> int:
        """Samples of a batch of the loader that makes the epoch, over all ranks."""
        return self.primary.batching.batch_size

    @property
    def is_at_epochs_start(self) -> bool:
        """Whether nothing of the epoch was trained when it was last folded."""
        return self.anchor.offset == 0

    def is_within_epoch(self, loops: dict[str, Any], /) -> bool:
        """Whether some of the epoch is trained and some is not."""
        return self.anchor.offset > 0

    def has_moved_on(self, saved: Snapshot, /) -> bool:
        """Whether the epoch that *saved* lies within has no batch left."""
        return bool(saved.offset) and not self.anchor.offset

    def batches_behind(self, loops: dict[str, Any], /) -> int:
        """Batches of the epoch behind the position, of the present size."""
        batching, offset = self.primary.batching, self.anchor.offset
        if not offset:
            return 0
        is_bounded = batching.length < UNBOUNDED
        behind = batching.batches - batching.batches_left(offset) if is_bounded else offset // batching.batch_size
        return behind - behind % self.accumulation

    def epoch_batches(self, loops: dict[str, Any] | None, /) -> int:
        """Batches of a whole epoch."""
        return self.primary.batching.batches

    def first_epoch_batches(self, behind: int, /) -> int | None:
        """Batches of an epoch of which *behind* are trained, where they and the rest are not a whole epoch's."""
        batching, offset = self.primary.batching, self.anchor.offset
        left = batching.batches_left(offset)
        is_whole = not offset or behind + left == batching.batches or batching.length >= UNBOUNDED
        return None if is_whole else behind + left

    # -- what the trainer's callbacks are told

    def _done(self) -> tuple[int, bool]:
        return self._count.done(committed_only=self.commits)

    def train_starts(self) -> None:
        """The counters are those that the run begins with."""
        self.is_running = True

    def train_ends(self) -> None:
        """A state may be loaded again."""
        self.is_running = False

    def epoch_starts(self) -> None:
        """Nothing of the epoch is counted before its first batch."""
        self._count.mark()

    def batch_starts(self) -> None:
        """Counting begins with the first batch."""
        self._count.batch_starts()

    def epoch_ends(self) -> None:
        """Fold what was trained into the anchor."""
        position, places = self.position, self._places_now()
        self.anchor, self._places = position, places
        if self._count.is_counting:
            self._is_resumed = False
        self._count.mark()

    def position_without_state(self) -> Snapshot:
        """The position that the trainer's restored counters tell, for a checkpoint from before the decoration.

        Raises:
            MismatchError: unless the order is the dataset's own, the one that the old run certainly used, or the
                policy lets the run go on.
        """
        batching, now = self.primary.batching, self._count.now
        per_epoch = batching.offset_after(0, batching.batches)
        epoch = now.epoch + now.ended
        offset = 0 if epoch > now.epoch else batching.offset_after(0, now.batches)
        position = Position(epoch * per_epoch + offset, epoch, offset)
        order = self.primary.identity
        is_shared_out = self.primary.shard.is_guarded  # by Lightning's DistributedSampler, which shuffles all there is
        if position != Position() and (order is None or order.kind != "sequential" or is_shared_out):
            missing = Difference(
                "The checkpoint holds no position of the data, so nobody knows the order that it was trained in.",
                None,
                position,
                "The trainer's counters tell the current place; the samples before it may have been others.",
            )
            refuse_or_warn(Verdict("inexact", (missing,)), self._policy.on_mismatch)
        return Snapshot(position.consumed_samples, epoch, offset)


@dataclass(frozen=True, slots=True)
class _Start:
    """Tells one lane where its next pass starts."""

    progress: LightningProgress
    number: int

    def start_of(self, lane: TrainLoader, /) -> LoaderPosition:
        return self.progress.start_of(self.number)

    def batches_of(self, lane: TrainLoader, /) -> int | None:
        return self.progress.batches_from_here()
