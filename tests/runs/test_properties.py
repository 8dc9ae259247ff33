"""Exactly once: drawn chains of train, kill, resume and change against a plain list of the whole global order."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from resumable import Position
from tests.support.reference import Loader, Reference, endless, order_of, whole


@dataclass(frozen=True)
class Session:
    """One process: it resumes, trains, saves last behind *saved* batches, and dies *lost* batches later."""

    batch_size: int
    drop_last: bool
    saved: int
    lost: int
    peeks: bool


@dataclass(frozen=True)
class Case:
    """A run: its data and its sessions."""

    n: int
    shuffle: bool
    seed: int
    sessions: list[Session]

    @property
    def order(self) -> Any:
        """The global order."""
        return order_of(self.n, shuffle=self.shuffle, seed=self.seed)

    def loader(self, session: Session, **options: Any) -> Any:
        """The loader that *session* builds; only the first one knows the seed."""
        return Loader(range(self.n), session.batch_size, self.shuffle, drop_last=session.drop_last, **options)


@st.composite
def cases(draw: st.DrawFn, *, drop_last: bool = True) -> Case:
    """Runs of a few sessions, often shorter than a batch, so that they cross epochs and end at their ends."""
    n = draw(st.sampled_from([1, 1, 2, 3, 7, 10, 33]) | st.integers(1, 40))
    sizes = st.integers(1, n + 4) | st.sampled_from([1, n, n + 1])

    def session(batch_size: int, drop: bool, saved: int, lost: int, peeks: bool) -> Session:
        return Session(batch_size, drop and drop_last and batch_size <= n, saved, lost, peeks)

    numbers = st.integers(0, 6) | st.integers(0, 25)
    sessions = st.lists(st.builds(session, sizes, st.booleans(), numbers, st.integers(0, 3), st.booleans()), max_size=6)
    return Case(n, draw(st.booleans()), draw(st.integers(0, 2**64 - 1)), draw(sessions))


def resumed(case: Case, session: Session, state: dict[str, Any]) -> Any:
    """The loader of a new process that loads *state*; the first one has nothing to load but its seed."""
    seed: dict[str, Any] = {"seed": case.seed} if case.shuffle and not state else {}
    loader = case.loader(session, **seed)
    if state:
        before = copy.deepcopy(state)
        loader.load_state_dict(state)
        assert before == state
        once = loader.state_dict()
        loader.load_state_dict(state)
        assert once == loader.state_dict() == loader.state_dict()
        loader.load_state_dict(once)
        assert once == loader.state_dict()
    return loader


@settings(max_examples=80)
@given(cases())
def test_chains_of_kills_and_resumes(case: Case) -> None:
    """Every batch of every session is the one that the reference takes, and every saved place is the reference's."""
    reference = Reference(case.order)
    state: dict[str, Any] = {}
    for session in case.sessions:
        loader = resumed(case, session, state)
        reference.settle(session.batch_size, drop_last=session.drop_last)
        assert Position(*reference.place()) == loader.state.position
        state, at_the_save = loader.state_dict(), copy.copy(reference)
        if session.peeks:
            next(iter(loader))
        for number, batch in enumerate(islice(endless(loader), session.saved + session.lost), start=1):
            assert reference.take(session.batch_size, drop_last=session.drop_last) == batch
            if number <= session.saved:
                state = json.loads(json.dumps(loader.state_dict()))
                assert reference.place() == (state["consumed_samples"], state["epoch"], state["offset"])
                at_the_save = copy.copy(reference)
        reference = at_the_save


@settings(max_examples=80)
@given(cases(drop_last=False))
def test_the_samples_trained_are_the_uninterrupted_runs(case: Case) -> None:
    """Where nothing is left out, the sessions' samples one after the other are a beginning of the global order."""
    trained: list[int] = []
    state: dict[str, Any] = {}
    for session in case.sessions:
        loader = resumed(case, session, state)
        state = loader.state_dict()
        for number, batch in enumerate(islice(endless(loader), session.saved + session.lost), start=1):
            if number <= session.saved:
                trained += batch
                state = loader.state_dict()
    assert whole(case.order, len(trained) // case.n + 1)[: len(trained)] == trained
    assert len(trained) == (state["consumed_samples"] if state else 0)


@dataclass(frozen=True)
class Window:
    """What one stretch of a committing loop does: so many steps, then batches that no step has trained, then an end."""

    batch_size: int
    accumulation: int
    steps: int
    beyond: int
    ending: str


windows = st.builds(
    Window,
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 8),
    st.integers(0, 3),
    st.sampled_from(["exception", "kill", "kill and forget"]),
)


class Failure(Exception):
    """The step's."""


