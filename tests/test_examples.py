"""The examples run, come out exact, and would say so if they did not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
RESUMES = {
    "lightning_datamodule.py": "@resumable  # the one new line\n",
    "plain_loop.py": '        loader.load_state_dict(saved["loader"])\n',
}
"""The line of each example without which nothing is resumed."""


def run(script: Path) -> tuple[int, str]:
    """The exit code of *script*, and the last line that it prints."""
    done = subprocess.run(
        [sys.executable, str(script)], cwd=script.parent, capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout.strip().rpartition("\n")[2] or done.stderr


def test_every_example_is_run() -> None:
    """The list above names what lies in the folder."""
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(RESUMES)


@pytest.mark.parametrize("name", RESUMES)
def test_an_example_stops_resumes_and_is_exact(name: str) -> None:
    """It stops in mid-epoch (1,000 samples each), goes on, and trains the ids of the run that was not stopped."""
    assert run(EXAMPLES / name) == (0, "1320 samples, stopped, 1680 samples: exact")


@pytest.mark.parametrize("name", RESUMES)
def test_an_example_without_its_resumption_fails(name: str, tmp_path: Path) -> None:
    """Without the line that resumes, the ids differ and the exit code is 1: the comparison compares."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    broken = tmp_path / name
    broken.write_text(text.replace(RESUMES[name], ""), encoding="utf-8")
    code, printed = run(broken)
    assert (text.count(RESUMES[name]), code, printed.rpartition(": ")[2]) == (1, 1, "NOT EXACT")
