"""`resumable audit`: its words, its JSON and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resumable import ResumableLoader
from resumable.cli.main import main


def train(folder: Path | None, batches: int, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """A session of *batches* batches."""
    loader = ResumableLoader(range(40), 5, audit=folder)
    if state is not None:
        loader.load_state_dict(state)
    endless = loader.forever()
    for _ in range(batches):
        next(endless)
    return loader.state_dict()


def test_an_exact_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0, and how far it has come, over how many sessions."""
    state = train(tmp_path, 5)
    train(tmp_path, 6, state)
    code = main(["audit", str(tmp_path)])
    assert (0, capsys.readouterr().out) == (
        code,
        "trained   55 samples: 1 epochs, and 15 samples of the next\n"
        "sessions  2, of which 0 were killed\n"
        "undone    0 samples, which a later session trained again from before them\n"
        "ranks     1\n"
        "\n"
        "Exactly once: every sample up to there was trained, and none twice.\n",
    )


def test_a_run_that_is_not_exact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1, and the first sample that is not, by index and place; as JSON too."""
    train(tmp_path, 5)
    train(tmp_path, 6, train(None, 7))
    code = main(["audit", str(tmp_path)])
    shown = capsys.readouterr().out
    assert (1, True) == (code, "The sample at place 25 of epoch 0 (index 25), the first of 10 samples," in shown)
    code = main(["audit", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    (fault,) = told["runs"][0]["faults"]
    assert (1, False, "lost", 25, 25, 10) == (
        code,
        told["exactly_once"],
        fault["kind"],
        fault["place"],
        fault["index"],
        fault["samples"],
    )


def test_two_runs_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fresh start in the folder has its own heading."""
    train(tmp_path, 5)
    train(tmp_path, 3)
    assert 0 == main(["audit", str(tmp_path)])
    assert ["Run 0", "Run 1"] == [line for line in capsys.readouterr().out.splitlines() if line.startswith("Run")]


@pytest.mark.parametrize("name", ["none", "file", ""])
def test_where_there_is_no_audit(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3, and one line with what was looked for."""
    (tmp_path / "file").touch()
    code = main(["audit", str(tmp_path / name)])
    shown = capsys.readouterr()
    assert (3, "", 1) == (code, shown.out, len(shown.err.splitlines()))


def test_an_order_that_is_the_users_own_is_proven_by_its_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which indices it gives at them, and how often, only the user's code knows."""

    class Own:
        def __len__(self) -> int:
            return 40

        def indices(self, epoch: int, start: int, stop: int, /) -> Any:
            return np.zeros(stop - start, np.int64)

    list(ResumableLoader(range(40), 5, order=Own(), audit=tmp_path))
    assert 0 == main(["audit", str(tmp_path)])
    assert "Exactly once: every place of its own order up to there was trained" in capsys.readouterr().out
