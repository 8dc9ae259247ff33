"""Plain loops in real processes that are asked to stop, step by step."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from resumable import stop_on
from tests.support.reference import Loader, numbers, order_of, whole
from tests.support.stopped_loops import FORK, exit_code_of

N, EPOCHS = 50, 2


# -- loops that are asked to stop


@dataclass(frozen=True)
class Setup:
    """How a session loads and steps, and by what it lets itself be stopped."""

    workers: int = 0
    accumulation: int = 1
    signals: tuple[signal.Signals, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


def session(pipe: Connection, path: Path, setup: Setup) -> None:
    """Resume and train; save and exit with 0 at the first step boundary after the signal, otherwise at the run's end."""
    os.setsid()  # a group of its own
    stop_on(*setup.signals)
    loader = Loader(numbers(N), 3, shuffle=True, seed=5, num_workers=setup.workers, **dict(setup.options))
    trained: list[int] = []
    if path.exists():
        saved = json.loads(path.read_text())
        trained = saved["trained"]
        loader.load_state_dict(saved["data"])
    loader.state.commit()
    pending: list[int] = []
    for _ in range(loader.epoch, EPOCHS):
        for number, batch in enumerate(loader, start=1):
            pending += batch.tolist()
            pipe.send(len(trained) + len(pending))
            pipe.recv()
            if number % setup.accumulation == 0 or (len(trained) + len(pending)) % N == 0:
                trained, pending = trained + pending, []
                loader.state.commit()
                if loader.state.stop_requested:
                    path.write_text(json.dumps({"trained": trained, "data": loader.state_dict()}))
                    sys.exit(0)
    path.write_text(json.dumps({"trained": trained, "data": loader.state_dict()}))


Send = Callable[[int], None]


def to_the_process(*signals: signal.Signals) -> Send:
    """To the training process alone, as Kubernetes does."""

    def send(pid: int) -> None:
        for number in signals:
            os.kill(pid, number)

    return send


def to_the_group(*signals: signal.Signals) -> Send:
    """To every process of the group, workers too, as Slurm, `timeout` and a shell do."""

    def send(pid: int) -> None:
        for number in signals:
            os.killpg(pid, number)

    return send


def exit_code(path: Path, setup: Setup, at: int, send: Send) -> int | None:
    """That of a session that gets *send*'s signals after its batch number *at*."""
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=session, args=(theirs, path, setup))
    child.start()
    theirs.close()
    seen = 0
    try:
        while ours.recv():
            seen += 1
            if seen == at and child.pid is not None:
                send(child.pid)
            ours.send("go on")
    except (EOFError, ConnectionError):  # it has ended, before it answered or before it heard
        pass
    return exit_code_of(child)


def check_chain(path: Path, setup: Setup, send: Send) -> None:
    """Two sessions are asked to stop and one comes to the end: each exits with 0, and the run is the uninterrupted one."""
    places: list[int] = []
    for at in (4, 7, sys.maxsize):
        assert 0 == exit_code(path, setup, at, send)
        places.append(len(json.loads(path.read_text())["trained"]))
    saved = json.loads(path.read_text())
    assert whole(order_of(N, shuffle=True, seed=5), EPOCHS) == saved["trained"]
    assert {"consumed_samples": 2 * N, "epoch": 2, "offset": 0}.items() <= saved["data"].items()
    behind = [-(-at // setup.accumulation) * setup.accumulation * 3 for at in (4, 7)]
    assert [behind[0], min(behind[0] + behind[1], N), 2 * N] == places


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "send", [to_the_process(signal.SIGTERM), to_the_group(signal.SIGTERM)], ids=["process", "group"]
)
@pytest.mark.parametrize("accumulation", [1, 6])
def test_a_loop_stops_at_its_next_step(tmp_path: Path, workers: int, send: Send, accumulation: int) -> None:
    """The step is finished, with batches that workers have yet to load, and saved; the run goes on exactly."""
    check_chain(tmp_path / "run.json", Setup(workers, accumulation), send)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_signal_of_choice(tmp_path: Path, number: signal.Signals) -> None:
    """What Slurm's `--signal` sends, and Ctrl-C: to the whole group, and the workers live on."""
    check_chain(tmp_path / "run.json", Setup(2, 6, (signal.SIGTERM, number)), to_the_group(number))


def test_a_signal_that_comes_twice(tmp_path: Path) -> None:
    """Launchers pass on what the whole group got: the save does not die of it."""
    twice = to_the_group(signal.SIGTERM, signal.SIGTERM)
    check_chain(tmp_path / "run.json", Setup(2, 6), twice)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_that_stay(tmp_path: Path, persistent: bool) -> None:
    """A session that exits inside its loop, with workers that it would use again, comes to an end."""
    setup = Setup(2, 6, options=(("persistent_workers", persistent), ("pin_memory", False)))
    check_chain(tmp_path / "run.json", setup, to_the_group(signal.SIGTERM))


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_of_other_start_methods(tmp_path: Path, context: str) -> None:
    """Workers that inherit nothing get the list of signals to ignore."""
    setup = Setup(1, 6, options=(("multiprocessing_context", context),))
    check_chain(tmp_path / "run.json", setup, to_the_group(signal.SIGTERM))


def test_without_a_word_the_signal_kills(tmp_path: Path) -> None:
    """The sessions above would notice: without `stop_on` the signal ends them."""
    path = tmp_path / "run.json"
    assert -signal.SIGUSR1 == exit_code(path, Setup(), 4, to_the_group(signal.SIGUSR1))
    assert not path.exists()
