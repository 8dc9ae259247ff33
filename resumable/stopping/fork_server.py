"""Imported by Python's fork server, and by nobody else: a scheduler's signal must not end it before its workers.

With the start method "forkserver", Linux's default from Python 3.14 on, a DataLoader's workers are children of a server
process. A signal to all processes would end the server, and then its workers, which take that for the main process's
end. So the server ignores what schedulers send; it ends when the main process does, as ever. What it forks does not.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

__all__ = ["IGNORED", "is_fork_server", "live_on"]

IGNORED: Final = (
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)


def is_fork_server() -> bool:
    """Whether this process was started as a fork server.

    >>> is_fork_server()
    False
    """
    return any("multiprocessing.forkserver" in argument for argument in sys.orig_argv)


def live_on() -> None:
    """Ignore the signals here, and let each forked process answer them as if nobody did."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.register_at_fork(after_in_child=_answer_again)


def _answer_again() -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)


if is_fork_server():
    live_on()
