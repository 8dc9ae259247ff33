"""The dict of a state that may be saved after every batch: what has not changed since the last one is copied."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeAlias

from resumable.ledger import Ledger
from resumable.saved import Place, Saved, dump
from resumable.verdict import Identity

__all__ = ["Dumps"]

_Rest: TypeAlias = tuple[Ledger, Identity | None, bool]


class Dumps:
    """The last dump's ledger, order and commits, in a form to be copied.

    >>> dumps = Dumps()
    >>> first, second = (dumps.rest((), Ledger(), Identity("sequential", 10), False) for _ in range(2))
    >>> first == second, first["order"] is second["order"]
    (True, False)
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: tuple[_Rest, dict[str, Any]] | None = None

    def rest(
        self, places: tuple[Place, ...], ledger: Ledger, order: Identity | None, commits: bool, /
    ) -> dict[str, Any]:
        """A new dict of all but the position; no part of it is shared with another."""
        rest = (ledger, order, commits)
        if places:
            return _dump(rest, places)
        if self._last is None or self._last[0] != rest:
            self._last = (rest, _dump(rest))
        dumped = self._last[1]
        fresh = dumped.copy()
        if order is not None:
            fresh["order"] = dumped["order"].copy()
        fresh["loaders"] = []
        fresh["ledger"] = [stretch.copy() for stretch in dumped["ledger"]]
        for stretch in fresh["ledger"]:
            if stretch["schedule"] is not None:
                stretch["schedule"] = deepcopy(stretch["schedule"])
        return fresh


def _dump(rest: _Rest, places: tuple[Place, ...] = ()) -> dict[str, Any]:
    ledger, order, commits = rest
    return dump(Saved(0, 0, 0, order, commits, places, ledger))
