"""A signal that asks the run to stop, as a flag that the training reads at its next step.

    stop_on(SIGTERM, SIGUSR1) ──► the signal ──┐
    request_stop() ────────────────────────────┴──► stop_requested(), and the same as state.stop_requested

Schedulers announce the end of a job by a signal, some seconds or minutes before they kill it. Nothing happens inside the
handler but that the flag is set: a step is finished, and saved, by whoever runs the loop.

A forked child answers these signals as if nobody had asked for them, so that `terminate()` still ends it. The workers of
a DataLoader have a shield of their own (`resumable.stopping.workers`).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, TypeAlias

from typing_extensions import Self

from resumable.errors import ConfigurationError, explain

__all__ = ["StopSignals", "answered", "received", "request_stop", "stop_on", "stop_requested", "take_back", "watched"]

_SAME_REQUEST_S: Final = 1.0
"""Launchers pass on a signal that a whole group got already; what follows within a second was the same request."""

_NOT_OURS: Final = {
    signal.SIGKILL: "the kernel answers it itself",
    signal.SIGSTOP: "the kernel answers it itself",
    signal.SIGCHLD: "torch learns by it that a worker has died",
    **dict.fromkeys(
        [signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP],
        "it reports a fault of the program itself",
    ),
}

_Before: TypeAlias = "Callable[[int, FrameType | None], Any] | int | None"


class StopSignals:
    """The signals that ask this process to stop, until `restore()` or the end of a `with` block."""

    def __init__(self, signals: tuple[signal.Signals, ...]) -> None:
        self.signals = signals
        self.received: list[signal.Signals] = []
        """Those that came, in their order, each as often as it came."""
        self._handlers = {number: _Handler(self, signal.getsignal(number)) for number in signals}
        _here.watches.append(self)
        self.install()

    def install(self) -> None:
        """Let these handlers be the ones that answer, whoever was asked last."""
        for number, handler in self._handlers.items():
            if not handler.answers(number):
                signal.signal(number, handler)

    def restore(self) -> None:
        """Give the signals back to whom they belonged before. What was requested stays requested; twice is harmless.

        Raises:
            ConfigurationError: in another thread than the main one.
        """
        if self not in _here.watches:
            return
        _check_thread()
        _here.watches.remove(self)
        for number, handler in self._handlers.items():
            # a handler that somebody has put on top stays, and ours does no more than pass on to the one before it
            if handler.answers(number):
                signal.signal(number, handler.successor())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.restore()


class _Handler:
    """Answers one signal for one `StopSignals`."""

    def __init__(self, watch: StopSignals, before: _Before) -> None:
        self.watch = watch
        self.before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note the request, then let the handler that was there before have its say."""
        if self.watch in _here.watches:
            since = _here.seconds_since_request()
            if number == signal.SIGINT and since is not None and since > _SAME_REQUEST_S:
                signal.default_int_handler(number, frame)
            self.watch.received.append(signal.Signals(number))
            request_stop()
        if callable(self.before) and self.before is not signal.default_int_handler:
            self.before(number, frame)

    def answers(self, number: signal.Signals) -> bool:
        """Whether it is the one that is called first."""
        return signal.getsignal(number) is self

    def successor(self) -> _Before:
        """The handler that was there before this one and before those that are restored already."""
        before = self.before
        while isinstance(before, _Handler) and before.watch not in _here.watches:
            before = before.before
        return signal.SIG_DFL if before is None else before  # None: set in C, which Python cannot set again


class _Here:
    """What this process watches, and when it was asked to stop."""

    def __init__(self) -> None:
        self.watches: list[StopSignals] = []
        self.requested_at: float | None = None
        self.leaves_at_fork = False

    def seconds_since_request(self) -> float | None:
        return None if self.requested_at is None else time.monotonic() - self.requested_at

    def leave_in_child(self) -> None:
        for watch in reversed(self.watches):
            watch.restore()
        self.requested_at = None


_here = _Here()


def stop_on(*signals: signal.Signals) -> StopSignals:
    """Let *signals*, SIGTERM if none is given, ask this process to stop: they set `state.stop_requested`.

    Call it in the main thread of each rank's process, before its loaders start their workers: at the script's start, or
    in a datamodule's `setup` where `multiprocessing` starts the ranks. A Python handler that was there before is called
    too, behind the flag. In Lightning, a decorated datamodule saves and ends the fit at the next step boundary; while
    the fit runs, the watched signals are not Lightning's.

    A repeated signal changes nothing: launchers send it twice, schedulers again later, and a save must not die of it;
    SIGKILL remains. SIGINT alone is a person's: a second Ctrl-C, more than a second behind the first request, raises
    KeyboardInterrupt as ever.

    The flag stays set behind `restore()` too. The next `stop_on` clears it, unless signals are still being watched.

    Raises:
        ConfigurationError: in another thread than the main one, or for a signal that a program cannot answer.

    >>> with stop_on(signal.SIGTERM, signal.SIGUSR1) as watch:
    ...     before = stop_requested()
    ...     signal.raise_signal(signal.SIGUSR1)
    >>> before, stop_requested(), watch.received == [signal.SIGUSR1]
    (False, True, True)
    """
    wanted = tuple(dict.fromkeys(map(_checked, signals or (signal.SIGTERM,))))
    _check_thread()
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
    """Ask this process to stop, for a notice that comes in another way than by a signal; from any thread.

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
    """The watched signals that came.

    >>> with stop_on():
    ...     signal.raise_signal(signal.SIGTERM)
    ...     [number.name for number in received()]
    ['SIGTERM']
    """
    return frozenset(number for watch in _here.watches for number in watch.received)


def answered() -> frozenset[signal.Signals]:
    """The signals that this process does not die of and that therefore must not kill its workers.

    They are the watched ones, and SIGTERM wherever somebody answers or ignores it: Lightning does.

    >>> with stop_on(signal.SIGTERM, signal.SIGUSR1):
    ...     sorted(number.name for number in answered())
    ['SIGTERM', 'SIGUSR1']
    """
    lives_on = signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None)
    return watched() | {signal.SIGTERM} if lives_on else watched()


def take_back() -> None:
    """Answer the watched signals first again, where somebody has put a handler on top; only in the main thread.

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


def _checked(given: object) -> signal.Signals:
    try:
        number = signal.Signals(given)  # type: ignore[arg-type]
    except ValueError:
        number = None
    if number is None or isinstance(given, bool) or number in _NOT_OURS:
        reason = "it is no signal" if number is None or isinstance(given, bool) else _NOT_OURS[number]
        raise ConfigurationError(
            explain(
                "A run cannot be asked to stop by this.",
                [("signal", given), ("why", reason)],
                "Pass the signal that the scheduler sends: signal.SIGTERM, or what the job asks for, as SIGUSR1.",
            )
        )
    return number


def _check_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            explain(
                "Python lets the main thread alone say who answers a signal.",
                [("this thread", threading.current_thread().name), ("main thread", threading.main_thread().name)],
                "Call stop_on() at the start of the script, before the training.",
            )
        )
