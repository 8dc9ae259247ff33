"""`ResumptionState` by itself and with a sampler of NeMo's shape: saving is pure, loading is repeatable."""

from __future__ import annotations

import copy
import io
import json
import operator
import pickle
from itertools import islice
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.stateful import Stateful

from resumable import Position, ResumptionError, ResumptionState, StateError
from resumable.saved.ledger import Ledger
from resumable.saved.snapshot import KEYS
from tests.support.reference import COPIES, Loader

JSON_TYPES = (int, str, bool, list, dict, type(None))


def types_in(tree: object) -> set[type]:
    """Every type in a tree of dicts and lists."""
    found = {type(tree)}
    branches: list[object] = []
    if isinstance(tree, dict):
        branches = [*cast("dict[object, object]", tree), *cast("dict[object, object]", tree).values()]
    elif isinstance(tree, list):
        branches = cast("list[object]", tree)
    return found.union(*map(types_in, branches)) if branches else found


def loaded(state: dict[str, Any]) -> ResumptionState:
    """A state of its own that has loaded *state*."""
    fresh = ResumptionState()
    fresh.load_state_dict(state)
    return fresh


class Sampler:
    """NeMo's `MegatronDataSampler` with a constant batch size: the four attributes, and the count from them."""

    def __init__(self, global_batch_size: int = 8, *, kind: Any = int) -> None:
        self.init_global_step = 0
        self.init_consumed_samples = 0
        self.prev_consumed_samples = 0
        self.if_first_step = 0
        self.global_batch_size = global_batch_size
        self.kind = kind

    def compute_consumed_samples(self, steps_since_resume: int = 0) -> Any:
        """Samples over all ranks."""
        return self.kind(self.init_consumed_samples + steps_since_resume * self.global_batch_size)


def trainer_at(global_step: int) -> Any:
    """Anything that counts steps."""
    return SimpleNamespace(global_step=global_step)


# By itself.


def test_a_new_state_has_its_whole_shape() -> None:
    """Checkpoint libraries ask for the shape before they load: it is there from the beginning."""
    state = ResumptionState()
    assert KEYS == tuple(state.state_dict())
    assert Position() == state.position
    assert Ledger() == state.ledger


def test_it_is_stateful() -> None:
    """It fits `torch.distributed.checkpoint`, which looks for the two methods."""
    assert isinstance(ResumptionState(), Stateful)


STATES = {
    "new": ResumptionState().state_dict(),
    "bare": {"consumed_samples": 640},
    "loader": Loader(range(64), batch_size=4, shuffle=True).state_dict(),
}


@pytest.mark.parametrize("name", STATES)
def test_loading_and_saving(name: str) -> None:
    """Saving what was loaded gives the same dict, loading twice is loading once, and saving twice is saving once."""
    state = loaded(STATES[name])
    saved = state.state_dict()
    assert STATES[name] == {key: saved[key] for key in STATES[name]}
    assert saved == state.state_dict() == loaded(saved).state_dict()
    state.load_state_dict(saved)
    state.load_state_dict(saved)
    assert saved == state.state_dict()


def test_what_was_given_and_taken_stays_as_it_was() -> None:
    """Neither a loaded dict nor a saved one is shared with the state."""
    loader = Loader(range(64), batch_size=4, shuffle=True)
    for _ in islice(loader, 3):
        pass
    given = loader.state_dict()
    before = copy.deepcopy(given)
    for state in (loader.state, loaded(given)):
        state.load_state_dict(given)
        taken = state.state_dict()
        taken["order"][1] = 1
        taken["ledger"][0][4] = 1
        taken["ledger"].append("more")
        taken.clear()
        assert before == given == state.state_dict()


@pytest.mark.parametrize("name", STATES)
def test_a_saved_state_is_json_and_loads_as_weights_only(name: str) -> None:
    """Nothing but JSON types, and the same again after JSON and after torch's safe loading."""
    saved = loaded(STATES[name]).state_dict()
    assert types_in(saved) <= set(JSON_TYPES)
    assert saved == json.loads(json.dumps(saved))
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    assert saved == torch.load(file, weights_only=True)


