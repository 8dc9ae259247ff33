"""`python -m tests.proofs kill`: real DDP runs, killed by SIGKILL again and again, against the run that nothing interrupts.

A chain is one run: session after session is killed at a random moment, all of its processes or one rank alone, until it
comes to its end. Chains follow until there were so many kills. In every other chain each session has other ranks, micro
batches and workers; the global batches are the same ones, so the weights are too, up to the last bits. In the others
they are equal to the last bit, where there are at most two ranks, whose sum has no order.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.proofs.kills.session import Ended
    from tests.proofs.kills.training import Chain, Grouping

__all__ = ["Report", "add_command", "kill_runs"]

_LONGEST = 60
"""Moments of a session, at most; a step of two ranks tells about ten."""
_PLACES = {
    "s": "before the process group",
    "j": "before the first batch",
    "b": "in forward and backward",
    "w": "inside of a window",
    "o": "behind optimizer.step()",
    "c": "behind commit()",
    "m": "within a save",
    "d": "behind a save",
    "!": "at the end of the run",
}


@dataclass
class Report:
    """What came of all chains."""

    kills: list[Ended] = field(default_factory=list["Ended"])
    sessions: Counter[int] = field(default_factory=Counter[int])
    chains: int = 0
    samples: int = 0
    lost: int = 0
    repeated: int = 0
    out_of_order: int = 0
    unlike: int = 0
    equal: int = 0
    farthest: float = 0.0

    @property
    def is_exact(self) -> bool:
        """Whether every chain was, and there was one."""
        return bool(self.chains) and not (self.lost or self.repeated or self.out_of_order or self.unlike)

    def __str__(self) -> str:
        places = Counter(_PLACES[kill.place] for kill in self.kills)
        epochs = Counter(kill.epoch for kill in self.kills)
        alone = sum(kill.victim is not None for kill in self.kills)
        rows = [
            ("kills", f"{len(self.kills)}: {len(self.kills) - alone} of all processes, {alone} of one rank alone"),
            ("  by epoch", ", ".join(f"{epochs[epoch]} in epoch {epoch}" for epoch in sorted(epochs))),
            *((f"  {place}", str(places[place])) for place in _PLACES.values() if places[place]),
            ("runs", f"{self.chains}, in {self.sessions.total()} sessions"),
            ("  by ranks", ", ".join(f"{self.sessions[ranks]} with {ranks}" for ranks in sorted(self.sessions))),
            ("samples trained", str(self.samples)),
            ("  lost", str(self.lost)),
            ("  repeated", str(self.repeated)),
            ("runs out of order", str(self.out_of_order)),
            ("runs with other weights", str(self.unlike)),
            ("  equal to the last bit", f"{self.equal}; largest difference of the rest: {self.farthest:.0e}"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def kill_runs(kills: int, ranks: int, seed: int) -> Report:
    """Kill real runs *kills* times, on *ranks* ranks, and on others in every other run.

    Raises:
        KillError: if a process fails that nobody killed.

    >>> kill_runs(kills=0, ranks=2, seed=0).chains
    0
    """
    draw, report = random.Random(seed), Report()
    with tempfile.TemporaryDirectory() as folder:
        while len(report.kills) < kills:
            place = Path(folder, str(report.chains))
            place.mkdir()
            _chain(place, draw, report, kills=kills, ranks=ranks)
    return report


def _chain(folder: Path, draw: random.Random, report: Report, *, kills: int, ranks: int) -> None:
    from tests.proofs.kills.session import play
    from tests.proofs.kills.training import Chain

    chain = Chain(
        seed=draw.randrange(1 << 16),
        drop_last=draw.choice(["carry", True]),
        commits=draw.random() < 0.7,
        one_file=draw.random() < 0.5,
        save_every=draw.choice([1, 1, 2, 3]),
    )
    changes = report.chains % 2 == 1
    fixed = draw.choice([each for each in _groupings() if each.ranks == ranks])
    is_over = False
    while not is_over:
        grouping = draw.choice(_groupings()) if changes else fixed
        is_killed = len(report.kills) < kills
        ended = play(
            folder,
            chain,
            grouping,
            moments=draw.randint(1, _LONGEST) if is_killed else None,
            place=draw.choice(["", "", "w", "o", "m", "m"]),
            victim=draw.choice([None, draw.randrange(grouping.ranks)]) if grouping.ranks > 1 else None,
        )
        report.sessions[grouping.ranks] += 1
        is_over = not ended.killed
        if ended.killed:
            report.kills.append(ended)
    report.chains += 1
    _compare(folder, chain, fixed, report, to_the_bit=not changes and ranks <= 2)


def _groupings() -> list[Grouping]:
    """All that divide a global batch, with and without workers."""
    from tests.proofs.kills.training import GLOBAL_BATCH_SIZE, Grouping

    return [
        Grouping(ranks, micro_batch_size, workers)
        for ranks in (1, 2, 3)
        for micro_batch_size in (1, 2, 3, 4, 6)
        for workers in (0, 0, 1)
        if GLOBAL_BATCH_SIZE % (ranks * micro_batch_size) == 0
    ]


def _compare(folder: Path, chain: Chain, grouping: Grouping, report: Report, *, to_the_bit: bool) -> None:
    """Let the same run come to its end uninterrupted, and add to *report* what differs."""
    from tests.proofs.kills.session import play
    from tests.proofs.kills.training import expected, read

    whole = folder / "uninterrupted"
    whole.mkdir()
    play(whole, chain, grouping)
    found, reference = read(folder), read(whole)
    order = expected(chain)
    if found is None or reference is None:
        report.lost += len(order)
        return
    trained: list[int] = found[0]["trained"]
    report.samples += len(trained)
    report.lost += (Counter(order) - Counter(trained)).total()
    report.repeated += (Counter(trained) - Counter(order)).total()
    report.out_of_order += not (trained == order == reference[0]["trained"])
    pairs = [(value, found[0]["model"][name]) for name, value in reference[0]["model"].items()]
    farthest = max(float((one - other).abs().max()) for one, other in pairs)
    report.farthest = max(report.farthest, farthest)
    report.equal += farthest == 0
    report.unlike += farthest > (0.0 if to_the_bit else 1e-9)


def add_command(commands: Any, /) -> None:
    """Add `kill` to the *commands* that `ArgumentParser.add_subparsers` gave.

    >>> parser = argparse.ArgumentParser()
    >>> add_command(parser.add_subparsers())
    >>> parser.parse_args(["kill", "--seed", "3"]).kills
    200
    """
    kill: argparse.ArgumentParser = commands.add_parser(
        "kill",
        help="kill real DDP runs by SIGKILL, and compare them with uninterrupted ones",
        description="Trains with DistributedDataParallel in real processes, kills them by SIGKILL at random moments, lets them "
        "resume, and compares what was trained, and the weights, with runs that nothing interrupts. "
        "Exit code: 0 where all are exact, 1 where one is not, 2 for wrong use.",
    )
    kill.add_argument("--kills", type=int, default=200, help="how often (default: 200)")
    kill.add_argument("--ranks", type=int, choices=(1, 2, 3), default=2, help="processes of a run (default: 2)")
    kill.add_argument(
        "--seed",
        type=int,
        default=0,
        help="decides the runs and what the kills aim at; where they hit is up to the machine (default: 0)",
    )
    kill.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.kills < 1:
        print(f"Nothing is proved by {arguments.kills} kills: pass --kills 1 or more.", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: weights are compared to the bit
    from tests.proofs.kills.session import KillError

    began = time.monotonic()
    try:
        report = kill_runs(arguments.kills, arguments.ranks, arguments.seed)
    except KillError as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    print(f"{'exact' if report.is_exact else 'NOT EXACT'}, in {time.monotonic() - began:.0f} s")
    return 0 if report.is_exact else 1
