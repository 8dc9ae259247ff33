"""What a decorated class saves beside its position, and copies of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resumable import StateError, resumption_of
from resumable.saved.snapshot import KEYS
from tests.support.datamodules import SIZE, Child, Module, N, Plain, expected, take, trained
from tests.support.reference import COPIES, Loader

# What the class saves itself.


class Keeping(Plain):
    """A class with a state of its own, that is strict about it."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {"mine": 1, "nested": {"format": 2}}

    def state_dict(self) -> dict[str, Any]:
        """What it keeps."""
        return self.kept

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """All of it, and nothing else."""
        self.kept = state_dict


def test_a_state_of_ones_own_comes_back_as_it_was() -> None:
    """The class gets what it saved, and none of the position's keys."""
    data, fresh = Keeping(), Keeping()
    trained(data, 3)
    saved = data.state_dict()
    assert {*KEYS, "mine", "nested"} == set(saved)
    fresh.kept = {}
    fresh.load_state_dict(saved)
    assert ({"mine": 1, "nested": {"format": 2}}, 6) == (fresh.kept, resumption_of(fresh).consumed_samples)
    assert {"mine": 1, "nested": {"format": 2}} == data.kept


OWN = st.dictionaries(st.sampled_from([*KEYS, "mine"]), st.integers() | st.text(max_size=3) | st.lists(st.integers()))


@given(kept=OWN, steps=st.integers(0, 4))
def test_keys_that_the_position_has_too(kept: dict[str, Any], steps: int) -> None:
    """The class finds what it saved under any key, and nothing else; its count is the position's."""
    data, fresh = Keeping(), Keeping()
    data.kept = kept
    trained(data, steps)
    saved = data.state_dict()
    fresh.load_state_dict(saved)
    assert resumption_of(data).state_dict() == resumption_of(fresh).state_dict()
    counted = {"consumed_samples": 2 * steps} if "consumed_samples" in kept or not kept else {}
    if "format" not in kept:  # the order of the keys says whose the count is
        assert {**kept, **counted} == dict(fresh.kept)
    else:
        assert {**kept, **counted} == {**fresh.kept, **counted}


@pytest.mark.parametrize("also", [{}, {"mine": 1}, {"global_step": 3, "epoch": 7}])
@pytest.mark.parametrize("saves_the_count", [False, True])
def test_the_count_is_found_in_any_way(*, saves_the_count: bool, also: dict[str, Any]) -> None:
    """By its name always; among the items where the class saved it, or nothing, or the state is not the decorator's."""
    data, fresh = Keeping(), Keeping()
    data.kept = {"consumed_samples": 3, **also} if saves_the_count else also
    trained(data, 3)
    for state in (data.state_dict(), {"consumed_samples": 6, **also}):
        fresh.load_state_dict(state)
        found: Any = fresh.kept
        assert (6, 6, True, "no") == (
            found["consumed_samples"],
            found.get("consumed_samples", 0),
            "consumed_samples" in found,
            found.get("order", "no"),
        )
        with pytest.raises(KeyError):
            found["order"]
        is_item = saves_the_count or not also or "format" not in state
        assert is_item == ("consumed_samples" in list(found)) == ("consumed_samples" in {**found})
        assert len(also) + is_item == len(found)


def test_a_state_from_before_the_decorator_that_has_no_count() -> None:
    """A loop has nothing else to go on from, so it is refused; a trainer's counters would say."""
    with pytest.raises(StateError, match="lacks 'consumed_samples'"):
        Keeping().load_state_dict({"mine": 1})


class Counting(Plain):
    """As NeMo's datamodules do it: the class saves and reads the count itself."""

    count = -1

    def state_dict(self) -> dict[str, Any]:
        """A count that nobody keeps right."""
        return {"consumed_samples": 3}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read as old code reads it."""
        self.count = state_dict["consumed_samples"]


def test_old_code_that_counts_itself() -> None:
    """Its `consumed_samples` is the position's from now on, and it still finds it when it loads."""
    data, fresh = Counting(), Counting()
    trained(data, 3)
    fresh.load_state_dict(data.state_dict())
    assert (6, 6) == (fresh.count, resumption_of(fresh).consumed_samples)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("make", [Plain, Module, Child])
def test_copies_stand_where_their_original_stood(make: Callable[[], Any], copied: Callable[[Any], Any]) -> None:
    """A copy, or a pickle that a spawned process gets, has the position and goes its own way."""
    data = make()
    seed = 0 if make is Plain else 3
    behind = trained(data, 3)
    twin = copied(data)
    assert expected(5, seed=seed) == behind + trained(twin, 2)
    assert (6, 10) == (resumption_of(data).consumed_samples, resumption_of(twin).consumed_samples)
    third = copied(twin)
    assert expected(7, seed=seed)[5:] == trained(third, 2)
    assert expected(4, seed=seed)[3:] == trained(data, 1)


def test_the_state_loads_as_weights_only() -> None:
    """Lightning's default since torch 2.6."""
    data: Any = Module()
    trained(data, 3)
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    file.seek(0)
    assert data.state_dict() == torch.load(file, weights_only=True)


def test_states_go_between_loaders_and_datamodules() -> None:
    """One form of saved state, whoever saved it."""
    data: Any = Plain()
    trained(data, 3)
    loader = Loader(range(N), batch_size=SIZE, shuffle=True)
    loader.load_state_dict(data.state_dict())
    assert expected(5)[3:] == take(loader, 2)
    fresh: Any = Plain()
    fresh.load_state_dict(loader.state_dict())
    assert expected(7)[5:] == trained(fresh, 2)
