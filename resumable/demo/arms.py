"""One arm of the demo: a run whose training processes are started, watched, killed and started again.

Python's fork server imports Lightning once and forks each of these processes; from then on it trains, dies and
leaves files like any other. The parent knows of it only what its log holds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from resumable.demo.history import Job, read_run, session_log
from resumable.demo.settings import Kill, Settings, planned_kills
from resumable.errors import ResumptionError

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess

    from resumable.report import Run

__all__ = ["Arm", "DemoError", "Progress", "fork_server", "run_arm"]

_PATIENCE_S: Final = 120.0  # without a step


class DemoError(ResumptionError):
    """A training process of the demo failed by itself, or hangs."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the runs that stand side by side: its *datamodule*, a class in `model`, and whether it is *killed*."""

    name: str
    datamodule: str
    killed: bool = True


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an arm has come: the optimizer *steps* and *kills* until now, and whether its process *trains* yet."""

    steps: int
    kills: int
    trains: bool


def fork_server() -> ForkServerContext:
    """A source of processes that have imported what training needs and have done nothing else.

    >>> fork_server().get_start_method()
    'forkserver'
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resumable.demo.session"])
    return context


def _enter(job: Job, output: Path) -> None:
    """What a training process does: it leads a process group of its own, writes its output to a file, and trains."""
    os.setsid()
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from resumable.demo.session import train  # here, since the parent imports this module too and needs no Lightning

    train(job)


def _logged_steps(log: Path) -> Generator[int | None, None, None]:
    """Again and again, how many optimizer steps the run that writes *log* has completed; None before it trains."""
    while not log.exists():
        yield None
    steps, unread = None, b""
    with log.open("rb") as file:
        while True:
            *lines, unread = (unread + file.read()).split(b"\n")
            if lines:
                steps = json.loads(lines[-1])["step"]
            yield steps


def _watch(process: BaseProcess, log: Path, kill: Kill | None, kills: int) -> Generator[Progress, None, bool]:
    """Follow *process* until it has ended by itself (False) or the moment of *kill* has come (True)."""
    first = last = None
    strike = None
    moved = time.monotonic()
    for steps in _logged_steps(log):
        yield Progress(steps or 0, kills, trains=steps is not None)
        now = time.monotonic()
        if steps is not None and steps != last:
            first, last, moved = steps if first is None else first, steps, now
            if strike is None and kill is not None and steps >= kill.step and steps > first:
                strike = now + kill.delay_s
        if strike is not None and now >= strike:
            return True
        if not process.is_alive():
            return False
        if now - moved > _PATIENCE_S:
            raise DemoError(f"A training process has done no step for {_PATIENCE_S:.0f} s; its log is {log}.")
    return False


def _sweep(process: BaseProcess) -> None:
    """Kill *process*, then the workers that it leaves: by themselves they notice its end only after seconds."""
    process.kill()
    process.join()
    if process.pid is not None:
        with suppress(ProcessLookupError):  # none is left
            os.killpg(process.pid, signal.SIGKILL)


def run_arm(
    arm: Arm, settings: Settings, folder: Path, context: ForkServerContext, /
) -> Generator[Progress, None, Run]:
    """Train *arm* to its end in *folder*, kills and resumes included; gives its progress and never waits for it.

    Raises `DemoError` if a training process fails or hangs. Close the generator to end the arm early: that kills the
    process.
    """
    kills = planned_kills(settings) if arm.killed else ()
    for session in range(len(kills) + 1):
        output = folder / f"session-{session}.txt"
        process = context.Process(target=_enter, args=(Job(folder, arm.datamodule, session, settings), output))
        process.start()
        try:
            kill = kills[session] if session < len(kills) else None
            struck = yield from _watch(process, session_log(folder, session), kill, session)
        finally:
            _sweep(process)
        if struck and process.exitcode == -signal.SIGKILL:
            continue
        if process.exitcode != 0:
            tail = "\n".join(output.read_text(errors="replace").splitlines()[-20:])
            raise DemoError(f"A training process of {arm.name!r} ended with exit code {process.exitcode}:\n{tail}")
        return read_run(arm.name, folder, settings, sessions=session + 1)
    raise DemoError(f"{arm.name!r} was killed more often than planned.")
