"""Samplers, loaders and streams as users write them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tests.support.cuts import raised_in, saved_after_step, saved_at_epoch_end

CUTS = [
    (saved_after_step(3),),
    (saved_after_step(6),),
    (saved_at_epoch_end(0), raised_in("training_step", (1, 2))),
    (raised_in("on_train_batch_end", (1, 3)), raised_in("on_train_batch_start", (1, 5))),
]
LIMITS = [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 15}]
every_cut = pytest.mark.parametrize("cuts", CUTS, ids=lambda cuts: "+".join(map(str, cuts)))
some_cuts = pytest.mark.parametrize("cuts", CUTS[2:], ids=lambda cuts: "+".join(map(str, cuts)))


def permuted(length: int, generator: torch.Generator | None = None) -> list[int]:
    """The numbers below *length* in a random order, from torch's global stream if there is no *generator*."""
    return cast("list[int]", torch.randperm(length, generator=generator).tolist())


class EpochSampler(Sampler[int]):
    """A user's own sampler: its order follows from the epoch that it is told."""

    def __init__(self, samples: int) -> None:
        self.samples, self.epoch = samples, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(permuted(self.samples, torch.Generator().manual_seed(self.epoch)))

    def __len__(self) -> int:
        return self.samples


class GlobalRandomSampler(EpochSampler):
    """One that draws from Python's and NumPy's global random streams."""

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.samples))
        random.shuffle(order)
        np.random.shuffle(order)  # noqa: NPY002  # the global stream is what this one is about
        return iter(order)


class EvenAndOdd(Sampler[list[int]]):
    """A batch sampler of one's own, with batches of different sizes and no base class of torch's."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[list[int]]:
        for start in permuted(len(self)):
            yield list(range(self.samples))[start :: len(self)]

    def __len__(self) -> int:
        return 6


class NamedLoader(DataLoader[int]):
    """A subclass whose constructor takes something else."""

    def __init__(self, name: str, dataset: Dataset[int], **options: Any) -> None:
        self.name = name
        super().__init__(dataset, **options)


SET_VITAL = "ignore:'set_vital' is deprecated:UserWarning"  # torchdata 0.11 under torch 2.13
