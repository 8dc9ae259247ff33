"""Imported only by Python's fork server: a scheduler's signal must end neither the server nor a worker that starts.

With the start method "forkserver", Linux's default from Python 3.14 on, DataLoader workers are children of a server
process. A signal to all processes would end the server, and then its workers, which would take that for the end of the
main process. So in the server all signals wait, for ever; it still ends with the main process. The processes that it
forks let them through as they begin, but for those that a shielded worker will handle.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from multiprocessing import util

from resumable.stopping.signals import WATCHABLE

_still_waiting: set[int] = set()


def hold(signals: Iterable[int], /) -> None:
    """Let *signals* wait in this process, which is becoming a shielded worker, until it handles them."""
    _still_waiting.update(signals)


def _let_through(waiting: frozenset[int]) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, waiting - _still_waiting)


if any("multiprocessing.forkserver" in argument for argument in sys.orig_argv):
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHABLE)
    util.register_after_fork(WATCHABLE, _let_through)
