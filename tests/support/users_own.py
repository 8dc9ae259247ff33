"""Orders, schedules and datasets as users write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset


class Backwards:
    """An order that counts what it is asked for."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.asked: list[int] = []

    def __repr__(self) -> str:
        return f"Backwards({self.n})"

    def __len__(self) -> int:
        return self.n

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        """From the end, begun one further in each epoch."""
        self.asked.append(stop - start)
        return (self.n - 1 - np.arange(start, stop) + epoch) % self.n


class Squares:
    """A schedule of 2, 4, 6, ... samples, by no stages."""

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """Two more with each step."""
        return 2 * next(n for n in range(1, 999) if n * (n + 1) > consumed_samples)

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """Step by step."""
        for _ in range(steps):
            consumed += self.batch_size_at(consumed)
        return consumed

    def steps_between(self, consumed: int, later: int, /) -> int:
        """Step by step."""
        steps = 0
        while (consumed := consumed + self.batch_size_at(consumed)) <= later:
            steps += 1
        return steps


class Stream(IterableDataset[int]):
    """A dataset without places."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(4))
