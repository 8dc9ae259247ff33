"""Trainings with dropout and augmentation under SIGKILL, in real processes: the weights are those of the uninterrupted run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def check(folder: Path, *, seed: int, kills: int, kind: str, accumulation: int) -> None:
    """A training that is killed so often ends with the same weights, to the bit."""
    folder.mkdir(exist_ok=True)
    told = {"folder": str(folder), "seed": seed, "kills": kills, "kind": kind, "accumulation": accumulation}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.runs.killed_training", json.dumps(told)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["killed"] >= min(kills, 3)
    assert report["is_equal"]


@pytest.mark.parametrize("kind", ["loop", "lightning"])
def test_a_training_that_is_killed_again_and_again(tmp_path: Path, kind: str) -> None:
    """With other workers in each session, and inside of accumulation windows."""
    check(tmp_path, seed=1, kills=5, kind=kind, accumulation=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loop", "lightning"])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_many_trainings_that_are_killed_again_and_again(tmp_path: Path, kind: str, accumulation: int) -> None:
    """The same, at many more moments."""
    for seed in range(2, 12):
        check(tmp_path / str(seed), seed=seed, kills=12, kind=kind, accumulation=accumulation)
