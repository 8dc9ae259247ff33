"""`resumable plan`: its tables, its JSON, its picture, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resumable.cli.main import main

SIZES = ["plan", "--samples", "1000", "--micro-batch-size", "4", "--data-parallel-size", "8"]


def test_a_plan_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Equal epochs share a row; what a tail pads has a column where there is some."""
    main(["plan", "--samples", "1001", "--micro-batch-size", "4", "--data-parallel-size", "8", "--epochs", "3"])
    shown = capsys.readouterr().out
    assert "steps                96\nconsumed samples     3,003\n" in shown
    assert (
        "epochs  steps of each  samples  last step  padded\n0 to 2             32    1,001          9       7\n"
        in shown
    )


def test_a_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` has the same, with a verdict for each resize; a picture is drawn beside it."""
    code = main([*SIZES, "--global-batch-size", "64", "--drop-last", "--resize", "3:16x2", "--resize", "5:2", "--json"])
    made = json.loads(capsys.readouterr().out)
    assert (0, 15, 960) == (code, made["total_steps"], made["consumed_samples"])
    assert [["regrouped", 3, 192, 16, 2], ["regrouped", 5, 320, 2, 4]] == [
        [each[name] for name in ("verdict", "step", "consumed_samples", "data_parallel_size", "micro_batch_size")]
        for each in made["resizes"]
    ]
    assert 40 == made["epochs"][0]["dropped"]


def test_a_ramp_and_a_schedule_have_stages(capsys: pytest.CaptureFixture[str]) -> None:
    """Megatron's ramp-up and its successor's text are read as Megatron reads them; thresholds in tokens with a length."""
    main([*SIZES, "--global-batch-size", "96", "--rampup", "32", "32", "200", "--json"])
    ramp = json.loads(capsys.readouterr().out)["stages"]
    main([*SIZES, "--schedule", "0:32 2K:64", "--seq-length", "10", "--json"])
    text = json.loads(capsys.readouterr().out)["stages"]
    assert [(1, 0, 32), (5, 128, 64), (7, 256, 96)] == [
        (row["first_step"], row["consumed_samples"], row["batch_size"]) for row in ramp
    ]
    assert [(1, 0), (8, 224)] == [(row["first_step"], row["consumed_samples"]) for row in text]


def test_a_resize_that_is_refused_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    """The verdict is told with the sizes that would do."""
    code = main([*SIZES, "--global-batch-size", "64", "--resize", "3:3"])
    shown = capsys.readouterr().out
    assert (1, True) == (code, "verdict           refused" in shown)
    assert "sizes that would do: '60 or 72'" in shown


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_plan_as_a_picture(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--plot` writes the kind that the suffix says, and tells where."""
    path = tmp_path / f"plan.{suffix}"
    code = main([*SIZES, "--epochs", "2", "--resize", "3:4", "--plot", str(path)])
    assert (0, True) == (code, f"picture: {path}" in capsys.readouterr().out)
    assert path.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[suffix])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--epochs", "0"], "epochs"),
        (["--resize", "3"], "--resize 3 is not STEP:R or STEP:RxB"),
        (["--resize", "3:0"], "at least one rank"),
        (["--resize", "99:2"], "A resize must come within the run"),
        (["--rampup", "8", "8", "100"], "add --global-batch-size"),
        (["--seq-length", "8"], "add it, or leave --seq-length out"),
        (["--schedule", "0:8", "--global-batch-size", "8"], "leave --global-batch-size"),
        (["--schedule", "eight"], "has no colon"),
        (["--global-batch-size", "33"], "does not fall into whole micro batches"),
        (["--micro-batch-size", "0"], "--micro-batch-size"),
        (["--plot", "plan.txt"], "plan.txt"),
    ],
)
def test_wrong_use_is_told_in_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be planned ends with 2, one line, and what would do."""
    monkeypatch.chdir(tmp_path)
    code = main([*SIZES, *arguments])
    shown = capsys.readouterr()
    assert (2, "", 1) == (code, shown.out, len(shown.err.splitlines()))
    assert says in shown.err


def test_numbers_may_be_written_short(capsys: pytest.CaptureFixture[str]) -> None:
    """200M samples are 200,000,000."""
    main(["plan", "--samples", "200M", "--micro-batch-size", "1", "--data-parallel-size", "1", "--json"])
    assert 200_000_000 == json.loads(capsys.readouterr().out)["total_steps"]
