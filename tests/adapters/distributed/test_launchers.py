"""Processes that Lightning launches itself: as subprocesses of a script, spawned, and forked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launched_script import BATCH_SIZE, SAMPLES
from tests.support.lightning_runs import Scenario
from tests.support.rank_runs import EpochCount, Part, orders_of, rule


def start(folder: Path, strategy: str, ranks: int, max_steps: int = -1) -> list[EpochCount]:
    """One session of the script, and the steps that were trained so far."""
    words = [strategy, str(ranks), str(folder), str(max_steps)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.launched_script", *words],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = json.loads((folder / "trained.json").read_text(encoding="utf-8"))
    return [(epoch, tuple(tuple(map(tuple, rounds)) for rounds in batches)) for epoch, batches in steps]


@pytest.mark.parametrize(
    "launchers",
    [
        ("ddp_spawn", "ddp_fork"),
        *(
            pytest.param(both, marks=pytest.mark.slow)
            for both in (("ddp", "ddp_spawn"), ("ddp_spawn", "ddp"), ("ddp_fork", "ddp"))
        ),
    ],
    ids="+".join,
)
def test_whoever_launches_the_processes_the_next_session_goes_on(launchers: tuple[str, str], tmp_path: Path) -> None:
    """Whoever launches the processes, the second session goes on where the first one was, with other ranks."""
    orders = orders_of(Scenario(samples=SAMPLES, batch_size=BATCH_SIZE))
    first, then = launchers
    assert rule(orders, Part(2, 2)).steps == start(tmp_path, first, 2, max_steps=2)
    assert rule(orders, Part(2, 2), Part(3)).steps == start(tmp_path, then, 3)
