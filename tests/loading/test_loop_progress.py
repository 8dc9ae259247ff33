"""What a loader loads: bare counts, other seeds, lengths and orders, at any time."""

from __future__ import annotations

import pickle
from itertools import islice
from typing import Any

import pytest

from resumable import MismatchError, Position, ResumptionError, ResumptionWarning
from tests.support.loader_runs import EPOCHS, SIZE, WITH_WORKERS, N, cut, expected, loader_of, restarted
from tests.support.reference import Loader, batches_of, order_of, whole
from tests.support.users_own import Backwards

# What is loaded.


@pytest.mark.parametrize("consumed", range(0, 34, 4))
def test_epoch_and_offset_of_a_bare_count_follow_from_the_length(consumed: int) -> None:
    """Epoch and offset follow from the samples and the dataset's length, and the rest of the run from those."""
    loader = restarted({"consumed_samples": consumed})
    assert Position(consumed, *divmod(consumed, N)) == loader.state.position
    rest = [index for batch in batches_of(loader, EPOCHS) for index in batch]
    assert whole(order_of(N, shuffle=True, seed=5), EPOCHS)[consumed:] == rest


def test_a_bare_count_of_whole_batches_counts_shorter_epochs() -> None:
    """Where the short last batch is left out, an epoch consumes less than the dataset holds."""
    loader = restarted({"consumed_samples": 12}, drop_last=True)
    assert Position(12, 1, 4) == loader.state.position
    assert expected(drop_last=True)[3:] == list(batches_of(loader, EPOCHS))


def test_a_seed_that_nobody_gave_is_taken_over() -> None:
    """A resumed run need not know the seed that it began with."""
    behind, state = cut(loader_of(seed=5), 2)
    loader = restarted(state, seed=None)
    assert "exact" == loader.state.verdict.outcome
    assert expected() == behind + list(batches_of(loader, EPOCHS))
    assert 5 == loader.state_dict()["order"][-1]


def test_another_seed_is_refused_by_name() -> None:
    """A seed given on purpose that contradicts the saved one is an error with both, and nothing is loaded."""
    _, state = cut(loader_of(seed=5), 2)
    loader = loader_of(seed=6)
    before = loader.state_dict()
    with pytest.raises(MismatchError) as caught:
        loader.load_state_dict(state)
    assert [
        "This state cannot go on exactly: not exact",
        "The order has another seed.",
        "  saved:   5",
        "  current: 6",
        "  Pass seed=5, or pass no seed: the saved one is taken over.",
        'Nothing was loaded. To go on all the same, pass on_mismatch="warn", or "adopt" to take over what was saved.',
    ] == str(caught.value).splitlines()
    assert before == loader.state_dict()
    assert whole(order_of(N, shuffle=True, seed=6), 1)[:4] == next(iter(loader)).tolist()
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


def test_going_on_with_another_seed() -> None:
    """Under "warn" the run goes on at its place in its own order, and says so; the warning points at the user's line."""
    _, state = cut(loader_of(seed=5), 2)
    loader = loader_of(seed=6, on_mismatch="warn")
    with pytest.warns(ResumptionWarning, match="this resume is not exact\nThe order has another seed") as caught:
        loader.load_state_dict(state)
    assert __file__ == caught[0].filename
    assert whole(order_of(N, shuffle=True, seed=6), 1)[8:] == next(iter(loader)).tolist()


@pytest.mark.parametrize("current", [{"seed": 6}, {"shuffle": False}, {"order": Backwards(N)}], ids=str)
def test_adopting_the_saved_order(current: dict[str, Any]) -> None:
    """Under "adopt" the saved order wins over the seed, the shuffling or the order that was given."""
    behind, state = cut(loader_of(seed=5), 2)
    loader = Loader(range(N), batch_size=SIZE, on_mismatch="adopt", **{"shuffle": "order" not in current, **current})
    loader.load_state_dict(state)
    assert expected() == behind + list(batches_of(loader, EPOCHS))


def test_an_order_that_cannot_be_adopted() -> None:
    """An order of one's own is not in the saved state: it has to be passed."""
    state = Loader(range(N), order=Backwards(N)).state_dict()
    loader = loader_of(on_mismatch="adopt")
    before = loader.state_dict()
    with pytest.raises(MismatchError, match="The saved order cannot be taken over") as caught:
        loader.load_state_dict(state)
    assert "kind='Backwards'" in str(caught.value)
    assert "kind='shuffled'" in str(caught.value)
    assert before == loader.state_dict()


@pytest.mark.parametrize(("n", "outcome"), [(7, "refused"), (8, "inexact"), (20, "inexact")])
@pytest.mark.parametrize("on_mismatch", ["error", "warn", "adopt"])
def test_a_dataset_of_another_length(n: int, outcome: str, on_mismatch: Any) -> None:
    """It is never gone on with in silence, and not at all where the place lies behind its end."""
    _, state = cut(loader_of(), 2)
    loader = loader_of(n, on_mismatch=on_mismatch)
    if outcome == "refused" or on_mismatch == "error":
        with pytest.raises(
            MismatchError, match=f"The dataset has another length.\n  saved:   11\n  current: {n}\n"
        ) as e:
            loader.load_state_dict(state)
        assert Position() == loader.state.position
        assert outcome == loader.state.verdict.outcome
        assert loader.state.verdict == e.value.verdict == pickle.loads(pickle.dumps(e.value)).verdict
        return
    with pytest.warns(ResumptionWarning, match="The dataset has another length"):
        loader.load_state_dict(state)
    assert outcome == loader.state.verdict.outcome
    assert Position(8, *divmod(8, n)) == loader.state.position


def test_loading_while_iterating() -> None:
    """Batches that are on their way know nothing of a loaded place: the load is refused and moves nothing."""
    _, state = cut(loader_of(), 4)
    loader = loader_of()
    taken: list[list[int]] = []
    for batch in loader:
        taken.append(batch.tolist())
        with pytest.raises(ResumptionError, match="A state cannot be loaded while the loader is being iterated") as e:
            loader.load_state_dict(state)
        assert f"position: {loader.state.position}" in str(e.value)
        assert "Load it before the loop, or leave the loop first. Nothing was loaded." in str(e.value)
    assert expected()[:3] == taken
    loader.load_state_dict(state)
    assert expected()[4:] == list(batches_of(loader, EPOCHS))


@pytest.mark.parametrize("options", [{}, WITH_WORKERS], ids=str)
def test_loading_after_training_began(options: dict[str, Any]) -> None:
    """Between two passes a loop may go back, or forward, to any saved place."""
    states = [cut(loader_of(), batches)[1] for batches in range(9)]
    loader = loader_of(**options)
    for batches in (5, 2, 8):
        for _ in islice(loader, 2):
            pass
        loader.load_state_dict(states[batches])
        assert states[batches] == loader.state_dict()
        assert expected()[batches] == next(iter(loader)).tolist()


def test_the_ledger_of_a_run_that_changes() -> None:
    """One stretch for each configuration that trained, none for a change that trained nothing."""
    _, state = cut(loader_of(), 2)
    for size, batches in [(3, 0), (3, 2), (3, 1), (4, 0), (4, 1)]:
        _, state = cut(restarted(state, batch_size=size), batches)
    assert [(0, 0, 4), (2, 8, 3), (5, 17, 4)] == [
        (step, sample, micro) for step, sample, _, _, _, micro, *_ in state["ledger"]
    ]
    ledger = restarted(state).state.ledger
    assert [0, 4, 8, 11, 14, 17, 21] == [ledger.consumed_samples_at(step) for step in range(7)]
