"""Real processes of one process group, forked from this one: imports are paid for once, each group costs tenths of a second.

    in_ranks(3, work)    work() in three processes, with the variables that torchrun sets; what rank 0 returned

Lightning's `ddp` takes such processes as launched by somebody else, as under torchrun, Slurm or Kubernetes.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_PATIENCE = 60
"""Seconds until processes that wait for each other for ever are killed, and the test fails."""


def in_ranks(ranks: int, work: Callable[[], T], *, ends_with: int = 0) -> T | None:
    """Call *work* in so many new processes, and give what rank 0's returned.

    Every process has to end with the exit code *ends_with*; if that is not 0, there is nothing to return.
    """
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=_rank, args=(rank, ranks, port, work, folder)) for rank in range(ranks)]
        for child in children:
            child.start()
        for child in children:
            child.join(_PATIENCE)
        hung = [rank for rank, child in enumerate(children) if child.is_alive()]
        for child in children:
            child.kill()
            child.join()
        assert not hung, f"ranks {hung} wait for ever"
        assert [ends_with] * ranks == [child.exitcode for child in children]
        if ends_with:
            return None
        result: T = pickle.loads(Path(folder, "result").read_bytes())
        return result


def _rank(rank: int, ranks: int, port: int, work: Callable[[], Any], folder: str) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(ranks),
        NODE_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    result = work()
    if rank == 0:
        Path(folder, "result").write_bytes(pickle.dumps(result))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
