"""A reference model to compare with: whole epochs as plain lists, cut by slicing, one step at a time.

Nothing here shares an idea with the package: no closed forms, no blocks, no cursors.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from resumable import Position, ResumableLoader
from resumable.orders.orders import Sequential, Shuffled
from resumable.protocols import Order
from resumable.steps.batch_plan import DropLast

__all__ = [
    "COPIES",
    "Loader",
    "LoaderPosition",
    "Reference",
    "Setup",
    "WalkedStep",
    "batches_of",
    "numbers",
    "order_of",
    "rest_of",
    "run_of",
    "size_at",
    "whole",
]


Loader: Any = cast("Any", ResumableLoader)
"""`ResumableLoader`, for tests that give it what a type checker would not."""


def _pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


COPIES: list[Any] = [copy.copy, copy.deepcopy, _pickled]
"""The ways to a copy."""


def numbers(n: int) -> Any:
    """A map-style dataset of the numbers below *n*; torch's stubs do not take a range for one."""
    return range(n)


def order_of(n: int, *, shuffle: bool, seed: int = 0) -> Order:
    """The order that a loader with these arguments follows."""
    return Shuffled(n, seed) if shuffle else Sequential(n)


def whole(order: Order, epochs: int) -> list[int]:
    """The global order of *epochs* epochs, written out."""
    return [index for epoch in range(epochs) for index in order.indices(epoch, 0, len(order)).tolist()]


def rest_of(
    length: int, batch_size: int, offset: int, *, drop_last: DropLast = False, limit: int | None = None
) -> list[tuple[int, int]]:
    """The batches of an epoch that follow *offset*, as (start, stop), found by walking.

    A limit is reached with the first place that *limit* batches of the present size fill.
    """
    found: list[tuple[int, int]] = []
    while offset < length and (limit is None or offset < limit * batch_size):
        stop = min(offset + batch_size, length)
        if drop_last and stop - offset < batch_size:
            break
        found.append((offset, stop))
        offset = stop
    return found


@dataclass
class Reference:
    """The run that nobody interrupts, which takes one batch after the other."""

    order: Order
    consumed_samples: int = 0
    epoch: int = 0
    offset: int = 0

    def settle(self, batch_size: int, *, drop_last: bool = False) -> None:
        """Go to the next epoch where this one has no batch left."""
        if self.offset and not rest_of(len(self.order), batch_size, self.offset, drop_last=drop_last):
            self.epoch, self.offset = self.epoch + 1, 0

    def take(self, batch_size: int, *, drop_last: bool = False) -> list[int]:
        """The next batch."""
        self.settle(batch_size, drop_last=drop_last)
        start, stop = rest_of(len(self.order), batch_size, self.offset, drop_last=drop_last)[0]
        self.offset, self.consumed_samples = stop, self.consumed_samples + stop - start
        taken: list[int] = self.order.indices(self.epoch, 0, len(self.order)).tolist()[start:stop]
        self.settle(batch_size, drop_last=drop_last)
        return taken

    def place(self) -> tuple[int, int, int]:
        """(consumed samples, epoch, offset)."""
        return self.consumed_samples, self.epoch, self.offset


LoaderPosition = tuple[int, int, int]
"""(consumed samples, epoch, offset)."""


@dataclass(frozen=True)
class Setup:
    """How a run is spread and grouped: *sizes* are ((threshold, global batch size), ...), empty without a schedule."""

    length: int
    micro: int = 1
    ranks: int = 1
    sizes: tuple[tuple[int, int], ...] = ()
    drop_last: DropLast = False

    @property
    def per_round(self) -> int:
        """A micro batch on every rank."""
        return self.micro * self.ranks


@dataclass(frozen=True)
class WalkedStep:
    """One optimizer step: where it begins and ends, and in each round the (epoch, place) pairs of each rank."""

    begins: LoaderPosition
    ends: LoaderPosition
    rounds: list[list[list[tuple[int, int]]]]


def size_at(setup: Setup, consumed: int) -> int:
    """The size of the last threshold that is not above *consumed*; a round where there is no schedule."""
    size = setup.per_round
    for threshold, then in setup.sizes:
        if threshold <= consumed:
            size = then
    return size


def settled(setup: Setup, at: LoaderPosition) -> LoaderPosition:
    """The next epoch's start where this one has no step left."""
    consumed, epoch, offset = at
    left = setup.length - offset
    if offset and (left == 0 or (setup.drop_last is True and left < size_at(setup, consumed))):
        return consumed, epoch + 1, 0
    return at


def run_of(setup: Setup, at: LoaderPosition) -> Iterator[WalkedStep]:
    """The run from *at* on, sample by sample."""
    while True:
        consumed, epoch, offset = begins = settled(setup, at)
        taken: list[tuple[int, int]] = []
        while len(taken) < size_at(setup, consumed):
            if offset == setup.length:
                if setup.drop_last != "carry":
                    break
                epoch, offset = epoch + 1, 0
            taken.append((epoch, offset))
            offset += 1
        at = settled(setup, (consumed + len(taken), epoch, offset))
        rounds: list[list[list[tuple[int, int]]]] = []
        for start in range(0, len(taken), setup.per_round):
            samples = taken[start : start + setup.per_round]
            share = -(-len(samples) // setup.ranks)
            again = 0
            while len(samples) < share * setup.ranks:
                samples = [*samples, (epoch, again % setup.length)]
                again += 1
            rounds.append([samples[rank * share : (rank + 1) * share] for rank in range(setup.ranks)])
        yield WalkedStep(begins, at, rounds)


def batches_of(loader: Any, epochs: int) -> Iterator[list[int]]:
    """What *loader* yields until *epochs* epochs are over, in the loop form of the README, as lists of indices."""
    for _ in range(loader.epoch, epochs):
        for batch in loader:
            yield batch.tolist()


def endless(loader: Any) -> Iterator[list[int]]:
    """Its batches, epoch after epoch without end."""
    return batches_of(loader, 10**9)


def vars_of(position: Position) -> LoaderPosition:
    """A position's three numbers."""
    return position.consumed_samples, position.epoch, position.offset
