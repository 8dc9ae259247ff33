"""One session of a run: its ranks are forked from this process, live for so many moments, and are killed by SIGKILL.

This process has one thread and has imported torch once, so a session costs tenths of a second.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path

import torch.distributed as dist

from resumable.errors import ResumptionError, explain
from tests.proofs.kills.training import Chain, Grouping, train
from tests.support.killing import Child, Report, exit_code, hear, kill

__all__ = ["Ended", "KillError", "play"]

import_module("torch._dynamo")  # an optimizer's first step needs it: two seconds once, instead of in every rank


_ERRORS = "errors.txt"


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

    They are killed at the *place*, or somewhere after the last of the *moments* where none is given. *victim* is killed
    alone, if all ranks have found each other; all are where it is None.

    Raises:
        KillError: if a rank fails that nobody killed.
    """
    errors = folder / _ERRORS
    for left in (errors, folder / "store"):
        left.unlink(missing_ok=True)
    ranks = [Child(partial(_train, folder, chain, grouping, rank)) for rank in range(grouping.ranks)]
    try:
        last = _listen(ranks, sys.maxsize if moments is None else moments, place)
        if last is None:
            codes = [exit_code(rank.pid) for rank in ranks]
            if any(codes) or not all(rank.is_done for rank in ranks):
                raise _failed(codes, errors)
            return Ended(killed=False)
        if not place:
            last.go_on()
        return _killed(ranks, errors, victim)
    finally:
        for rank in ranks:
            rank.close()


def _train(folder: Path, chain: Chain, grouping: Grouping, rank: int, report: Report) -> None:
    os.dup2(os.open(folder / _ERRORS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)

    def tell(place: str, epoch: int) -> None:
        report(f"{place}{epoch}")

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


def _listen(ranks: list[Child], moments: int, place: str) -> Child | None:
    """Hear so many moments, and then *place*; returns who told the last one, None where the session is over before."""
    heard = 0
    while rank := hear(ranks):
        heard += 1
        if heard >= moments and rank.reports[-1].startswith(place) and not all(rank.is_done for rank in ranks):
            return rank
        rank.go_on()
    return None


def _killed(ranks: list[Child], errors: Path, victim: int | None) -> Ended:
    """Kill, and see where the victim was: what it told last may be unheard yet."""
    pids = [rank.pid for rank in ranks]
    if victim is None or not all(any(told[0] == "j" for told in rank.reports) for rank in ranks):
        victim = None
        kill(pids)
    else:
        kill([pids[victim]])
        for rank in ranks:  # the others fail in their next collective, and end by themselves
            rank.let_go()
    codes = [exit_code(pid) for pid in pids]
    kill(pids)
    of_victim = ranks[0 if victim is None else victim]
    while of_victim.hear():
        pass
    code = codes[ranks.index(of_victim)]
    if code == 0:
        return Ended(killed=False)  # it was faster
    if code != -signal.SIGKILL:
        raise _failed(codes, errors)
    last = ["s0", *of_victim.reports][-1]
    return Ended(killed=True, victim=victim, place=last[0], epoch=int(last[1:]))


def _failed(codes: list[int], errors: Path) -> KillError:
    return KillError(
        explain(
            "A process of the run ended before anybody killed it.",
            [("exit codes, by rank", codes)],
            f"What they said last:\n{errors.read_text() if errors.exists() else 'nothing'}",
        )
    )
