"""The demo: it sees every way in which a run can fail to be exact, and a real run with real kills passes it."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric.plugins import TorchCheckpointIO
from rich.console import Console

from resumable.demo.history import differences, read_run, session_log
from resumable.demo.main import ARMS, run_demo
from resumable.demo.session import AtomicCheckpointIO
from resumable.demo.settings import Settings, planned_kills
from resumable.demo.text import read_windows
from resumable.errors import ConfigurationError
from resumable.report import Run, Session, Step

STEPS = (Step(0, (2, 0)), Step(0, (1,)), Step(1, (0, 1)), Step(1, (2,)))
REFERENCE = Run("whole", 3, 2, (Session(0, STEPS),), final_loss=0.5, weights_digest="5f")
EXACT = replace(
    REFERENCE, name="killed", sessions=(Session(0, STEPS[:3], killed=True), Session(2, STEPS[2:]))
)  # its third step was undone and done again
SMALL = Settings(seed=3, kills=1, samples=475, epochs=3, checkpoint_every=7)


def with_steps(*steps: Step) -> Run:
    """The exact run, but for what its second session trained."""
    return replace(EXACT, sessions=(Session(0, STEPS[:3], killed=True), Session(2, steps)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_kills_are_spread_over_the_run(seed: int, kills: int) -> None:
    """Each kill falls in a stretch of its own, behind the first checkpoint and well before the end."""
    settings = Settings(seed=seed, kills=kills)
    planned = planned_kills(settings)
    assert planned == planned_kills(settings)
    assert len(planned) == kills
    assert all(one.step < other.step for one, other in pairwise(planned))
    assert planned[0].step > settings.checkpoint_every
    assert planned[-1].step <= 0.85 * settings.steps
    assert all(0 <= kill.delay_s < 0.03 for kill in planned)


@pytest.mark.parametrize("wrong", [{"kills": 0}, {"kills": 25}, {"seed": -1}, {"seed": 2**32}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    """No kill at all shows nothing; more of them than checkpoints, or a seed that no generator takes, cannot be run."""
    with pytest.raises(ConfigurationError, match="The demo cannot run with this number"):
        Settings(**wrong)


def test_the_text_is_the_first_modules_of_the_folder(tmp_path: Path) -> None:
    """Modules in the order of their names, whole, and cut where there is enough; what is no source is left out."""
    for name, content in {"b.py": b"BBBB", "a.py": b"AAA", "c.py": b"CCCC", "a.txt": b"text"}.items():
        (tmp_path / name).write_bytes(content)
    assert read_windows(3, 3, folder=tmp_path) == b"AAABBBBCC"


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    """A Python without its source cannot run the demo, and is told why."""
    (tmp_path / "a.py").write_bytes(b"pass")
    with pytest.raises(ConfigurationError, match="too little Python source") as caught:
        read_windows(3, 3, folder=tmp_path)
    assert str(caught.value).splitlines()[1:4] == [
        f"  folder:       {str(tmp_path)!r}",
        "  bytes found:  4",
        "  bytes wanted: 9",
    ]


def test_every_machine_has_enough_text() -> None:
    """The running Python's standard library fills the windows of a demo."""
    assert len(read_windows(Settings().samples, 40)) == Settings().samples * 40


def write_log(path: Path, start_step: int, steps: tuple[Step, ...], rest: str = "") -> None:
    """The log of a session as the training process writes it, ending with *rest*."""
    entries: list[dict[str, Any]] = [{"step": start_step}]
    entries += [{"step": n, "epoch": step.epoch, "indices": list(step.indices)} for n, step in enumerate(steps)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + rest)


@pytest.mark.parametrize("torn", ["", '{"step": 3, "epo'])
def test_a_run_is_read_back_without_what_a_kill_tore(torn: str, tmp_path: Path) -> None:
    """A log's last line counts once it is whole."""
    write_log(session_log(tmp_path, 0), 0, STEPS[:3], torn)
    write_log(session_log(tmp_path, 1), 2, STEPS[2:])
    (tmp_path / "result.json").write_text('{"final_loss": 0.5, "weights_digest": "5f"}')
    assert read_run("killed", tmp_path, Settings(), sessions=2) == replace(EXACT, samples=1_595, epochs=3)


@pytest.mark.parametrize("begun", [True, False])
def test_a_session_that_trained_nothing_changes_nothing(begun: bool, tmp_path: Path) -> None:
    """Killed before its first line, or before its log was there: the run stays where it was."""
    write_log(session_log(tmp_path, 0), 0, STEPS[:3])
    if begun:
        session_log(tmp_path, 1).touch()
    write_log(session_log(tmp_path, 2), 2, STEPS[2:])
    (tmp_path / "result.json").write_text('{"final_loss": 0.5, "weights_digest": "5f"}')
    run = read_run("killed", tmp_path, Settings(), sessions=3)
    assert run.sessions == (EXACT.sessions[0], Session(3, (), killed=True), EXACT.sessions[1])
    assert run.history() == [(0, STEPS[0]), (0, STEPS[1]), (2, STEPS[2]), (2, STEPS[3])]


