"""Random numbers that follow the position: what `reseed=True` seeds, and when.

a sample    before `dataset[index]`, in its worker      (seed, epoch, index, how often it came earlier)
a step      as its micro batch is yielded; in a trainer as its step begins too      (seed, epoch, global offset)

Three libraries draw from global generators of one kind, which draw alike where they are seeded alike. Nothing of a generator is saved.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any, Final, TypeVar, cast

import numpy as np
import torch

from resumable.errors import ResumptionError
from resumable.feeds.draws import Draws
from resumable.loading.model_generators import of_stage, seed_trackers
from resumable.orders.splitmix import GAMMA, mixed
from resumable.randomness import seed_of_step
from resumable.stopping.workers import mix_in

__all__ = ["GIVEN", "Reseeded", "STEP_BEGINS", "YIELDED", "passed", "reseed", "seed_generators", "take_draws"]

T = TypeVar("T")

YIELDED: Final = 0
"""The moment at which a loader yields a micro batch."""
STEP_BEGINS: Final = 1
"""The moment at which a trainer's step begins with it."""
GIVEN: Final = 2
"""The moment at which torch gives it to a loader class with an `__iter__` of its own, which may draw too."""

_NUMPY_BITS: Final = 32
_OF_ACCELERATOR: Final = 4 * GAMMA

# The generators live as long as the process, and so do their methods. torch.manual_seed takes 70 times as long, since it
# looks at each kind of device, and NumPy's is the one that datasets draw from.
_seed_torch: Final[Callable[[int], object]] = torch.default_generator.manual_seed
_seed_numpy: Final[Callable[[int], object]] = np.random.seed
_python: Final[Any] = cast("Any", random.seed).__self__
_seed_python: Final = cast("Callable[[int], object]", cast("Any", super(random.Random, _python)).seed)  # the one in C


def seed_generators(word: int, /) -> None:
    """Seed Python's, NumPy's and torch's global generators on the CPU from the 64 bits of a seed in `randomness`.

    NumPy and torch seed the same generator in the same way, from 32 bits, so each takes one half of *word*. Python seeds
    that generator by a hash of all 64.
    """
    _seed_torch(word)  # of which its generator on the CPU takes the low 32 bits
    _seed_numpy(word >> _NUMPY_BITS)
    _seed_python(word)
    _python.gauss_next = None  # the second of two normal numbers that are drawn at once


def reseed(moment: int, seed: int, epoch: int, offset: int, /) -> None:
    """Seed all that a training step draws from, for the micro batch at *offset* of *epoch*: the accelerator's too.

    Raises:
        ResumptionError: where the accelerator's generator cannot be seeded now.
    """
    word = seed_of_step(moment, seed, epoch, offset)
    seed_generators(word)
    word = of_stage(word)
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None:
        _seed_accelerator(accelerator, mixed(word + _OF_ACCELERATOR))
    seed_trackers(word)


class Reseeded(Iterator[T]):
    """*batches* of *samples* samples over all ranks, from *offset* of *epoch* on, each yielded behind a `reseed`.

    It goes on after the error of a sample, as torch's iterator does.
    """

    def __init__(self, batches: Iterator[T], seed: int, epoch: int, offset: int, samples: int) -> None:
        self._batches = batches
        self._of = seed, epoch
        self._offset, self._samples = offset, samples
        self._asked = 0

    def __next__(self) -> T:
        self._asked += 1
        batch = next(self._batches)
        number = passed(self._batches, self._asked) - 1
        reseed(YIELDED, *self._of, self._offset + number * self._samples)
        return batch


def passed(batches: Any, asked: int, /) -> int:
    """How many batches torch's iterator *batches*, *asked* so often for the next one, has given or failed to give."""
    known: int = getattr(batches, "_rcvd_idx", asked)  # workers may have been waited for in vain
    return known


def _seed_accelerator(accelerator: torch.device, word: int) -> None:
    module: Any = torch.get_device_module(accelerator)
    if not getattr(module, "is_initialized", lambda: True)():
        return  # nothing in this process has drawn from it, and a process that only reads must not wake it up
    try:
        module.manual_seed(word)
    except RuntimeError as error:
        raise ResumptionError(
            "The accelerator's random numbers cannot be seeded now.",
            [("accelerator", accelerator), ("error", error)],
            "Iterate the loader outside of a graph capture, or leave out reseed=True.",
        ) from error


def take_draws(fetcher: Any, /) -> Any:
    """The same torch's *fetcher*, which takes samples from a dataset; it now understands `Draws`."""
    return mix_in(TakesDraws, fetcher)


class TakesDraws:
    """Mixed into what takes a loader's samples from its dataset, in a worker or in the main process."""

    dataset: Any
    auto_collation: bool
    collate_fn: Any

    def fetch(self, drawn: Any) -> Any:
        """The batch of *drawn*, or the sample."""
        fetcher: Any = super()
        if not isinstance(drawn, Draws):
            return fetcher.fetch(drawn)
        if self.auto_collation and not self._takes_batches:
            dataset, samples = self.dataset, list[Any]()
            for word, index in zip_longest(drawn.seeds(), drawn.indices()):
                if word is not None:
                    seed_generators(word)
                samples.append(dataset[index])
            return self.collate_fn(samples)
        seed, given = drawn.whole()
        if seed is not None:
            seed_generators(seed)
        return fetcher.fetch(given)

    @property
    def _takes_batches(self) -> bool:
        """Whether the dataset is a stream, or is given the indices of a batch at once."""
        return hasattr(self, "dataset_iter") or bool(getattr(self.dataset, "__getitems__", None))
