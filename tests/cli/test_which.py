"""`resumable which`: what it tells is what a recorded loop trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import ResumableLoader
from resumable.cli.main import main


def loader_of(rank: int = 0) -> ResumableLoader[Any]:
    """The loader of a rank of two."""
    return ResumableLoader(range(21), 2, shuffle=True, data_parallel_rank=rank, data_parallel_size=2)


def recorded(steps: int) -> list[list[list[int]]]:
    """What each of two ranks trained in each step."""
    endless = [loader_of(rank).forever() for rank in range(2)]
    return [[next(batches).tolist() for batches in endless] for _ in range(steps)]


@pytest.fixture
def state(tmp_path: Path) -> str:
    """The state after eight steps: one epoch has six, the last one padded."""
    loader = loader_of()
    endless = loader.forever()
    for _ in range(8):
        next(endless)
    loader.save(tmp_path / "state.json")
    return str(tmp_path / "state.json")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What the command says as JSON."""
    assert 0 == main(["which", *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_steps_past_and_to_come(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every step's indices, by rank, are those of a recorded run; the padded one is marked."""
    steps = recorded(14)
    found = told(capsys, state, "--steps", "1:15")
    assert steps == [step["ranks"] for step in found]
    assert [number <= 8 for number in range(1, 15)] == [step["is_past"] for step in found]
    assert [[], [steps[0][0][0]]] == [found[4]["padded"], found[5]["padded"]]
    assert steps[6][1] == told(capsys, state, "--step", "7", "--rank", "1")["indices"]


def test_the_steps_of_a_sample(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each step that trained it, and the next one to come; once more where it filled an epoch's end."""
    steps = recorded(18)
    for sample in range(21):
        expected = [number for number, step in enumerate(steps, 1) if sample in step[0] + step[1]]
        past = [number for number in expected if number <= 8]
        found = told(capsys, state, "--sample", str(sample))["steps"]
        assert expected[: len(past) + 1] == [step["step"] for step in found]


def test_in_words(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A step with its place and a line for each rank; a sample's steps as a table."""
    (ranks,) = recorded(1)
    assert 0 == main(["which", state, "--step", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["step       1, trained", "begins at  sample 0: epoch 0, offset 0", "samples    4"]
    assert [f"rank {rank}  {' '.join(map(str, indices))}" for rank, indices in enumerate(ranks)] == lines[-2:]
    assert 0 == main(["which", state, "--sample", str(ranks[0][1])])
    assert "Sample" in capsys.readouterr().out
    assert 0 == main(["which", state, "--steps", "1:3"])
    assert 3 == len(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--step", "0"], 3),
        (["--step", "1", "--rank", "2"], 3),
        (["--sample", "21"], 3),
        (["--sample", "-1"], 3),
        (["--steps", "5:5"], 2),
        (["--steps", "five"], 2),
        (["--sample", "1", "--rank", "0"], 2),
        (["--step", "1", "--state", "valid"], 2),
    ],
)
def test_what_cannot_be_told(arguments: list[str], code: int, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A step below 1 or a sample out of range ends with 3, wrong use with 2: one line."""
    assert code == main(["which", state, *arguments])
    shown = capsys.readouterr()
    assert ("", 1) == (shown.out, len(shown.err.splitlines()))


def test_one_of_several_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a checkpoint holds several, one has to be named."""
    valid = ResumableLoader(range(5))
    next(valid.forever())
    content = {"train": loader_of().state_dict(), "valid": valid.state_dict()}
    torch.save(content, tmp_path / "a.pt")
    assert 2 == main(["which", str(tmp_path / "a.pt"), "--step", "1"])
    assert "add --state with one of 'train', 'valid'" in capsys.readouterr().err
    assert [0] == told(capsys, str(tmp_path / "a.pt"), "--step", "1", "--state", "valid")["indices"]


def test_a_count_alone_tells_no_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What holds a bare count ends with 3, and says why."""
    torch.save({"consumed_samples": 5}, tmp_path / "a.pt")
    assert 3 == main(["which", str(tmp_path / "a.pt"), "--step", "1"])
    assert "does not tell which samples its steps train" in capsys.readouterr().err
