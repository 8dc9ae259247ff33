"""What a user's sampler remembers between its draws: a random stream of its own, a list that it shuffles in place, a count.

Such a sampler yields other indices each time. Put back to where it was when the run began, and drawn epoch by epoch to
its end, it repeats itself, and yields what it yields without this package.
"""

from __future__ import annotations

import io
import pickle
import random
from array import array
from collections import deque
from contextlib import suppress
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import Sampler
from typing_extensions import override

__all__ = ["SamplerMemory", "chain_of", "unseeded_streams"]

_COPIED: Final = (
    *(np.ndarray, np.random.Generator, np.random.BitGenerator, np.random.RandomState),
    *(torch.Generator, random.Random, deque, array, dict, list, set),
)
_BITS: Final[dict[type, str]] = {np.random.Generator: "bit_generator", np.random.RandomState: "_bit_generator"}
_LONGEST_SEED: Final = 64
"""Bits of a seed that a user writes, at most; NumPy draws 128 where none is given."""


class SamplerMemory:
    """The attributes of *sampler*, and of the samplers in it, as they are now; two of equal ones are equal.

    Containers, numbers, arrays and random streams are copied. Anything else, such as a dataset, is kept as it is.
    """

    def __init__(self, sampler: Any) -> None:
        self._samplers = [each for each in _samplers_in(sampler) if hasattr(each, "__dict__")]
        self._references: list[Any] = []
        file = io.BytesIO()
        _Pickler(file, self._references).dump([vars(each) for each in self._samplers])
        self._kept: bytes = file.getvalue()

    @classmethod
    def of(cls, sampler: Any) -> SamplerMemory | None:
        """The memory of *sampler*; None where it cannot be copied, or torch wrote it, whose samplers remember nothing."""
        if all(type(each).__module__.startswith("torch.utils.data.") for each in _samplers_in(sampler)):
            return None
        with suppress(Exception):  # how a user's attribute is pickled may fail in any way
            return cls(sampler)
        return None

    def restore(self) -> None:
        """Put the samplers back to what is kept."""
        kept = _Unpickler(io.BytesIO(self._kept), self._references).load()
        for sampler, attributes in zip(self._samplers, kept, strict=True):
            vars(sampler).clear()
            vars(sampler).update(attributes)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, SamplerMemory) and self._kept == other._kept

    @override
    def __hash__(self) -> int:
        return hash(self._kept)


def chain_of(sampler: Any, /) -> list[Any]:
    """A batch sampler and the sampler inside it, in the order from outside to inside."""
    found: list[Any] = [sampler]
    while (inner := getattr(found[-1], "sampler", None)) is not None and not any(inner is each for each in found):
        found.append(inner)
    return found


def unseeded_streams(sampler: Any, /) -> list[Any]:
    """NumPy's and Python's streams that *sampler* holds and made without a seed: each process has others.

    Of NumPy's, these are the bit generators. A stream of Python's is told only before its first draw.

    >>> class Own:
    ...     def __init__(self):
    ...         self.seeded, self.unseeded = np.random.default_rng(0), np.random.default_rng()
    ...         self.too = random.Random()
    >>> len(unseeded_streams(Own()))
    2
    """
    values = [value for each in _samplers_in(sampler) for value in getattr(each, "__dict__", {}).values()]
    bits = [getattr(each, _BITS[type(each)]) for each in values if type(each) in _BITS]
    found: list[Any] = [each for each in bits if _is_drawn(getattr(getattr(each, "seed_seq", None), "entropy", None))]
    return found + [each for each in values if type(each) is random.Random and _is_seedless(each)]


def _is_drawn(seed: object) -> bool:
    return isinstance(seed, int) and seed.bit_length() > _LONGEST_SEED


def _is_seedless(stream: random.Random) -> bool:
    """Whether *stream*, which nothing was drawn from yet, was made without a seed.

    A seed's words are mixed into the state in turn, again and again; without one, each of its 624 words is drawn.
    Here the mixing is undone. Source: `init_by_array` in CPython's Modules/_randommodule.c.
    """
    *state, at = stream.getstate()[1]
    words, last = len(state), len(state) - 1
    if at != words or state[0] != 1 << 31:
        return False
    state[0] = state[last]
    for i in (1, *range(last, 1, -1)):
        state[i] = ((state[i] + i) ^ _mixed(state[i - 1], 1566083941)) % 2**32
    base = [19650218]
    for i in range(1, words):
        base.append((1812433253 * (base[-1] ^ base[-1] >> 30) + i) % 2**32)
    key = [(state[i] - (base[i] ^ _mixed(state[i - 1], 1664525))) % 2**32 for i in range(3, words)]
    return not any(key[:-period] == key[period:] for period in range(1, words // 2))


def _mixed(word: int, factor: int) -> int:
    return (word ^ word >> 30) * factor % 2**32


def _samplers_in(sampler: Any) -> list[Any]:
    """*sampler* and all that it holds, in attributes and short lists of them."""
    found = chain_of(sampler)
    for each in found:  # which grows
        for value in list(getattr(each, "__dict__", {}).values()):
            held: list[Any] = list(value) if type(value) in (list, tuple) and len(value) < 1000 else [value]
            found += [one for one in held if isinstance(one, Sampler) and not any(one is other for other in found)]
    return found


class _Pickler(pickle.Pickler):
    """Copies what it knows how to copy, and leaves a number for anything else."""

    def __init__(self, file: io.BytesIO, references: list[Any]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._references = references
        self._numbers: dict[int, int] = {}

    def reducer_override(self, obj: Any) -> Any:
        """Called for all but numbers, strings and Python's own containers."""
        if obj is _reference or (isinstance(obj, _COPIED) and not isinstance(obj, torch.Tensor)):
            return NotImplemented
        if isinstance(obj, torch.Tensor) and not obj.is_cuda and obj.layout is torch.strided:
            with suppress(TypeError, RuntimeError):  # a dtype that NumPy has not, or another device
                return torch.from_numpy, (obj.detach().numpy().copy(),)
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self._references)
            self._references.append(obj)
        return _reference, (self._numbers[id(obj)],)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, references: list[Any]) -> None:
        super().__init__(file)
        self._references = references

    @override
    def find_class(self, module: str, name: str, /) -> Any:
        return self._references.__getitem__ if name == _reference.__name__ else super().find_class(module, name)


def _reference(number: int) -> Any:
    """Stands for the object of this number."""
    raise NotImplementedError(number)  # the unpickler puts its own look-up in place of it
