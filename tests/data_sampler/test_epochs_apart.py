"""Batch samplers whose epochs are others without this package: it is said once, before the first step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable.data_sampler.epochs_apart import tell_of_epochs
from resumable.data_sampler.placed_loader import SeekableSampler
from tests.support import megatron_shapes as shapes


class Stays(shapes.InOrder):
    """A shuffle by its count, which it never moves."""

    def __iter__(self) -> Iterator[list[int]]:
        epoch, offset = divmod(self.consumed_samples, self.total_samples - self.total_samples % self.size)
        order = shapes.shuffle(self.total_samples, epoch)[offset:]
        for start in range(0, len(order) - self.size + 1, self.size):
            yield order[start : start + self.size]


class MovesAfterwards(Stays):
    """It moves its count behind each batch."""

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            yield batch
            self.consumed_samples += self.size


class MovesAtItsEnd(Stays):
    """It moves its count once all of an epoch is drawn."""

    def __iter__(self) -> Iterator[list[int]]:
        whole = self.total_samples - self.total_samples % self.size
        yield from super().__iter__()
        self.consumed_samples = (self.consumed_samples // whole + 1) * whole


class Endless(Stays):
    """All epochs in one pass, which never ends."""

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            for batch in super().__iter__():
                self.consumed_samples += self.size
                yield batch


class InOrderThatStays(shapes.InOrder):
    """The same in each epoch, wherever its count is."""

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(self.consumed_samples % self.total_samples, self.total_samples))
        for start in range(0, len(order) - self.size + 1, self.size):
            yield order[start : start + self.size]


MOVING = [MovesAfterwards, Endless, shapes.DealtBatches, shapes.ShuffledBatches]


class Nowhere:
    """A source that is never asked."""

    def place(self, sampler: Any) -> None:
        """Not here."""

    def start_of(self, sampler: Any) -> tuple[int, int]:
        """At the beginning."""
        return 0, 0


def said(cls: type[Any], total: int, size: int, *, is_limited: bool) -> list[str]:
    """The warnings' first words for a sampler of *total* samples."""
    own = cls(total_samples=total, micro_batch_size=size)
    placed = SeekableSampler(own, Nowhere(), samples_per_batch=size, is_cyclic=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tell_of_epochs(placed, is_limited=is_limited)
    assert 0 == own.consumed_samples  # what is drawn to find it out leaves no trace
    return [str(each.message).partition(" its consumed_samples")[0].rpartition(" ")[2] for each in caught]


@settings(max_examples=40)
@given(st.integers(12, 60), st.integers(1, 4), st.booleans())
def test_what_the_count_does_is_seen(total: int, size: int, is_limited: bool) -> None:
    """A count that stays repeats the first epoch, and one that moves goes on past a limit: here neither is so."""
    for cls in MOVING:
        assert ["moves"] * is_limited == said(cls, total, size, is_limited=is_limited), cls
    assert ["follows"] == said(Stays, total, size, is_limited=is_limited)
    assert ["follows"] * is_limited == said(MovesAtItsEnd, total, size, is_limited=is_limited)
    assert [] == said(InOrderThatStays, total, size, is_limited=is_limited)
    assert [] == said(shapes.TellsEpochs, total, size, is_limited=False)


@pytest.mark.parametrize("is_limited", [False, True])
def test_a_sampler_that_refuses_to_begin_there_is_no_error(is_limited: bool) -> None:
    """It trains, as without this package."""

    class Asserts(InOrderThatStays):
        def __iter__(self) -> Iterator[list[int]]:
            assert self.consumed_samples < self.total_samples
            return super().__iter__()

    assert [] == said(Asserts, 14, 4, is_limited=is_limited)