def step_through(loader: Any, window: Window, trained: list[int]) -> None:
    """A training loop with accumulation, whose windows go on across epochs; it fails as *window* says."""
    pending: list[int] = []
    for number, batch in enumerate(endless(loader), start=1):
        if number > window.accumulation * window.steps + window.beyond:
            raise Failure
        pending += batch
        if number % window.accumulation == 0 and number <= window.accumulation * window.steps:
            trained += pending
            pending.clear()
            loader.state.commit()


@settings(max_examples=80)
@given(st.integers(1, 20), st.booleans(), st.lists(windows, max_size=6))
def test_commits_with_accumulation_and_exceptions(n: int, shuffle: bool, run: list[Window]) -> None:
    """What no optimizer step has trained comes again, after an exception in the same process as after a kill."""
    order = order_of(n, shuffle=shuffle, seed=9)
    seed: dict[str, Any] = {"seed": 9} if shuffle else {}
    trained: list[int] = []
    saved_trained: list[int] = []
    state: dict[str, Any] = {}
    loader: Any = None
    for window in run:
        if loader is None or window.batch_size != loader.batch_size:
            loader = Loader(range(n), window.batch_size, shuffle, **seed)
            if state:
                loader.load_state_dict(state)
            trained = list(saved_trained)
            loader.state.commit()
        try:
            step_through(loader, window, trained)
        except Failure:
            assert len(trained) == loader.state.consumed_samples
        if window.ending != "kill and forget":
            state, saved_trained = json.loads(json.dumps(loader.state_dict())), list(trained)
            assert len(trained) == state["consumed_samples"]
        if window.ending != "exception":
            loader = None
    assert whole(order, len(trained) // n + 1)[: len(trained)] == trained


@settings(max_examples=80)
@given(cases(drop_last=False), st.integers(1, 12))
def test_the_ledger_of_a_chain(case: Case, batch_size: int) -> None:
    """Over any chain, the ledger finds every batch of the run again: step by sample, and sample by step."""
    state: dict[str, Any] = {}
    ends = [0]
    for session in case.sessions:
        loader = resumed(case, session, state)
        state = loader.state_dict()
        for batch in islice(endless(loader), session.saved):
            ends.append(ends[-1] + len(batch))
            state = loader.state_dict()
    if state:
        ledger = resumed(case, Session(batch_size, drop_last=False, saved=0, lost=0, peeks=False), state).state.ledger
        assert ends == [ledger.consumed_samples_at(step) for step in range(len(ends))]
        assert list(range(len(ends))) == [ledger.global_step_at(samples) for samples in ends]
        assert len(ledger) <= len(case.sessions)


@settings(max_examples=80)
@given(cases(), st.integers(0, 30))
def test_a_bare_count_is_enough_for_one_configuration(case: Case, batches: int) -> None:
    """Epoch and offset follow from the consumed samples wherever the run has always had one batch size."""
    for session in case.sessions:
        reference = Reference(case.order)
        for _ in range(batches):
            reference.take(session.batch_size, drop_last=session.drop_last)
        loader = case.loader(session)
        loader.load_state_dict({"consumed_samples": reference.consumed_samples})
        assert Position(*reference.place()) == loader.state.position


@settings(max_examples=80)
@given(
    st.integers(1, 25),
    st.integers(1, 9),
    st.lists(st.tuples(st.sampled_from(["islice", "break", "save", "load"]), st.integers(0, 9)), max_size=8),
)
def test_one_process_that_does_as_it_likes(n: int, batch_size: int, acts: list[tuple[str, int]]) -> None:
    """Leaving the loop and coming back, saving, and going back to what was saved, in any order of doing so.

    A pass that was left after a single batch and not saved was a look, so here it is saved.
    """
    reference = Reference(order_of(n, shuffle=True, seed=1))
    loader = Loader(range(n), batch_size, shuffle=True, seed=1)
    saved, then = loader.state_dict(), copy.copy(reference)
    for act, number in acts:
        if act == "save":
            saved, then = loader.state_dict(), copy.copy(reference)
        elif act == "load":
            loader.load_state_dict(saved)
            reference = copy.copy(then)
            assert reference.epoch == loader.epoch
        else:
            batches = islice(loader, number) if act == "islice" else taken(loader, number)
            for batch in batches:
                assert reference.take(batch_size) == batch.tolist()
                loader.state_dict()
        assert reference.place() == tuple(loader.state_dict()[key] for key in ("consumed_samples", "epoch", "offset"))


def taken(loader: Any, number: int) -> Iterator[Any]:
    """So many batches of a loop that is left by `break`; it takes its first before it looks at the number."""
    for count, batch in enumerate(loader, start=1):
        yield batch
        if count >= number:
            break
