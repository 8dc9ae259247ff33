"""One process of a simulated run: a training loop on several ranks at once, each micro batch held against the walk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from resumable.orders.orders import Sequential, Shuffled
from resumable.saved.snapshot import KEYS
from tests.proofs.simulation.chains import Chain, Session
from tests.proofs.simulation.log import Checkpoint, Entry, Failure, Log
from tests.proofs.simulation.ranks import Rank
from tests.proofs.simulation.walk import LoaderPosition, Round, settled, walk

__all__ = ["Loop", "check", "order_of"]

_LARGEST_STATE = 1024
"""Bytes of a saved state of a run of one configuration, at most."""


def check(what: str, expected: object, actual: object, /) -> None:
    """Raise `Failure` unless the two are equal.

    >>> check("The epoch.", 1, 1)
    """
    if expected != actual:
        raise Failure(what, expected, actual)


def order_of(chain: Chain, /) -> Sequential | Shuffled:
    """The order that all of the chain's sessions follow.

    >>> order_of(Chain(10, (), seed=3))
    Shuffled(n=10, seed=3)
    """
    return Shuffled(chain.length, chain.seed) if chain.shuffle else Sequential(chain.length)


class Loop:
    """The loop of *session*, in which *ranks* yield what they should, from *place* on; it saves into *saved*.

    *place* is the trained position as the walk has it. *uncommitted* are rounds behind it that were yielded. A loop that
    *commits* accumulates them; in another one each round counts when it is yielded or, with a schedule, when its step is.
    """

    def __init__(self, chain: Chain, session: Session, ranks: list[Rank], log: Log, saved: Checkpoint) -> None:
        self.chain, self.session, self.ranks, self.log, self.saved = chain, session, ranks, log, saved
        self.place: LoaderPosition = settled(chain.length, session.setup, saved.place)
        self.commits = saved.commits or session.commits
        self.uncommitted: list[Entry] = []
        self.yielded = 0
        self._since_save = 0
        self._streams: list[Iterator[list[int]]] | None = None
        self._last: Round | None = None
        self._walk = walk(order_of(chain), session.setup, self.place)

    def run(self) -> None:
        """Train, save, fail, and come to the moment at which the process dies."""
        session = self.session
        check("The epoch at which each rank goes on.", {self.place[1]}, {rank.epoch for rank in self.ranks})
        if session.commits:
            for rank in self.ranks:
                rank.state.commit()
        if session.peeks:
            for rank in self.ranks:
                next(iter(rank))
        for number in range(session.steps):
            if number == session.fails_before:
                self._fail()
            self._step()
        for _ in range(session.beyond):
            self._round()

    def _step(self) -> None:
        """One optimizer step, and a save where it is due."""
        setup = self.session.setup
        for number in range(1, setup.accumulation + 1) if setup.sizes is None and self.commits else ():
            turn = self._round()
            if number == setup.accumulation or (turn.ends_pass and setup.drop_last != "carry"):
                break
        else:
            turn = self._round()
            while not turn.ends_step:
                turn = self._round()
        if self.session.closes and turn.ends_pass:
            self._close()
        if self.commits:
            for rank in self.ranks:
                rank.state.commit()
            self._trained(turn)
        self._check_place()
        if not self.session.saves_inside:
            self._save_if_due()

    def _round(self) -> Round:
        """One micro batch of every rank."""
        if self._last is not None and self._last.ends_pass:
            self._close()
        turn = self._last = next(self._walk)
        if self._streams is None:
            self._streams = [iter(rank) for rank in self.ranks]
        trained: list[int] = []
        expected: list[int] = []
        for rank, stream in zip(self.session.ranks, self._streams, strict=True):
            batch, wanted = next(stream, None), turn.of_rank(rank)
            self.yielded += len(wanted)
            trained += turn.trained_by(rank, batch or [])
            expected += turn.trained_by(rank, wanted)
            if batch != wanted:
                self.log.entries += [*self.uncommitted, Entry(turn.begins[1], expected, trained)]
                raise Failure(f"A micro batch of rank {rank}, in the step that begins at {turn.begins}.", wanted, batch)
        self.uncommitted.append(Entry(turn.begins[1], expected, trained))
        if turn.ends_step and not self.commits:
            self._trained(turn)
        self._check_loader(turn)
        if self.session.saves_inside:
            self._save_if_due()
        return turn

    def _trained(self, turn: Round) -> None:
        self.place = turn.ends
        self.log.entries += self.uncommitted
        self.log.ends.append(turn.ends[0])
        self.uncommitted = []

    def _close(self) -> None:
        """Every rank's pass ends here."""
        if self._streams is not None:
            more = [next(stream, None) for stream in self._streams]
            check("The end of a pass, on every rank.", [None] * len(more), more)
        self._streams = None

    def _fail(self) -> None:
        """An exception leaves the loop, and the process goes on from the trained position.

        Without commits nobody could say what an exception left untrained: the loop is left behind a save.
        """
        if self.commits:
            for _ in range(self.session.beyond):
                self._round()
        elif self._streams is None:  # nothing was yielded, or the pass is over
            return
        else:
            self._save()
        self._streams, self._last, self.uncommitted = None, None, []
        self._walk = walk(order_of(self.chain), self.session.setup, self.place)

    def _check_loader(self, turn: Round) -> None:
        """The progress, and what the loader says of the step, behind a micro batch."""
        self._check_place()
        if self.session.setup.sizes is not None:
            check("num_microbatches.", turn.of_step, self.ranks[0].num_microbatches)
        if turn.ends_pass:
            padded = len(turn.filled) - len(turn.samples)
            check("padded_samples.", padded, self.ranks[0].padded_samples)

    def _check_place(self) -> None:
        at = self.ranks[0].state.position
        check("The trained position.", self.place, (at.consumed_samples, at.epoch, at.offset))

    def _save_if_due(self) -> None:
        self._since_save += 1
        if self._since_save >= self.session.save_every:
            self._save()

    def _save(self) -> None:
        self._since_save = 0
        states: list[dict[str, Any]] = [rank.state_dict() for rank in self.ranks]
        check("One state on every rank.", [states[0]] * len(states), states)
        check("The keys of a state.", KEYS, tuple(states[0]))
        told = tuple(states[0][key] for key in ("consumed_samples", "epoch", "offset"))
        check("The saved place.", self.place, told)
        text = json.dumps(states[0])
        if len(states[0]["ledger"]) < 2 and len(text) >= _LARGEST_STATE:
            raise Failure("The bytes of a state of one configuration.", f"< {_LARGEST_STATE}", len(text))
        self.saved = Checkpoint(text, self.place, self.commits, len(self.log.entries), len(self.log.ends) - 1)
