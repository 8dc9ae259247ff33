"""The examples under the real torchrun: agents and workers die by SIGKILL, come back in another number, and are exact."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch._C._distributed_c10d import TCPStore

from tests.support.torchrun import ROOT, Torchrun

DDP = ROOT / "examples" / "ddp_torchrun.py"
FSDP = ROOT / "examples" / "fsdp_dcp.py"
EXACT = "3000 samples: exact"
CUTS = [(2, "killed"), (1, "stopped"), (2, "stopped"), (3, "killed"), (2, "")]
"""The workers of each session of an FSDP run, and how it ends, behind its twelfth step."""


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
    del store


def test_a_killed_worker_comes_back(tmp_path: Path) -> None:
    """One of two workers dies by SIGKILL behind its seventh step, the other one in the next round; both are restarted."""
    assert [0, 5, 25] == killed(tmp_path / "ddp.pt", [(1, 7), (0, 23)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_workers_come_back_ten_times(tmp_path: Path, seed: int) -> None:
    """The same, with any of three workers, at any step."""
    draw = random.Random(seed)
    starts = killed(tmp_path / "ddp.pt", [(draw.randrange(3), draw.randint(1, 20)) for _ in range(10)], workers=3)
    assert sorted(starts) == starts


def killed(checkpoint: Path, kills: list[tuple[int, int]], workers: int = 2) -> list[int]:
    """Kill these ranks behind these steps of their rounds, one in each; the steps behind which the rounds began."""
    with Torchrun(DDP, checkpoint) as run:
        run.start(f"--nproc-per-node={workers}", f"--max-restarts={len(kills)}")
        for worker in run.steps():
            if kills and (worker.rank, worker.step) == kills[0]:
                kills.pop(0)
                worker.die()
            else:
                worker.go_on()
        printed = run.printed[0]
    starts = re.findall(rf"^{workers} workers go on after step (\d+)$", printed, re.M)
    assert (EXACT, [0], []) == (printed.splitlines()[-1], run.codes, kills)
    return [int(step) for step in starts]


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
    assert "1 workers go on after step 10\n" in printed
    assert EXACT in printed.splitlines()


def test_a_second_agent_joins(tmp_path: Path, rendezvous: list[str]) -> None:
    """A run that one agent began goes on with two workers when another one comes, behind the very step it was at."""
    with Torchrun(DDP, tmp_path / "ddp.pt") as run:
        run.start(*rendezvous)
        for worker in run.steps():
            if worker.size == 2 or (len(run.agents) == 1 and worker.step < 13):
                worker.go_on()
            elif len(run.agents) == 1:
                run.start(
                    *rendezvous
                )  # until it is there, who is alone waits for the SIGTERM that announces it, and saves
        printed = "\n".join(run.printed)
    assert [1, 2] == run.sizes[:2]
    (begun,) = re.findall(r"^2 workers go on after step (\d+)$", printed, re.M)
    assert int(begun) in (13, 14), "where the SIGTERM came; 14, if torchrun let the first agent begin alone once more"
    assert (EXACT in printed.splitlines(), [0, 0]) == (True, run.codes)


def test_fsdp_over_world_sizes(tmp_path: Path) -> None:
    """What so many workers saved, in the background or at a SIGTERM, others load: 2, 1, 2, 3 and 2 of them, one run."""
    starts, printed = list[str](), ""
    for size, ending in CUTS:
        printed, code = session(FSDP, tmp_path / "checkpoints", size, ending)
        starts += [line for line in printed.splitlines() if "go on after" in line]
        assert (0 if not ending else -9 if ending == "killed" else 1) == code, printed
        assert ("stopped" in printed) == (ending == "stopped")
    assert [size for size, _ in CUTS] == [int(line[0]) for line in starts]
    reached = [int(line.split()[-1]) for line in starts]
    assert reached == sorted(set(reached)), "each session goes on behind the one before"
    assert "600 samples: exact" == printed.strip().splitlines()[-1]


def session(script: Path, folder: Path, size: int, ending: str) -> tuple[str, int]:
    """One session of so many workers: what it printed, and its agent's exit code."""
    with Torchrun(script, folder) as run:
        run.start(f"--nproc-per-node={size}")
        for worker in run.steps():
            is_there = worker.step == 12 and worker.rank == size - 1
            if is_there and ending == "killed":
                worker.die_with_agent()
            elif is_there and ending == "stopped":
                os.kill(worker.agent, signal.SIGTERM)  # which it passes on
            else:
                worker.go_on()
        return run.printed[0], run.codes[0]


@pytest.mark.parametrize(("example", "line", "without"), [
    (DDP, ', "loader": loader}', "}"),
    (FSDP, '"data": loader.state, ', ""),
], ids=["ddp", "fsdp"])  # fmt: skip
def test_an_example_without_its_resumption_fails(example: Path, line: str, without: str, tmp_path: Path) -> None:
    """Without what resumes the loader, the ids differ and the exit code is 1: the comparison compares."""
    text = example.read_text(encoding="utf-8")
    script = tmp_path / example.name
    script.write_text(text.replace(line, without), encoding="utf-8")
    session(script, tmp_path / "checkpoint", 2, "killed")
    printed, code = session(script, tmp_path / "checkpoint", 1, "")
    assert (1, 1, True) == (text.count(line), code, "NOT EXACT" in printed)
