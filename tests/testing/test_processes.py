"""A process of its own ends in one of three ways, and nothing of it is left."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# (a lambda for a function of the user's has no types)

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing import get_context

import pytest
import torch

from resumable.testing.processes import Parent, Result, in_process


def _send_two(parent: Parent) -> None:
    parent.send(1)
    parent.send(2)


def test_what_it_sends_arrives() -> None:
    """Several at the same time, each with its own values."""
    assert [Result("returned", (1, 2)), Result("returned", (3,))] == in_process(
        _send_two, lambda parent: parent.send(3), time_limit=60
    )


def test_what_it_changes_is_changed_in_it_alone() -> None:
    """The memory of this process stays."""
    kept = [1]
    in_process(lambda parent: kept.append(2), time_limit=60)
    assert [1] == kept


def cause(parent: Parent) -> None:
    """An error in the wake of another."""
    try:
        {}["key"]  # type: ignore[index]
    except KeyError:
        raise RuntimeError("no luck") from None


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        pytest.param(lambda parent: 1 // 0, "ZeroDivisionError: integer division or modulo by zero", id="an error"),
        pytest.param(cause, "KeyError: 'key', then RuntimeError: no luck", id="two errors"),
        pytest.param(lambda parent: sys.exit("bye"), "SystemExit: bye", id="an exit"),
        pytest.param(lambda parent: os._exit(3), "the process ended with exit code 3", id="at once"),
        pytest.param(
            lambda parent: os.kill(os.getpid(), signal.SIGKILL), "the process ended with exit code -9", id="killed"
        ),
    ],
)
def test_a_crash_is_told(work: object, expected: str) -> None:
    """The error that began it, and how the process ended."""
    assert [Result("crash", (), expected)] == in_process(work, time_limit=60)  # type: ignore[arg-type]


def test_it_may_kill_itself_and_has_returned() -> None:
    """What was sent before the SIGKILL is there, and nothing is run behind it."""

    def work(parent: Parent) -> None:
        parent.send(1)
        try:
            parent.die()
        finally:
            parent.send(2)

    assert [Result("returned", (1,))] == in_process(work, time_limit=60)


def test_a_hang_ends_with_its_workers() -> None:
    """At the limit, the process and what it started are gone."""

    def work(parent: Parent) -> None:
        worker = get_context("fork").Process(target=time.sleep, args=(3600,))
        worker.start()
        parent.send(worker.pid)
        time.sleep(3600)

    (result,) = in_process(work, time_limit=0.5)
    (pid,) = result.sent
    assert "hang" == result.end
    with pytest.raises(ProcessLookupError):
        _wait_for_the_end_of(pid)


def _wait_for_the_end_of(pid: int) -> None:
    for _ in range(10_000):
        os.kill(pid, 0)
        if _is_a_zombie(pid):
            raise ProcessLookupError
        os.sched_yield()


def _is_a_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rpartition(")")[2].split()[0] in "ZX"


def test_torch_may_have_used_its_threads_before() -> None:
    """A process that is forked behind a parallel sum does not hang in its own."""
    torch.rand(1_000_000).sum()

    def work(parent: Parent) -> None:
        parent.send(float(torch.ones(1_000_000).sum()))

    assert [Result("returned", (1e6,))] == in_process(work, time_limit=60)
