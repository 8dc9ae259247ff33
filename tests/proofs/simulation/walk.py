"""What must come: the run that nobody interrupts, walked step by step.

It shares nothing with the package but the order's indices: no closed forms, no cursors, no ledger. A step takes the next
samples of the order, as many as the sizes say; a round of it is cut into equal parts, one for each rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from resumable.protocols import Order
from tests.proofs.simulation.chains import Setup

__all__ = ["LoaderPosition", "Round", "first_place", "settled", "size_at", "walk"]

LoaderPosition: TypeAlias = tuple[int, int, int]
"""(consumed samples, epoch, offset)."""


@dataclass(frozen=True, slots=True)
class Round:
    """A micro batch on each rank, the *number*-th, from 1, of the *of_step* of an optimizer step.

    *samples* are those of all ranks in the run's order; *filled* are the same, and those that a short round trains again
    so that all ranks get equally many. Rank r takes the r-th part of it, *share* samples. The step leads from
    *begins* to *ends*.
    """

    begins: LoaderPosition
    ends: LoaderPosition
    number: int
    of_step: int
    samples: list[int]
    filled: list[int]
    share: int

    @property
    def ends_step(self) -> bool:
        """Whether it is the last one of its step."""
        return self.number == self.of_step

    @property
    def ends_pass(self) -> bool:
        """Whether a loop over the loader ends with it."""
        return self.ends_step and self.ends[1] != self.begins[1]

    def of_rank(self, rank: int) -> list[int]:
        """What *rank* must yield."""
        return self.filled[rank * self.share : (rank + 1) * self.share]

    def trained_by(self, rank: int, batch: list[int]) -> list[int]:
        """*batch* of *rank* without what it trains again."""
        return batch[: max(0, len(self.samples) - rank * self.share)]


def size_at(setup: Setup, consumed: int, /) -> int:
    """Samples of the step that begins at *consumed*.

    >>> from tests.proofs.simulation.sizes import Sizes
    >>> setup = Setup(sizes=Sizes("steps", ((0, 4), (20, 8))))
    >>> size_at(setup, 19), size_at(setup, 20)
    (4, 8)
    """
    sizes, size = setup.sizes, setup.per_round
    if sizes is None:
        return size
    if sizes.kind == "ramp":  # megatron-core 0.16.1, num_microbatches_calculator.py
        start, end, increment, samples = sizes.ramp
        increments = (end - start) // increment
        size = end
        if increments and consumed <= samples:
            size = start + int(consumed / (samples / increments)) * increment
    for threshold, then in sizes.numbers:
        if threshold <= consumed:
            size = then
    return size - size % setup.per_round if sizes.rounds_down else size


def settled(length: int, setup: Setup, at: LoaderPosition, /) -> LoaderPosition:
    """*at*, or the start of the next epoch where this one has no step left."""
    consumed, epoch, offset = at
    left = length - offset
    if left == 0 or (setup.drop_last is True and offset and left < size_at(setup, consumed)):
        return consumed, epoch + 1, 0
    return at


def first_place(length: int, start: int) -> LoaderPosition:
    """Where a run stands that has consumed *start* samples, with nothing left out."""
    return start, start // length, start % length


def walk(order: Order, setup: Setup, at: LoaderPosition, /) -> Iterator[Round]:
    """The rounds of the run from *at* on, without end.

    >>> from itertools import islice
    >>> from resumable import Sequential
    >>> [turn.samples for turn in islice(walk(Sequential(5), Setup(2, 1), (0, 0, 0)), 4)]
    [[0, 1], [2, 3], [4], [0, 1]]
    """
    length, per_round, ranks = len(order), setup.per_round, setup.data_parallel_size
    while True:
        consumed, epoch, offset = begins = settled(length, setup, at)
        size, later = size_at(setup, consumed), epoch
        taken: list[int] = []
        while len(taken) < size:
            if offset == length:
                if setup.drop_last != "carry":
                    break
                later, offset = later + 1, 0
            stop = min(length, offset + size - len(taken))
            taken += order.indices(later, offset, stop).tolist()
            offset = stop
        at = settled(length, setup, (consumed + len(taken), later, offset))
        of_step = -(-len(taken) // per_round)
        for number in range(of_step):
            samples = taken[number * per_round : (number + 1) * per_round]
            share = -(-len(samples) // ranks)
            missing = share * ranks - len(samples)
            again: list[int] = order.indices(epoch, 0, min(missing, length)).tolist()
            filled = samples + (again * (missing // length + 1))[:missing]
            yield Round(begins, at, number + 1, of_step, samples, filled, share)
