"""A canary: a short digest of the indices that come next, saved with the position and computed again on a resume.

    order   ··· 17  4 │ 9  2  23 ··· 8 │ 11 ···        the 64 indices that follow the position, on into the next epoch
                      └──── canary ────┘               their CRC-32 as little-endian int64, in hexadecimal

A canary shows what the order's kind, length and seed cannot: a library that shuffles differently since its update, a
changed sampler or order of the user's, another epoch. It is the same on every rank, whatever the batch size. A replayed
sampler cannot start at a position: its canary is of the first indices of the epoch, and exists once the epoch has begun.
"""

from __future__ import annotations

from typing import Any, Final
from zlib import crc32

import numpy as np

from resumable.protocols import Order

__all__ = ["AHEAD", "Canaries", "digest_of"]

AHEAD: Final = 64
"""How many indices a canary looks ahead, at most."""

_FIRST_BLOCK, _BLOCK = 256, 16_384
_BYTES: Final = 8


def digest_of(indices: list[Any], /) -> str | None:
    """The canary of *indices*: whole numbers, or strings. None for anything else, and for an empty list.

    >>> digest_of([3, 1, 2]), digest_of(["a", "b"]), digest_of([object()])
    ('1792f5e4', '15e87871', None)
    """
    if indices and all(isinstance(index, str) for index in indices):
        return _digest("\0".join(indices).encode())
    try:
        return _digest(_raw(indices)) if indices else None
    except (TypeError, ValueError, OverflowError):
        return None


def _raw(indices: object) -> bytes:
    return np.asarray(indices).astype("<i8", casting="same_kind").tobytes()


def _digest(raw: bytes) -> str:
    return f"{crc32(raw):08x}"


class Canaries:
    """The canaries of an order, drawn in blocks, since a state may be saved after every batch.

    >>> from resumable.orders.orders import Shuffled
    >>> canaries, order = Canaries(Shuffled(100, seed=1)), Shuffled(100, seed=1)
    >>> canaries.at(2, 30) == digest_of(order.indices(2, 30, 94).tolist())
    True
    """

    __slots__ = ("_block", "_epoch", "_from", "_length", "_next", "_order", "_stop")

    def __init__(self, order: Order, /) -> None:
        self._order, self._length = order, len(order)
        self._next = min(AHEAD, self._length)
        self._block = b""
        self._epoch, self._from, self._stop = -1, 0, 0

    def at(self, epoch: int, offset: int, /) -> str | None:
        """The canary at *offset* of *epoch*; None where the order has no indices there."""
        end = min(offset + AHEAD, self._length + self._next)
        if epoch != self._epoch or offset < self._from or end > self._stop:
            try:
                self._draw(epoch, offset)
            except Exception:  # noqa: BLE001  # a user-defined order may end before this epoch, which may never be trained
                return None
        return _digest(self._block[(offset - self._from) * _BYTES : (end - self._from) * _BYTES])

    def _draw(self, epoch: int, offset: int) -> None:
        """Draw the block that begins at *offset*, a long one where it follows the last block."""
        goes_on = epoch == self._epoch and self._from <= offset <= self._stop
        stop = min(offset + (_BLOCK if goes_on else _FIRST_BLOCK), self._length)
        block = _raw(self._order.indices(epoch, offset, stop))
        if stop == self._length:
            block += _raw(self._order.indices(epoch + 1, 0, self._next))
            stop += self._next
        self._epoch, self._from, self._stop, self._block = epoch, offset, stop, block
