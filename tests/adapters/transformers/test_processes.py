"""Runs of a Trainer in processes of their own: the example, and two processes under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _run(*command: str) -> str:
    ended = subprocess.run(
        [sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_example_is_exact() -> None:
    """A Trainer that is stopped in mid-epoch goes on."""
    assert _run("examples/hf_trainer.py").strip().endswith("148 samples, stopped, 152 samples: exact")


def test_two_processes_go_on_bit_equal(tmp_path: Path) -> None:
    """Under DDP, with accumulation and dropout, and a tail that is filled up."""

    def session(name: str, stop: int) -> list[tuple[list[list[int]], list[float]]]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        script = "tests/support/transformers_torchrun.py"
        _run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, str(folder), str(stop), "2")
        return [json.loads((folder / f"{stop}-{rank}.json").read_text()) for rank in range(2)]

    whole, first, second = session("whole", 999), session("a", 3), session("a", 0)
    for rank in range(2):
        assert whole[rank][0] == first[rank][0] + second[rank][0]
        assert whole[rank][1] == second[rank][1]
