"""`resumable inspect`: the facts of a position, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import LinearRampup, ResumableLoader
from resumable.cli.main import main


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A run on two ranks with a ramp-up, resumed on one."""
    saved: Any = None
    path = tmp_path / "state.json"
    for ranks, steps in ((2, 5), (1, 3)):
        loader = ResumableLoader(
            range(200),
            4,
            schedule=LinearRampup(8, 24, 8, 60),
            data_parallel_rank=0,
            data_parallel_size=ranks,
            reseed=True,
        )
        if saved is not None:
            loader.load_state_dict(saved)
        batches = loader.forever()
        for _ in range(steps):
            for _ in range(loader.num_microbatches):
                next(batches)
            loader.commit()
        saved = loader.state_dict()
        loader.save(path)
    return path


def test_in_words(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Position and progress, order, ranks, the stage of the schedule, and a row for each stretch."""
    assert 0 == main(["inspect", str(state)])
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "saved by  a state file",
        "consumed samples  112",
        "offset            112 of 200 samples (56.0 %)",
        "order             sequential, 200 samples",
        "ranks             1 x micro batch 4, accumulation 1",
        "schedule          LinearRampup 8 24 8 60, now 24",
        "random numbers    follow the position, from seed 0",
        "        0       0      0       0      2            4             1  LinearRampup 8 24 8 60",
        "        5      48      0      48      1            4             1  LinearRampup 8 24 8 60",
    ):
        assert line in lines


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_the_terminal(
    width: int, state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is longer than the terminal is wide."""
    monkeypatch.setenv("COLUMNS", str(width))
    main(["inspect", str(state)])
    assert width >= max(map(len, capsys.readouterr().out.splitlines()))


def test_as_json(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The saved form, the progress in the epoch and the schedule's stage."""
    assert 0 == main(["inspect", str(state), "--json"])
    told = json.loads(capsys.readouterr().out)
    (found,) = told["states"]
    assert ("a state file", None, 112) == (told["tool"], told["steps"], found["state"]["consumed_samples"])
    assert ({"offset": 112, "of": 200, "percent": 56.0}, {"size": 24, "stop": None}) == (
        found["progress"],
        found["stage"],
    )


def test_where_only_steps_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps are shown, and no count is made up."""
    torch.save({"iteration": 10, "model": {}}, tmp_path / "model_optim_rng.pt")
    assert 0 == main(["inspect", str(tmp_path)])
    assert f"saved by  Megatron-LM\npath      {tmp_path}\nsteps     10\n" == capsys.readouterr().out


def test_what_steers_a_terminal_is_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name in a checkpoint may be anything."""
    torch.save({"\x1b[2Jdata": {"consumed_samples": 5}}, tmp_path / "a.pt")
    main(["inspect", str(tmp_path / "a.pt")])
    shown = capsys.readouterr().out
    assert (True, False) == (r"\x1b[2Jdata" in shown, "\x1b" in shown)


def test_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3, and one line."""
    code = main(["inspect", str(tmp_path / "nowhere")])
    shown = capsys.readouterr()
    assert (3, "", 1) == (code, shown.out, len(shown.err.splitlines()))
