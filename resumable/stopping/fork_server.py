"""Imported only by Python's fork server: a scheduler's signal must not end the server before its workers.

With the start method "forkserver", Linux's default from Python 3.14 on, DataLoader workers are children of a server
process. A signal to all processes would end the server, and then its workers, which would take that for the end of the
main process. So the server ignores the signals that schedulers send, and still ends with the main process. The
processes that it forks do not ignore them.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

__all__ = ["IGNORED", "is_fork_server", "live_on"]

IGNORED: Final = (
    signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU,
)  # fmt: skip


def is_fork_server() -> bool:
    """Whether this process was started as a fork server.

    >>> is_fork_server()
    False
    """
    return any("multiprocessing.forkserver" in argument for argument in sys.orig_argv)


def live_on() -> None:
    """Ignore the signals in this process, and restore their default in each process that it forks."""
    _set(signal.SIG_IGN)
    os.register_at_fork(after_in_child=lambda: _set(signal.SIG_DFL))


def _set(handler: signal.Handlers) -> None:
    for number in IGNORED:
        signal.signal(number, handler)


if is_fork_server():
    live_on()
