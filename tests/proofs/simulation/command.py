"""The command `simulate`: many chains, in several processes, the same whatever their number.

numbers of chains ──► parts of a few hundred ──► each played in a process ──► one tally, in the order of the numbers
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any, Final, NamedTuple

from tests.proofs.simulation.chains import Chain, chain_of
from tests.proofs.simulation.coverage import table
from tests.proofs.simulation.play import play
from tests.proofs.simulation.shortest import shortest

__all__ = ["Part", "add_command", "parts", "play_part", "report_of", "simulate"]

_PART: Final = 250
_PROGRESS_SECONDS: Final = 10
_WHAT_IS_PLAYED: Final = """\
Each chain plays the package's own loaders, states and ledgers; only torch's workers are simulated, by drawing as far ahead.
Of up to 4 ranks all are played, and of more now and then; else the first, the last and up to two between. "Samples trained"
are those of all ranks; "samples compared" are those of the ranks that are played, in micro batches that die with a kill too.
"Runs compared with the global order" are those in which every rank was played and no tail was left out."""


class Part(NamedTuple):
    """What came of some chains: what was counted up to the first that failed, and its number."""

    tally: Counter[str]
    failed: int | None


def add_command(commands: Any, /) -> None:
    """Add `simulate` to the *commands* that `ArgumentParser.add_subparsers` gave."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "simulate",
        help="play many chains of kills, resumes and resizes, and count samples lost and repeated",
        description="Draws chains of sessions, each killed somewhere and resumed with other ranks, batch sizes, schedules "
        "and workers, plays them in simulation, and compares each micro batch with an independent walk. "
        "Exit code: 0 where every chain is exact, 1 with the first that is not, 2 for wrong use.",
    )
    parser.add_argument("--chains", type=_from(1), default=1_000, metavar="N", help="how many (default: 1000)")
    parser.add_argument("--seed", type=_from(0), default=0, metavar="N", help="which chains are drawn (default: 0)")
    parser.add_argument("--only", type=_from(0), metavar="N", help="play the chain of this number alone, and tell how")
    parser.add_argument(
        "--processes", type=_from(1), metavar="N", help="processes that play (default: one for each core)"
    )
    parser.set_defaults(run=_run)


def _from(least: int) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if not least <= value < 2**64:
            raise argparse.ArgumentTypeError(f"{value} is not from {least} to 2**64 - 1")
        return value

    return number


def _run(arguments: argparse.Namespace) -> int:
    if arguments.only is not None:
        return _tell(arguments.seed, arguments.only)
    return simulate(arguments.seed, arguments.chains, arguments.processes or os.cpu_count() or 1)


def simulate(seed: int, chains: int, processes: int) -> int:
    """Play the first *chains* chains of *seed* and print what came of them; gives the exit code."""
    total, begun = Counter[str](), time.monotonic()
    told = begun
    for part in parts(seed, chains, processes):
        total.update(part.tally)
        if part.failed is not None:
            print(f"{report_of(seed, part.failed)}\n\n{total['chains'] - 1:,} chains before it were exact.")
            return 1
        if (now := time.monotonic()) - told >= _PROGRESS_SECONDS:
            told = now
            line = f"{total['chains']:,} of {chains:,} chains, all exact; {total['kills']:,} kills; {now - begun:.0f} s"
            print(line, file=sys.stderr, flush=True)
    print(table(total), _WHAT_IS_PLAYED, sep="\n\n", end="\n\n")
    print(
        f"Exact: 0 samples lost, 0 repeated and 0 out of order in {total['chains']:,} chains of "
        f"{total['kills']:,} kills, {total['resumes']:,} resumes and {total['resizes']:,} resizes "
        f"(seed {seed}, {time.monotonic() - begun:.0f} s)."
    )
    return 0


def parts(seed: int, chains: int, processes: int, /) -> Iterator[Part]:
    """The parts of the simulation in their order, played ahead in other processes where there are several."""
    starts = range(0, chains, _PART)
    jobs = [(seed, start, min(_PART, chains - start)) for start in starts]
    if processes == 1 or len(jobs) == 1:
        for job in jobs:
            yield play_part(*job)
        return
    # a fresh interpreter each: torch may have started threads in this one
    with ProcessPoolExecutor(min(processes, len(jobs)), get_context("spawn")) as pool:
        futures: list[Future[Part]] = [pool.submit(play_part, *job) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def play_part(seed: int, start: int, number: int) -> Part:
    """So many chains from number *start* on, up to the first that fails.

    >>> part = play_part(0, 0, 20)
    >>> part.tally["chains"], part.failed
    (20, None)
    """
    tally = Counter[str]()
    for chain in range(start, start + number):
        outcome = play(chain_of(seed, chain))
        tally.update(outcome.tally)
        if outcome.failure is not None:
            return Part(tally, chain)
    return Part(tally, None)


def report_of(seed: int, number: int) -> str:
    """The failure of a chain in words, with the shortest chain below it that fails, and how to see it again."""
    chain = chain_of(seed, number)
    outcome = play(chain)
    tally = outcome.tally
    short = shortest(replace(chain, sessions=chain.sessions[: outcome.session + 1]), _fails)
    return "\n".join([
        f"Chain {number} of seed {seed} is not exact, in its session {outcome.session}:",
        str(outcome.failure),
        f"lost {tally['samples lost']:,}, repeated {tally['samples repeated']:,}, "
        f"out of order {tally['samples out of order']:,} samples up to here",
        "",
        "The shortest chain below it that fails:",
        f"play({short})",
        str(play(short).failure),
        "",
        f"See it again: python -m tests.proofs simulate --seed {seed} --only {number}",
    ])  # fmt: skip


def _fails(chain: Chain) -> bool:
    return play(chain).failure is not None


def _tell(seed: int, number: int) -> int:
    """Play one chain and tell each session of it."""
    chain = chain_of(seed, number)
    order = f"shuffled by the seed {chain.seed}" if chain.shuffle else "in their own order"
    print(f"chain {number} of seed {seed}: {chain.length:,} samples, {order}, from sample {chain.start:,} on")
    outcome = play(chain, tell=print)
    print(f"\n{table(outcome.tally)}\n")
    if outcome.failure is None:
        print("Exact.")
        return 0
    print(report_of(seed, number))
    return 1
