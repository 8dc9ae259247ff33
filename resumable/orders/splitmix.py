"""splitmix64: the 64-bit words that orders draw."""

from __future__ import annotations

from typing import Final

__all__ = ["GAMMA", "MIX", "WORD", "mixed"]

WORD: Final = (1 << 64) - 1
"""The largest word; a mask for the arithmetic of 64 bits."""

GAMMA: Final = 0x9E3779B97F4A7C15
"""The increase of the state from one output to the next."""

MIX: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
"""Shift and factor of the two steps from a state to its output; a shift by 31 follows."""

(_SHIFT, _FACTOR), (_NEXT_SHIFT, _NEXT_FACTOR) = MIX


def mixed(state: int, /) -> int:
    """The output of splitmix64 from *state* modulo 2**64, a bijection of 64-bit words.

    Source: `splitmix64.c` of S. Vigna's prng.di.unimi.it (2015), after Steele, Lea and Flood, OOPSLA 2014.

    >>> hex(mixed(0))
    '0xe220a8397b1dcdaf'
    """
    word = (state + GAMMA) & WORD
    word = ((word ^ (word >> _SHIFT)) * _FACTOR) & WORD  # a loop would take half as long again
    word = ((word ^ (word >> _NEXT_SHIFT)) * _NEXT_FACTOR) & WORD
    return word ^ (word >> 31)