def test_an_exact_run_has_no_differences() -> None:
    """Killed, gone back, and equal in the end."""
    assert differences(EXACT, REFERENCE, kills=1) == []


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        pytest.param(
            with_steps(Step(1, (0, 0)), STEPS[3]),
            [
                "epoch 1, index 0: trained 2 times instead of 1",
                "epoch 1, index 1: trained 0 times instead of 1",
                "step 2: trained 0, 0 (epoch 1) instead of 0, 1 (epoch 1)",
            ],
            id="repeated and lost",
        ),
        pytest.param(
            with_steps(Step(1, (1, 0)), STEPS[3]),
            ["step 2: trained 1, 0 (epoch 1) instead of 0, 1 (epoch 1)"],
            id="another order",
        ),
        pytest.param(
            with_steps(STEPS[2]),
            ["epoch 1, index 2: trained 0 times instead of 1", "step 3: trained nothing instead of 2 (epoch 1)"],
            id="ended early",
        ),
        pytest.param(
            with_steps(*STEPS[2:], Step(2, (1,))),
            ["epoch 2, index 1: trained 1 times instead of 0", "step 4: trained 1 (epoch 2) instead of nothing"],
            id="an epoch too many",
        ),
        pytest.param(replace(EXACT, final_loss=0.25), ["final loss: 0.25 instead of 0.5"], id="loss"),
        pytest.param(replace(EXACT, weights_digest="60"), ["weights, SHA-256: 60 instead of 5f"], id="weights"),
        pytest.param(REFERENCE, ["kills: 0 instead of 1, since the run ended before the next"], id="not killed"),
    ],
)
def test_each_difference_is_found_and_named(run: Run, expected: list[str]) -> None:
    """Whatever keeps a run from being exact is found by itself, and told."""
    assert differences(run, REFERENCE, kills=1) == expected


def test_many_differences_are_told_in_short() -> None:
    """Three of a kind, and how many more there are."""
    found = differences(replace(EXACT, sessions=()), REFERENCE, kills=0)
    assert found == [
        "epoch 0, index 0: trained 0 times instead of 1",
        "epoch 0, index 1: trained 0 times instead of 1",
        "epoch 0, index 2: trained 0 times instead of 1",
        "... and 3 more like these",
        "step 0: trained nothing instead of 2, 0 (epoch 0)",
        "step 1: trained nothing instead of 1 (epoch 0)",
        "step 2: trained nothing instead of 0, 1 (epoch 1)",
        "... and 1 more like these",
    ]


def test_a_save_that_is_cut_short_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for the checkpoint finds a whole one, whatever happens while another is written."""
    path = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, path)

    def killed(self: TorchCheckpointIO, checkpoint: object, path: str, storage_options: object) -> None:
        Path(path).write_bytes(b"half a check")
        raise KeyboardInterrupt

    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"step": 2}, path)
    assert io.load_checkpoint(path) == {"step": 1}


def test_a_real_run_with_a_real_kill_is_exact(tmp_path: Path) -> None:
    """Killed by SIGKILL and resumed, `@resumable` ends where the uninterrupted run ends; the plain loader does not."""
    console = Console(width=120, record=True, file=StringIO())
    code = run_demo(SMALL, tmp_path / "out", console=console)
    assert (code, "Exact. Kills: 1." in console.export_text()) == (0, True)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    reference, ours, plain = result["runs"]
    assert (result["exact"], result["differences"]) == (True, [])
    assert [len(run["sessions"]) for run in result["runs"]] == [1, 2, 2]
    for run in (reference, ours):
        assert (run["trained"], run["repeated"], run["lost"]) == (SMALL.samples * SMALL.epochs, 0, 0)
    assert ours["weights_sha256"] == reference["weights_sha256"] != plain["weights_sha256"]
    assert (plain["repeated"] > 0, plain["lost"] > 0) == (True, True)
    assert (tmp_path / "out" / "demo.png").stat().st_size > 0
    assert "Exactly once" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_run_that_is_not_exact_fails(tmp_path: Path) -> None:
    """With the plain loader in the place of `@resumable` the demo says what is wrong, and its exit code is 1."""
    console = Console(width=120, record=True, file=StringIO())
    arms = (ARMS[0], replace(ARMS[1], datamodule="PlainText"))
    code = run_demo(SMALL, tmp_path, arms=arms, console=console)
    shown = console.export_text()
    assert (code, "Not exact:" in shown, "Exact." in shown) == (1, True, False)
    assert "@resumable: epoch 0, index " in shown
    assert "@resumable: weights, SHA-256: " in shown
    assert json.loads((tmp_path / "result.json").read_text())["exact"] is False


def test_a_process_that_fails_is_told(tmp_path: Path) -> None:
    """A training process that ends by itself too early ends the demo with 1 and its last words; nothing is left running."""
    console = Console(width=120, record=True, file=StringIO())
    before = set(multiprocessing.active_children())  # another test's loader may still have its workers
    code = run_demo(SMALL, tmp_path, arms=(replace(ARMS[0], datamodule="NoSuchText"), ARMS[1]), console=console)
    shown = console.export_text()
    assert (code, "'uninterrupted' ended with exit code 1" in shown, "NoSuchText" in shown) == (1, True, True)
    assert not (tmp_path / "result.json").exists()
    assert set(multiprocessing.active_children()) - before == set()


@pytest.mark.slow
def test_the_demo_as_it_is_shipped(tmp_path: Path) -> None:
    """`resumable demo` with its own sizes and six kills."""
    command = [sys.executable, "-m", "resumable", "demo", "--kills", "6", "--seed", "11", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((tmp_path / "result.json").read_text())
    assert [sum(session["killed"] for session in run["sessions"]) for run in result["runs"]] == [0, 6, 6]
