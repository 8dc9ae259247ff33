"""The first batch after a resume: milliseconds and memory, in fresh processes and in a warm one.

"ours" is what resuming adds to torch's own DataLoader over the same samples in order, whose first calls were made
before. The plain DataLoader shuffles; above 1e7 samples that takes gigabytes, so it has no figures there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import median

from .figures import Figure, Results, fresh_process, interleaved
from .first_batch import milliseconds

__all__ = ["figures"]

PLACES = ((10**4, 0), (10**7, 10**6), (10**12, 10**11))
LONGEST_PLAIN = 10**7
PROCESSES, REPETITIONS, PLAIN_REPETITIONS = 5, 300, 20


def figures() -> list[Figure]:
    """Measure everything; most of the time goes into importing torch."""
    found: list[Figure] = []
    for n, consumed in PLACES:
        where = f"n = {n:.0e}, {consumed:.0e} consumed".replace("e+0", "e").replace("e+", "e").replace("0e0", "0")
        found += _fresh(n, consumed, where)
        found += _warm(n, consumed, where)
    return found


def _fresh(n: int, consumed: int, where: str) -> list[Figure]:
    loaders = ["resumable", "ours", *(["plain, shuffled"] if n <= LONGEST_PLAIN else [])]
    runs: dict[str, list[dict[str, float]]] = {loader: [] for loader in ("plain, shuffled", *loaders)}
    for _ in range(PROCESSES):
        for loader in loaders:
            runs[loader].append(fresh_process("-m", "tests.benchmarks.first_batch", loader, str(n), str(consumed)))

    def of(loader: str, measure: str) -> Sequence[float]:
        return [run[measure] for run in runs[loader]]

    resumed, plain = partial(of, "resumable"), partial(of, "plain, shuffled")
    return [
        Figure(f"{where}: fresh process", "ms", resumed("processor"), plain("processor"), at_most=3),
        Figure("  by the clock", "ms", resumed("clock"), plain("clock")),
        Figure("  of it ours", "ms", of("ours", "processor"), at_most=0.2),
        Figure("  memory", "MB", resumed("memory"), plain("memory"), at_most=4),
    ]


def _warm(n: int, consumed: int, where: str) -> list[Figure]:
    loaders = {loader: partial(milliseconds, loader, n, consumed) for loader in ("plain", "resumable")}
    results: Results = interleaved(loaders, REPETITIONS)
    shuffled = partial(milliseconds, "plain, shuffled", n, consumed)
    plain = interleaved({"plain": shuffled}, PLAIN_REPETITIONS if n < LONGEST_PLAIN else 1 if n == LONGEST_PLAIN else 0)
    ours = [resumed - median(results["plain"]) for resumed in results["resumable"]]
    return [
        Figure(f"{where}: warm", "ms", results["resumable"], plain["plain"], at_most=3),
        Figure("  of it ours", "ms", ours, at_most=0.2),
    ]
