"""Statistics that tell a good permutation from a bad one, each a z score: a normal number when the orders are random.

All take `orders`, an int64 array of shape (orders, places): each row holds the values at the same consecutive places
of one permutation of 0 .. n-1, whole or in part. Every expectation is that of a uniformly random permutation.

    differences    value at place i + lag minus value at i, modulo n
    curvature      the mixed second difference over 1 and lag, in which a Feistel network's halves would show
    correlation    of values *lag* places apart
    successions    neighbours in place that are neighbours in value: their mean number in a row, and its variance
    places         value against place, in 32 x 32 cells                              (whole rows only)
    values         how often each part of 0 .. n-1 is met                             (parts of rows only)
    triples        the leading bits of three neighbours
    low bits       exclusive or of the low bits of values *lag* places apart          (whole rows only)

Lags of interest are 1 and the sizes of the network's low half, 2**r, over which its first round is transparent.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Orders: TypeAlias = NDArray[np.int64]
Scores: TypeAlias = dict[str, float]
Counts: TypeAlias = NDArray[np.float64]


def chi_square(counts: Counts, expected: Counts, freedom: int, scale: float = 1.0) -> float:
    """Z score of Pearson's statistic times *scale* with *freedom* degrees of freedom.

    The cube root of chi-square is nearly normal (Wilson and Hilferty, PNAS 17, 1931), in the tails too.
    """
    ratio = float((((counts - expected) ** 2) / expected).sum()) * scale / freedom
    return (float(np.cbrt(ratio)) - 1 + 2 / (9 * freedom)) / sqrt(2 / (9 * freedom))


def histograms(values: Orders, size: int) -> tuple[Counts, Counts]:
    """Per row the counts of *values* from 0 to size-1 in as many equal bins as there are samples, or *size* bins.

    The second array holds the probability of each bin.
    """
    width = -(-size // min(size, values.shape[1]))
    bins = -(-size // width)
    rows = len(values)
    cell = values // width + bins * np.arange(rows)[:, None]
    counts = np.bincount(cell.ravel(), minlength=rows * bins).reshape(rows, bins).astype(np.float64)
    probability = np.full(bins, width / size)
    probability[-1] = (size - width * (bins - 1)) / size
    return counts, probability


def frequencies(name: str, values: Orders, size: int, scale: float = 1.0) -> Scores:
    """Are all *values* from 0 to size-1 equally frequent? *scale* is the inverse of their variance, binomial = 1.

    Three scores: over all rows in 32 bins, which sees what is smooth; over all rows in fine bins, which sees a
    lattice; and in fine bins row by row, which sees a row that repeats itself.
    """
    counts, probability = histograms(values, size)
    expected = probability * values.shape[1]
    freedom = len(probability) - 1
    pooled, rows = counts.sum(axis=0), len(counts)
    edges = np.arange(0, len(pooled), -(-len(pooled) // 32))
    coarse, coarse_expected = np.add.reduceat(pooled, edges), np.add.reduceat(expected * rows, edges)
    return {
        f"{name}, coarse": chi_square(coarse, coarse_expected, len(edges) - 1, scale),
        f"{name}, fine": chi_square(pooled, expected * rows, freedom, scale),
        f"{name}, per row": chi_square(counts, np.broadcast_to(expected, counts.shape), freedom * rows, scale),
    }


def differences(orders: Orders, n: int, lag: int) -> Scores:
    """Value at place i + lag minus value at i, modulo n."""
    return frequencies(f"differences {lag}", (orders[:, lag:] - orders[:, :-lag]) % n - 1, n - 1)


def curvature(orders: Orders, n: int, lag: int) -> Scores:
    """The mixed second difference over one place and *lag* places, modulo n."""
    first = orders[:, 1:] - orders[:, :-1]
    return frequencies(f"curvature {lag}", (first[:, lag:] - first[:, :-lag]) % n, n)


def between(these: Orders, those: Orders, n: int) -> Scores:
    """Differences of two sets of orders at the same places, modulo n, and their correlation."""
    scores = frequencies("difference", (these - those) % n, n)
    centre = (n - 1) / 2
    products = (these - centre) * (those - centre) / ((float(n) * n - 1) / 12)
    return {**scores, "correlation": float(products.mean()) * sqrt(products.size)}


def correlation(orders: Orders, n: int, lag: int) -> float:
    """Correlation of values *lag* places apart; a random permutation's is -1 / (n - 1)."""
    x = orders.astype(np.float64) - (n - 1) / 2
    products = x[:, lag:] * x[:, :-lag] / ((float(n) * n - 1) / 12)
    return float(products.mean() + 1 / (n - 1)) * sqrt(products.size)


