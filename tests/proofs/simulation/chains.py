"""What a simulated run does, as values, and how they are drawn: a chain of sessions, each killed but for the last.

    chain      the data set, its order, where the run stands when it begins
      session  what is trained, saved and lost in one process
        setup  how the data are spread over ranks and grouped into steps

All is drawn from a `random.Random`, so that a number names a chain for ever, and hypothesis can draw and shrink one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from resumable.steps.batch_plan import DropLast
from tests.proofs.simulation.sizes import Sizes, divisor_of, draw_sizes, draw_unit, logarithmic

__all__ = ["MOST_RANKS", "Chain", "Session", "Setup", "chain_of", "draw_chain"]

MOST_RANKS: Final = 4096
"""The largest data-parallel size that is drawn."""
_EVERY_RANK: Final = ((4, 1.0), (64, 0.1), (512, 0.01), (MOST_RANKS, 0.002))
"""How often all ranks are played, where they are up to so many; else a few of them are."""
_SAMPLES: Final = 6_000
"""About the most samples over all ranks that a session trains, if a step is not larger."""
_ROUNDS: Final = 6
"""The most rounds in a schedule's unit."""
_EPOCHS_IN_A_STEP: Final = 16
"""A step that carries on over more epochs than that is not drawn: its walk would take too long."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How a session is spread and grouped; without *sizes* the loop accumulates *accumulation* micro batches."""

    data_parallel_size: int = 1
    micro_batch_size: int = 1
    accumulation: int = 1
    num_workers: int = 0
    prefetch_factor: int = 2
    sizes: Sizes | None = None
    drop_last: DropLast = False

    @property
    def per_round(self) -> int:
        """Samples of a micro batch on each rank."""
        return self.data_parallel_size * self.micro_batch_size

    @property
    def largest(self) -> int:
        """Samples of the largest optimizer step, or round where no schedule says what a step takes."""
        return self.per_round if self.sizes is None else self.sizes.largest


@dataclass(frozen=True, slots=True)
class Session:
    """One process: it resumes, trains *steps* optimizer steps, and dies *beyond* micro batches later."""

    setup: Setup
    ranks: tuple[int, ...] = (0,)
    """The ranks that are played."""
    steps: int = 1
    save_every: int = 1
    """Steps from one save to the next; with *saves_inside*, micro batches."""
    saves_inside: bool = False
    commits: bool = False
    """Whether the loop says itself what is trained, from before its first batch on."""
    beyond: int = 0
    fails_before: int | None = None
    """The step before which an exception is caught in the process, *beyond* micro batches behind the last step."""
    peeks: bool = False
    """Whether somebody looks at a batch before the loop."""
    closes: bool = False
    """Whether the loop runs on to the end of its pass before the last step is committed or saved."""
    knows_seed: bool = True


@dataclass(frozen=True, slots=True)
class Chain:
    """A run over *length* samples that had consumed *start* when it began, and its sessions."""

    length: int
    sessions: tuple[Session, ...]
    shuffle: bool = True
    seed: int = 0
    start: int = 0


def chain_of(seed: int, number: int, /) -> Chain:
    """The chain *number* of the simulation *seed*, both from 0 to 2**64 - 1.

    >>> chain_of(0, 7) == chain_of(0, 7) != chain_of(1, 7)
    True
    """
    return draw_chain(Random(seed << 64 | number))


def draw_chain(draw: Random, /) -> Chain:
    """A chain whose numbers come from *draw*."""
    length = draw.choice((
        logarithmic(draw, 1, 8),
        logarithmic(draw, 4, 300),
        logarithmic(draw, 100, 5_000),
        logarithmic(draw, 100, 5_000),
        logarithmic(draw, 5_000, 10**6),
        logarithmic(draw, 10**9, 2**50),
    ))  # fmt: skip
    start = _start(draw, length)
    sizes = draw_sizes(draw, length, start) if draw.random() < 0.6 else None
    session = _session(draw, length, start, _setup(draw, length, sizes))
    sessions = [session]
    for _ in range(draw.randint(1, 5)):
        setup = session.setup
        if draw.random() < 0.75:
            if draw.random() < 0.15:
                sizes = draw_sizes(draw, length, start) if draw.random() < 0.7 else None
            setup = _setup(draw, length, sizes, setup.drop_last if draw.random() < 0.8 else None)
        session = _session(draw, length, start, setup)
        sessions.append(session)
    return Chain(length, tuple(sessions), draw.random() < 0.75, draw.choice((0, 1, draw.getrandbits(64))), start)


def _start(draw: Random, length: int) -> int:
    """Consumed samples at the beginning: none, or somewhere, so that the ends of long epochs are met too."""
    if length < 10**4 and draw.random() < 0.8:
        return 0
    return max(0, draw.choice((0, draw.randrange(length), length - draw.randrange(1, 3_000))))


def _setup(draw: Random, length: int, sizes: Sizes | None, drop_last: DropLast | None = None) -> Setup:
    """A spread in which every step falls into whole rounds and every epoch has a step."""
    unit = draw_unit(draw) if sizes is None else sizes.unit
    if sizes is None or sizes.rounds_down:  # any round will do that is no larger than the smallest step
        ranks = logarithmic(draw, 1, min(MOST_RANKS, unit))
        micro = max(1, unit // ranks // draw.randint(1, _ROUNDS))
    else:
        ranks = divisor_of(draw, unit, most=MOST_RANKS)
        micro = unit // ranks // divisor_of(draw, unit // ranks, most=_ROUNDS)
    tail: DropLast = draw.choice((False, True, "carry")) if drop_last is None else drop_last
    setup = Setup(
        ranks,
        micro,
        accumulation=1 if sizes is not None else draw.choice((1, 1, 2, 3, 4, 8)),
        num_workers=draw.choice((0, 0, 1, 2, 8)),
        prefetch_factor=draw.choice((1, 2, 4)),
        sizes=sizes,
        drop_last=tail,
    )
    most = {False: setup.largest, True: length, "carry": _EPOCHS_IN_A_STEP * length}[tail]
    return setup if setup.largest <= most else replace(setup, drop_last=False)


def _session(draw: Random, length: int, start: int, setup: Setup) -> Session:
    size = setup.data_parallel_size
    ranks: Iterable[int] = range(size)
    if draw.random() >= next(often for most, often in _EVERY_RANK if size <= most):
        ranks = {0, size - 1, draw.randrange(size), draw.randrange(size)}
    steps = draw.choice((0, 1, draw.randint(0, 6), draw.randint(0, 24)))
    steps = min(steps, max(2, _SAMPLES // (setup.largest * setup.accumulation)))
    return Session(
        setup,
        tuple(sorted(ranks)),
        steps,
        save_every=draw.choice((1, 1, 2, 3, 7)),
        saves_inside=draw.random() < 0.25,
        commits=draw.random() < 0.5,
        beyond=draw.choice((0, 0, 1, 2, 3, 9)),
        fails_before=draw.randint(0, steps) if draw.random() < 0.2 else None,
        peeks=draw.random() < 0.2,
        closes=draw.random() < 0.5,
        knows_seed=draw.random() < 0.5,
    )
