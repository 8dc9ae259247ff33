"""How an epoch falls into batches, and where a number of batches leads, in closed form.

    offset 0          offset            length
      |  b  |  b  |  b  | · · ·  |  b  |tail|        the tail is a short batch, or dropped,
                                       |  b  |       or filled from the next epoch ("carry")

A batch is what all data-parallel ranks load at once: micro batch size times data-parallel size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from resumable.errors import ConfigurationError
from resumable.position import Position

__all__ = ["BatchPlan", "DropLast", "UNBOUNDED"]

UNBOUNDED = 2**62
"""The length of a stream whose end is unknown."""

DropLast: TypeAlias = bool | Literal["carry"]
"""What happens to an epoch's tail that fills no batch: trained as a short batch, dropped, or carried into the next epoch."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The batches of an epoch of *length* samples.

    *limit* is the largest number of batches in an epoch (Lightning's `limit_train_batches`); None means no limit.

    >>> plan = BatchPlan(length=10, batch_size=4)
    >>> plan.batches, plan.batches_left(5), BatchPlan(10, 4, drop_last=True).batches
    (3, 2, 2)
    >>> plan.canonical(Position(10, epoch=0, offset=10))
    Position(consumed_samples=10, epoch=1, offset=0)
    >>> plan.advance(Position(), 4) == plan.position_at(14) == Position(14, epoch=1, offset=4)
    True
    >>> BatchPlan(10, 4, drop_last="carry").advance(Position(8, 0, 8), 1)
    Position(consumed_samples=12, epoch=1, offset=2)
    """

    is_drawn: ClassVar[bool] = False
    """Whether only drawing the batches shows how many an epoch has, and how many samples each has."""

    length: int
    batch_size: int
    drop_last: DropLast = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.length < 1:
            raise ConfigurationError(
                "A batch and a dataset need at least one sample.",
                [("batch_size", self.batch_size), ("length", self.length)],
                "Pass batch_size >= 1 and a dataset that is not empty.",
            )

    @property
    def batches(self) -> int:
        """Batches of a whole epoch."""
        return self.batches_left(0)

    @property
    def carries(self) -> bool:
        """Whether the stream runs across the ends of its epochs."""
        return self.drop_last == "carry"

    @property
    def reach(self) -> int:
        """Samples of an epoch that the limit leaves."""
        return self.length if self.limit is None else min(self.length, self.limit * self.batch_size)

    def batches_left(self, offset: int, /, epoch: int = 0) -> int:
        """Batches of *epoch* that follow *offset*; here all epochs have equally many.

        A limit counts from the start of the epoch in batches of the current size: what was trained in batches of
        another size counts by its samples.
        """
        left = -(-max(0, self.reach - offset) // self.batch_size)
        return min(left, max(0, self.length - offset) // self.batch_size) if self.drop_last is True else left

    def offset_after(self, offset: int, batches: int, /, epoch: int = 0) -> int:
        """The offset *batches* batches after *offset*, in the same *epoch*."""
        return min(offset + min(batches, self.batches_left(offset)) * self.batch_size, self.length)

    def done(self, at: Position, /) -> int:
        """Batches of its epoch before *at*, in the present batch size."""
        is_counted_up = self.carries or self.length >= UNBOUNDED
        return at.offset // self.batch_size if is_counted_up else self.batches - self.batches_left(at.offset)

    def canonical(self, position: Position, /) -> Position:
        """The same position; where its epoch has no batch left, written as the start of the next."""
        if self.carries and position.offset >= self.reach > 0:
            epochs, offset = divmod(position.offset, self.reach)
            return Position(position.consumed_samples, position.epoch + epochs, offset)
        if position.offset and not self.batches_left(position.offset):
            return Position(position.consumed_samples, position.epoch + 1, 0)
        return position

    def advance(self, position: Position, batches: int, /) -> Position:
        """The position *batches* batches after *position*, over any number of epochs."""
        consumed, epoch, offset = position.consumed_samples, position.epoch, position.offset
        after = offset + batches * self.batch_size
        if self.limit is None and after + self.batch_size <= self.length:  # a whole batch follows: the same epoch
            return Position(consumed + after - offset, epoch, after)
        if self.carries:
            self._refuse_empty_epochs()
            return self.canonical(Position(consumed + after - offset, epoch, after))
        left = self.batches_left(offset)
        if batches >= left:
            self._refuse_empty_epochs()
            consumed += self.offset_after(offset, left) - offset
            whole, batches = divmod(batches - left, self.batches)
            consumed += whole * self.offset_after(0, self.batches)
            epoch, offset = epoch + 1 + whole, 0
        after = self.offset_after(offset, batches)
        return Position(consumed + after - offset, epoch, after)

    def position_at(self, consumed_samples: int, /) -> Position:
        """The position of a run that has trained *consumed_samples* by this plan from its first sample."""
        self._refuse_empty_epochs()
        epoch, offset = divmod(consumed_samples, self.offset_after(0, self.batches))
        return self.canonical(Position(consumed_samples, epoch, offset))

    def position_in(self, epoch: int, batches: int, /) -> Position:
        """The position of a run that has trained *epoch* epochs and *batches* batches by this plan."""
        offset = self.offset_after(0, batches)
        return Position(epoch * self.offset_after(0, self.batches) + offset, epoch, offset)

    def step_batches(self, position: Position, /) -> int:
        """1: without a schedule each batch is a step."""
        return 1

    def _refuse_empty_epochs(self) -> None:
        if not self.batches:
            raise self.no_batch(self.batch_size)

    def no_batch(self, size: int, /) -> ConfigurationError:
        """The error for epochs without a batch of *size* samples."""
        return ConfigurationError(
            "An epoch has no batch, so the run could never end.",
            [
                ("dataset length", self.length),
                ("batch size", size),
                ("drop_last", self.drop_last),
                ("limit", self.limit),
            ],
            "Use a smaller batch size, or drop_last=False.",
        )
