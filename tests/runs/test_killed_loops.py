"""Plain loops under SIGKILL, in real processes, against the uninterrupted run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def killed(folder: Path, *, seed: int, kills: int, workers: int, accumulation: int) -> dict[str, Any]:
    """What a run that was killed so often reports."""
    folder.mkdir(exist_ok=True)
    told = {"folder": str(folder), "seed": seed, "kills": kills, "workers": workers, "accumulation": accumulation}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.runs.killed_loop", json.dumps(told)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def check(report: dict[str, Any], kills: int) -> None:
    """Every sample once, in the uninterrupted order, over kills that came in the middle of the run."""
    assert report["expected"] == report["trained"]
    assert report["killed"] >= min(kills, 3)
    assert len({place for place in report["places"] if 0 < place < len(report["expected"])}) >= 2
    assert report["places"] == sorted(report["places"])


@pytest.mark.parametrize(("workers", "kills"), [(0, 12), (2, 5)])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_loop_that_is_killed_again_and_again(tmp_path: Path, workers: int, kills: int, accumulation: int) -> None:
    """With another batch size in each session, with and without workers, and inside of accumulation windows."""
    check(killed(tmp_path, seed=1, kills=kills, workers=workers, accumulation=accumulation), kills)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_many_loops_that_are_killed_again_and_again(tmp_path: Path, workers: int, accumulation: int) -> None:
    """The same, at many more moments."""
    for seed in range(2, 12):
        report = killed(tmp_path / str(seed), seed=seed, kills=20, workers=workers, accumulation=accumulation)
        check(report, 20)
