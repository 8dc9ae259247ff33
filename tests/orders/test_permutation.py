"""The permutation is what its docstring says, and nothing tells it from a random one.

A score is a z score. The bound of 5 is passed by a random order once in two million scores; the orders are fixed for
ever, so a test that passes goes on passing. NumPy's permutation runs under the same statistics as a control, and
permutations with a known fault must fail them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import permutations
from math import factorial, gcd
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resumable.orders.network import BLOCK, EIGHT_ROUNDS_LENGTHS, Network
from resumable.orders.permutation import MAX_LENGTH, SORTED_LENGTHS, permuted, permuted_at, stream_key
from tests.support.permutation_battery import Counts, Orders, battery, chi_square, rows_of, worst

BOUND = 5.0
WORD = (1 << 64) - 1


# A second writing of the rule, with Python's integers, one place at a time.


def splitmix(state: int) -> int:
    """Output of splitmix64 for a state."""
    z = (state + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & WORD
    return z ^ z >> 31


def reference_key(length: int, seed: int, epoch: int) -> int:
    """The stream's state: each part enters through a bijection, the epoch in words of 64 bits."""
    words = [epoch & WORD]
    while epoch := epoch >> 64:
        words.append(epoch & WORD)
    key = splitmix(splitmix(length) ^ seed)
    for word in words:
        key = splitmix(key ^ word)
    return key


