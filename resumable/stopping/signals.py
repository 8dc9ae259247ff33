"""A signal that asks the run to stop, as a flag that the training reads at its next step.

    stop_on(SIGTERM, SIGUSR1) ──► the signal ──┐
    request_stop() ────────────────────────────┴──► stop_requested(), which is also state.stop_requested

Schedulers announce the end of a job by a signal, some seconds or minutes before they kill it. The handler only sets the
flag; the training loop finishes its step, and saves.

In a forked child these signals work as before `stop_on`, so that `terminate()` still ends it. DataLoader workers have
their own shield (`resumable.stopping.workers`).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from types import FrameType, TracebackType
from typing import Any, Final, TypeAlias, cast

from typing_extensions import Self

from resumable.errors import ConfigurationError

__all__ = [
    "FORK_SERVER",
    "SERVER",
    "WATCHABLE",
    "StopSignals",
    "answered",
    "keep_fork_servers",
    "received",
    "request_stop",
    "stop_on",
    "stop_requested",
    "take_back",
    "watched",
]

_SAME_REQUEST_S: Final = 1.0
"""Launchers repeat a signal that a whole group got already; what follows within a second is the same request."""

_NOT_OURS: Final = {
    signal.SIGKILL: "the kernel handles it itself",
    signal.SIGSTOP: "the kernel handles it itself",
    signal.SIGCHLD: "it shows torch that a worker has died",
    **dict.fromkeys(
        [signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP],
        "it reports a fault of the program",
    ),
}

WATCHABLE: Final[frozenset[int]] = frozenset(signal.valid_signals()) - _NOT_OURS.keys()
"""The signals that a program can handle, and that do not report a fault."""

FORK_SERVER: Final = "resumable.stopping.fork_server"
"""What a fork server imports that is to survive the signals."""

SERVER: Final = cast("dict[str, Any]", vars(vars(forkserver)["_forkserver"]))
"""What `multiprocessing` notes of this process's fork server: it has no public way to ask."""

_Before: TypeAlias = "Callable[[int, FrameType | None], Any] | int | None"


class StopSignals:
    """The signals that ask this process to stop, until `restore()` or the end of a `with` block."""

    def __init__(self, signals: tuple[signal.Signals, ...]) -> None:
        self.signals = signals
        self.received: list[signal.Signals] = []
        """Every signal received, in order, repeated ones too."""
        self._handlers = {number: _Handler(self, signal.getsignal(number)) for number in signals}
        _here.watches.append(self)
        self.install()

    def install(self) -> None:
        """Put these handlers on top of any that were installed since."""
        for number, handler in self._handlers.items():
            if not handler.answers(number):
                signal.signal(number, handler)

    def restore(self) -> None:
        """Restore the handlers that were there before. A requested stop stays requested; a second call does nothing.

        Raises:
            ConfigurationError: outside the main thread.
        """
        if self not in _here.watches:
            return
        _check_thread()
        _here.watches.remove(self)
        for number, handler in self._handlers.items():
            # a handler installed on top stays; ours then only calls the one before it
            if handler.answers(number):
                signal.signal(number, handler.successor())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.restore()


