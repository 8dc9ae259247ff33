"""Signals that ask a run to stop: the flag that they set, and the handlers that were there before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import pytest

from resumable import ConfigurationError, ResumptionState, agree_to_stop, stop_on
from resumable.stopping.signals import answered, request_stop, stop_requested, take_back, watched
from tests.support.reference import Loader, numbers
from tests.support.stopped_loops import FORK, exit_code_of

# -- the flag


def test_a_signal_sets_the_flag_of_every_state() -> None:
    """The process was asked, not one loader; and it stays asked until signals are watched anew."""
    with stop_on(signal.SIGUSR1) as watch:
        state, loader = ResumptionState(), Loader(numbers(4), 2)
        assert (False, False, []) == (state.stop_requested, loader.state.stop_requested, watch.received)
        signal.raise_signal(signal.SIGUSR1)
        assert (True, True, [signal.SIGUSR1]) == (state.stop_requested, loader.state.stop_requested, watch.received)
    assert state.stop_requested
    with stop_on():
        assert not state.stop_requested


def test_watching_more_forgets_no_request() -> None:
    """A second `stop_on`, in a `setup` that comes later, leaves a request that is there already."""
    with stop_on():
        signal.raise_signal(signal.SIGTERM)
        with stop_on(signal.SIGTERM, signal.SIGUSR1):
            assert stop_requested()
        assert {signal.SIGTERM} == watched()


def test_the_default_is_sigterm() -> None:
    """A number will do, and one signal said twice is one."""
    with stop_on() as watch:
        assert (signal.SIGTERM,) == watch.signals
    number: Any = 15
    with stop_on(number, signal.SIGTERM) as watch:
        assert (signal.SIGTERM,) == watch.signals


def test_a_request_from_another_thread() -> None:
    """A cloud's notice that a thread waits for."""
    with stop_on():
        asking = threading.Thread(target=request_stop)
        asking.start()
        asking.join()
        assert stop_requested()


def test_a_process_alone_agrees_with_itself() -> None:
    """Without a process group the answer is the process's own."""
    with stop_on():
        assert not agree_to_stop()
        request_stop()
        assert agree_to_stop()


# -- handlers


def test_a_handler_that_was_there_before_is_called_too() -> None:
    """Behind the flag, so that it may look at it; and it is the only one again in the end."""
    heard: list[tuple[int, bool]] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append((number, stop_requested())))
    try:
        with stop_on(signal.SIGUSR1):
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert [(signal.SIGUSR1, True), (signal.SIGUSR1, True)] == heard
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_python_s_own_answer_to_ctrl_c_waits() -> None:
    """The first Ctrl-C is a request, and no KeyboardInterrupt in the middle of a step."""
    with stop_on(signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        assert stop_requested()


def test_a_second_ctrl_c_is_an_impatient_person_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a second after the first request it interrupts; any other signal never does."""
    now = 100.0
    monkeypatch.setattr("resumable.stopping.signals.time.monotonic", lambda: now)
    with stop_on(signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        now = 100.9
        signal.raise_signal(signal.SIGINT)
        now = 1000.0
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_restoring_in_any_order(order: tuple[int, int]) -> None:
    """Whoever was there first is there in the end; and twice is once."""
    before = signal.getsignal(signal.SIGTERM)
    watches = [stop_on(), stop_on()]
    for number in order:
        watches[number].restore()
        watches[number].restore()
    assert before is signal.getsignal(signal.SIGTERM)


def test_restoring_under_a_handler_on_top() -> None:
    """Somebody else's handler stays, and what it calls of ours does nothing any more."""
    before = signal.getsignal(signal.SIGUSR1)
    watch = stop_on(signal.SIGUSR1)
    ours: Any = signal.getsignal(signal.SIGUSR1)

    def theirs(*signalled: Any) -> None:
        ours(*signalled)

    signal.signal(signal.SIGUSR1, theirs)
    watch.restore()
    with stop_on():
        assert theirs is signal.getsignal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert not stop_requested()
    signal.signal(signal.SIGUSR1, before)


def test_taking_a_signal_back() -> None:
    """The handler on top is no longer called, until its owner installs it anew; the one before ours still is."""
    heard: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append("before"))
    with stop_on():
        signal.signal(signal.SIGTERM, lambda number, frame: heard.append("on top"))
        take_back()
        signal.raise_signal(signal.SIGTERM)
        assert (["before"], True) == (heard, stop_requested())
    signal.signal(signal.SIGTERM, before)


def wait_for_the_end(told: Connection) -> NoReturn:
    """A child that says how it answers, and waits."""
    told.send((signal.getsignal(signal.SIGTERM), stop_requested(), watched()))
    while True:
        signal.pause()


def test_a_forked_child_dies_of_the_signal() -> None:
    """`terminate()` ends a user's own process as ever: a child has not been asked for what its parent was."""
    with stop_on():
        request_stop()
        ours, theirs = FORK.Pipe()
        child = FORK.Process(target=wait_for_the_end, args=(theirs,))
        child.start()
        theirs.close()  # a child that has died is an error here, and no wait for ever
        assert (signal.SIG_DFL, False, frozenset()) == ours.recv()
        child.terminate()
        assert -signal.SIGTERM == exit_code_of(child)
        assert stop_requested()
        assert {signal.SIGTERM} == watched()


def test_watched_signals_are_answered_and_sigterm_where_it_would_not_kill() -> None:
    """The watched signals, and SIGTERM where it would not kill."""
    assert frozenset() == answered()
    with stop_on(signal.SIGUSR1):
        assert {signal.SIGUSR1} == answered()
        with stop_on():
            assert {signal.SIGUSR1, signal.SIGTERM} == answered()


def in_thread(action: Callable[[], object]) -> BaseException | None:
    """What *action* raises in another thread."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except ConfigurationError as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="other")
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_another_thread_cannot_answer_signals() -> None:
    """Neither begin nor end, since Python would refuse both; a trainer in a thread takes nothing back."""
    said = """\
Python sets signal handlers in the main thread only.
  this thread: 'other'
  main thread: 'MainThread'
Call stop_on() at the start of the script, before the training."""
    assert said == str(in_thread(stop_on))
    with stop_on() as watch:
        assert said == str(in_thread(watch.restore))
        assert in_thread(take_back) is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (signal.SIGKILL, "the kernel handles it itself"),
        (signal.SIGSTOP, "the kernel handles it itself"),
        (signal.SIGSEGV, "it reports a fault of the program"),
        (signal.SIGCHLD, "it shows torch that a worker has died"),
        ("SIGTERM", "it is not a signal"),
        (True, "it is not a signal"),
        (None, "it is not a signal"),
        (0, "it is not a signal"),
        (1000, "it is not a signal"),
    ],
    ids=str,
)
def test_signals_that_nobody_can_watch(given: Any, why: str) -> None:
    """They are refused with the reason, and no other handler is installed."""
    with pytest.raises(ConfigurationError) as refused:
        stop_on(signal.SIGTERM, given)
    assert f"""\
This signal cannot ask a run to stop.
  signal: {given!r}
  reason: {why!r}
Pass the signal that the scheduler sends: signal.SIGTERM, or what the job requests, such as SIGUSR1.""" == str(
        refused.value
    )
