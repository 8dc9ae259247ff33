"""How Lightning combines several train loaders, and where each of them stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resumable.batching import UNBOUNDED, Batching
from resumable.lanes import Lane
from resumable.position import Position
from resumable.saved import Place

__all__ = ["Combined", "combine"]


@dataclass(frozen=True, slots=True)
class Combined:
    """The train loaders, in Lightning's *mode*; the end of the *primary* one is the epoch's end."""

    lanes: tuple[Lane, ...]
    mode: str
    primary: int
    is_finite: bool = True

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


def combine(lanes: Sequence[Lane], mode: str, limit: int | float, /) -> Combined:
    """*lanes* as Lightning combines them under its `limit_train_batches`, which becomes the primary one's.

    The primary is the shortest of `min_size`, else the longest, the first of several.
    """
    lengths = [_limited(lane.batching, limit) for lane in lanes]
    primary = lengths.index((min if mode == "min_size" else max)(lengths))
    if lengths[primary] < lanes[primary].batching.batches:
        lanes[primary].limit(int(lengths[primary]))
    return Combined(tuple(lanes), mode, primary, is_finite=math.inf not in lengths)


def _limited(batching: Batching, limit: int | float) -> int | float:
    """Batches of an epoch under Lightning's `limit_train_batches`, an int for a number and a float for a share."""
    if batching.length >= UNBOUNDED:
        return limit if isinstance(limit, int) else math.inf
    return min(batching.batches, limit) if isinstance(limit, int) else int(batching.batches * limit)
