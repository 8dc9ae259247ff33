"""Random numbers of a sample: pure functions of (seed, epoch, index, draw), the same on every machine.

    sample_seed(index, epoch, seed)    64 bits, for any generator
    sample_rng(index, epoch, seed)     a NumPy generator that begins there

Neither reads nor moves a global generator. Golden values hold them for ever: saved runs depend on them.

How the seed is made: seed, epoch, index and draw join one after the other, each by an exclusive or with splitmix64's
output of what came before it. Each join is a bijection, so samples that differ in one part alone never share a seed.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, cast

from resumable.checks import as_int, seed_of, whole_number
from resumable.errors import ConfigurationError
from resumable.orders.splitmix import WORD, mixed

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = ["MANY", "sample_rng", "sample_seed", "seed_of_draw", "seed_of_step", "seeds_of_first_draws", "text_of"]

MANY: Final = 8
"""For fewer samples, Python mixes their words faster than NumPy."""

_STEPS: Final = 0x7374657073210000
_SAMPLES: Final = 0x73616D706C657321  # begin every chain of a sample's: the orders' chains begin with their length


def sample_seed(index: Any, epoch: int, seed: int = 0, *, draw: int = 0) -> int:
    """The seed of a sample's random numbers, 0 to 2**64 - 1: another one for each index, epoch, seed and draw.

    Args:
        index: what `dataset[index]` takes: a whole number (modulo 2**64), a string, or a tuple, list or array of these.
        epoch: 0 for the first pass. Above 2**64 - 1 epochs begin again.
        seed: of the run, 0 to 2**64 - 1.
        draw: how often this index came earlier in the epoch, where a sampler repeats indices.

    Raises:
        ConfigurationError: for an index of another type, or a number that is not whole or out of range.

    >>> sample_seed(7, epoch=0) == sample_seed(7, epoch=0, seed=0, draw=0) != sample_seed(7, epoch=1)
    True
    """
    return seed_of_draw(index, whole_number("epoch", epoch), seed_of(seed), whole_number("draw", draw))


def sample_rng(index: Any, epoch: int, seed: int = 0, *, draw: int = 0) -> Generator:
    """A NumPy generator (PCG64) that begins at `sample_seed` of the same arguments, and raises the same errors.

    Its bits are the same with every release of NumPy; NumPy promises less for its distributions, such as `normal()`
    (NEP 19).

    >>> [int(sample_rng(7, epoch=1).integers(100)) for _ in range(2)]
    [23, 23]
    """
    from numpy.random import PCG64, Generator

    return Generator(PCG64(sample_seed(index, epoch, seed, draw=draw)))


def seed_of_draw(index: Any, epoch: int, seed: int, draw: int, /) -> int:
    """`sample_seed` of numbers that are known to be right, for loaders."""
    word = index & WORD if type(index) is int else _word(index)
    return mixed(mixed(_epoch_word(seed, epoch) ^ word) ^ draw)


def seeds_of_first_draws(indices: list[int], epoch: int, seed: int, /) -> list[int]:
    """`seed_of_draw` of many *indices* at their first draw, in a fraction of the time."""
    import numpy as np

    from resumable.orders.permutation import mixed_all

    words = np.array([index & WORD for index in indices], np.uint64)
    words ^= np.uint64(_epoch_word(seed, epoch))
    seeds: list[int] = mixed_all(mixed_all(words)).tolist()
    return seeds


def seed_of_step(moment: int, seed: int, epoch: int, offset: int, /) -> int:
    """64 bits for what happens to the micro batch that begins at *offset* of *epoch*: others at each *moment*."""
    return mixed(_moment_word(moment, seed, epoch) ^ (offset & WORD))


@lru_cache(maxsize=64)
def _moment_word(moment: int, seed: int, epoch: int) -> int:
    return mixed(mixed(mixed(_STEPS + moment) ^ seed) ^ (epoch & WORD))


@lru_cache(maxsize=64)
def _epoch_word(seed: int, epoch: int) -> int:
    return mixed(mixed(mixed(_SAMPLES) ^ seed) ^ (epoch & WORD))


def _word(index: Any) -> int:
    """64 bits of an index that is not a plain int."""
    number = as_int(index)
    if number is not None:
        return number & WORD
    return int.from_bytes(blake2b(text_of(index).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def text_of(index: Any, /) -> str:
    """*index*, of a kind that `sample_seed` takes, as text that no other index has.

    >>> text_of(("a", [1, 2]))
    '(1:a(1,2,))'
    """
    if isinstance(index, str):
        return f"{len(index)}:{index}"
    number = as_int(index)
    if number is not None:
        return f"{number},"
    parts: Any = index.tolist() if hasattr(index, "tolist") else index  # an array, or a tensor
    if isinstance(parts, (list, tuple)):
        return f"({''.join(map(text_of, cast('list[Any]', parts)))})"
    raise ConfigurationError(
        "Random numbers cannot follow from this index.",
        [("index", index), ("type", type(index).__name__)],
        "Use whole numbers, strings, or tuples, lists or arrays of them as indices, or leave out reseed=True.",
    )