def successions(orders: Orders, n: int) -> tuple[float, float]:
    """Steps from place to place of at most w in value, w such that a row has about two: mean and variance.

    Their number in a row is nearly Poisson with a known mean m; over k rows the square deviation varies by (m + 2 m²) / k.
    """
    width = max(1, n // orders.shape[1])
    counts = (np.abs(np.diff(orders, axis=1)) <= width).sum(axis=1)
    mean = (orders.shape[1] - 1) * (2 * width * n - width * (width + 1)) / (float(n) * (n - 1))
    rows = len(orders)
    return (
        float(counts.mean() - mean) / sqrt(mean / rows),
        float(((counts - mean) ** 2).mean() - mean) / sqrt((mean + 2 * mean * mean) / rows),
    )


def places(orders: Orders, n: int) -> float:
    """Value against place in 32 x 32 cells, as a table whose margins are fixed."""
    parts = min(32, n)
    part = np.arange(n) * parts // n
    sizes = np.bincount(part).astype(np.float64)
    cell = part[None, :] * parts + part[orders]
    counts = np.bincount(cell.ravel(), minlength=parts * parts).astype(np.float64)
    expected = np.outer(sizes, sizes).ravel() * len(orders) / n
    return chi_square(counts, expected, (parts - 1) ** 2, (n - 1) / n)


def triples(orders: Orders, n: int) -> float:
    """Which eighth of the values three neighbours fall into: 512 cells."""
    width = -(-n // 8)
    sizes = np.array([min(width, n - width * part) for part in range(8)], dtype=np.float64)
    same = np.eye(8)
    first, second, third = sizes[:, None, None], sizes[None, :, None], sizes[None, None, :]
    expected = (
        first * (second - same[:, :, None]) * (third - same[:, None, :] - same[None, :, :]) / n / (n - 1) / (n - 2)
    )
    eighth = orders // width
    last = orders.shape[1] // 3 * 3
    cell = eighth[:, 0:last:3] * 64 + eighth[:, 1:last:3] * 8 + eighth[:, 2:last:3]
    counts = np.bincount(cell.ravel(), minlength=512).astype(np.float64)
    return chi_square(counts, expected.ravel() * cell.size, 511)


def low_bits(orders: Orders, n: int, lag: int) -> float:
    """Exclusive or of the low r bits of values *lag* places apart."""
    size = low_size(n)
    counts = np.bincount(((orders[:, lag:] ^ orders[:, :-lag]) & (size - 1)).ravel(), minlength=size)
    holders = np.bincount(np.arange(n) & (size - 1)).astype(np.float64)
    pairs = np.array([(holders * holders[np.arange(size) ^ mask]).sum() for mask in range(size)])
    pairs[0] -= n
    return chi_square(counts.astype(np.float64), pairs / pairs.sum() * counts.sum(), size - 1)


def low_size(n: int) -> int:
    """2**r, the size of the network's low half."""
    return 1 << ((n - 1).bit_length() // 2)


def battery(orders: Orders, n: int) -> Scores:
    """Every statistic that fits these orders, by name."""
    scores: Scores = {}
    low = low_size(n)
    whole = orders.shape[1] == n
    lags = [lag for lag in (1, 2, low - 1, low, low + 1, 2 * low) if lag < orders.shape[1] // 2]
    for lag in lags:
        scores |= differences(orders, n, lag) | curvature(orders, n, lag)
        scores[f"correlation {lag}"] = correlation(orders, n, lag)
        if whole:
            scores[f"low bits {lag}"] = low_bits(orders, n, lag)
    scores["successions"], scores["succession variance"] = successions(orders, n)
    scores["triples"] = triples(orders, n)
    if whole:
        scores["places"] = places(orders, n)
    else:
        drawn_without_return = (n - 1) / (n - orders.shape[1])
        scores |= frequencies("values", orders, n, drawn_without_return)
    return scores


def worst(scores: Scores) -> tuple[str, float]:
    """Name and value of the score farthest from zero."""
    return max(scores.items(), key=lambda item: abs(item[1]))


def rows_of(order_of: Callable[[int], Orders], count: int) -> Orders:
    """The orders of the keys 0 to count - 1 as rows."""
    return np.stack([order_of(key) for key in range(count)])
