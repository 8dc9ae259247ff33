"""The examples under the real torchrun: agents and workers die by SIGKILL, come back in another number, and are exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from .torchrun import ROOT, Torchrun

DDP = ROOT / "examples" / "ddp_torchrun.py"
FSDP = ROOT / "examples" / "fsdp_dcp.py"
EXACT = "125 steps: exact"


@pytest.fixture(name="rendezvous")
def _rendezvous() -> Iterator[list[str]]:
    """What agents need to meet, whichever of them dies: a store that outlives them, and little patience with the dead."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    conf = "is_host=false,last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=4"
    yield [
        "--nnodes=1:2",
        "--nproc-per-node=1",
        "--max-restarts=3",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{store.port}",
        f"--rdzv-conf={conf}",
        "--local-addr=127.0.0.1",
    ]


def test_a_killed_worker_comes_back(tmp_path: Path) -> None:
    """One of two workers dies by SIGKILL behind its seventh step, again in the next round, and torchrun restarts both."""
    kills = [(1, 7), (0, 23)]
    with Torchrun(DDP, tmp_path / "ddp.pt") as run:
        run.start("--nproc-per-node=2", "--max-restarts=2")
        for worker in run.steps():
            if kills and (worker.rank, worker.step) == kills[0]:
                kills.pop(0)
                worker.die()
            else:
                worker.go_on()
        printed = run.printed[0]
    starts = [line for line in printed.splitlines() if "go on behind" in line]
    assert ["2 workers go on behind step 0", "2 workers go on behind step 5", "2 workers go on behind step 25"] == starts
    assert (EXACT, [0]) == (printed.splitlines()[-1], run.codes)


def test_an_agent_dies_and_the_rest_goes_on(tmp_path: Path, rendezvous: list[str]) -> None:
    """Two agents begin, one dies with its worker as a machine goes down: the other one ends the run with one worker."""
    with Torchrun(DDP, tmp_path / "ddp.pt") as run:
        run.start(*rendezvous)
        run.start(*rendezvous)
        killed = 0
        for worker in run.steps():
            if worker.size == 1 and not killed:
                continue  # it waits until the other agent is there too, which is announced by a SIGTERM
            if (worker.size, worker.rank, worker.step) == (2, 1, 13):
                killed = worker.agent
                worker.die_with_agent()
            else:
                worker.go_on()
        printed = "\n".join(run.printed)
    assert [2, 1] == run.sizes[-2:]
    assert [-9, 0] == sorted(run.codes)
    assert "1 workers go on behind step 10\n" in printed
    assert EXACT in printed.splitlines()


def test_a_second_agent_joins(tmp_path: Path, rendezvous: list[str]) -> None:
    """A run that one agent began goes on with two workers when another one comes, behind the very step it was at."""
    with Torchrun(DDP, tmp_path / "ddp.pt") as run:
        run.start(*rendezvous)
        for worker in run.steps():
            if (worker.size, worker.step, len(run.agents)) == (1, 13, 1):
                run.start(*rendezvous)  # the worker waits for the SIGTERM that announces it, and saves
            else:
                worker.go_on()
        printed = "\n".join(run.printed)
    assert [1, 2] == run.sizes[:2]
    assert "2 workers go on behind step 13\n" in printed
    assert (EXACT in printed.splitlines(), [0, 0]) == (True, run.codes)