@pytest.mark.parametrize("n", [1, 64, 10**12])
def test_a_run_of_one_configuration_fits_in_512_bytes(n: int) -> None:
    """The saved JSON of a trillion samples, far into the run and with the longest seed, is small."""
    batch_size = min(n, 8192)
    loader = Loader(range(n), batch_size=batch_size, shuffle=True, seed=2**64 - 1, num_workers=16)
    state = loader.state_dict()
    epochs = 10**15 // n
    offset = n // 2
    state |= {
        "consumed_samples": epochs * n + offset,
        "epoch": epochs,
        "offset": offset,
        "commits": True,
        "canary": None,
    }
    stretch = [0, 0, 0, 0, n, batch_size, 1, 1, 16, False, None, None]
    loader.load_state_dict({**state, "ledger": [stretch]})
    assert [stretch] == loader.state_dict()["ledger"]
    assert len(json.dumps(loader.state_dict())) <= 512


def test_a_bare_count_waits_for_a_length() -> None:
    """A bare count is kept as it is until a loader gives the length, and is not taken for an offset."""
    state = loaded({"consumed_samples": 640})
    assert (640, None, None) == tuple(state.state_dict()[key] for key in ("consumed_samples", "epoch", "offset"))
    loader = Loader(range(64), batch_size=4)
    loader.load_state_dict(state.state_dict())
    assert Position(640, 10, 0) == loader.state.position


@pytest.mark.parametrize("bad", [None, {}, {"consumed_samples": -1}, {"consumed_samples": 1, "format": 9}])
def test_a_load_that_fails_leaves_the_state_as_it_was(bad: Any) -> None:
    """Position, ledger and saved form are those from before the failed load, with a loader and without."""
    loader = Loader(range(64), batch_size=4, shuffle=True, seed=3)
    for _ in islice(loader, 5):
        pass
    for state in (loader.state, loaded(loader.state_dict())):
        before = state.position, state.ledger, state.verdict, state.state_dict()
        with pytest.raises(StateError, match="not loaded"):
            state.load_state_dict(bad)
        assert before == (state.position, state.ledger, state.verdict, state.state_dict())


def test_a_commit_without_a_loader_is_an_error() -> None:
    """A commit with no loader to count it is an error."""
    with pytest.raises(ResumptionError, match="There is nothing to commit") as caught:
        loaded({"consumed_samples": 12}).commit()
    assert "position: Position(consumed_samples=12, epoch=0, offset=0)" in str(caught.value)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_stands_where_its_original_stood(copied: Any) -> None:
    """A copy keeps the position and goes its own way."""
    loader = Loader(range(64), batch_size=4)
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    twin = copied(loader.state)
    next(iterator)
    assert (8, 12) == (twin.consumed_samples, loader.state.consumed_samples)
    twin.load_state_dict({"consumed_samples": 40})
    assert 12 == loader.state.consumed_samples


def test_it_says_where_it_stands() -> None:
    """The repr shows the position."""
    assert "<ResumptionState: 640 samples, exact>" == repr(loaded({"consumed_samples": 640}))


def test_states_loaded_one_after_the_other_do_not_mix() -> None:
    """Each saved dict shows the ledger of the state that was loaded last, however many there were before."""
    loader = Loader(range(1000), batch_size=4)
    noted: list[int] = []
    for start in range(0, 400, 8):
        loader.load_state_dict({"consumed_samples": start})
        for _ in islice(loader, 2):
            pass
        noted.append(loader.state_dict()["ledger"][0][1])
    assert list(range(0, 400, 8)) == noted


# With a sampler of NeMo's shape and a trainer.


def test_it_counts_as_the_sampler_does() -> None:
    """Consumed samples are the sampler's count of the steps since the last rebase."""
    sampler, trainer = Sampler(), trainer_at(0)
    state = ResumptionState(sampler, trainer)
    counted: list[int] = []
    for step in range(4):
        trainer.global_step = step
        counted.append(state.consumed_samples)
        assert counted[-1] == state.state_dict()["consumed_samples"]
    assert [0, 8, 16, 24] == counted


def test_a_load_writes_what_the_mixin_writes() -> None:
    """`init_consumed_samples`, `prev_consumed_samples`, `if_first_step` and the step from which on it counts."""
    sampler, trainer = Sampler(), trainer_at(5)
    state = ResumptionState(sampler, trainer)
    state.load_state_dict({"consumed_samples": 640})
    written = sampler.init_consumed_samples, sampler.prev_consumed_samples, sampler.if_first_step
    assert (640, 640, 1, 5, 5) == (*written, sampler.init_global_step, state.init_global_step)
    assert 640 == state.consumed_samples
    trainer.global_step = 7
    assert 656 == state.consumed_samples


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_rebasing_is_harmless(calls: int) -> None:
    """`update_init_global_step` moves step and count together, whether it is called never, always or twice."""
    sampler, trainer = Sampler(), trainer_at(0)
    state = ResumptionState(sampler, trainer)
    counted: list[int] = []
    for step in range(1, 6):
        trainer.global_step = step
        for _ in range(calls):
            state.update_init_global_step()
        counted.append(state.consumed_samples)
    assert [8, 16, 24, 32, 40] == counted
    assert (5 if calls else 0) == state.init_global_step == sampler.init_global_step