class Reference:
    """The network as the docstring of `resumable.orders.network` states it, forwards and backwards."""

    def __init__(self, length: int, seed: int, epoch: int) -> None:
        key = reference_key(length, seed, epoch)
        self.length = length
        self.r = (length - 1).bit_length() // 2
        self.a = -(-length // 2**self.r)
        rounds = 8 if length <= 2**20 else 6
        self.keys = [splitmix((key + i * 0x9E3779B97F4A7C15) & WORD) >> 32 for i in range(rounds)]

    def step(self, i: int, high: int, low: int, sign: int) -> tuple[int, int]:
        """Round *i*, or its inverse if *sign* is -1."""
        h = ((high if i % 2 else low) ^ self.keys[i]) * 0x9E3779B1 % 2**32
        h = (h ^ h >> 15) * 0x85EBCA77 % 2**32
        return (high, low ^ h >> (32 - self.r)) if i % 2 else ((high + sign * (h * self.a >> 32)) % self.a, low)

    def walk(self, x: int, sign: int) -> int:
        """The value at place *x*; the place of value *x* if *sign* is -1."""
        while True:
            high, low = divmod(x, 2**self.r)
            for i in range(len(self.keys))[::sign]:
                high, low = self.step(i, high, low, sign)
            x = high * 2**self.r + low
            if x < self.length:
                return x


@given(
    length=st.integers(SORTED_LENGTHS + 1, 2**21) | st.integers(SORTED_LENGTHS + 1, MAX_LENGTH),
    seed=st.integers(0, WORD),
    epoch=st.integers(0, 2**8) | st.integers(0, 2**200),
    fraction=st.floats(0, 1),
)
@example(length=SORTED_LENGTHS + 1, seed=0, epoch=0, fraction=0.0)
@example(length=2**20, seed=0, epoch=0, fraction=0.5)
@example(length=2**20 + 1, seed=0, epoch=0, fraction=0.5)
@example(length=MAX_LENGTH, seed=WORD, epoch=WORD, fraction=1.0)
@example(length=MAX_LENGTH, seed=0, epoch=0, fraction=0.0)
@example(length=2**59 + 1, seed=0, epoch=0, fraction=0.5)
@settings(max_examples=150)
def test_the_network_is_its_rule_and_can_be_inverted(length: int, seed: int, epoch: int, fraction: float) -> None:
    """Every value is the rule's, written again in Python's integers, whose inverse leads back to the place."""
    start = min(int(fraction * length), length - 8)
    actual = permuted(length, seed, epoch, start, start + 8).tolist()

    reference = Reference(length, seed, epoch)
    assert [reference.walk(place, 1) for place in range(start, start + 8)] == actual
    assert list(range(start, start + 8)) == [reference.walk(value, -1) for value in actual]


@pytest.mark.parametrize(("length", "seed"), [(2049, 0), (2049, 57), (4097, 12), (4100, 1), (10_000, 14)])
def test_every_walk_of_a_whole_order_ends_where_the_rule_says(length: int, seed: int) -> None:
    """The walks of a block are looked up together; seeds 57, 12 and 14 have a cycle that never falls below the length."""
    reference = Reference(length, seed, 0)
    assert [reference.walk(place, 1) for place in range(length)] == permuted(length, seed, 0, 0, length).tolist()


def test_a_call_that_comes_between_changes_nothing() -> None:
    """A signal handler may draw from an order while a block is half done; each call works in arrays of its own."""
    expected = permuted(10**6, 1, 0, 0, 2 * BLOCK).tolist()
    drawn: list[int] = []

    def handler(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and len(drawn) < 20 and frame.f_code.co_name == "_send_through":
            sys.settrace(None)
            drawn.extend(permuted(10**6, 2, len(drawn), 5, 6).tolist())
            sys.settrace(handler)
        return handler

    before = sys.gettrace()
    sys.settrace(handler)
    try:
        actual = permuted(10**6, 1, 0, 0, 2 * BLOCK)
    finally:
        sys.settrace(before)
    assert (20, expected) == (len(drawn), actual.tolist())


@pytest.mark.parametrize("length", [1, 2, 3, 64, 65, 1000, SORTED_LENGTHS])
def test_short_orders_sort_the_hashes_of_their_indices(length: int) -> None:
    """The order sorts the indices by splitmix64's stream, ties of its high bits by the index."""
    for seed, epoch in [(0, 0), (1, 0), (WORD, 2**64 + 5)]:
        key = reference_key(length, seed, epoch)
        bits = (length - 1).bit_length()
        hashes = [splitmix((key + i * 0x9E3779B97F4A7C15) & WORD) >> bits for i in range(length)]
        expected = sorted(range(length), key=hashes.__getitem__)
        assert expected == permuted(length, seed, epoch, 0, length).tolist()


@given(
    length=st.integers(1, MAX_LENGTH),
    seeds=st.tuples(st.integers(0, WORD), st.integers(0, WORD)).filter(lambda pair: pair[0] != pair[1]),
)
def test_seeds_and_epochs_never_share_a_key(length: int, seeds: tuple[int, int]) -> None:
    """Two seeds, or two epochs, give two keys; so do seed and epoch exchanged, and further words of an epoch."""
    one, other = seeds
    assert stream_key(length, one, 7) != stream_key(length, other, 7)
    assert stream_key(length, 7, one) != stream_key(length, 7, other)
    assert stream_key(length, one, other) != stream_key(length, other, one)
    assert stream_key(length, one, other) != stream_key(length, one, other + 2**64)


# Short orders: a true shuffle.


def short_orders(n: int, count: int) -> Orders:
    """*count* whole orders of neighbouring seeds and epochs."""
    return rows_of(lambda key: permuted(n, key // 2, key % 2, 0, n), count)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_order_of_few_samples_is_equally_frequent(n: int) -> None:
    """All n! orders come equally often."""
    code = {order: number for number, order in enumerate(permutations(range(n)))}
    orders = short_orders(n, 12_000)
    counts = np.bincount([code[tuple(order)] for order in orders.tolist()], minlength=factorial(n)).astype(np.float64)
    score = chi_square(counts, np.full(factorial(n), len(orders) / factorial(n)), factorial(n) - 1)
    assert abs(score) < BOUND, score


@pytest.mark.parametrize("n", [6, 7, 8, 10, 13, 20, 30])
def test_every_place_takes_every_value_equally_often(n: int) -> None:
    """Value against place is a table whose margins are fixed: chi-square with (n-1)² degrees of freedom."""
    orders = short_orders(n, 8_000)
    counts: Counts = np.bincount((np.arange(n) * n + orders).ravel(), minlength=n * n).astype(np.float64)
    score = chi_square(counts, np.full(n * n, len(orders) / n), (n - 1) ** 2, (n - 1) / n)
    assert abs(score) < BOUND, score


# Long orders.

LAST_EIGHT, FIRST_SIX = EIGHT_ROUNDS_LENGTHS, EIGHT_ROUNDS_LENGTHS + 1
WHOLE = [
    *[(SORTED_LENGTHS, 250), (SORTED_LENGTHS + 1, 250), (4096, 120), (4097, 120), (10_000, 60), (20_000, 30)],
    *[(32_768, 20), (50_000, 12), (65_537, 10), (262_144, 3), (LAST_EIGHT, 1), (FIRST_SIX, 1)],
]
PART, ROWS = 1 << 16, 4
PARTS = [10**7, 10**9, 10**12, 2**60 - 1]


def random_part(n: int, key: int) -> Orders:
    """PART values of a random permutation; above 10**7 drawn with return, which no statistic here can tell."""
    generator = np.random.default_rng(key)
    return generator.choice(n, PART, replace=False) if n <= 10**6 else generator.integers(0, n, PART)


@pytest.mark.parametrize(("n", "rows"), WHOLE)
def test_whole_orders_cannot_be_told_from_random_ones(n: int, rows: int) -> None:
    """No statistic of the battery tells whole orders of neighbouring seeds from random ones."""
    orders = rows_of(lambda seed: permuted(n, seed, seed % 3, 0, n), rows)
    name, score = worst(battery(orders, n))
    assert abs(score) < BOUND, (name, score)


@pytest.mark.parametrize("n", [2049, 4097, 65_537])
def test_inverted_orders_cannot_be_told_from_random_ones(n: int) -> None:
    """The places of the values 0, 1, 2, ... are as random as the values of the places."""
    orders = rows_of(lambda epoch: permuted(n, 5, epoch, 0, n), 500_000 // n)
    name, score = worst(battery(np.argsort(orders, axis=1), n))
    assert abs(score) < BOUND, (name, score)


@pytest.mark.parametrize(("n", "start"), [(n, start) for n in PARTS for start in (0, n // 2)])
def test_parts_of_huge_orders_cannot_be_told_from_random_ones(n: int, start: int) -> None:
    """No statistic of the battery tells neighbouring epochs' blocks at the start or in the middle from random ones."""
    name, score = worst(battery(rows_of(lambda epoch: permuted(n, 1, epoch, start, start + PART), ROWS), n))
    assert abs(score) < BOUND, (name, score)


@pytest.mark.parametrize(("n", "rows"), [(2048, 250), (10_000, 60), (65_537, 10), (1_000_000, 1)])
def test_numpy_passes_the_battery_as_a_control(n: int, rows: int) -> None:
    """The battery's expectations are those of a random permutation: NumPy's passes them, whole."""
    orders = rows_of(lambda key: np.random.default_rng(key).permutation(n), rows)
    name, score = worst(battery(orders, n))
    assert abs(score) < BOUND, (name, score)


@pytest.mark.parametrize("n", PARTS)
def test_numpy_passes_the_battery_in_parts_as_a_control(n: int) -> None:
    """The same for parts of an order."""
    name, score = worst(battery(rows_of(lambda key: random_part(n, key), ROWS), n))
    assert abs(score) < BOUND, (name, score)


def network(n: int, rounds: int) -> Callable[[int], Orders]:
    """Whole orders of a network with fewer rounds."""
    return lambda key: Network(n, stream_key(n, key, 0), rounds).values(0, n)


def affine(n: int) -> Callable[[int], Orders]:
    """Whole orders a·i + b mod n, a prime to n: a permutation that many programs take for a shuffle."""

    def order(key: int) -> Orders:
        generator = np.random.default_rng(key)
        factor = next(a for a in iter(lambda: int(generator.integers(1, n)), None) if gcd(a, n) == 1)
        return (np.arange(n) * factor + int(generator.integers(n))) % n

    return order


def window(n: int, width: int) -> Callable[[int], Orders]:
    """Whole orders shuffled within windows of *width* places only, as a shuffle buffer does."""
    return lambda key: np.argsort(np.arange(n) // width + np.random.default_rng(key).random(n), kind="stable")


BAD: dict[str, tuple[int, int, Callable[[int], Orders]]] = {
    "three rounds": (1_000_000, 1, network(1_000_000, 3)),
    "four rounds, just above the sort": (2049, 50, network(2049, 4)),
    "four rounds at 10,000": (10_000, 10, network(10_000, 4)),
    "four rounds at 65,537": (65_537, 6, network(65_537, 4)),
    "five rounds at 4,096": (4096, 1200, network(4096, 5)),
    "affine": (10_007, 10, affine(10_007)),
    "identity": (10_000, 10, lambda key: np.arange(10_000)),
    "rotated": (10_000, 10, lambda key: np.roll(np.arange(10_000), 37 * key)),
    "one order for all": (10_000, 100, lambda key: np.random.default_rng(0).permutation(10_000)),
    "a window of 1,000": (10_000, 10, window(10_000, 1000)),
}


@pytest.mark.parametrize("name", BAD)
def test_the_battery_rejects_bad_permutations(name: str) -> None:
    """A battery that lets these through would prove nothing."""
    n, rows, order_of = BAD[name]
    orders = rows_of(order_of, rows)
    assert np.array_equal(np.sort(orders[-1]), np.arange(n))
    assert abs(worst(battery(orders, n))[1]) > BOUND


@given(
    st.data(),
    st.sampled_from([1, 2, 3, 2048, 2049, 65_537, 10**6, 2**20 + 1, 10**12, MAX_LENGTH]),
    st.integers(0, WORD),
)
def test_any_places_have_the_values_of_the_slices(data: st.DataObject, length: int, seed: int) -> None:
    """In any order and as often as they are asked for, places have the values that a slice has there."""
    places = data.draw(st.lists(st.integers(0, length - 1), max_size=40))
    expected = [permuted(length, seed, 5, place, place + 1).tolist()[0] for place in places]
    given_places = np.array(places, dtype=np.int64)
    found = permuted_at(length, seed, 5, given_places)
    assert (expected, np.dtype(np.int64), places) == (found.tolist(), found.dtype, given_places.tolist())


@pytest.mark.parametrize("length", [2000, 100_000, 2**20 + 3])
def test_many_places_at_once(length: int) -> None:
    """More places than go through the rounds together, and those that walk the cycle, are those of the slice."""
    whole = permuted(length, 3, 0, 0, length)
    places = np.arange(length, dtype=np.int64)[::-7]
    assert whole[places].tolist() == permuted_at(length, 3, 0, places).tolist()
