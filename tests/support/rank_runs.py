"""Chains of Lightning's sessions on any number of ranks, and the steps that the rule says they must train.

    Session        so many ranks that train a scenario until a cut, or to the end
    run(...)       a chain of sessions, each resumed from the checkpoint of the one before
    rule(...)      what they must train, walked through step by step on the global order

A step is its epoch and its rounds; a round is one micro batch on each rank, in the order of the ranks.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import pytest

from resumable.errors import ResumptionError, ResumptionWarning
from tests.support import lightning_runs as harness
from tests.support.cuts import Cut, checkpoint_in
from tests.support.lightning_runs import Run, Scenario, uninterrupted
from tests.support.rank_modules import STRATEGIES, Gathering
from tests.support.ranks import in_ranks
from tests.support.recording import Recording, flat

if TYPE_CHECKING:
    from lightning import Callback, Trainer

Round: TypeAlias = "tuple[tuple[int, ...], ...]"
EpochCount: TypeAlias = "tuple[int, tuple[Round, ...]]"
"""The epoch of an optimizer step, and its rounds."""

T = TypeVar("T")
_SIGKILL = -9


@dataclass(frozen=True, eq=False)
class Session:
    """So many processes that train *scenario* until *cut*; None for the last one, which ends by itself."""

    ranks: int
    scenario: Scenario
    cut: Cut | None = None
    strategy: str = "ddp"

    @property
    def on_this_rank(self) -> Scenario:
        """The scenario under its strategy."""
        strategy, module = STRATEGIES[self.strategy]
        options = {**self.scenario.trainer, "strategy": strategy(self.ranks), "devices": self.ranks}
        own = self.scenario.module
        return replace(self.scenario, trainer=options, module=module if own is Recording else own)

    def trainer(self, *callbacks: Callback) -> Trainer:
        """One rank's trainer."""
        return harness.trainer_of(self.on_this_rank, *callbacks)

    def train(self, checkpoint: Path | None, *callbacks: Callback) -> Trainer:
        """One rank's part of it."""
        with warnings.catch_warnings():
            if self.strategy == "fsdp":  # Lightning calls half a dozen things that torch has deprecated
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", ResumptionWarning)
            return harness.train(self.on_this_rank, checkpoint, *callbacks, session=self.ranks)

    def to_the_end(self, checkpoint: Path | None) -> Run:
        """The whole run, as one rank sees it at its end."""
        trainer = self.train(checkpoint)
        module = trainer.lightning_module
        assert isinstance(module, Gathering)
        history = module.history
        return Run(tuple(history.steps), module.final, trainer.current_epoch, trainer.global_step, history.lengths)


def run(*sessions: Session) -> Run:
    """The run of these sessions, all but the last ended by their cuts."""
    return after(*sessions[:-1], ranks=sessions[-1].ranks, work=sessions[-1].to_the_end)


def refusal(*sessions: Session) -> str:
    """What the last of these sessions says, on every rank, where it cannot go on from the one before."""
    return after(*sessions[:-1], ranks=sessions[-1].ranks, work=partial(_refuse, sessions[-1]))


def after(*sessions: Session, ranks: int, work: Callable[[Path | None], T]) -> T:
    """What *work* gives on rank 0 of so many *ranks*, all of which are given the checkpoint that *sessions* leave."""
    checkpoint = None
    with tempfile.TemporaryDirectory() as folder:
        for number, session in enumerate(sessions):
            place = Path(folder, str(number))
            assert session.cut is not None
            ends_with = _SIGKILL if session.cut.kills_process else 0
            in_ranks(session.ranks, partial(_until_cut, session, checkpoint, place), ends_with=ends_with)
            checkpoint = checkpoint_in(place)
        result = in_ranks(ranks, partial(work, checkpoint))
    assert result is not None
    return result


@lru_cache(maxsize=64)
def uncut(scenario: Scenario, ranks: int, strategy: str = "ddp") -> Run:
    """The run of *scenario* in one session."""
    return run(Session(ranks, scenario, strategy=strategy))


def _until_cut(session: Session, checkpoint: Path | None, place: Path) -> None:
    assert session.cut is not None
    cut = replace(session.cut, kills_process=False)  # this very process is the one to be killed
    cut.carry_out(partial(session.train, checkpoint), place)


def _refuse(session: Session, checkpoint: Path | None) -> str:
    with pytest.raises(ResumptionError) as caught:
        session.train(checkpoint)
    return str(caught.value)


# -- the rule


@dataclass(frozen=True)
class Part:
    """A part of a run in one configuration: so many batches on each rank, or None for all that are left."""

    ranks: int
    batches: int | None = None
    batch_size: int = 4
    accumulation: int = 1

    @property
    def per_round(self) -> int:
        """Samples of one micro batch on each rank."""
        return self.ranks * self.batch_size


@dataclass
class Walk:
    """What was trained, where it stopped, and how many parts came to their end before the run did."""

    steps: list[EpochCount]
    epoch: int = 0
    offset: int = 0
    ended: int = 0


def rule(orders: Sequence[Sequence[int]], *parts: Part, drop_last: bool = False) -> Walk:
    """The run of these parts over epochs of these *orders*.

    Each part goes on at the very sample where the last complete step before it has stopped. What an epoch's last
    round lacks is taken from the beginning of its order, so that each rank gets equally many, or the round is dropped.
    """
    walk = Walk([])
    for part in parts:
        done, at, rounds = 0, walk.offset, list[Round]()
        while walk.epoch < len(orders) and done != part.batches:
            order = orders[walk.epoch]
            if not _is_over(order, at, part, drop_last):
                rounds.append(_round(order, at, part))
                done, at = done + 1, at + part.per_round
            is_over = _is_over(order, at, part, drop_last)
            if rounds and (is_over or len(rounds) == part.accumulation):
                walk.steps.append((walk.epoch, tuple(rounds)))
                walk.offset, rounds = at, []
            if is_over:
                walk.epoch, walk.offset, at = walk.epoch + 1, 0, 0
        walk.ended += walk.epoch < len(orders)
    return walk


def _is_over(order: Sequence[int], offset: int, part: Part, drop_last: bool) -> bool:
    return offset + (part.per_round if drop_last else 1) > len(order)


def _round(order: Sequence[int], offset: int, part: Part) -> Round:
    """One micro batch on each rank."""
    samples = list(order[offset : offset + part.per_round])
    each = -(-len(samples) // part.ranks)
    samples += islice(cycle(order), part.ranks * each - len(samples))
    return tuple(tuple(samples[rank * each : (rank + 1) * each]) for rank in range(part.ranks))


def rounds_of(order: Sequence[int], part: Part, *, drop_last: bool) -> int:
    """Rounds of a whole epoch."""
    return len(order) // part.per_round if drop_last else -(-len(order) // part.per_round)


def trained(actual: Run) -> list[EpochCount]:
    """The steps of a run, in the form of the rule."""
    return [
        (step.epoch, tuple(tuple(tuple(flat(ids)) for ids in ranks) for _, ranks in step.batches))
        for step in actual.steps
    ]


def orders_of(scenario: Scenario) -> list[list[int]]:
    """The order of each epoch, as one process trains it sample by sample."""
    plain = replace(scenario, batch_size=1, drop_last=False, num_workers=0, callbacks=list, trainer={"max_epochs": 3})
    whole = uninterrupted(plain)
    return [whole.ids(epoch) for epoch in whole.epochs]
