"""A permutation of 0 .. length-1 that starts anywhere, a pure function of (length, seed, epoch).

    length <= 2,048        sort unique hash keys once, keep the last few results         a true shuffle
    length <= 1,048,576    Feistel network of eight rounds, walking the cycle            any slice alone
    length  > 1,048,576    the same with six rounds                                      (see `resumable.orders.network`)

A sort's hashes, or in their high halves a network's round keys, are splitmix64's outputs from `stream_key` on.
Everything is unsigned integer arithmetic of 32 or 64 bits, so the order is the same on every machine and with every
release of NumPy, and uses no random generator of the user's. It can never change: saved runs depend on it.

Why these numbers. No number of rounds is uniform at length <= 10, so short orders are sorted. A sort of 2,048 takes
20 to 70 µs, with or without vector instructions; one of 16,384 takes up to 650 µs, too long for the first batch after a
resume. A network shows in the difference of values 2^r places apart: with 2k + 2 rounds it is off by about
2^-(k r), which takes some 25 * 2^((2k - 1) r) samples to see. Six rounds show it at 2,049 and 4,097 (z of 19 and 30 from
1.2e8 samples) and at 65,537 (5 from 1.6e8), not at 262,145 or 1e6; eight rounds show nothing at 2,049, 4,097 or 10,000.
Just above either limit it would take 2.7e10 samples: 13 million epochs of 2,049, or 25,000 of 1,048,577.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from resumable.orders.network import Network
from resumable.orders.splitmix import GAMMA, MIX, WORD, mixed

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_LENGTH", "SORTED_LENGTHS", "mixed_all", "permuted", "permuted_at", "place_of", "stream_key"]

MAX_LENGTH: Final = 1 << 60
"""The longest permutation. A round's arithmetic allows 2**62, and int64 indices more."""

SORTED_LENGTHS: Final = 2048
"""Up to this length a sort makes the order."""

_GAMMA, _LAST_SHIFT = np.uint64(GAMMA), np.uint64(31)
_MIX: Final = [(np.uint64(shift), np.uint64(factor)) for shift, factor in MIX]


def stream_key(length: int, seed: int, epoch: int) -> int:
    """The 64-bit state from which the order of *epoch* draws, for a *seed* below 2**64 and any *epoch* >= 0.

    Each part goes through a bijection before the next joins, so that two seeds, or two epochs below 2**64, never share
    a key, and exchanging seed and epoch gives another one. The length joins too: orders of different lengths are
    unrelated.

    >>> stream_key(10, seed=1, epoch=2) == stream_key(10, seed=2, epoch=1)
    False
    """
    key = mixed(mixed(mixed(length) ^ seed) ^ (epoch & WORD))
    while epoch := epoch >> 64:
        key = mixed(key ^ (epoch & WORD))
    return key


def mixed_all(states: NDArray[np.uint64], /) -> NDArray[np.uint64]:
    """`mixed` of each of *states*, in their place.

    >>> mixed_all(np.zeros(1, np.uint64)).tolist() == [mixed(0)]
    True
    """
    states += _GAMMA
    for shift, factor in _MIX:
        states ^= states >> shift
        states *= factor
    states ^= states >> _LAST_SHIFT
    return states


@lru_cache(maxsize=16)
def _sorted_order(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The whole permutation, by sorting hashes that carry their own index.

    The lowest bits of each key are its index: no two keys are equal, so every sorting algorithm gives one result.
    """
    index = np.arange(length, dtype=np.uint64)
    keys = mixed_all(index * np.uint64(GAMMA) + np.uint64(stream_key(length, seed, epoch)))
    index_bits = (length - 1).bit_length()
    keys &= np.uint64(WORD << index_bits & WORD)
    keys |= index
    keys.sort()
    keys &= np.uint64((1 << index_bits) - 1)
    order: NDArray[np.int64] = keys.view(np.int64)
    order.flags.writeable = False
    return order


@lru_cache(maxsize=64)
def _network(length: int, seed: int, epoch: int) -> Network:
    return Network(length, stream_key(length, seed, epoch))


def permuted(length: int, seed: int, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
    """The values at the places *start* to *stop* of the permutation, shape (stop - start,).

    `resumable.orders.orders` checks the arguments. Time and memory grow with stop - start alone, after a constant. Safe
    to call from several threads.

    >>> sorted(permuted(5, seed=0, epoch=0, start=0, stop=5).tolist())
    [0, 1, 2, 3, 4]
    >>> permuted(10**12, seed=0, epoch=3, start=10**11, stop=10**11 + 3).tolist()
    [971005872648, 111095070382, 120587108905]
    """
    if length > SORTED_LENGTHS:
        return _network(length, seed, epoch).values(start, stop)
    return np.array(_sorted_order(length, seed, epoch)[start:stop], dtype=np.int64)  # a copy: the cache stays as it is


def permuted_at(length: int, seed: int, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values at any *places* of the permutation, each from 0 to length - 1, in their order.

    They are those of `permuted`. Time and memory grow with the number of places alone.

    >>> permuted_at(10**12, seed=0, epoch=3, places=np.array([10**11 + 2, 10**11])).tolist()
    [120587108905, 971005872648]
    """
    if length > SORTED_LENGTHS:
        return _network(length, seed, epoch).at(places)
    return _sorted_order(length, seed, epoch)[places]


def place_of(length: int, seed: int, epoch: int, value: int) -> int:
    """The place of *value*, 0 to length - 1, in the permutation: the inverse of `permuted`.

    >>> place_of(10**12, seed=0, epoch=3, value=971005872648) == 10**11
    True
    """
    if length > SORTED_LENGTHS:
        return _network(length, seed, epoch).place_of(value)
    return int(np.flatnonzero(_sorted_order(length, seed, epoch) == value)[0])