@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.parametrize("restored", ["before the load", "after the load"])
def test_resumes_of_resumes_count_on(restored: str, calls: int) -> None:
    """Several sessions, each with a new sampler and a trainer that restores its steps, come to the samples of one."""
    saved: dict[str, Any] = {"consumed_samples": 0}
    for session in range(4):
        trainer = trainer_at(3 * session if restored == "before the load" else 0)
        state = ResumptionState(Sampler(global_batch_size=8), trainer)
        state.load_state_dict(saved)
        trainer.global_step = 3 * session
        for _ in range(calls):
            state.update_init_global_step()
        assert saved["consumed_samples"] == state.state_dict()["consumed_samples"]
        trainer.global_step += 3
        saved = json.loads(json.dumps(state.state_dict()))
    assert (4 * 3 * 8, 12) == (saved["consumed_samples"], saved["global_step"])


def test_a_trainer_that_counts_from_0_again_is_not_restored() -> None:
    """Steps that come one by one are training, though the saved run had more of them."""
    saved: dict[str, Any] = {**ResumptionState(Sampler(), trainer_at(5)).state_dict()}
    trainer = trainer_at(0)
    state = ResumptionState(Sampler(), trainer)
    state.load_state_dict(saved)
    counted: list[int] = []
    for trainer.global_step in range(1, 8):
        counted.append(state.consumed_samples)
    assert list(range(48, 48 + 7 * 8, 8)) == counted


@pytest.mark.parametrize("loads", [1, 2])
def test_loaded_and_saved_again_it_is_the_same(loads: int) -> None:
    """Before the trainer is restored and after it, and however often it was loaded."""
    saved = ResumptionState(Sampler(), trainer_at(5)).state_dict()
    trainer = trainer_at(0)
    state = ResumptionState(Sampler(), trainer)
    for _ in range(loads):
        state.load_state_dict(saved)
    assert saved == state.state_dict()
    trainer.global_step = 5
    assert saved == state.state_dict()


def test_without_a_trainer_the_last_known_count_is_kept() -> None:
    """Without a trainer the count is never 0 in silence."""
    state = ResumptionState(Sampler(), None)
    state.load_state_dict({"consumed_samples": 640})
    assert (640, 640) == (state.consumed_samples, state.state_dict()["consumed_samples"])


@pytest.mark.parametrize("kind", [int, np.int64, torch.tensor])
def test_counts_may_be_any_whole_number(kind: Any) -> None:
    """NeMo's count may become a tensor; what is saved is an int."""
    trainer = trainer_at(3)
    saved = ResumptionState(Sampler(kind=kind), trainer).state_dict()
    assert (24, int) == (saved["consumed_samples"], type(saved["consumed_samples"]))


def nothing(_: int) -> None:
    """A sampler that forgot to return."""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (float, r"must be a whole number of samples.\n  got: 24.0"),
        (nothing, "got: None"),
        (bool, "got: True"),
        (operator.neg, "got: -24"),
    ],
)
def test_counts_that_are_none(kind: Any, message: str) -> None:
    """A count that is fractional, missing or negative is the sampler's fault, and is said."""
    state = ResumptionState(Sampler(kind=kind), trainer_at(3))
    for count in (lambda: state.consumed_samples, state.state_dict):
        with pytest.raises(StateError, match=message):
            count()


def test_a_failed_load_leaves_the_sampler_as_it_was() -> None:
    """Nothing is written before everything was read."""
    sampler, trainer = Sampler(), trainer_at(0)
    state = ResumptionState(sampler, trainer)
    trainer.global_step = 3
    before = dict(vars(sampler))
    with pytest.raises(StateError, match="must be a whole number"):
        state.load_state_dict({"consumed_samples": 1.5})
    assert (before, 24) == (vars(sampler), state.consumed_samples)


def test_a_samplers_count_loads_into_a_loader() -> None:
    """A count goes into a loader from a sampler's state as it does bare: the place follows from the length."""
    saved = ResumptionState(Sampler(), trainer_at(10)).state_dict()
    loader = Loader(range(64), batch_size=4)
    loader.load_state_dict(saved)
    assert Position(80, 1, 16) == loader.state.position
