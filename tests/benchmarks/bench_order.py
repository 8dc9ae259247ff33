"""Speed of the orders, next to what a plain shuffled loader does in the same run.

    python -m tests.benchmarks.bench_order

A block is one call of `Shuffled.indices`; loaders take blocks and slice their batches out of them. The ratios are
against `torch.randperm(n).tolist()`, which a plain shuffled DataLoader runs for each epoch, and against NumPy's
permutation; neither can be entered in the middle, and above 1e6 their memory is out of proportion. "First block" is
the first call of an epoch, everything included, in the middle of the epoch, as after a resume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import numpy as np
import torch

from resumable.orders.orders import Shuffled

LENGTHS = (10**4, 10**6, 10**9, 10**12)
BLOCKS = (16_384, 1_024, 32)
LONGEST_WHOLE = 10**6  # a list of more Python ints takes hundreds of megabytes
FIRST_BLOCK = 1_024
TORCH, NUMPY = "torch.randperm(n).tolist()", "NumPy's permutation"
SECONDS = 0.3  # per figure: the best of as many runs as fit


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Rates in million indices a second; ratios above 1 mean that Shuffled is faster."""

    n: int
    what: str
    million_per_second: float
    microseconds: float
    against_randperm: float | None
    against_numpy: float | None


def best(call: Callable[[int], object]) -> float:
    """Seconds of the fastest of the calls with 0, 1, 2, ... that fit into SECONDS."""
    fastest, end, number = float("inf"), perf_counter() + SECONDS, 0
    while number < 3 or perf_counter() < end:
        start = perf_counter()
        call(number)
        fastest = min(fastest, perf_counter() - start)
        number += 1
    return fastest


def block_seconds(n: int, size: int) -> float:
    """Seconds of one call for *size* indices, walking through the epoch."""
    order, places = Shuffled(n, seed=1), n - size + 1
    return best(lambda number: order.indices(0, number * size % places, number * size % places + size))


def first_block_seconds(n: int) -> float:
    """Seconds of the first call of an epoch, in its middle; each run is another epoch, so nothing is cached."""
    return best(lambda epoch: Shuffled(n, seed=2).indices(epoch, n // 2, n // 2 + FIRST_BLOCK))


def others(n: int) -> dict[str, float]:
    """Seconds of a whole order from torch, as the list that its sampler makes of it, and from NumPy."""
    if n > LONGEST_WHOLE:
        return {}

    def from_torch(seed: int) -> list[int]:
        return cast("list[int]", torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist())

    def from_numpy(seed: int) -> object:
        return np.random.default_rng(seed).permutation(n)

    return {TORCH: best(from_torch), NUMPY: best(from_numpy)}


def rows() -> list[Row]:
    """Measure everything, about ten seconds."""
    table: list[Row] = []
    for n in LENGTHS:
        whole = others(n)
        seconds = {f"blocks of {min(size, n):,}": (min(size, n), block_seconds(n, min(size, n))) for size in BLOCKS}
        seconds[f"first block of {FIRST_BLOCK:,}"] = (FIRST_BLOCK, first_block_seconds(n))
        seconds.update({what: (n, duration) for what, duration in whole.items()})
        for what, (size, duration) in seconds.items():
            rate = size / duration
            ratios = [rate * whole[other] / n if whole else None for other in (TORCH, NUMPY)]
            table.append(Row(n, what, rate / 1e6, duration * 1e6, *ratios))
    return table


def main() -> None:
    """Print the table."""
    print(f"{'n':>17}  {'what':<28}{'M indices/s':>12}{'µs a call':>12}{'x randperm':>12}{'x NumPy':>10}")
    for row in rows():
        ratios = [f"{ratio:.2f}" if ratio else "-" for ratio in (row.against_randperm, row.against_numpy)]
        print(
            f"{row.n:>17,}  {row.what:<28}{row.million_per_second:>12.1f}{row.microseconds:>12.1f}"
            f"{ratios[0]:>12}{ratios[1]:>10}"
        )


if __name__ == "__main__":
    main()
