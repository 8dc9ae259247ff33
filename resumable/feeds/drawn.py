"""How the epochs of a user's batch sampler fall into batches of any sizes and number: as they were drawn.

    batch            0      1   2        3    ···
    ends             3      5   6        10   ···     samples up to the end of each, noted for each epoch

An offset counts samples. Where a batch ends is known once it was drawn, so a position in an epoch that has not begun in
this process draws the indices up to it.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, ClassVar, Final

from typing_extensions import override

from resumable.checks import length_if_known
from resumable.errors import ConfigurationError, warn
from resumable.feeds.replay import ReplayedSampler
from resumable.position import Position
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan

__all__ = ["DrawnBatches", "DrawnPlan"]

_KEPT: Final = 64
"""Epochs whose sizes are kept: loaders that are cycled beside a longer one go through several at once."""

_NO_BATCH: Final = object()


class DrawnBatches:
    """The batches of *sampler*, and how many samples each has. *expected* says how many its `batch_size` promises."""

    def __init__(self, sampler: ReplayedSampler, expected: BatchPlan, *, is_ragged: bool) -> None:
        self.sampler = sampler
        self.is_ragged: bool = is_ragged
        """Whether batches have other sizes than expected, or an epoch another number of them."""
        self.needs_one_size: bool = False
        """Whether a schedule counts on the expected sizes."""
        self.is_one_ranks: bool = False
        """Whether the other ranks have batches of their own, whose sizes are unknown here."""
        self._expected = expected
        self._other: DrawnBatches | None = None
        self._is_said = False
        self._ends: dict[int, array[int]] = {}
        self._ended: set[int] = set()
        self._stop()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_at", "_draws", "_last")}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self._stop()  # the draws under way stay with the original

    def _stop(self) -> None:
        """Look ahead no further."""
        self._at: tuple[int, int] = (-1, 0)
        self._draws: Iterator[Any] = iter(())
        self._last: deque[Any] = deque(maxlen=_KEPT)

    @property
    def declared(self) -> int | None:
        """How many batches the sampler says that its present epoch has; None where it does not say."""
        return length_if_known(self.sampler)

    def of_seed(self, seed: int, /) -> DrawnBatches:
        """The same batch sampler's, drawn from *seed*; the last one asked for is kept."""
        if seed == self.sampler.seed:
            return self
        if self._other is None or seed != self._other.sampler.seed:
            self._other = DrawnBatches(self.sampler.seeded(seed), self._expected, is_ragged=self.is_ragged)
            self._other.needs_one_size, self._other.is_one_ranks = self.needs_one_size, self.is_one_ranks
        return self._other

    def batches(self, epoch: int, number: int, /) -> Iterator[Any]:
        """The batches of *epoch* from the *number*-th on."""
        of, drawn = self._at
        if of == epoch and drawn - len(self._last) <= number <= drawn:  # they were drawn to find the position
            ahead = list(self._last)[number - drawn + len(self._last) :]
            draws = self._draws
            self._stop()
            return chain(ahead, draws)
        return islice(self._noted(epoch), number, None)

    def ends(self, epoch: int, /, *, batches: float = 0, samples: float = -1) -> array[int]:
        """Where the batches of *epoch* end; at least *batches* of them, one that ends past *samples*, or all there are."""
        ends = self._ends_of(epoch)
        while epoch not in self._ended and (len(ends) < batches or (samples >= 0 and (ends or [0])[-1] <= samples)):
            if self._at[0] != epoch:
                self._stop()
                self._at, self._draws = (epoch, 0), self._noted(epoch)
            batch = next(self._draws, _NO_BATCH)
            if batch is not _NO_BATCH:
                self._last.append(batch)
                self._at = (epoch, self._at[1] + 1)
        return ends

    def has_ended(self, epoch: int, /) -> bool:
        """Whether the last batch of *epoch* was drawn."""
        return epoch in self._ended

    def _ends_of(self, epoch: int) -> array[int]:
        if epoch not in self._ends:
            while len(self._ends) >= _KEPT:
                oldest = next(iter(self._ends))
                del self._ends[oldest]
                self._ended.discard(oldest)
            self._ends[epoch] = array("q")
        return self._ends[epoch]

    def _noted(self, epoch: int) -> Iterator[Any]:
        number, end, expected = 0, 0, self._expected
        draws = self.sampler.begin(epoch)
        if self.is_ragged:
            self._say_what_counts()
        ends = self._ends_of(epoch)
        for number, batch in enumerate(draws, start=1):
            end += _samples_in(batch)
            if len(ends) < number:
                ends.append(end)
                if not self.is_ragged and end != min(number * expected.batch_size, expected.length):
                    self._found()
            yield batch
        self._ends_of(epoch)
        self._ended.add(epoch)
        if not self.is_ragged and number != expected.batches:
            self._found()
        if not number:
            warn(
                "An epoch of a batch sampler has no batch. The run stays in it, and trains no later epoch.",
                [("batch sampler", self.sampler.kind), ("epoch", epoch)],
                "Let each epoch have at least one batch.",
            )

    def _found(self) -> None:
        self.is_ragged = True
        self._say_what_counts()
        if self.needs_one_size:
            raise self.no_schedule()

    def _say_what_counts(self) -> None:
        if not self.is_one_ranks or self._is_said:
            return
        self._is_said = True
        warn(
            "Each rank draws batches of its own, in sizes that the other ranks do not know, so consumed_samples counts "
            "batches. The resume is exact.",
            [("batch sampler", self.sampler.kind), ("samples counted for a batch", self._expected.batch_size)],
            "Let the batch sampler yield the batches of all ranks, which are then shared out, and samples are counted.",
        )

    def no_schedule(self) -> ConfigurationError:
        """The error for a schedule over batches of several sizes."""
        return ConfigurationError(
            "A schedule counts samples in batches of one size, and this batch sampler's have several.",
            [("batch sampler", self.sampler.kind), ("batch size expected", self._expected.batch_size)],
            "Leave the schedule out, or let the batch sampler have a batch_size and equal batches.",
        )


