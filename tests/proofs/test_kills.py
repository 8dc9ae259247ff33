"""Real DDP runs under SIGKILL, by the command that anybody may run, against the uninterrupted ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BREAKS = {
    "runs out of order": "from resumable import ResumableLoader as Broken; ",
    "runs with other weights": "from torch.optim import SGD as Broken; ",
}
"""What is lost where the loader begins anew in each session, and where the momentum does."""


def kill(*arguments: str, first: str = "") -> tuple[int, str]:
    """The exit code of the command, and what it printed."""
    main = f"{first}import sys; from tests.proofs.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", main, "kill", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    return done.returncode, done.stdout or done.stderr


def check(code: int, printed: str, kills: int) -> None:
    """So many kills, in every epoch and within saves, and nothing lost, repeated, out of order or unlike."""
    rows = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in printed.strip().splitlines()[:-1])
    names = ("lost", "repeated", "runs out of order", "runs with other weights")
    assert ((code, *("0" for _ in names)), "exact") == (
        (0, *(rows[name] for name in names)),
        printed.strip().splitlines()[-1].partition(",")[0],
    )
    assert str(kills) == rows["kills"].partition(":")[0]
    assert ["0", "1", "2"] == re.findall(r"epoch (\d)", rows["by epoch"])
    assert {"within a save", "inside of a window"} <= rows.keys()


def test_ddp_killed_again_and_again() -> None:
    """A dozen kills."""
    check(*kill("--kills", "12"), 12)


@pytest.mark.parametrize("row", BREAKS)
def test_what_does_not_resume_is_found(row: str) -> None:
    """The same, where a session does not take over all of the one before."""
    code, printed = kill("--kills", "4", first=f"{BREAKS[row]}Broken.load_state_dict = lambda *_: None; ")
    assert (1, True) == (code, bool(re.search(rf"^{row} +1$", printed, re.M)))
    assert "NOT EXACT" == printed.strip().splitlines()[-1].partition(",")[0]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "seed"), [(2, 0), (2, 1), (1, 2), (3, 3)])
def test_ddp_killed_two_hundred_times(ranks: int, seed: int) -> None:
    """The command's own figures, and others."""
    check(*kill("--kills", "200", "--ranks", str(ranks), "--seed", str(seed)), 200)
