"""A Feistel network: a permutation of 0 .. length-1, any part of which is computed alone, in blocks.

A place is written as (high, low) on Z_a x 2^r with r = bits(length - 1) // 2 and a = ceil(length / 2^r). Rounds
alternate. Fewer than 2^r values end at or above the length; they go through again until they fall below it:

    round 0, 2, 4, ...    high = (high + (F(low, key) * a >> 32)) mod a
    round 1, 3, 5, ...    low  =  low ^ (F(high, key) >> (32 - r))
    F(x, key)             h = (x ^ key) * 0x9E3779B1;  h = (h ^ h >> 15) * 0x85EBCA77     in 32 bits

The keys of the rounds are the high halves of splitmix64's outputs. `resumable.orders.permutation` explains how orders
use the network and why it has this many rounds.

Every call of NumPy reads and writes a whole block, so a block fits into a core's cache, and a round takes as few calls as
possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from resumable.orders.splitmix import GAMMA, WORD, mixed

if TYPE_CHECKING:
    from typing import TypeVar

    from numpy.typing import NDArray

    Halves: TypeAlias = NDArray[np.uint32]
    Words: TypeAlias = NDArray[np.uint64]
    _Word = TypeVar("_Word", np.uint32, np.uint64)

__all__ = ["BLOCK", "EIGHT_ROUNDS_LENGTHS", "Network"]

EIGHT_ROUNDS_LENGTHS: Final = 1 << 20
"""Up to this length the network takes eight rounds, above it six."""

BLOCK: Final = 16_384  # values that go through the rounds together: their arrays stay in a core's second-level cache
FEW: Final = 4  # values that walk one by one
MOST_ENDS: Final = 2048  # ends of walks that a network keeps, in 16 KB
_LOW_32: Final = (1 << 32) - 1


def _halves(*values: int) -> list[Halves]:
    return _constants(np.array(values, dtype=np.uint32))


def _words(*values: int) -> list[Words]:
    return _constants(np.array(values, dtype=np.uint64))


def _constants(array: NDArray[_Word]) -> list[NDArray[_Word]]:
    """Read-only arrays without dimension. As operands they are converted once, NumPy's scalars in every call."""
    array.flags.writeable = False
    return [array[place, ...] for place in range(len(array))]


_FIRST_FACTOR, _FOLD, _SECOND_FACTOR = _halves(0x9E3779B1, 15, 0x85EBCA77)
(_HALF_WORD,) = _words(32)
_PLACES: Final = np.arange(BLOCK, dtype=np.uint32)
_PLACES.flags.writeable = False

_IDLE: Final[list[Halves]] = []
"""Idle working arrays, of shape (4, BLOCK): new ones would cost a page fault for every 4 KB in each call.

A call takes one out, so that a thread or a signal handler that interrupts it finds another or makes its own.
"""


