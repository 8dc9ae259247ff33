"""Random numbers of a sample and of a step: pure, for ever the same, and independent of their neighbours'."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resumable import ConfigurationError, sample_rng, sample_seed
from resumable.loading.reseeding import seed_generators
from resumable.orders.splitmix import GAMMA, MIX
from resumable.randomness import seed_of_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "randomness.json").read_text())
MANY = 10_000_000
SIGMAS = 6.0

words = st.integers(0, 2**64 - 1)


# For ever.


def as_index(saved: Any) -> Any:
    """The index that JSON has a list for."""
    return tuple(saved) if isinstance(cast("object", saved), list) else saved


@pytest.mark.parametrize("row", GOLDEN["samples"], ids=lambda row: f"{row['index']}-{row['epoch']}-{row['seed']}")
def test_a_sample_s_seed_never_changes(row: dict[str, Any]) -> None:
    """Nor do the bits of its generator."""
    where = (as_index(row["index"]), row["epoch"], row["seed"])
    assert row["sample_seed"] == sample_seed(*where, draw=row["draw"])
    assert row["first"] == sample_rng(*where, draw=row["draw"]).integers(2**62, size=2).tolist()


@pytest.mark.parametrize("row", GOLDEN["steps"], ids=str)
def test_a_step_s_seed_never_changes(row: dict[str, int]) -> None:
    """At each of its two moments."""
    assert row["word"] == seed_of_step(row["moment"], row["seed"], row["epoch"], row["offset"])


@pytest.mark.parametrize("row", GOLDEN["generators"], ids=lambda row: str(row["word"]))
def test_what_a_seed_makes_of_the_global_generators_never_changes(row: dict[str, int]) -> None:
    """Python's, NumPy's and torch's begin at bits of their own."""
    seed_generators(row["word"])
    drawn = random.getrandbits(60), int(np.random.randint(2**60)), int(torch.randint(2**60, ()).item())  # noqa: NPY002
    assert (row["random"], row["numpy"], row["torch"]) == drawn


# Pure.


def test_no_global_generator_is_read_or_moved() -> None:
    """A dataset may use both without disturbing those who draw from the global ones."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]  # noqa: NPY002
    first = sample_seed(3, 1), sample_rng(3, 1).integers(1000)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]  # noqa: NPY002
    random.seed(2)
    torch.manual_seed(2)
    assert first == (sample_seed(3, 1), sample_rng(3, 1).integers(1000))


@given(index=st.integers(-5, 2**64), epoch=st.integers(0, 2**66), seed=words, draw=st.integers(0, 9))
def test_the_four_parts_of_a_seed(index: int, epoch: int, seed: int, draw: int) -> None:
    """Another index, epoch, seed or draw is another seed: each joins by a bijection."""
    one = sample_seed(index, epoch, seed, draw=draw)
    others = [
        sample_seed(index + 1, epoch, seed, draw=draw),
        sample_seed(index, epoch + 1, seed, draw=draw),
        sample_seed(index, epoch, (seed + 1) % 2**64, draw=draw),
        sample_seed(index, epoch, seed, draw=draw + 1),
    ]
    assert one not in others
    assert len(set(others)) == len(others)
    assert 0 <= one < 2**64


def test_indices_of_every_kind() -> None:
    """NumPy's and torch's whole numbers are those that they hold; strings and sequences are told apart."""
    assert sample_seed(7, 0) == sample_seed(np.int32(7), 0) == sample_seed(torch.tensor(7), 0)
    kinds = ["a", "b", ("a",), ("a", "b"), ("ab",), ("a", ("b",)), (1, 2), (12,), "1", ("1", 2), (), ""]
    assert len(kinds) == len({sample_seed(index, 0) for index in kinds})
    for index in ((np.int64(1), 2), [1, 2], np.array([1, 2]), torch.tensor([1, 2])):
        assert sample_seed((1, 2), 0) == sample_seed(index, 0)
    assert sample_seed(((1, 2), (3, 4)), 0) == sample_seed(torch.tensor([[1, 2], [3, 4]]), 0)


@pytest.mark.parametrize("index", [1.5, None, [1.5], {"a": 1}, (1, 2.0), torch.tensor([0.5]), np.float64(1), b"a"])
def test_an_index_without_a_number(index: Any) -> None:
    """What it is, and what would do."""
    with pytest.raises(ConfigurationError, match="Random numbers cannot follow from this index"):
        sample_seed(index, 0)


@pytest.mark.parametrize(
    "bad",
    [{"epoch": -1}, {"epoch": 0.5}, {"epoch": 0, "seed": -1}, {"epoch": 0, "seed": 2**64}, {"epoch": 0, "draw": -1}],
)
def test_a_number_out_of_range(bad: dict[str, Any]) -> None:
    """The argument is named."""
    with pytest.raises(ConfigurationError, match=next(reversed(bad))):
        sample_rng(0, **bad)


# Random.


def mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 of many words at once."""
    word = state + np.uint64(GAMMA)
    for shift, factor in MIX:
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    return word ^ (word >> np.uint64(31))


