"""Orders are pure, complete and seekable, and say what is wrong with their arguments."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable.errors import ConfigurationError
from resumable.orders.network import BLOCK, EIGHT_ROUNDS_LENGTHS
from resumable.orders.orders import Sequential, Shuffled
from resumable.orders.permutation import MAX_LENGTH, SORTED_LENGTHS
from resumable.protocols import Order
from tests.support.permutation_battery import between, rows_of, worst

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "orders.json").read_text())
KINDS: dict[str, Callable[[int, int], Order]] = {"sequential": lambda n, seed: Sequential(n), "shuffled": Shuffled}

lengths = st.integers(1, 3000) | st.integers(1, 1 << 20) | st.integers(1, MAX_LENGTH)
seeds = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 100) | st.integers(0, 2**80)


# For ever.


def label(entry: dict[str, Any]) -> str:
    """Name of a golden entry."""
    return f"{entry['kind']}-{entry['n']}-{entry['seed']}-{entry['epoch']}"


@pytest.mark.parametrize("entry", GOLDEN["indices"], ids=label)
def test_orders_hold_for_ever(entry: dict[str, Any]) -> None:
    """The golden indices are what saved runs depend on. They never change: a new order is a new kind."""
    start, expected = entry["start"], entry["indices"]
    order = KINDS[entry["kind"]](entry["n"], entry["seed"])
    assert expected == order.indices(entry["epoch"], start, start + len(expected)).tolist()


@pytest.mark.parametrize("entry", GOLDEN["whole"], ids=label)
def test_whole_orders_hold_for_ever(entry: dict[str, Any]) -> None:
    """The SHA-256 of a whole order, as little-endian int64, never changes."""
    order = KINDS[entry["kind"]](entry["n"], entry["seed"])
    whole = order.indices(entry["epoch"], 0, entry["n"]).astype("<i8").tobytes()
    assert entry["sha256"] == hashlib.sha256(whole).hexdigest()


# Every index once.

AROUND_POWERS = sorted({n for k in range(10, 21) for n in (2**k - 1, 2**k, 2**k + 1)})


def test_short_orders_are_bijections() -> None:
    """Every n from 1 to 600 gives each index once, in several epochs and seeds."""
    for n in range(1, 601):
        for seed, epoch in [(0, 0), (0, 1), (3, 0)]:
            assert list(range(n)) == sorted(Shuffled(n, seed).indices(epoch, 0, n).tolist()), (n, seed, epoch)


@pytest.mark.parametrize("n", [*AROUND_POWERS, 10_000, 1_000_000])
def test_orders_around_powers_of_two_are_bijections(n: int) -> None:
    """Powers of two and their neighbours are where a cycle walk goes wrong; both limits of the method are among them."""
    assert {SORTED_LENGTHS, SORTED_LENGTHS + 1, EIGHT_ROUNDS_LENGTHS, EIGHT_ROUNDS_LENGTHS + 1} <= set(AROUND_POWERS)
    for epoch in range(2):
        counts = np.bincount(Shuffled(n, seed=1).indices(epoch, 0, n), minlength=n)
        assert n == len(counts)
        assert np.all(counts == 1)


@pytest.mark.parametrize("n", [3 << 30, 10**12, 2**59 - 1, 2**59, 2**59 + 1, 2**60 - 1, 2**60])
def test_long_orders_repeat_nothing_and_stay_in_range(n: int) -> None:
    """Blocks at the start, in the middle and at the end share no index and hold none outside the dataset."""
    order = Shuffled(n, seed=2)
    size = 50_000
    values = np.concatenate([order.indices(1, at, at + size) for at in (0, n // 3, n // 2, n - size)])
    assert 4 * size == len(np.unique(values))
    assert values.min() >= 0
    assert values.max() < n


# Pure and seekable.


@given(data=st.data(), n=lengths, seed=seeds, epoch=epochs, kind=st.sampled_from(sorted(KINDS)))
def test_slices_join_without_a_seam(data: st.DataObject, n: int, seed: int, epoch: int, kind: str) -> None:
    """indices(a, c) is indices(a, b) followed by indices(b, c), wherever the cut lies."""
    order = KINDS[kind](n, seed)
    a = data.draw(st.integers(0, n))
    c = data.draw(st.integers(a, min(n, a + 2 * BLOCK + 100)))
    b = data.draw(st.integers(a, c))
    joined = np.concatenate([order.indices(epoch, a, b), order.indices(epoch, b, c)])
    assert joined.tolist() == order.indices(epoch, a, c).tolist()


@given(n=lengths, seed=seeds, epoch=epochs)
def test_indices_are_a_fresh_int64_array(n: int, seed: int, epoch: int) -> None:
    """The array is the caller's: writing into it changes no later answer."""
    for order in (Sequential(n), Shuffled(n, seed)):
        stop = min(n, 50)
        first = order.indices(epoch, 0, stop)
        expected = first.tolist()
        assert (np.dtype(np.int64), (stop,)) == (first.dtype, first.shape)
        first[:] = -1
        assert expected == order.indices(epoch, 0, stop).tolist()
        assert order.indices(epoch, n, n).shape == (0,)


