"""Saved states that were changed at random: refused as such, or loaded and saved again as they are."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from functools import cache, reduce
from operator import getitem
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resumable import LinearRampup, ResumptionError, ResumptionState, ResumptionWarning, StateError, StepSchedule
from resumable.saved.snapshot import parse
from tests.support.reference import Loader
from tests.support.snapshots import GOLDEN


class Eights:
    """A user's schedule: 8 samples a step, in closed form, by no stages."""

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """8."""
        return 8

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """8 for each."""
        return consumed + 8 * steps

    def steps_between(self, consumed: int, later: int, /) -> int:
        """An eighth."""
        return (later - consumed) // 8


LOADERS: list[dict[str, Any]] = [
    {"shuffle": True},
    {"drop_last": True, "seed": 3, "shuffle": True},
    {"drop_last": "carry", "data_parallel_rank": 1, "data_parallel_size": 2},
    {"schedule": LinearRampup(4, 16, 4, 100)},
    {"schedule": StepSchedule(((0, 4), (50, 8))), "drop_last": True},
    {"schedule": Eights()},
    {"schedule": Eights(), "drop_last": True},
]
"""The options of loaders over 64 samples."""


def loader_of(options: dict[str, Any], state: dict[str, Any] | None = None, **others: Any) -> Any:
    """A loader with these options, that goes on from *state*; what differs is warned of, and the run goes on."""
    loader = Loader(range(64), batch_size=4, **options, **others)
    if state is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResumptionWarning)
            loader.load_state_dict(state)
    return loader


def trained(loader: Any, batches: int) -> dict[str, Any]:
    """The state after so many batches, or at the epoch's end."""
    assert loader.epoch >= 0  # a loop that asks for it is not told
    for _, _ in zip(range(batches), loader, strict=False):
        pass
    state: dict[str, Any] = loader.state_dict()
    return state


@cache
def real_states() -> list[dict[str, Any]]:
    """Of every format, of every loader, and of a run that went through all of them."""
    found: list[dict[str, Any]] = [state for version in GOLDEN.values() for state in version.values()]
    through: dict[str, Any] | None = None
    for options in LOADERS:
        found.append(trained(loader_of(options), 9))
        through = trained(loader_of(options, through, on_mismatch="adopt"), 11)
        found.append(through)
    return found


def nested(levels: int) -> Any:
    """A tuple in a tuple in a tuple, and so on."""
    value: Any = 1
    for _ in range(levels):
        value = (value,)
    return value


def copied(value: Any) -> Any:
    """A copy, of what can be copied."""
    try:
        return deepcopy(value)
    except RecursionError:
        return value


HOSTILE: list[Any] = [
    0, 1, -1, 7, 2**31, 2**62, 2**63 - 1, 2**63, 10**400, 10**5000, 1.0, 0.5, 1e300, float("inf"), float("nan"), None, True,
    False, b"", b"shuffled", "", "carry", "sequential", "\ud800", "\x1b" * 40, [], [1], [[0, 1]], {}, {"a": 1}, (1, 2), set(),
    nested(100_000), 1j, np.int64(3), np.int64(-3), np.uint64(2**63), np.float64(3), np.bool_(True), np.array([1, 2]), np.array(3),
    np.str_("carry"), torch.tensor(3), torch.tensor([1, 2]), torch.tensor(1.5), torch.empty((), dtype=torch.int64, device="meta"),
    ["LinearRampup", 1, 10**18, 1, 10**18], ["LinearRampup", 1, 10**9, 1, 10**18], ["LinearRampup", 1, 10_001, 1, 10**15],
    ["StepSchedule", [0, 8], [2**60, 16]], ["ConstantBatchSize", 10**300], ["RoundedDown", 64, ["StepSchedule", [0, 4], [9, 99]]],
    "Eights", "Other",
]  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each part of a state, few levels deep."""
    parts: Any = value.items() if hasattr(value, "items") else enumerate(value) if hasattr(value, "append") else ()
    for key, part in parts if len(at) < 5 else ():
        yield (*at, key)
        yield from places(part, (*at, key))


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """A real state with one to three of its parts changed, left out, doubled or taken from elsewhere in it."""
    state: dict[str, Any] = deepcopy(draw(st.sampled_from(real_states())))
    for _ in range(draw(st.integers(1, 3))):
        ways = list(places(state))
        *way, key = draw(st.sampled_from(ways))
        holder: Any = reduce(getitem, way, state)
        kind = draw(st.sampled_from(["near", "near", "hostile", "elsewhere", "gone", "twice"]))
        if kind == "near" and type(holder[key]) is int:
            holder[key] += draw(st.sampled_from([-10, -2, -1, 1, 2, 10, 100, 10**6, 2**31, 10**12, 10**15]))
        elif kind == "elsewhere":
            holder[key] = copied(reduce(getitem, draw(st.sampled_from(ways)), state))
        elif kind == "gone" and len(state) > 1:
            del holder[key]
        elif kind == "twice" and isinstance(holder, list):
            holder.insert(key, copied(holder[key]))
        else:
            holder[key] = copied(draw(st.sampled_from(HOSTILE)))
    return state


def test_the_real_ones_are_loaded() -> None:
    """Otherwise every change of one would be refused."""
    for state in real_states():
        loaded = ResumptionState()
        loaded.load_state_dict(state)
        assert parse(state) == parse(loaded.state_dict())


@settings(max_examples=300)
@given(changed())
def test_a_changed_state_is_refused_or_saved_again(state: dict[str, Any]) -> None:
    """A StateError, and nothing was loaded; or what was loaded is saved as it was, to the letter where it was JSON."""
    loaded = ResumptionState()
    before = loaded.state_dict()
    try:
        loaded.load_state_dict(state)
    except StateError:
        assert before == loaded.state_dict()
        return
    saved = loaded.state_dict()
    assert parse(state) == parse(saved)
    loaded.describe()
    if state.get("format") == 3:
        with suppress(TypeError, ValueError, RecursionError):  # it held other types, in their places
            assert json.dumps(saved) == json.dumps({key: state[key] for key in saved})


@settings(max_examples=200)
@given(changed(), st.sampled_from(LOADERS), st.sampled_from(["error", "warn", "adopt"]), st.integers(0, 5))
def test_a_loader_goes_on_from_a_changed_state_or_stays(
    state: dict[str, Any], options: dict[str, Any], policy: str, batches: int
) -> None:
    """Refused, it is where it was; otherwise it trains on, and what it saves then is loaded as it is."""
    loader = loader_of(options, on_mismatch=policy)
    trained(loader, batches)
    before = loader.state_dict()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResumptionWarning)
            loader.load_state_dict(state)
    except ResumptionError:
        assert before == loader.state_dict()
        return
    for saved in (loader.state_dict(), trained(loader, 3)):
        assert saved == loader_of(options, saved, on_mismatch=policy).state_dict()