class _Handler:
    """The handler of one signal for one `StopSignals`."""

    def __init__(self, watch: StopSignals, before: _Before) -> None:
        self.watch = watch
        self.before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Set the flag, then call the handler that was there before."""
        if self.watch in _here.watches:
            asked = _here.requested_at
            if number == signal.SIGINT and asked is not None and time.monotonic() - asked > _SAME_REQUEST_S:
                signal.default_int_handler(number, frame)
            self.watch.received.append(signal.Signals(number))
            request_stop()
        if callable(self.before) and self.before is not signal.default_int_handler:
            self.before(number, frame)

    def answers(self, number: signal.Signals) -> bool:
        """Whether this handler is called first."""
        return signal.getsignal(number) is self

    def successor(self) -> _Before:
        """The handler before this one, and before those that are restored already."""
        before = self.before
        while isinstance(before, _Handler) and before.watch not in _here.watches:
            before = before.before
        return signal.SIG_DFL if before is None else before  # None: set in C, which Python cannot set again


class _Here:
    """What this process watches, and when a stop was requested."""

    def __init__(self) -> None:
        self.watches: list[StopSignals] = []
        self.requested_at: float | None = None
        self.leaves_at_fork = False

    def leave_in_child(self) -> None:
        for watch in reversed(self.watches):
            watch.restore()
        self.requested_at = None


_here = _Here()


def stop_on(*signals: signal.Signals) -> StopSignals:
    """Make *signals*, by default SIGTERM, ask this process to stop: they set `state.stop_requested`.

    Call it in the main thread of each rank's process, before its loaders start their workers: at the script's start, or
    in a datamodule's `setup` where `multiprocessing` starts the ranks. A Python handler that was there before is called
    too, after the flag is set. In Lightning, a decorated datamodule saves and ends the fit at the next step boundary;
    while the fit runs, Lightning does not handle these signals.

    A repeated signal changes nothing, since launchers send it twice, schedulers again later, and a save must not die of
    it. SIGKILL still ends the process, and so does a second Ctrl-C: more than a second after the first request, SIGINT
    raises KeyboardInterrupt as usual.

    The flag stays set after `restore()`. The next `stop_on` clears it, unless signals are still being watched.

    Raises:
        ConfigurationError: outside the main thread, or for a signal that a program cannot handle.

    >>> with stop_on(signal.SIGTERM, signal.SIGUSR1) as watch:
    ...     before = stop_requested()
    ...     signal.raise_signal(signal.SIGUSR1)
    >>> before, stop_requested(), watch.received == [signal.SIGUSR1]
    (False, True, True)
    """
    wanted = tuple(dict.fromkeys(map(_checked, signals or (signal.SIGTERM,))))
    _check_thread()
    keep_fork_servers()
    if not _here.leaves_at_fork:
        os.register_at_fork(after_in_child=_here.leave_in_child)
        _here.leaves_at_fork = True
    if not _here.watches:
        _here.requested_at = None
    return StopSignals(wanted)


def stop_requested() -> bool:
    """Whether this process was asked to stop, by a signal or by `request_stop`.

    >>> with stop_on():
    ...     stop_requested()
    False
    """
    return _here.requested_at is not None


def request_stop() -> None:
    """Ask this process to stop, from any thread: for a notice that does not come as a signal.

    >>> with stop_on():
    ...     request_stop()
    ...     stop_requested()
    True
    """
    if _here.requested_at is None:
        _here.requested_at = time.monotonic()


def watched() -> frozenset[signal.Signals]:
    """The signals that ask this process to stop.

    >>> with stop_on(signal.SIGUSR2):
    ...     sorted(number.name for number in watched())
    ['SIGUSR2']
    """
    return frozenset(number for watch in _here.watches for number in watch.signals)


def received() -> frozenset[signal.Signals]:
    """The watched signals that this process has received.

    >>> with stop_on():
    ...     signal.raise_signal(signal.SIGTERM)
    ...     [number.name for number in received()]
    ['SIGTERM']
    """
    return frozenset(number for watch in _here.watches for number in watch.received)


def answered() -> frozenset[signal.Signals]:
    """The signals that this process survives, so that they must not kill its workers either.

    They are the watched ones, and SIGTERM wherever it is handled or ignored: Lightning does so.

    >>> with stop_on(signal.SIGTERM, signal.SIGUSR1):
    ...     sorted(number.name for number in answered())
    ['SIGTERM', 'SIGUSR1']
    """
    lives_on = signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None)
    return watched() | {signal.SIGTERM} if lives_on else watched()


def take_back() -> None:
    """Put the handlers of the watched signals on top again; in the main thread only.

    >>> with stop_on():
    ...     theirs = signal.signal(signal.SIGTERM, lambda *_: None)
    ...     take_back()
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop_requested()
    True
    """
    if threading.current_thread() is threading.main_thread():
        for watch in _here.watches:
            watch.install()


def keep_fork_servers() -> None:
    """Let each of Python's fork servers that starts from now on survive the signals.

    >>> keep_fork_servers()
    """
    if FORK_SERVER not in SERVER["_preload_modules"]:
        forkserver.set_forkserver_preload([*SERVER["_preload_modules"], FORK_SERVER])


def _checked(given: object) -> signal.Signals:
    number = None
    with suppress(ValueError):
        number = None if isinstance(given, bool) else signal.Signals(given)  # type: ignore[arg-type]
    if number is None or number in _NOT_OURS:
        raise ConfigurationError(
            "This signal cannot ask a run to stop.",
            [("signal", given), ("reason", "it is not a signal" if number is None else _NOT_OURS[number])],
            "Pass the signal that the scheduler sends: signal.SIGTERM, or what the job requests, such as SIGUSR1.",
        )
    return number


def _check_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "Python sets signal handlers in the main thread only.",
            [("this thread", threading.current_thread().name), ("main thread", threading.main_thread().name)],
            "Call stop_on() at the start of the script, before the training.",
        )