class Network:
    """The network of *length* > 2 with round keys drawn from *key*, never changed; *rounds* other than 0 is for tests."""

    def __init__(self, length: int, key: int, rounds: int = 0) -> None:
        rounds = rounds or (8 if length <= EIGHT_ROUNDS_LENGTHS else 6)
        self._low_bits = low_bits = (length - 1).bit_length() // 2
        high_size = -(-length >> low_bits)
        self._length = length
        self._excess = (high_size << low_bits) - length
        self._keys = _halves(*(mixed((key + number * GAMMA) & WORD) >> 32 for number in range(rounds)))
        constants = _halves(low_bits, (1 << low_bits) - 1, 32 - low_bits, high_size)
        self._low_shift, self._low_mask, self._unused_bits, self._high_size = constants
        self._wide_length, self._wide_high_size, self._wide_low_shift = _words(length, high_size, low_bits)

    def values(self, start: int, stop: int) -> NDArray[np.int64]:
        """The values at the places *start* to *stop*."""
        values = np.empty(stop - start, dtype=np.uint64)
        for begin, part, work in _blocks(values):
            high, low, hashed, spare = work
            first_high, first_low = _halves(*divmod(start + begin, 1 << self._low_bits))
            np.add(_PLACES[: part.size], first_low, out=low)
            np.right_shift(low, self._low_shift, out=high)
            high += first_high
            low &= self._low_mask
            self._send_through(high, low, hashed, spare, part)
            self._walk(part)
        return values.view(np.int64)

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The values at any *places*, in their order."""
        values = np.array(places, dtype=np.uint64)
        for _, part, work in _blocks(values):
            self._send_again(part, work)
            self._walk(part)
        return values.view(np.int64)

    def _walk(self, values: Words) -> None:
        """Send values at or above the length through again. The cycles are finite, so all come back below it."""
        if not self._excess:
            return
        outside = np.flatnonzero(values >= self._wide_length)
        if outside.size > FEW and self._excess <= MOST_ENDS:
            values[outside] = self._ends[values[outside] - self._wide_length]
        else:
            for place in outside.tolist():
                values[place] = self._walked(int(values[place]))

    @cached_property
    def _ends(self) -> Words:
        """Where the walk from each value at or above the length comes back below it.

        Every turn doubles the steps, so there are few. What is still outside then is on a cycle that no walk from below
        the length reaches.
        """
        ends = np.arange(self._length, self._length + self._excess, dtype=np.uint64)
        self._send_again(ends, np.empty((4, ends.size), dtype=np.uint32))
        for _ in range(self._excess.bit_length()):
            outside = np.flatnonzero(ends >= self._wide_length)
            if not outside.size:
                break
            ends[outside] = ends[ends[outside] - self._wide_length]
        return ends

    def _walked(self, value: int) -> int:
        """The walk of one value: NumPy would take as long for it as for hundreds."""
        keys, high_size = [int(key) for key in self._keys], int(self._high_size)
        high, low = divmod(value, 1 << self._low_bits)
        while value >= self._length:
            for number, key in enumerate(keys):
                hashed = _hashed(high if number % 2 else low, key)
                if number % 2:
                    low ^= hashed >> 32 - self._low_bits
                else:
                    high = (high + (hashed * high_size >> 32)) % high_size
            value = high << self._low_bits | low
        return value

    def place_of(self, value: int) -> int:
        """The place of *value*: the rounds backwards, until they lead below the length."""
        keys, high_size = [int(key) for key in self._keys], int(self._high_size)
        place = self._length
        while place >= self._length:
            high, low = divmod(value, 1 << self._low_bits)
            for number in reversed(range(len(keys))):
                hashed = _hashed(high if number % 2 else low, keys[number])
                if number % 2:
                    low ^= hashed >> 32 - self._low_bits
                else:
                    high = (high - (hashed * high_size >> 32)) % high_size
            place = value = high << self._low_bits | low
        return place

    def _send_again(self, values: Words, work: Halves) -> None:
        """Send *values* through every round once, in place."""
        high, low, hashed, spare = work
        low[...] = values
        low &= self._low_mask
        values >>= self._wide_low_shift
        high[...] = values
        self._send_through(high, low, hashed, spare, values)

    def _send_through(self, high: Halves, low: Halves, hashed: Halves, spare: Halves, values: Words) -> None:
        """Send (high, low) through every round and join them in *values*. All five arrays are overwritten."""
        for number, key in enumerate(self._keys):
            np.bitwise_xor(high if number % 2 else low, key, out=hashed)
            hashed *= _FIRST_FACTOR
            np.right_shift(hashed, _FOLD, out=spare)
            hashed ^= spare
            hashed *= _SECOND_FACTOR
            if number % 2:
                hashed >>= self._unused_bits
                low ^= hashed
            else:
                values[...] = hashed
                values *= self._wide_high_size
                values >>= _HALF_WORD
                spare[...] = values
                high += spare
                # Below a the subtraction wraps to something huge, so the minimum is the residue, without a branch.
                np.subtract(high, self._high_size, out=spare)
                np.minimum(high, spare, out=high)
        values[...] = high
        values <<= self._wide_low_shift
        values |= low


def _hashed(half: int, key: int) -> int:
    """F of one value."""
    hashed = (half ^ key) * 0x9E3779B1 & _LOW_32
    return (hashed ^ hashed >> 15) * 0x85EBCA77 & _LOW_32


def _blocks(values: Words) -> Iterator[tuple[int, Words, Halves]]:
    """The blocks of *values*: where each begins, its part of *values*, and working arrays of shape (4, part.size)."""
    try:
        work = _IDLE.pop()
    except IndexError:
        work = np.empty((4, BLOCK), dtype=np.uint32)
    for begin in range(0, values.size, BLOCK):
        part = values[begin : begin + BLOCK]
        yield begin, part, work[:, : part.size]
    _IDLE.append(work)
