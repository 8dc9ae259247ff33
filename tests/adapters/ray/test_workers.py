"""Workers of Ray Train go on with the exact next sample, without reading ahead."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("ray.train")

import torch
from ray.train.torch import train_loop_utils

from resumable import ConfigurationError, ResumableLoader
from resumable.adapters.ray import Ranks, prepare

ROOT = Path(__file__).parents[3]


class Pair(NamedTuple):
    ids: Any
    more: Any


@dataclass
class Worker:
    """The two numbers of a Ray Train context."""

    rank: int = 0
    size: int = 1

    def get_world_rank(self) -> int:
        return self.rank

    def get_world_size(self) -> int:
        return self.size


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resumable.adapters.ray.get_device", lambda: torch.device("cpu"))


@pytest.mark.slow  # Ray starts some ten processes
def test_workers_that_fail_go_on_exactly(tmp_path: Path) -> None:
    """A TorchTrainer with two CPU workers starts them again from the checkpoint: each step's ids are the same."""
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "RAY_worker_niceness": "0",
    }  # Ray writes into the home
    command = [sys.executable, str(ROOT / "examples" / "ray_train.py")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=570)
    assert (0, "2 workers, failed after 3 of 10 steps: exact") == (ended.returncode, ended.stdout.strip()), ended.stderr


@pytest.mark.parametrize("then", [1, 2, 3])
@pytest.mark.parametrize("now", [1, 2, 3])
def test_another_number_of_workers_trains_the_same_samples(then: int, now: int) -> None:
    """The state of any worker leads on, at any stop, with any number of them."""

    def loaders(size: int) -> list[ResumableLoader]:
        made = (ResumableLoader(range(24), 2, shuffle=True, seed=1, ranks=Ranks(Worker(n, size))) for n in range(size))
        return [prepare(Worker(number, size), each) for number, each in enumerate(made)]

    whole = [index for batch in loaders(1)[0] for index in batch.tolist()]
    for stop in range(1, 24 // (2 * then)):
        first = loaders(then)
        passes = [iter(each) for each in first]
        trained = [next(each).tolist() for _ in range(stop) for each in passes]
        second = loaders(now)
        for each in second:
            each.load_state_dict(first[-1].state_dict())
        trained += [batch.tolist() for batches in zip(*second, strict=True) for batch in batches]
        indices = [index for batch in trained for index in batch]
        assert whole == indices[:24]
        assert len(indices) < 24 + now  # the tail is filled up, so that each worker has equally many


def test_batches_are_moved_as_they_are_made() -> None:
    """Mappings, tuples, named tuples and lists keep their kind, and nothing is read ahead."""
    made: list[Any] = [Pair(torch.ones(1), [torch.ones(1), "name"]), {"a": [torch.ones(1)]}]
    loader: Any = prepare(Worker(), ResumableLoader(made, None, shuffle=False))
    batches = iter(loader)
    assert made[0] == next(batches)
    assert 1 == loader.state.position.consumed_samples
    assert made[1] == next(batches)


def test_what_cannot_be_prepared_is_refused() -> None:
    """Another worker's part, a loader that is prepared, one that Ray wraps, and arguments in the wrong order."""
    loader: Any = ResumableLoader(range(8), 2)
    wrapper: Any = vars(train_loop_utils)["_WrappedDataLoader"]
    assert prepare(Worker(), loader) is loader
    with pytest.raises(ConfigurationError, match="prepared already"):
        prepare(Worker(), loader)
    with pytest.raises(ConfigurationError, match="read a batch ahead"):
        next(iter(wrapper(loader, torch.device("cpu"), True)))
    with pytest.raises(ConfigurationError, match="which part of the data"):
        prepare(Worker(1, 2), ResumableLoader(range(8), 2))
    with pytest.raises(ConfigurationError, match="takes the context first"):
        prepare(loader, Worker())
