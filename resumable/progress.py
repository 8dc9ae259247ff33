"""What was loaded and what has been counted since, as one: the position, the ledger, and the dict that is saved.

    loaded: Saved ──┐
                    ├──► position, ledger, snapshot, state dict
    Frontier? ──────┘    without a frontier all of it is as it was loaded

A state may be saved after every batch, so what has not changed since the last dict is copied instead of made again.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Protocol, TypeAlias

from resumable.orders.identity import Identity
from resumable.position import Position
from resumable.saved.ledger import Ledger, Stretch
from resumable.saved.snapshot import LoaderPosition, Snapshot, dump
from resumable.verdict import Verdict

__all__ = ["Progress", "Standing"]

_Rest: TypeAlias = tuple[Ledger, Identity | None, bool]


class Standing:
    """What *saved* and *frontier*, if there is one, say together. Neither is ever exchanged: there is a new one then.

    >>> Standing(Snapshot(8, 0, 8)).position
    Position(consumed_samples=8, epoch=0, offset=8)
    """

    __slots__ = ("_last", "_noted", "frontier", "saved")

    def __init__(self, saved: Snapshot, frontier: Progress | None = None) -> None:
        self.saved = saved
        self.frontier = frontier
        self._noted: tuple[Stretch, Ledger] | None = None
        self._last: tuple[_Rest, dict[str, Any]] | None = None

    @property
    def position(self) -> Position:
        """The trained frontier; epoch and offset are 0 while only the consumed samples are known."""
        if self.frontier is not None:
            return self.frontier.position
        return self.saved.position or Position(self.saved.consumed_samples)

    @property
    def ledger(self) -> Ledger:
        """The run's stretches so far, the present one included once it has trained a sample."""
        return self.saved.ledger if self.frontier is None else self._ledger_at(self.frontier, self.frontier.position)

    def snapshot(self) -> Snapshot:
        """All of it as a value."""
        frontier = self.frontier
        if frontier is None:
            return self.saved
        at = frontier.position
        epoch, offset = self._place(frontier, at)
        ledger = self._ledger_at(frontier, at)
        places, canary = frontier.places(), frontier.canary(at)
        return Snapshot(
            at.consumed_samples,
            epoch,
            offset,
            frontier.order,
            frontier.commits,
            places,
            ledger,
            frontier.global_step,
            canary,
        )

    def state_dict(self) -> dict[str, Any]:
        """A new dict of JSON types; no part of it is shared with another."""
        frontier = self.frontier
        if frontier is None:
            return dump(self.saved)
        at = frontier.position
        ledger = self._ledger_at(frontier, at)
        frontier.note_saved()
        fresh = self._rest((ledger, frontier.order, frontier.commits), frontier.places())
        fresh["consumed_samples"], fresh["global_step"] = at.consumed_samples, frontier.global_step
        fresh["epoch"], fresh["offset"] = self._place(frontier, at)
        fresh["canary"] = frontier.canary(at)
        return fresh

    def _place(self, frontier: Progress, at: Position) -> tuple[int | None, int | None]:
        """Epoch and offset: as the frontier knows them, else as they were loaded, else unknown."""
        if frontier.knows_epochs:
            return at.epoch, at.offset
        saved = self.saved
        return (saved.epoch, saved.offset) if saved.consumed_samples == at.consumed_samples else (None, None)

    def _ledger_at(self, frontier: Progress, at: Position) -> Ledger:
        """The loaded ledger, and the present stretch once it has trained a sample: loading and saving adds nothing."""
        stretch = frontier.stretch
        if stretch is None or at.consumed_samples <= stretch.sample:
            return self.saved.ledger
        if self._noted is None or self._noted[0] is not stretch:
            self._noted = (stretch, self.saved.ledger.going_on(stretch))
        return self._noted[1]

    def _rest(self, rest: _Rest, places: tuple[LoaderPosition, ...]) -> dict[str, Any]:
        """All but the position."""
        if places:
            return _dump(rest, places)
        if self._last is None or self._last[0] != rest:
            self._last = (rest, _dump(rest))
        dumped = self._last[1]
        fresh = dumped.copy()
        if dumped["order"] is not None:
            fresh["order"] = dumped["order"].copy()
        fresh["loaders"] = []
        fresh["ledger"] = [stretch.copy() for stretch in dumped["ledger"]]
        for stretch in fresh["ledger"]:
            stretch[-1] = deepcopy(stretch[-1])  # the schedule, which may be a list of lists
        return fresh


def _dump(rest: _Rest, places: tuple[LoaderPosition, ...] = ()) -> dict[str, Any]:
    ledger, order, commits = rest
    return dump(Snapshot(0, 0, 0, order, commits, places, ledger))


class Progress(Protocol):
    """Whoever knows how far the training has come."""

    @property
    def position(self) -> Position:
        """The trained frontier."""
        ...

    @property
    def order(self) -> Identity | None:
        """What the order depends on; None where there is no order to speak of."""
        ...

    @property
    def stretch(self) -> Stretch | None:
        """The present configuration, from the place where it began; None where it is not known."""
        ...

    @property
    def commits(self) -> bool:
        """Whether the loop says itself what is trained."""
        ...

    @property
    def init_global_step(self) -> int:
        """The trainer's step count at the last rebase."""
        ...

    @property
    def global_step(self) -> int | None:
        """The trainer's step count at the position; None where no trainer counts steps."""
        ...

    @property
    def knows_epochs(self) -> bool:
        """Whether the position tells epoch and offset; else they follow from the consumed samples, once loaded."""
        ...

    @property
    def padded_samples(self) -> int:
        """Samples that the end of the present epoch trains again, so that all ranks get equally many."""
        ...

    def places(self) -> tuple[LoaderPosition, ...]:
        """Where further loaders stand; empty where one position says it all."""
        ...

    def canary(self, at: Position, /) -> str | None:
        """The digest of the indices that follow *at*; None where there is none."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether batches are on their way, which a loaded position would not know of."""
        ...

    def load(self, saved: Snapshot, /) -> Verdict:
        """Go on from *saved*; raise and change nothing where that cannot be."""
        ...

    def commit(self) -> None:
        """Everything handed out so far is trained."""
        ...

    def rebase(self) -> None:
        """Begin to count anew from the present position; moves nothing."""
        ...

    def note_saved(self) -> None:
        """The position was handed out to be saved."""
        ...

    def settle(self) -> None:
        """Stand where the next pass would begin, since another loader takes over."""
        ...
