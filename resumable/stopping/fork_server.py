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
from functools import partial
from typing import Final

_IGNORED: Final = (
    signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU,
)  # fmt: skip


def _handle(handler: signal.Handlers) -> None:
    for number in _IGNORED:
        signal.signal(number, handler)


if any("multiprocessing.forkserver" in argument for argument in sys.orig_argv):
    _handle(signal.SIG_IGN)
    os.register_at_fork(after_in_child=partial(_handle, signal.SIG_DFL))