def seeds(count: int, along: str) -> NDArray[np.uint64]:
    """The seeds of *count* neighbours along an index, an epoch, a seed or a draw."""
    numbers = np.arange(count, dtype=np.uint64)
    zero = np.uint64(0)
    word = mixed(np.array([0x73616D706C657321], dtype=np.uint64))
    for name in ("seed", "epoch", "index", "draw"):
        word = mixed(word ^ (numbers if name == along else zero))
    return word


ALONG = ("index", "epoch", "seed", "draw")


@pytest.mark.parametrize("along", ALONG)
def test_the_words_under_test_are_the_seeds(along: str) -> None:
    """Or the statistics below would be those of something else."""
    places: dict[str, Any] = {"index": 0, "epoch": 0, "seed": 0, "draw": 0}
    drawn = [sample_seed(**places | {along: number}) for number in range(50)]
    assert drawn == seeds(50, along).tolist()


@pytest.mark.parametrize("along", ALONG)
def test_neighbours_share_no_bits(along: str) -> None:
    """Each bit is set in half of them, and changes from each to the next, and to the 64th after it, in half of all."""
    word = seeds(1_000_000, along)
    for bits in (word, word[1:] ^ word[:-1], word[64:] ^ word[:-64], word[1:] ^ np.roll(word[:-1], 7)):
        for bit in range(64):
            share = float((bits >> np.uint64(bit) & np.uint64(1)).mean())
            assert abs(share - 0.5) * 2 * len(bits) ** 0.5 < SIGMAS, (along, bit, share)


@pytest.mark.parametrize("along", ["index", "epoch"])
def test_as_many_collide_as_at_random(along: str) -> None:
    """Ten million seeds are all different, and 40 of their bits, high or low, meet as often as a birthday bound says."""
    word = np.sort(seeds(MANY, along))
    assert not (word[1:] == word[:-1]).any()
    expected = MANY**2 / 2**41
    for part in (word >> np.uint64(24), np.sort(word & np.uint64(2**40 - 1))):
        met = int((part[1:] == part[:-1]).sum())
        assert abs(met - expected) < SIGMAS * expected**0.5, (met, expected)


@pytest.mark.parametrize("along", ["index", "epoch", "seed"])
def test_generators_of_neighbours_are_uncorrelated(along: str) -> None:
    """In what they draw: their first numbers, and each one's first against the next one's second."""
    places: dict[str, Any] = {"index": 5, "epoch": 2, "seed": 3}
    drawn = np.array([sample_rng(**places | {along: number}).random(2) for number in range(20_000)])
    first, second = drawn[:, 0] - 0.5, drawn[:, 1] - 0.5
    for one, other in ((first[1:], first[:-1]), (first[1:], second[:-1]), (first, second)):
        score = float((one * other).sum()) * 12 / len(one) ** 0.5
        assert abs(score) < SIGMAS, (along, score)


def test_the_libraries_draw_apart() -> None:
    """Python's and NumPy's generators are the same one, which seeded alike draws alike."""
    rows: list[tuple[float, float, float]] = []
    for word in range(4_000):
        seed_generators(word)
        rows.append((random.random(), np.random.random(), torch.rand((), dtype=torch.float64).item()))  # noqa: NPY002
    drawn = np.array(rows) - 0.5
    for one, other in ((0, 1), (0, 2), (1, 2)):
        score = float((drawn[:, one] * drawn[:, other]).sum()) * 12 / len(drawn) ** 0.5
        assert abs(score) < SIGMAS, (one, other, score)
    assert len(drawn) == len(np.unique(drawn[:, 0]))
