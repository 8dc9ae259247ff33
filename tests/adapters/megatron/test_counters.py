"""The counters that Megatron-Bridge and Megatron-LM save, read from what they save and written back."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest
import torch

pytest.importorskip("megatron.core")

from resumable import ConfigurationError, LinearRampup, ResumableLoader, StateError
from resumable.adapters.megatron import Counters
from tests.adapters.megatron.bridge_shape import TrainState

SAVED = {"consumed_train_samples": 96, "skipped_train_samples": 16, "consumed_valid_samples": 40}
READ = Counters(6, **SAVED)
ARGS = Namespace(iteration=6, **SAVED)


@pytest.mark.parametrize(
    "owner",
    [
        TrainState(6, **SAVED),
        TrainState(6, **SAVED).state_dict(),
        ARGS,
        {"args": Namespace(iteration=2, **SAVED), "iteration": 6, "model": {}},  # args' own is that of its last load
        {"args": ARGS},
    ],
    ids=["TrainState", "its state", "args", "a checkpoint", "its args alone"],
)
def test_each_owner_is_read(owner: object) -> None:
    """Bridge's TrainState and what it saves, and Megatron-LM's args, also within a checkpoint."""
    assert READ == Counters.of(owner)


def test_what_is_written_is_read_again() -> None:
    """Into a TrainState, the dict that it saves, and args."""
    owners: list[Any] = [TrainState(), TrainState().state_dict(), Namespace(iteration=0)]
    for owner in owners:
        READ.write(owner)
        assert READ == Counters.of(owner)
    assert TrainState(6, **SAVED) == owners[0]
    assert {torch.int64} == {value.dtype for value in owners[1].values()}
    assert ARGS == owners[2]


def test_the_counters_of_loaders() -> None:
    """Steps by the ledger, through a ramp and a resume; where it does not know them all, by the loop."""
    ramp = LinearRampup(start=4, end=8, increment=4, rampup_samples=16)
    loader = ResumableLoader(range(40), 4, schedule=ramp)
    batches = loader.forever()
    for step in range(7):
        for _ in range(loader.num_microbatches):
            next(batches)
        loader.commit()
        counters = Counters.of_loaders(loader, skipped_train_samples=4)
        assert Counters(step + 1, loader.state.consumed_samples, 4) == counters
        if step == 3:
            saved = loader.state_dict()
            loader = ResumableLoader(range(40), 4, schedule=ramp)
            loader.load_state_dict(saved)
            assert 4 == Counters.of_loaders(loader).step
            batches = loader.forever()
    valid = ResumableLoader(range(40), 4)
    valid.load_state_dict({"consumed_samples": 12})
    assert 12 == Counters.of_loaders(loader, valid).consumed_valid_samples
    with pytest.raises(ConfigurationError, match="not all steps"):
        Counters.of_loaders(valid)
    assert Counters(3, 12) == Counters.of_loaders(valid, step=3)
    assert Counters() == Counters.of_loaders(ResumableLoader(range(40), 4))


@pytest.mark.parametrize(
    ("owner", "complaint"),
    [
        ({"step": 1}, "no counters of Megatron's"),
        (None, "no counters of Megatron's"),
        (TrainState(1, -4), "whole number from 0 on"),
        ({"consumed_train_samples": torch.tensor(4.5)}, "whole number from 0 on"),
        (Namespace(iteration=True, consumed_train_samples=4), "whole number from 0 on"),
        (Namespace(iteration=7, consumed_train_samples=0), "nothing says how many samples"),
    ],
)
def test_what_cannot_be_read(owner: object, complaint: str) -> None:
    """Other things, impossible numbers, and steps without samples, as very old checkpoints have them."""
    with pytest.raises(StateError, match=complaint):
        Counters.of(owner)


def test_what_cannot_be_written() -> None:
    """Numbers below 0, and a whole checkpoint in place of its args."""
    with pytest.raises(ConfigurationError, match="step is too small"):
        Counters(-1)
    with pytest.raises(ConfigurationError, match="Write"):
        READ.write({"args": ARGS, "iteration": 6})
