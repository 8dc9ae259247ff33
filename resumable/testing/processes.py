"""A function in a process of its own, as each session of a run is: with a time limit, and whatever it dies of.

The process is forked, so that the function may be anything, and finds what this process has imported. It leads a process
group of its own, with which its workers end.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any, Final, Literal, NoReturn

from resumable.testing.sessions import Kill

__all__ = ["Parent", "Result", "in_process"]

_LOOK: Final = 0.1
"""Seconds between two looks at whether the process is still there."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a process ended: it *sent* values, and then returned, crashed, or was still there at the limit."""

    end: Literal["returned", "crash", "hang"]
    sent: tuple[Any, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Parent:
    """The process that waits for this one."""

    pipe: Connection

    def send(self, value: Any, /) -> None:
        """Hand *value* over."""
        self.pipe.send(("sent", value))

    def die(self) -> NoReturn:
        """End this process by SIGKILL, as one that has returned."""
        self.pipe.send(("returned", ""))
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit  # the signal needs no handler and knows no delay


def in_process(*works: Callable[[Parent], object], time_limit: float) -> list[Result]:
    """Run each of *works* in a process of its own, all at the same time, for at most *time_limit* seconds.

    >>> in_process(lambda parent: parent.send(1 + 1), time_limit=60)
    [Result(end='returned', sent=(2,), text='')]
    """
    sys.stdout.flush()
    sys.stderr.flush()
    started = [_start(work) for work in works]
    try:
        until = time.monotonic() + time_limit
        return [_watch(process, here, until) for process, here in started]
    finally:
        for process, here in started:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid or 0, signal.SIGKILL)  # its workers too
            process.kill()
            process.join()
            here.close()


def _start(work: Callable[[Parent], object]) -> tuple[ForkProcess, Connection]:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, there))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12: threads are not forked; DataLoader's workers are the same
        process.start()
    there.close()
    return process, here


def _watch(process: ForkProcess, here: Connection, until: float) -> Result:
    sent: list[Any] = []
    has_ended = False
    while time.monotonic() < until:
        if not here.poll(0 if has_ended else _LOOK):
            if has_ended:
                return Result("crash", tuple(sent), f"the process ended with exit code {process.exitcode}")
            has_ended = not process.is_alive()  # workers hold the pipe open: its end would not be seen
            continue
        try:
            kind, value = here.recv()
        except EOFError:
            process.join(_LOOK)
            return Result("crash", tuple(sent), f"the process ended with exit code {process.exitcode}")
        if kind != "sent":
            return Result(kind, tuple(sent), value)
        sent.append(value)
    return Result("hang", tuple(sent))


def _child(work: Callable[[Parent], object], there: Connection) -> None:
    os.setpgid(0, 0)
    gc.freeze()  # a collection would write into every page that is shared
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)  # what OpenMP started before the fork is not here
    try:
        work(Parent(there))
    except BaseException as error:  # noqa: BLE001  # whatever it is, it ends the session
        there.send(("crash", _told(error)))
    else:
        there.send(("returned", ""))
    there.close()
    os._exit(0)


def _told(error: BaseException) -> str:
    """What *error* says, after the error that led to it."""
    first = error
    while (before := first.__cause__ or first.__context__) is not None and not isinstance(before, Kill):
        first = before
    errors = [first] if first is error else [first, error]
    return ", then ".join("".join(traceback.format_exception_only(each)).strip() for each in errors)
