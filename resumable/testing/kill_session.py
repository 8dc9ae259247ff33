"""One session of a run: its ranks are forked from this process, live for so many moments, and are killed by SIGKILL.

This process has one thread and has imported torch once, so a session costs tenths of a second.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path

import torch.distributed as dist

from resumable.errors import ResumptionError, explain
from resumable.testing.kill_training import Chain, Grouping, train

__all__ = ["Ended", "KillError", "play"]

import_module("torch._dynamo")  # an optimizer's first step needs it: two seconds once, instead of in every rank

_MESSAGE = 3
"""Bytes of a message: a rank, a place, an epoch. A pipe takes and gives it in one piece."""
_FAILED = 3


class KillError(ResumptionError):
    """A session that ended neither by its kill nor with its run."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended: with its run, or by a kill of its group (None) or one rank, at a *place* in an *epoch*."""

    killed: bool
    victim: int | None = None
    place: str = "s"
    epoch: int = 0


def play(
    folder: Path,
    chain: Chain,
    grouping: Grouping,
    /,
    *,
    moments: int | None = None,
    place: str = "",
    victim: int | None = None,
) -> Ended:
    """Fork the ranks, and kill them when they have told *moments* moments, and then *place*, if one is given.

    *victim* is killed alone, if all ranks have found each other; all are where it is None.

    Raises:
        KillError: if a rank fails that nobody killed.
    """
    read, write = os.pipe()
    errors = folder / "errors.txt"
    errors.unlink(missing_ok=True)
    store = folder / "store"
    store.unlink(missing_ok=True)
    pids: list[int] = []
    for rank in range(grouping.ranks):
        pid = os.fork()
        if not pid:
            os.setpgid(0, 0)
            _rank(partial(_train, folder, chain, grouping, rank, write), errors)
        os.setpgid(pid, pid)  # here too: whoever comes second changes nothing
        pids.append(pid)
    os.close(write)
    try:
        ended, heard = _listen(read, len(pids), sys.maxsize if moments is None else moments, place)
        if ended:
            return _ended_by_itself(pids, heard, errors)
        return _killed(pids, read, heard, errors, victim)
    finally:
        os.close(read)
        _kill(pids)


def _rank(work: Callable[[], None], errors: Path) -> None:
    """A forked rank's life; it never returns."""
    code = _FAILED
    try:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
        work()
        code = 0
    except BaseException:  # noqa: BLE001  # nothing may lead a child back into its parent's code
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
    finally:
        os._exit(code)


def _train(folder: Path, chain: Chain, grouping: Grouping, rank: int, write: int) -> None:
    def tell(place: str, epoch: int) -> None:
        os.write(write, f"{rank}{place}{epoch}".encode())

    tell("s", 0)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder.resolve() / 'store'}",
        rank=rank,
        world_size=grouping.ranks,
        timeout=timedelta(seconds=60),
    )
    tell("j", 0)
    train(folder, chain, grouping, rank, tell)


def _listen(read: int, ranks: int, moments: int, place: str) -> tuple[bool, list[str]]:
    """Hear so many moments, and then *place*; whether the session is over before, and what was heard."""
    heard: list[str] = []
    while len(heard) < moments or (place and heard[-1][1] != place):
        if not (message := os.read(read, _MESSAGE)):
            return True, heard
        heard.append(message.decode())
        if _all_told("!", ranks, heard):
            return True, heard
    return False, heard


def _all_told(place: str, ranks: int, heard: list[str]) -> bool:
    return len({message[0] for message in heard if message[1] == place}) == ranks


def _ended_by_itself(pids: list[int], heard: list[str], errors: Path) -> Ended:
    codes = [os.waitpid(pid, 0)[1] for pid in pids]
    if any(codes) or not _all_told("!", len(pids), heard):
        raise _failed(codes, errors)
    return Ended(killed=False)


def _killed(pids: list[int], read: int, heard: list[str], errors: Path, victim: int | None) -> Ended:
    """Kill, and see where the victim was: what it told last lies in the pipe yet."""
    if victim is None or not _all_told("j", len(pids), heard):
        victim = None
        _kill(pids)
    else:
        _kill([pids[victim]])  # the others fail in their next collective, and end by themselves
    codes = [os.waitpid(pid, 0)[1] for pid in pids]
    _kill(pids)
    while message := os.read(read, _MESSAGE):
        heard.append(message.decode())
    rank = 0 if victim is None else victim
    if codes[rank] == 0:
        return Ended(killed=False)  # it was faster
    if codes[rank] != signal.SIGKILL:
        raise _failed(codes, errors)
    last = ["0s0", *(message for message in heard if message[0] == str(rank))][-1]
    return Ended(killed=True, victim=victim, place=last[1], epoch=int(last[2]))


def _failed(codes: list[int], errors: Path) -> KillError:
    return KillError(
        explain(
            "A process of the run ended before anybody killed it.",
            [("statuses, by rank", codes)],
            f"What they said last:\n{errors.read_text() if errors.exists() else 'nothing'}",
        )
    )


def _kill(ranks: list[int]) -> None:
    """Each with the workers of its loader, which would hold its connections open for some seconds more."""
    for group in ranks:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
