"""Workers of the start method "forkserver": they live through signals from their first moment, and end with their parent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import functools, multiprocessing, os, signal, sys
from resumable import ResumableLoader, stop_on

SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1

def signal_all():
    for number in SIGNALS:
        os.killpg(0, number)

class Data:
    def __init__(self):
        self.length = 40
    def __len__(self):
        return self.length
    def __getitem__(self, index):
        return index
    def __setstate__(self, kept):
        vars(self).update(kept)
        {in_worker}  # while a worker starts

def train(**options):
    stop_on(*SIGNALS)
    loader = ResumableLoader(Data(), 4, num_workers=2, **options)
    for batch in loader:
        loader.commit()
        if loader.state.stop_requested and loader.state.consumed_samples == 8:  # both workers have started
            break
    print("trained", loader.state.consumed_samples)

def end(pid, *ignored):
    os.kill(pid, signal.SIGKILL)

def run(answers, **options):
    "A process that is killed with its workers alive, or while one of them starts."
    if answers:
        stop_on(*SIGNALS)
    batches = iter(ResumableLoader(Data(), 4, num_workers=2, **options, **SERVED))
    next(batches)
    end(os.getpid())

SERVED = {{"multiprocessing_context": "forkserver"}}
served = multiprocessing.get_context("forkserver").Process

if __name__ == "__mp_main__":
    {in_server}  # while the fork server starts

if __name__ == "__main__":
    {main}
"""


def ends_of(folder: Path, main: str, in_server: str = "pass", in_worker: str = "pass") -> tuple[int, str]:
    """The exit code of a main process, and what was said; all processes that hold its output have ended."""
    script = folder / "run.py"
    script.write_text(SCRIPT.format(main=main, in_server=in_server, in_worker=in_worker))
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},  # of what a killed process leaves
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,
    )
    return done.returncode, done.stdout


CONTEXT = "multiprocessing_context=multiprocessing.get_context('forkserver')"
RANK = "p = served(target={target}, {options}); p.start(); p.join(); "


@pytest.mark.parametrize(
    "main",
    [
        "train(**SERVED)",
        RANK.format(target="print", options="") + "train(**SERVED)",
        pytest.param(f"train({CONTEXT})", marks=pytest.mark.slow),
        pytest.param(
            "multiprocessing.set_start_method('forkserver'); train(persistent_workers=True)", marks=pytest.mark.slow
        ),
        "stop_on(*SIGNALS); " + RANK.format(target="train", options="kwargs=SERVED") + "sys.exit(p.exitcode)",
    ],
)
def test_signals_while_workers_start(tmp_path: Path, main: str) -> None:
    """The run goes on to its next step, however the start method is set and whoever has started a server before."""
    code, said = ends_of(tmp_path, main, in_worker="signal_all()")
    assert 0 == code, said
    assert "trained 8" in said.splitlines()  # SIGUSR1 ends a resource tracker that was there before, which says so


def test_signals_while_the_server_starts(tmp_path: Path) -> None:
    """They wait in it before it has imported anything."""
    assert (0, "trained 8\n") == ends_of(tmp_path, "train(**SERVED)", in_server="signal_all()")


@pytest.mark.parametrize(
    "main",
    [
        "run(True)",
        pytest.param("run(False, persistent_workers=True)", marks=pytest.mark.slow),
        "run(True, worker_init_fn=functools.partial(end, os.getpid()))",
    ],
)
def test_workers_end_with_the_main_process(tmp_path: Path, main: str) -> None:
    """All that it has started ends, whether signals are answered or not: the output that they share is closed."""
    code, said = ends_of(tmp_path, main)
    assert (-9, "") == (code, said)


def test_workers_end_with_their_rank(tmp_path: Path) -> None:
    """They are of no use to the process that started the rank, which goes on, with the fork server."""
    ranks = RANK.format(target="run", options="args=(True,)")
    assert (0, "-9\n") == ends_of(tmp_path, ranks + "print(p.exitcode)")


def test_a_user_s_own_process_is_ended_as_ever(tmp_path: Path) -> None:
    """A server that survives the signals starts processes that do not."""
    own = "p = served(target=signal.pause); p.start(); p.terminate(); p.join(); print(p.exitcode)"
    assert (0, "trained 40\n-15\n") == ends_of(tmp_path, f"train(**SERVED); {own}")
