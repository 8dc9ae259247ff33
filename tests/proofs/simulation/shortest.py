"""A chain that fails, cut by hypothesis to the shortest one that still does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from random import Random
from typing import Any, Final, TypeVar

from hypothesis import Phase, assume, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from tests.proofs.simulation.chains import Chain, Session

__all__ = ["shortest"]

T = TypeVar("T")

_PLAIN: Final[dict[str, Any]] = {
    field.name: field.default for field in fields(Session) if field.name not in {"setup", "ranks", "steps", "commits"}
}
"""What a session is without anything special."""
_OFTEN: Final = 100
"""An example keeps each part of the chain so many times as often as it cuts it: one of the first cuts next to nothing."""
_SETTINGS: Final = settings(
    max_examples=200, deadline=None, database=None, phases=(Phase.generate, Phase.shrink), print_blob=False
)


def shortest(chain: Chain, fails: Callable[[Chain], bool], /) -> Chain:
    """The shortest chain that hypothesis finds below *chain* of which *fails* is true, as it is of *chain*.

    >>> from tests.proofs.simulation.chains import Setup
    >>> long = Chain(10, (Session(Setup(), steps=4, beyond=2), Session(Setup(), steps=9)), seed=7)
    >>> short = shortest(long, lambda chain: sum(session.steps for session in chain.sessions) > 5)
    >>> short.seed, [(session.steps, session.beyond) for session in short.sessions]
    (0, [(6, 0)])
    """
    try:
        return find(_below(chain), fails, settings=_SETTINGS, random=Random(0))
    except NoSuchExample:
        return chain


@st.composite
def _below(draw: st.DrawFn, chain: Chain) -> Chain:
    """The chain with some of its sessions, and less in each of them."""
    drawn = [
        (draw(_one_of(False, True)), draw(_less(session))) for session in chain.sessions
    ]  # all: it shrinks further
    sessions = [session for is_kept, session in drawn if is_kept]
    assume(sessions)
    shuffle, seed = draw(_one_of(False, chain.shuffle)), draw(_one_of(0, chain.seed))
    return replace(chain, sessions=tuple(sessions), shuffle=shuffle, seed=seed)


@st.composite
def _less(draw: st.DrawFn, session: Session) -> Session:
    setup = draw(_one_of(replace(session.setup, num_workers=0, prefetch_factor=2), session.setup))
    setup = replace(setup, accumulation=draw(_one_of(1, setup.accumulation)))
    plain = {name: draw(_one_of(value, getattr(session, name))) for name, value in _PLAIN.items()}
    return replace(session, setup=setup, steps=draw(_one_of(*range(session.steps), session.steps)), **plain)


def _one_of(*values: T) -> st.SearchStrategy[T]:
    """The last of *values*, and now and then one before it; shrinks towards the first."""
    *simpler, own = values
    return st.sampled_from([*simpler, *[own] * _OFTEN])