def test_random_streams_are_neither_read_nor_moved() -> None:
    """The orders owe nothing to NumPy's global random state, and leave it as it was."""
    before = pickle.dumps(np.random.get_state())  # noqa: NPY002 - the global state is the point
    Shuffled(100).indices(0, 0, 100)
    Shuffled(10**6).indices(0, 0, 100)
    assert before == pickle.dumps(np.random.get_state())  # noqa: NPY002 - as above


def test_threads_do_not_disturb_each_other() -> None:
    """Calls from several threads at once give what calls one after another give."""
    cases = [(n, seed) for n in (1500, 5000, 10**6, 10**12) for seed in range(10)]

    def block(case: tuple[int, int]) -> list[int]:
        n, seed = case
        values: list[int] = Shuffled(n, seed).indices(1, 100, 1400).tolist()
        return values

    with ThreadPoolExecutor(8) as pool:
        actual = list(pool.map(block, cases * 5))
    assert [block(case) for case in cases] * 5 == actual


@pytest.mark.parametrize("n", [2048, 10**6, 10**12])
def test_a_block_takes_memory_for_the_block_alone(n: int) -> None:
    """A block from the middle of an epoch needs under 1 MB, whatever the length."""
    tracemalloc.start()
    try:
        Shuffled(n, seed=n).indices(3, n // 2, n // 2 + 1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_importing_orders_does_not_import_torch() -> None:
    """The pure layer works without torch."""
    script = "import sys, resumable.orders.orders; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


# One order tells nothing about another.

PAIRS: dict[str, Callable[[int], tuple[int, int]]] = {
    "neighbouring seeds": lambda row: (row, 0),
    "neighbouring epochs": lambda row: (0, row),
    "seeds that differ in high bits": lambda row: (row << 40, 1),
    "epochs of more than 64 bits": lambda row: (1, row << 64),
    "seed up, epoch down": lambda row: (row, 100 - row),
    "seed and epoch exchanged": lambda row: (row // 2 + 1, 0) if row % 2 else (0, row // 2 + 1),
}


@pytest.mark.parametrize("n", [2000, 10_000, 10**9])
@pytest.mark.parametrize("name", PAIRS)
def test_orders_of_other_seeds_and_epochs_are_unrelated(name: str, n: int) -> None:
    """The differences of two such orders, place by place, are those of independent random orders (|z| < 5)."""
    places = min(n, 10_000)

    def order(row: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        seed, epoch = PAIRS[name](row)
        return Shuffled(n, seed).indices(epoch, 0, places)

    orders = rows_of(order, 60)
    worst_name, score = worst(between(orders[:-1], orders[1:], n))
    assert abs(score) < 5, (worst_name, score)


@pytest.mark.parametrize("n", [2000, 10_000, 10**9])
def test_orders_of_neighbouring_lengths_are_unrelated(n: int) -> None:
    """The order of n + 1 samples is not that of n with one more: no dataset inherits another's."""
    here = rows_of(lambda seed: Shuffled(n, seed).indices(0, 0, 2000), 60)
    there = rows_of(lambda seed: Shuffled(n + 1, seed).indices(0, 0, 2000), 60)
    worst_name, score = worst(between(here, there % n, n))
    assert abs(score) < 5, (worst_name, score)


def test_a_correlated_pair_is_noticed() -> None:
    """The comparison sees what it should: a rotated copy, and equal orders."""
    orders = rows_of(lambda seed: Shuffled(2000, seed).indices(0, 0, 2000), 10)
    assert abs(worst(between(orders, orders, 2000))[1]) > 5
    assert abs(worst(between(orders, (orders + 17) % 2000, 2000))[1]) > 5


# Values.


def test_orders_are_equal_by_kind_length_and_seed() -> None:
    """Two orders that give the same indices compare equal, and hash so."""
    assert Shuffled(10) == Shuffled(10, seed=0)
    assert len({Shuffled(10), Shuffled(10, 1), Shuffled(11), Sequential(10), Sequential(10)}) == 4


@pytest.mark.parametrize(("order", "kind"), [(Shuffled(10, 3), "shuffled"), (Sequential(10), "sequential")])
def test_an_order_is_a_frozen_value(order: Sequential | Shuffled, kind: str) -> None:
    """It tells its kind and length, cannot be changed, has no dict, and survives pickling."""
    assert (kind, 10, 10) == (order.kind, order.n, len(order))
    assert order == pickle.loads(pickle.dumps(order))
    assert not hasattr(order, "__dict__")
    with pytest.raises(FrozenInstanceError):
        setattr(order, "n", 11)  # noqa: B010 - a type checker refuses the plain form, as it should


def test_the_longest_order_has_a_length() -> None:
    """len() reaches 2**60."""
    assert [2**60, 2**60] == [len(order) for order in (Sequential(2**60), Shuffled(2**60))]


def test_numpy_integers_are_numbers() -> None:
    """Arguments may be NumPy's integers; what is kept are ints, so that equal orders have equal states."""
    n, seed, epoch, start, stop = (np.int32(10**6), np.uint64(2**64 - 1), np.int8(3), np.uint8(7), np.int64(20))
    order = Shuffled(cast("int", n), cast("int", seed))
    assert (int, int) == (type(order.n), type(order.seed))
    expected = Shuffled(10**6, 2**64 - 1).indices(3, 7, 20).tolist()
    assert expected == order.indices(cast("int", epoch), cast("int", start), cast("int", stop)).tolist()


# Errors.


@pytest.mark.parametrize("make", [Sequential, Shuffled])
@pytest.mark.parametrize(
    ("n", "message"),
    [
        (0, "An order needs at least one sample.\n  n: 0\nPass a dataset that is not empty."),
        (-3, "An order needs at least one sample.\n  n: -3\nPass a dataset that is not empty."),
        (
            2**60 + 1,
            f"An order this long is not supported.\n  n:       {2**60 + 1}\n  largest: {2**60}\nPass n <= 2**60.",
        ),
        (True, "n must be a whole number.\n  n:    True\n  type: 'bool'\nPass n as an int."),
        (10.0, "n must be a whole number.\n  n:    10.0\n  type: 'float'\nPass n as an int."),
        ("10", "n must be a whole number.\n  n:    '10'\n  type: 'str'\nPass n as an int."),
        (None, "n must be a whole number.\n  n:    None\n  type: 'NoneType'\nPass n as an int."),
    ],
    ids=["zero", "negative", "too long", "bool", "float", "text", "None"],
)
def test_a_length_that_no_dataset_has_is_refused(make: Callable[[Any], object], n: object, message: str) -> None:
    """The message names the length, the limit and what to pass."""
    with pytest.raises(ConfigurationError) as caught:
        make(n)
    assert message == str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_64_bits_is_refused(seed: int) -> None:
    """Seeds are taken whole or not at all."""
    with pytest.raises(ConfigurationError) as caught:
        Shuffled(10, seed)
    assert str(caught.value) == (
        f"A seed must fit into 64 bits.\n  seed:     {seed}\n  smallest: 0\n"
        f"  largest:  {2**64 - 1}\nPass a seed in this range, such as seed % 2**64."
    )


@pytest.mark.parametrize("seed", [1.0, True, np.bool_(True), np.float32(1), None])
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    """A bool or a float is a mistake, NumPy's too."""
    with pytest.raises(ConfigurationError, match=r"^seed must be a whole number\.\n"):
        Shuffled(10, seed)


@pytest.mark.parametrize("order", [Sequential(10), Shuffled(10), Shuffled(10**6)], ids=repr)
def test_places_outside_the_epoch_are_refused(order: Order) -> None:
    """Nothing is clipped, wrapped or counted from the end."""
    n = len(order)
    for start, stop in [(-1, 3), (3, 2), (0, n + 1), (n + 1, n + 1)]:
        with pytest.raises(ConfigurationError) as caught:
            order.indices(0, start, stop)
        assert str(caught.value) == (
            f"These places are not in the epoch.\n  start: {start}\n  stop:  {stop}\n  n:     {n}\n"
            "Pass 0 <= start <= stop <= n; what follows an epoch's end is the start of the next."
        )
    with pytest.raises(ConfigurationError) as caught:
        order.indices(-1, 0, 1)
    assert str(caught.value) == "Epochs are counted from 0.\n  epoch: -1\nPass epoch >= 0."


@pytest.mark.parametrize("order", [Sequential(10), Shuffled(10)], ids=repr)
@pytest.mark.parametrize(("at", "name"), [(0, "epoch"), (1, "start"), (2, "stop")])
@pytest.mark.parametrize("value", [1.0, True, np.float64(1)], ids=repr)
def test_places_that_are_no_whole_numbers_are_refused(order: Order, at: int, name: str, value: Any) -> None:
    """A float from a division is not rounded in silence."""
    arguments: list[Any] = [0, 1, 2]
    arguments[at] = value
    with pytest.raises(ConfigurationError, match=rf"^{name} must be a whole number\.\n"):
        order.indices(*arguments)
