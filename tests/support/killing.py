"""Forks of this process that report how far they are, and are killed by SIGKILL: where, does not depend on their speed."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeAlias

__all__ = ["END", "Child", "Report", "exit_code", "forked", "hear", "kill"]

END = "!"
"""What the last report of a child begins with."""
Report: TypeAlias = Callable[[str], None]
_FAILED = 1


def forked(work: Callable[[], object], /) -> int:
    """Fork a process that leads a group of its own and does *work*; it exits with 0, or with 1 where that fails."""
    child = os.fork()
    if child:
        os.setpgid(child, child)  # here too: whoever comes second changes nothing
        return child
    code = _FAILED
    try:
        os.setpgid(0, 0)
        work()
        code = 0
    except BaseException:  # noqa: BLE001  # nothing may lead a child back into its parent's code
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
    finally:
        os._exit(code)


def kill(leaders: Iterable[int], /) -> None:
    """Kill the groups of *leaders*: each with the workers of its loader, which would live on for some seconds."""
    for leader in leaders:
        with suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


def exit_code(child: int, /) -> int:
    """Wait for *child*; its exit code, `-signal.SIGKILL` where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Child:
    """A fork that does *work*, which is given a function to report with, and waits there until it may `go_on`."""

    def __init__(self, work: Callable[[Report], object]) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps messages apart

        def report(what: str) -> None:
            theirs.send(what.encode())
            theirs.recv(1)

        self.pid = forked(lambda: work(report))
        theirs.close()
        self.reports: list[str] = []

    @property
    def is_done(self) -> bool:
        """Whether it has made its last report."""
        return bool(self.reports) and self.reports[-1].startswith(END)

    def fileno(self) -> int:
        """For `select`."""
        return self._ours.fileno()

    def hear(self) -> bool:
        """Take its next report; False where it ended without one."""
        with suppress(ConnectionError):  # it died before it read an answer
            if heard := self._ours.recv(64):
                self.reports.append(heard.decode())
                return True
        return False

    def go_on(self) -> None:
        """Let it leave the report that was heard last."""
        with suppress(BrokenPipeError):  # it is dead
            self._ours.send(b".")

    def let_go(self) -> None:
        """Let it go on for ever, heard or not."""
        self._ours.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Kill it if it lives, and hear no more of it."""
        kill([self.pid])
        self._ours.close()


def hear(children: Iterable[Child], /) -> Child | None:
    """Wait for the next report of any of *children*, and return who made it; None where each has made its last."""
    talking = [child for child in children if not child.is_done]
    while talking:
        ready: list[Child] = select.select(talking, [], [])[0]
        if ready[0].hear():
            return ready[0]
        talking.remove(ready[0])
    return None
