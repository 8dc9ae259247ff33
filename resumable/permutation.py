"""A permutation of 0 .. length-1 that can be entered anywhere, a pure function of (length, seed, epoch).

    length <= 2,048        sort unique hash keys once, keep the last few results         a true shuffle
    length <= 1,048,576    Feistel network of eight rounds, walking the cycle            any slice by itself
    length  > 1,048,576    the same with six rounds

The network writes a place as (high, low) on Z_a x 2^r with r = bits(length - 1) // 2 and a = ceil(length / 2^r).
Rounds alternate; the fewer than 2^r values at or above the length are sent through again until they fall below it:

    round 0, 2, 4, ...    high = (high + (F(low, key) * a >> 32)) mod a
    round 1, 3, 5, ...    low  =  low ^ (F(high, key) >> (32 - r))
    F(x, key)             h = (x ^ key) * 0x9E3779B1;  h = (h ^ h >> 15) * 0x85EBCA77     in 32 bits

A sort's hashes, or in their high halves a network's round keys, are splitmix64's outputs from `stream_key` on.
Everything is unsigned integer arithmetic of 32 or 64 bits, so the order is the same on every machine and with every
release of NumPy, and takes nothing from anybody's random stream. It can never change: saved runs depend on it.

Why these numbers. No number of rounds is uniform at length <= 10, so short orders are sorted. A sort of 2,048 takes
20 to 70 µs, with or without vector instructions; one of 16,384 takes up to 650 µs, too long for the first batch after a
resume. What betrays a network is the difference of values 2^r places apart: with 2k + 2 rounds it is off by about
2^-(k r), which takes some 25 * 2^((2k - 1) r) samples to see. Six rounds show it at 2,049 and 4,097 (z of 19 and 30 from
1.2e8 samples) and at 65,537 (5 from 1.6e8), not at 262,145 or 1e6; eight rounds show nothing at 2,049, 4,097 or 10,000.
Just above either limit it would take 2.7e10 samples: 13 million epochs of 2,049, or 25,000 of 1,048,577.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BLOCK", "EIGHT_ROUNDS_LENGTHS", "MAX_LENGTH", "SORTED_LENGTHS", "Network", "permuted", "stream_key"]

MAX_LENGTH: Final = 1 << 60
"""Longest permutation. The arithmetic of a round would bear 2**62; int64 indices leave room above it."""

SORTED_LENGTHS: Final = 2048
"""Up to this length the order comes from a sort."""

EIGHT_ROUNDS_LENGTHS: Final = 1 << 20
"""Up to this length the network takes eight rounds, above it six."""

BLOCK: Final = 16_384  # values that go through the rounds together: four uint32 arrays of it stay in a core's cache
FEW: Final = 8  # values that walk one by one
_LOW_32: Final = (1 << 32) - 1
_WORD: Final = (1 << 64) - 1
_GAMMA: Final = 0x9E3779B97F4A7C15
_MIX: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _u32(value: int) -> NDArray[np.uint32]:
    """A read-only array of no dimension: as an operand it is converted once, a NumPy scalar in every call."""
    array = np.array(value, dtype=np.uint32)
    array.flags.writeable = False
    return array


def _u64(value: int) -> NDArray[np.uint64]:
    array = np.array(value, dtype=np.uint64)
    array.flags.writeable = False
    return array


_FIRST_FACTOR: Final = _u32(0x9E3779B1)
_FOLD: Final = _u32(15)
_SECOND_FACTOR: Final = _u32(0x85EBCA77)
_HALF_WORD: Final = _u64(32)
_PLACES: Final = np.arange(BLOCK, dtype=np.uint32)
_PLACES.flags.writeable = False


def _mixed(word: int) -> int:
    """The output of splitmix64 from the state *word*, a bijection of 64-bit words.

    Source: `splitmix64.c` of S. Vigna's prng.di.unimi.it (2015), after Steele, Lea and Flood, OOPSLA 2014.
    """
    word = (word + _GAMMA) & _WORD
    for shift, factor in _MIX:
        word = ((word ^ (word >> shift)) * factor) & _WORD
    return word ^ (word >> 31)


def stream_key(length: int, seed: int, epoch: int) -> int:
    """The 64-bit state from which the order of *epoch* draws, for a *seed* below 2**64 and any *epoch* >= 0.

    Each part goes through a bijection before the next joins, so that two seeds, or two epochs below 2**64, never
    share a key, and exchanging seed and epoch gives another one. The length joins too: the orders of two
    data sets of unlike length have nothing to do with each other.

    >>> stream_key(10, seed=1, epoch=2) == stream_key(10, seed=2, epoch=1)
    False
    """
    key = _mixed(_mixed(_mixed(length) ^ seed) ^ (epoch & _WORD))
    while epoch := epoch >> 64:
        key = _mixed(key ^ (epoch & _WORD))
    return key


@lru_cache(maxsize=16)
def _sorted_order(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The whole permutation, by sorting hashes that carry their own index.

    The lowest bits of each key are its index: no two keys are equal, so every sorting algorithm gives one result.
    """
    index_bits = (length - 1).bit_length()
    index = np.arange(length, dtype=np.uint64)
    keys, spare = np.empty_like(index), np.empty_like(index)
    np.multiply(index, _u64(_GAMMA), out=keys)
    np.add(keys, _u64((stream_key(length, seed, epoch) + _GAMMA) & _WORD), out=keys)
    for shift, factor in _MIX:
        np.right_shift(keys, _u64(shift), out=spare)
        np.bitwise_xor(keys, spare, out=keys)
        np.multiply(keys, _u64(factor), out=keys)
    np.right_shift(keys, _u64(31), out=spare)
    np.bitwise_xor(keys, spare, out=keys)
    np.bitwise_and(keys, _u64(_WORD << index_bits & _WORD), out=keys)
    np.bitwise_or(keys, index, out=keys)
    keys.sort()
    np.bitwise_and(keys, _u64((1 << index_bits) - 1), out=keys)
    order: NDArray[np.int64] = keys.view(np.int64)
    order.flags.writeable = False
    return order


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """The Feistel network of one length and key. Its constants are arrays without dimension, never written."""

    length: int
    low_bits: int
    has_excess: bool
    round_keys: tuple[NDArray[np.uint32], ...]
    low_shift: NDArray[np.uint32]
    low_mask: NDArray[np.uint32]
    unused_bits: NDArray[np.uint32]
    high_size: NDArray[np.uint32]
    wide_length: NDArray[np.uint64]
    wide_high_size: NDArray[np.uint64]
    wide_low_shift: NDArray[np.uint64]

    @classmethod
    def of(cls, length: int, key: int, rounds: int = 0) -> Network:
        """The network for *length* > 2 whose round keys are drawn from *key*; *rounds* other than 0 is for tests."""
        rounds = rounds or (8 if length <= EIGHT_ROUNDS_LENGTHS else 6)
        low_bits = (length - 1).bit_length() // 2
        high_size = -(-length >> low_bits)
        return cls(
            length=length,
            low_bits=low_bits,
            has_excess=high_size << low_bits != length,
            round_keys=tuple(_u32(_mixed((key + number * _GAMMA) & _WORD) >> 32) for number in range(rounds)),
            low_shift=_u32(low_bits),
            low_mask=_u32((1 << low_bits) - 1),
            unused_bits=_u32(32 - low_bits),
            high_size=_u32(high_size),
            wide_length=_u64(length),
            wide_high_size=_u64(high_size),
            wide_low_shift=_u64(low_bits),
        )

    def values(self, start: int, stop: int) -> NDArray[np.int64]:
        """The values at the places *start* to *stop*."""
        values = np.empty(stop - start, dtype=np.uint64)
        for begin in range(0, stop - start, BLOCK):
            self._fill(values[begin : begin + BLOCK], start + begin)
        return values.view(np.int64)

    def _fill(self, values: NDArray[np.uint64], start: int) -> None:
        low = np.add(_PLACES[: values.size], _u32(start & ((1 << self.low_bits) - 1)))
        high = np.right_shift(low, self.low_shift)
        np.add(high, _u32(start >> self.low_bits), out=high)
        np.bitwise_and(low, self.low_mask, out=low)
        self._apply(high, low, values)
        if self.has_excess:
            self._walk(values)

    def _walk(self, values: NDArray[np.uint64]) -> None:
        """Send what lies at or above the length through again. The cycles are finite, so all come back below it."""
        outside = np.flatnonzero(values >= self.wide_length)
        while outside.size > FEW:
            again = values[outside]
            high = np.right_shift(again, self.wide_low_shift).astype(np.uint32)
            low = np.bitwise_and(again.astype(np.uint32), self.low_mask)
            self._apply(high, low, again)
            values[outside] = again
            outside = outside[again >= self.wide_length]
        for place in outside.tolist():
            values[place] = self._walked(int(values[place]))

    def _walked(self, value: int) -> int:
        """The same for one value: NumPy's calls would take as long for it as for hundreds."""
        keys, high_size = [int(key) for key in self.round_keys], int(self.high_size)
        high, low = divmod(value, 1 << self.low_bits)
        while value >= self.length:
            for number, key in enumerate(keys):
                hashed = ((high if number % 2 else low) ^ key) * 0x9E3779B1 & _LOW_32
                hashed = (hashed ^ hashed >> 15) * 0x85EBCA77 & _LOW_32
                if number % 2:
                    low ^= hashed >> 32 - self.low_bits
                else:
                    high = (high + (hashed * high_size >> 32)) % high_size
            value = high << self.low_bits | low
        return value

    def _apply(self, high: NDArray[np.uint32], low: NDArray[np.uint32], values: NDArray[np.uint64]) -> None:
        """Turn (high, low) through every round, in place, and join them in *values*."""
        hashed, spare, wide = np.empty_like(low), np.empty_like(low), np.empty_like(values)
        for number, key in enumerate(self.round_keys):
            np.bitwise_xor(high if number % 2 else low, key, out=hashed)
            np.multiply(hashed, _FIRST_FACTOR, out=hashed)
            np.right_shift(hashed, _FOLD, out=spare)
            np.bitwise_xor(hashed, spare, out=hashed)
            np.multiply(hashed, _SECOND_FACTOR, out=hashed)
            if number % 2:
                np.right_shift(hashed, self.unused_bits, out=hashed)
                np.bitwise_xor(low, hashed, out=low)
            else:
                # The dtype is told, since NumPy 1 would multiply in 32 bits by a constant that fits into them.
                np.multiply(hashed, self.wide_high_size, out=wide, dtype=np.uint64)
                np.right_shift(wide, _HALF_WORD, out=wide)
                np.copyto(spare, wide, casting="unsafe")
                np.add(high, spare, out=high)
                # Below a the subtraction wraps to something huge, so the minimum is the residue, without a branch.
                np.subtract(high, self.high_size, out=spare)
                np.minimum(high, spare, out=high)
        np.copyto(values, high)
        np.left_shift(values, self.wide_low_shift, out=values)
        np.copyto(wide, low)
        np.bitwise_or(values, wide, out=values)


@lru_cache(maxsize=64)
def _network(length: int, seed: int, epoch: int) -> Network:
    return Network.of(length, stream_key(length, seed, epoch))


def permuted(length: int, seed: int, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
    """The values at the places *start* to *stop* of the permutation, shape (stop - start,).

    The arguments are taken as they are: `resumable.order` checks them. Time and memory follow stop - start, beside a
    constant. Safe to call from several threads.

    >>> sorted(permuted(5, seed=0, epoch=0, start=0, stop=5).tolist())
    [0, 1, 2, 3, 4]
    >>> permuted(10**12, seed=0, epoch=3, start=10**11, stop=10**11 + 3).tolist()
    [971005872648, 111095070382, 120587108905]
    """
    if length > SORTED_LENGTHS:
        return _network(length, seed, epoch).values(start, stop)
    return np.array(_sorted_order(length, seed, epoch)[start:stop], dtype=np.int64)  # a copy: the cache stays as it is
