"""A dataset of Hugging Face's: other data of the same length gets a verdict, and a right resume goes on."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest

from resumable import MismatchError, ResumptionState, ResumptionWarning
from resumable.loading.contents import contents_of
from resumable.saved.snapshot import parse
from tests.support.reference import Loader

datasets: Any = pytest.importorskip("datasets")
datasets.disable_progress_bars()
N = 50


def data(first: int = 0, **changed: int) -> Any:
    """A dataset of *N* numbers from *first* on, some of them *changed*."""
    numbers = [changed.get(f"_{index}", index) for index in range(first, first + N)]
    return datasets.Dataset.from_dict({"id": numbers})


def trained(dataset: Any) -> dict[str, Any]:
    """The state after two batches."""
    loader = Loader(dataset, 4, shuffle=True)
    batches = loader.forever()
    for _ in range(2):
        next(batches)
    state: dict[str, Any] = loader.state_dict()
    return state


def following(row: Any) -> dict[str, int]:
    """The row with the next number."""
    return {"id": row["id"] + 1}


OTHERS: list[Any] = [
    pytest.param(lambda: data(1), id="other numbers"),
    pytest.param(lambda: data(_7=0), id="one other number"),
    pytest.param(lambda: data().shuffle(seed=1), id="shuffled"),
    pytest.param(lambda: data().select(range(N - 1, -1, -1)), id="selected"),
    pytest.param(lambda: data().map(following), id="mapped"),
    pytest.param(lambda: data().rename_column("id", "number"), id="renamed"),
]
SAME: list[Any] = [
    pytest.param(data, False, id="the same"),
    pytest.param(lambda: list(range(N)), False, id="one without a fingerprint"),
    pytest.param(lambda: data().with_format("numpy"), True, id="another format"),
    pytest.param(lambda: data().with_transform(dict), True, id="a transform"),
    pytest.param(lambda: datasets.Dataset(data().data, fingerprint="drawn-at-random"), True, id="another fingerprint"),
]


@pytest.mark.parametrize("other", OTHERS)
def test_other_contents_are_refused(other: Any) -> None:
    """The error shows both, and "warn" goes on with one warning; the state then holds the new contents."""
    state = trained(data())
    loader = Loader(other(), 4, shuffle=True)
    with pytest.raises(MismatchError, match="The dataset has other contents"):
        loader.load_state_dict(state)
    for policy in ("warn", "adopt"):
        loader = Loader(other(), 4, shuffle=True, on_mismatch=policy)
        with pytest.warns(ResumptionWarning, match="The dataset has other contents"):
            loader.load_state_dict(state)
        assert contents_of(other()) == loader.state_dict()["order"][3]


@pytest.mark.parametrize(("same", "warns"), SAME)
def test_equal_rows_go_on(same: Any, warns: bool) -> None:
    """With a warning where the fingerprint is another one: nobody can tell what else differs."""
    loader = Loader(same(), 4, shuffle=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader.load_state_dict(trained(data()))
    assert [True] * warns == ["another fingerprint" in str(each.message) for each in caught]
    assert "exact" == loader.state.verdict.outcome
    assert 8 == loader.state.consumed_samples


def test_a_function_that_cannot_be_hashed_refuses_nothing() -> None:
    """A fingerprint may be drawn at random; the rows are the same."""
    lock: Any = threading.Lock()

    def twice(row: Any) -> dict[str, int]:
        with lock:
            return {"twice": 2 * row["id"]}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (data().map(twice) for _ in range(2))
        loader = Loader(other, 4, shuffle=True)
        loader.load_state_dict(trained(one))
    assert "exact" == loader.state.verdict.outcome


def test_the_state_keeps_the_contents() -> None:
    """Through a state that is connected to nothing; a state without them loads, and ranks compare the rows alone."""
    state, bare = trained(data()), ResumptionState()
    bare.load_state_dict(state)
    assert state == bare.state_dict()
    old = {**state, "order": state["order"][:3]}
    loader = Loader(data(), 4, shuffle=True)
    loader.load_state_dict(old)
    assert state == loader.state_dict()
    random = {**state, "order": [*state["order"][:3], "drawn-" + state["order"][3].rpartition("-")[2]]}
    assert parse(random).on_all_ranks.order == parse(state).on_all_ranks.order
    assert parse(random).on_all_ranks.order.contents == parse(state).on_all_ranks.order.contents  # type: ignore[union-attr]


def test_what_only_looks_like_such_a_dataset_has_none() -> None:
    """A fingerprint of someone else's, and an empty dataset."""

    class Own:
        _fingerprint = "5eed"

        def __len__(self) -> int:
            return 3

    assert contents_of(Own()) is None
    assert contents_of(datasets.Dataset.from_dict({"id": []})) is None
