"""Samplers and batch samplers of the shapes that torch's DataLoader trains, and datamodules for loops that use them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from resumable import resumable

N, EPOCHS = 23, 3


class Varying(Sampler[Any]):
    """Shuffled samples in batches of 1 to 5, another number of batches in each epoch; *form* makes a batch of a list."""

    def __init__(self, form: Callable[[list[int]], Any] = list) -> None:
        self.form, self.epoch = form, 0

    def set_epoch(self, epoch: int) -> None:
        """As torch's DistributedSampler has it."""
        self.epoch = epoch

    def batches(self) -> list[list[int]]:
        """Those of the present epoch."""
        stream, order, made = random.Random(self.epoch), list(range(N)), list[list[int]]()
        stream.shuffle(order)
        while order:
            size = stream.randint(1, 5)
            made.append(order[:size])
            order = order[size:]
        return made

    def __iter__(self) -> Iterator[Any]:
        return map(self.form, self.batches())

    def __len__(self) -> int:
        return len(self.batches())


class SaysFour(Varying):
    """One that claims a size which its batches do not have."""

    batch_size = 4


class SaysFifty(Varying):
    """One that claims more batches than come."""

    def __len__(self) -> int:
        return 50


class SaysThree(Varying):
    """One that claims fewer batches than come."""

    def __len__(self) -> int:
        return 3


class Unsized(Sampler[Any]):
    """One that does not say how many batches there are."""

    def __iter__(self) -> Iterator[Any]:
        yield from ([1, 2, 3], [4], [5, 6], [0], [7, 8], [9], [10, 11])


class LengthUndefined(Unsized):
    """One that says so by an error of its own, as PyTorch Geometric's DynamicBatchSampler does."""

    def __len__(self) -> int:
        raise ValueError("The length is undefined.")


class OwnIterator(Varying):
    """One that is its own iterator, and begins anew each time it is asked for it, as Lhotse's do."""

    def __iter__(self) -> Iterator[Any]:
        self.left = iter(self.batches())
        return self

    def __next__(self) -> Any:
        return next(self.left)


class Ids:
    """Indices without a length."""

    def __init__(self, indices: list[int]) -> None:
        self.indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ids) and self.indices == other.indices

    __hash__ = None  # type: ignore[assignment]


class OneBuffer(Varying):
    """One that yields the same list again and again, with other indices in it."""

    def __iter__(self) -> Iterator[Any]:
        buffer: list[int] = []
        for batch in self.batches():
            buffer[:] = batch
            yield buffer


class OneArray(Sampler[Any]):
    """The same with an array."""

    def __iter__(self) -> Iterator[Any]:
        buffer = np.zeros(4, dtype=np.int64)
        for first in range(0, 20, 4):
            buffer[:] = range(first, first + 4)
            yield buffer

    def __len__(self) -> int:
        return 5


class InPlace(Sampler[Any]):
    """One that shuffles its list in place, by a random stream of Python's."""

    def __init__(self) -> None:
        self.order, self.stream = list(range(N)), random.Random(3)

    def __iter__(self) -> Iterator[Any]:
        self.stream.shuffle(self.order)
        return iter([self.order[first : first + 4] for first in range(0, N, 4)])

    def __len__(self) -> int:
        return 6


class Buckets(Sampler[Any]):
    """One that shuffles lists in a list, by NumPy's generator."""

    def __init__(self) -> None:
        self.buckets, self.rng = [list(range(first, N, 3)) for first in range(3)], np.random.default_rng(5)

    def __iter__(self) -> Iterator[Any]:
        for bucket in self.buckets:
            self.rng.shuffle(bucket)
        made = [bucket[first : first + 3] for bucket in self.buckets for first in range(0, len(bucket), 3)]
        self.rng.shuffle(self.buckets)
        return iter(made)

    def __len__(self) -> int:
        return 9


class CountsEpochs(Varying):
    """One that counts its epochs itself, at the end of each."""

    set_epoch = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Any]:
        yield from self.batches()
        self.epoch += 1


class Legacy(Sampler[Any]):
    """One with NumPy's older random stream, that yields arrays."""

    def __init__(self) -> None:
        self.stream = np.random.RandomState(7)

    def __iter__(self) -> Iterator[Any]:
        return iter(np.array_split(self.stream.permutation(N), 7))

    def __len__(self) -> int:
        return 7


class Tensors(Sampler[Any]):
    """One with torch's generator under a name of its own, that yields tensors."""

    def __init__(self) -> None:
        self.stream = torch.Generator().manual_seed(1)

    def __iter__(self) -> Iterator[Any]:
        return iter(torch.randperm(N, generator=self.stream).split(4))  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return 6


BATCH_SAMPLERS: dict[str, Callable[[], Any]] = {
    "lists": Varying,
    "tuples": lambda: Varying(tuple),
    "arrays": lambda: Varying(np.array),
    "tensors": lambda: Varying(torch.tensor),
    "iterators": lambda: Varying(iter),
    "sets": lambda: Varying(set),
    "a list of lists": lambda: [[1, 2], [3], [4, 5, 6]],
    "a tuple of arrays": lambda: tuple(np.array_split(np.arange(N), 4)),
    "says a size": SaysFour,
    "says too many": SaysFifty,
    "says too few": SaysThree,
    "says nothing": Unsized,
    "undefined length": LengthUndefined,
    "its own iterator": OwnIterator,
    "batches without a length": lambda: Varying(Ids),
    "one buffer": OneBuffer,
    "one array": OneArray,
    "in place": InPlace,
    "buckets": Buckets,
    "counts epochs": CountsEpochs,
    "RandomState": Legacy,
    "torch's generator": Tensors,
}


def ids(batch: Any) -> list[int]:
    """The samples of a batch, which are their own indices."""
    return [int(index) for index in batch]


def undecorated(sampler: Any, epochs: int = EPOCHS) -> list[list[list[int]]]:
    """The batches of each epoch that torch's own DataLoader yields."""
    loader, found = DataLoader(range(N), batch_sampler=sampler), list[list[list[int]]]()  # type: ignore[arg-type,var-annotated]
    for epoch in range(epochs):
        if getattr(sampler, "set_epoch", None):
            sampler.set_epoch(epoch)
        found.append([ids(batch) for batch in loader])
    return found


@resumable
class BatchSampled:
    """A datamodule for a loop, whose loader has a batch sampler from *make*."""

    trainer = None

    def __init__(self, make: Callable[[], Any], **options: Any) -> None:
        self.make, self.options = make, options

    def train_dataloader(self) -> Any:
        """Over the numbers below 23."""
        return DataLoader(range(N), batch_sampler=self.make(), **self.options)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing of its own."""

    def take(self, batches: int | None = None) -> list[list[int]]:
        """The next batches, or a run of a few epochs."""
        loader, taken = self.train_dataloader(), list[list[int]]()
        for _ in range(self.state_dict()["epoch"], EPOCHS):
            for batch in loader:
                taken.append(ids(batch))
                if len(taken) == batches:
                    return taken
        return taken

    def again(self) -> BatchSampled:
        """The one of the next process, with what was saved as JSON."""
        fresh = type(self)(self.make, **self.options)
        fresh.load_state_dict(json.loads(json.dumps(self.state_dict())))
        return fresh
