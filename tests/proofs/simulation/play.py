"""Plays a chain: every session resumes from what the one before it saved last, as a process after a kill does.

saved text ──► a loader for each rank ──► loop ──► saved text        what came after it is gone, its weights too
                      ▲                    ▲
               the real package       each micro batch against the walk
"""

from __future__ import annotations

import json
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from resumable.saved.snapshot import Snapshot, dump
from resumable.state import ResumptionState
from tests.proofs.simulation.chains import Chain, Session, Setup
from tests.proofs.simulation.coverage import covered, killed
from tests.proofs.simulation.log import Checkpoint, Counts, Failure, Log, counted
from tests.proofs.simulation.loop import Loop, check, order_of
from tests.proofs.simulation.ranks import Rank
from tests.proofs.simulation.walk import first_place

__all__ = ["Outcome", "play"]

_LEDGER_STEPS = 40
"""Steps whose samples the ledger is asked for, at most, spread over the run."""


@dataclass(slots=True)
class Outcome:
    """What came of a chain: what was counted, and the first failure, if there was one, in words."""

    tally: Counter[str] = field(default_factory=Counter[str])
    failure: str | None = None
    session: int = 0


def play(chain: Chain, /, *, rank_class: type[Rank] = Rank, tell: Callable[[str], object] | None = None) -> Outcome:
    """Play *chain* to its end or to its first failure; loaders are of *rank_class*, and *tell* is told of each session.

    >>> from tests.proofs.simulation.chains import chain_of
    >>> outcome = play(chain_of(0, 7))
    >>> outcome.failure, outcome.tally["samples lost"], outcome.tally["samples repeated"]
    (None, 0, 0)
    """
    played, outcome = _Played(chain, rank_class), Outcome()
    tally = outcome.tally
    tally["chains"] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            for number, session in enumerate(chain.sessions):
                outcome.session = number
                if tell is not None:
                    tell(f"session {outcome.session}, from {played.saved.place} on: {session}")
                played.session(session, tally)
            played.finish(tally)
        except Failure as failure:
            outcome.failure = str(failure)
        except Exception:  # noqa: BLE001  # whatever a chain comes to, it is told and the others are played
            outcome.failure = traceback.format_exc()
    counts = counted(played.log.entries)
    if outcome.failure is None and counts != Counts():
        outcome.failure = f"The log differs from the walk: {counts}"
    tally["chains that failed"] = int(outcome.failure is not None)
    tally["samples lost"], tally["samples repeated"] = counts.lost, counts.repeated
    tally["samples out of order"] = counts.out_of_order
    return outcome


class _Played:
    """A chain that is being played: what is on the disk, and the log."""

    def __init__(self, chain: Chain, rank_class: type[Rank]) -> None:
        self.chain = chain
        self.log = Log(ends=[chain.start])
        self.saved = Checkpoint(_beginning(chain), first_place(chain.length, chain.start))
        self._rank_class = rank_class
        self._before: Session | None = None
        self._trained_with: tuple[Setup, int] | None = None

    def session(self, session: Session, tally: Counter[str]) -> None:
        """One process, from its resume to its end."""
        covered(tally, self.chain, session, self._before, self.saved)
        ranks = self._ranks(session)
        loop = Loop(self.chain, session, ranks, self.log, self.saved)
        self._check_resumed(session, ranks[0], loop)
        try:
            loop.run()
        finally:
            tally["samples compared"] += loop.yielded
        saved = loop.saved
        if saved.entries > self.saved.entries:
            self._trained_with = session.setup, self._accumulation(session)
        if session is not self.chain.sessions[-1]:
            killed(tally, loop, self.log)
        self.saved, self._before = saved, session
        self.log.cut(saved.entries, saved.steps)

    def _ranks(self, session: Session) -> list[Rank]:
        """The loaders of the ranks that are played, loaded."""
        text, knows_seed = self.saved.text, session.knows_seed or not self.saved.entries
        accumulation = self._accumulation(session)
        ranks = [
            self._rank_class(self.chain, session.setup, rank, accumulation=accumulation, knows_seed=knows_seed)
            for rank in session.ranks
        ]
        if text is not None:
            state = json.loads(text)
            for rank in ranks:
                rank.load_state_dict(state)
            check("A state that was loaded, behind the load.", json.loads(text), state)
        return ranks

    def _accumulation(self, session: Session) -> int:
        """Micro batches of a step where no schedule says how many; without commits each is taken for a step."""
        commits = self.saved.commits or session.commits
        return session.setup.accumulation if commits and session.setup.sizes is None else 1

    def _check_resumed(self, session: Session, rank: Rank, loop: Loop) -> None:
        """What was loaded is what was saved; loading it again changes nothing."""
        at = rank.state.position
        check("The place of a resume.", loop.place, (at.consumed_samples, at.epoch, at.offset))
        once = rank.state_dict()
        rank.load_state_dict(json.loads(json.dumps(once)))
        check("A state that was loaded and saved again.", once, rank.state_dict())
        if self.saved.entries and self.saved.text is not None:
            state = json.loads(self.saved.text)
            if self.saved.place == loop.place:
                check("A state that was loaded and saved.", state, once)
            if self._trained_with == (session.setup, self._accumulation(session)):
                check("The verdict in the same configuration.", "exact", rank.state.verdict.outcome)
            if not rank.state.verdict.is_exact:
                raise Failure("The verdict.", "exact or regrouped", str(rank.state.verdict))

    def finish(self, tally: Counter[str]) -> None:
        """What the whole run comes to: its samples in the global order, and its ledger."""
        ends, entries = self.log.ends, self.log.entries
        tally["samples trained"] += self.saved.place[0] - self.chain.start
        tally["steps trained"] += len(ends) - 1
        trained = [index for entry in entries for index in entry.trained]
        if all(
            len(s.ranks) == s.setup.data_parallel_size and s.setup.drop_last is not True for s in self.chain.sessions
        ):
            check("The samples of the whole run, in order.", _global_order(self.chain, len(trained)), trained)
            tally["runs compared with the global order"] += 1
        if self.saved.text is not None and self.saved.entries:
            self._check_ledger(json.loads(self.saved.text))

    def _check_ledger(self, state: dict[str, object]) -> None:
        loaded = ResumptionState()
        loaded.load_state_dict(state)
        ledger, ends = loaded.ledger, self.log.ends
        for step in {*range(0, len(ends), -(-len(ends) // _LEDGER_STEPS)), len(ends) - 1}:
            check(f"The samples behind step {step}.", ends[step], ledger.consumed_samples_at(step))
            check(f"The steps behind {ends[step]} samples.", step, ledger.global_step_at(ends[step]))
            if step:
                before = ends[step] - 1
                check(f"The steps behind {before} samples.", step - 1, ledger.global_step_at(before))


def _beginning(chain: Chain) -> str | None:
    """What is there before the first session: nothing, a bare count as NeMo saves it, or a place in the first epoch."""
    if not chain.start:
        return None
    if any(session.setup.drop_last is True for session in chain.sessions):  # a bare count would take tails for left out
        return json.dumps(dump(Snapshot(chain.start, *first_place(chain.length, chain.start)[1:])))
    return json.dumps({"consumed_samples": chain.start})


def _global_order(chain: Chain, samples: int) -> list[int]:
    """So many samples of the order from the run's beginning on."""
    order, (_, epoch, offset) = order_of(chain), first_place(chain.length, chain.start)
    found: list[int] = []
    while len(found) < samples:
        stop = min(chain.length, offset + samples - len(found))
        found += order.indices(epoch, offset, stop).tolist()
        epoch, offset = epoch + 1, 0
    return found
