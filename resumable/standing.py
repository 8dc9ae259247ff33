"""What was loaded and what has been counted since, as one: the position, the ledger, and the dict that is saved.

    loaded: Saved ──┐
                    ├──► position, ledger, snapshot, state dict
    Frontier? ──────┘    without a frontier all of it is as it was loaded

A state may be saved after every batch, so what has not changed since the last dict is copied instead of made again.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeAlias

from resumable.frontier import Frontier
from resumable.ledger import Ledger, Stretch
from resumable.position import Position
from resumable.saved import Place, Saved, dump
from resumable.verdict import Identity

__all__ = ["Standing"]

_Rest: TypeAlias = tuple[Ledger, Identity | None, bool]


class Standing:
    """What *saved* and *frontier*, if there is one, say together. Neither is ever exchanged: there is a new one then.

    >>> Standing(Saved(8, 0, 8)).position
    Position(consumed_samples=8, epoch=0, offset=8)
    """

    __slots__ = ("_last", "_noted", "frontier", "saved")

    def __init__(self, saved: Saved, frontier: Frontier | None = None) -> None:
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

    def snapshot(self) -> Saved:
        """All of it as a value."""
        frontier = self.frontier
        if frontier is None:
            return self.saved
        at = frontier.position
        epoch, offset = self._place(frontier, at)
        ledger = self._ledger_at(frontier, at)
        places, canary = frontier.places(), frontier.canary(at)
        return Saved(
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

    def _place(self, frontier: Frontier, at: Position) -> tuple[int | None, int | None]:
        """Epoch and offset: as the frontier knows them, else as they were loaded, else unknown."""
        if frontier.knows_epochs:
            return at.epoch, at.offset
        saved = self.saved
        return (saved.epoch, saved.offset) if saved.consumed_samples == at.consumed_samples else (None, None)

    def _ledger_at(self, frontier: Frontier, at: Position) -> Ledger:
        """The loaded ledger, and the present stretch once it has trained a sample: loading and saving adds nothing."""
        stretch = frontier.stretch
        if stretch is None or at.consumed_samples <= stretch.sample:
            return self.saved.ledger
        if self._noted is None or self._noted[0] is not stretch:
            self._noted = (stretch, self.saved.ledger.going_on(stretch))
        return self._noted[1]

    def _rest(self, rest: _Rest, places: tuple[Place, ...]) -> dict[str, Any]:
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


def _dump(rest: _Rest, places: tuple[Place, ...] = ()) -> dict[str, Any]:
    ledger, order, commits = rest
    return dump(Saved(0, 0, 0, order, commits, places, ledger))