def _samples_in(batch: Any) -> int:
    """How many samples *batch* has: one where it is an index that the dataset takes whole, such as a slice."""
    length = length_if_known(batch)
    if length is None:
        with suppress(TypeError):
            return sum(1 for _ in batch)
    return 1 if length is None else length


@dataclass(frozen=True, slots=True)
class DrawnPlan(BatchPlan):
    """A `BatchPlan` whose batches are as *drawn*: *per_round* of them, one for each rank, are loaded at once.

    *length* and *batch_size* are what is expected of them. With *counts_batches*, each counts *batch_size* samples: only
    one rank's are drawn here, and those of the other ranks have other sizes.
    """

    is_drawn: ClassVar[bool] = True

    drawn: DrawnBatches = field(kw_only=True)
    per_round: int = field(default=1, kw_only=True)
    counts_batches: bool = field(default=False, kw_only=True)

    @property
    @override
    def batches(self) -> int:
        declared = self.drawn.declared
        return self._limited(UNBOUNDED if declared is None else self._rounds(declared))

    def _rounds(self, batches: int) -> int:
        """Rounds that so many batches make."""
        return batches // self.per_round if self.drop_last else -(-batches // self.per_round)

    def _limited(self, rounds: int) -> int:
        return rounds if self.limit is None else min(rounds, self.limit)

    def batch_at(self, epoch: int, offset: int, /) -> int:
        """Batches of *epoch* that end at *offset* or before it."""
        if not offset:
            return 0
        if self.counts_batches:
            is_end = offset >= self.length and not self.drawn.is_ragged
            return -(-offset // self.batch_size) if is_end else offset // self.batch_size
        return bisect_right(self.drawn.ends(epoch, samples=offset), offset)

    def samples_at(self, epoch: int, batches: int, /) -> int:
        """Samples in the first *batches* batches of *epoch*."""
        if self.counts_batches:
            samples = batches * self.batch_size
            return samples if self.drawn.is_ragged else min(samples, self.length)
        ends = self.drawn.ends(epoch, batches=batches)
        return ends[min(batches, len(ends)) - 1] if batches and ends else 0

    def _rounds_left(self, epoch: int, number: int, most: float) -> int:
        """Rounds of *epoch* after its first *number* batches, if they are no more than *most*; otherwise more than that."""
        of_limit = math.inf if self.limit is None else max(0, self.limit - number // self.per_round)
        most = min(most, of_limit)
        drawn = len(self.drawn.ends(epoch, batches=number + (most + 1) * self.per_round))
        return int(min(self._rounds(max(0, drawn - number)), of_limit))

    @override
    def batches_left(self, offset: int, /, epoch: int = 0) -> int:
        """Rounds of *epoch* that follow *offset*, of no more than the sampler says that there are."""
        number = self.batch_at(epoch, offset)
        self.drawn.ends(epoch, batches=1)  # the sampler is told the epoch, before it says how long that is
        declared = self.drawn.declared
        if declared is None and not self.drawn.has_ended(epoch):
            return UNBOUNDED  # it may have no end
        most = math.inf if declared is None else self._rounds(max(0, declared - number))
        return int(min(self._rounds_left(epoch, number, most), most))

    @override
    def offset_after(self, offset: int, batches: int, /, epoch: int = 0) -> int:
        number = self.batch_at(epoch, offset)
        return self.samples_at(epoch, number + min(batches, self._rounds_left(epoch, number, batches)) * self.per_round)

    @override
    def done(self, at: Position, /) -> int:
        return self.batch_at(at.epoch, at.offset) // self.per_round

    @override
    def canonical(self, position: Position, /) -> Position:
        return self.advance(position, 0)

    @override
    def advance(self, position: Position, batches: int, /) -> Position:
        consumed, epoch, offset = position.consumed_samples, position.epoch, position.offset
        while batches or offset:
            number = self.batch_at(epoch, offset)
            left = self._rounds_left(epoch, number, batches)
            now = min(left, batches)
            to = self.samples_at(epoch, number + now * self.per_round) if now else offset
            consumed, batches = consumed + to - offset, batches - now
            if left > now:  # a round follows in the same epoch
                return Position(consumed, epoch, to)
            if not left and not offset:
                raise self.no_batch(self.batch_size)
            epoch, offset = epoch + 1, 0
        return Position(consumed, epoch, offset)

    @override
    def position_at(self, consumed_samples: int, /) -> Position:
        epoch, offset = 0, consumed_samples
        while offset:
            if self.counts_batches:
                number, most = self.batch_at(epoch, offset), offset // self.batch_size
                trained = self.samples_at(epoch, min(most, self._rounds_left(epoch, 0, most)))
                is_over = self._rounds_left(epoch, 0, number) <= number
            else:
                ends = self.drawn.ends(epoch, samples=offset)
                trained = (ends or [0])[-1]
                is_over = trained <= offset
            if not is_over:
                break
            if not trained:
                raise self.no_batch(self.batch_size)
            epoch, offset = epoch + 1, offset - trained
        return self.canonical(Position(consumed_samples, epoch, offset))

    @override
    def position_in(self, epoch: int, batches: int, /) -> Position:
        position = Position()
        while position.epoch < epoch:
            position = self.advance(position, self._rounds_left(position.epoch, 0, math.inf))
        return self.advance(position, batches)
