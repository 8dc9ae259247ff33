"""A chain that fails, cut by hypothesis to the shortest one that still does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from random import Random
from typing import Any, Final, TypeVar

from hypothesis import Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from tests.proofs.simulation.chains import Chain, Session, Setup

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

    >>> long = Chain(10, (Session(Setup(), steps=4, beyond=2), Session(Setup(), steps=9)), seed=7)
    >>> short = shortest(long, lambda chain: sum(session.steps for session in chain.sessions) > 5)
    >>> short.seed, [(session.steps, session.beyond) for session in short.sessions]
    (0, [(6, 0)])
    """
    try:
        return find(_below(chain), fails, settings=_SETTINGS, random=Random(0))
    except NoSuchExample:
        return chain


def _below(chain: Chain) -> st.SearchStrategy[Chain]:
    """Chains of some of its sessions, with less in each of them."""
    sessions = st.tuples(*(_kept(session) for session in chain.sessions))
    return st.builds(
        lambda sessions, shuffle, seed: replace(
            chain, sessions=tuple(each for each in sessions if each is not None), shuffle=shuffle, seed=seed
        ),
        sessions.filter(any),
        _one_of(False, chain.shuffle),  # the plain value
        _one_of(0, chain.seed),
    )


def _kept(session: Session) -> st.SearchStrategy[Session | None]:
    less = {name: _one_of(plain, getattr(session, name)) for name, plain in _PLAIN.items()}
    steps = _one_of(*range(session.steps), session.steps)
    kept = st.builds(replace, st.just(session), setup=_setups(session.setup), steps=steps, **less)
    return st.tuples(_one_of(False, True), kept).map(lambda drawn: drawn[1] if drawn[0] else None)


def _setups(setup: Setup) -> st.SearchStrategy[Setup]:
    alone = replace(setup, num_workers=0, prefetch_factor=2)
    return st.builds(replace, _one_of(alone, setup), accumulation=_one_of(1, setup.accumulation))


def _one_of(*values: T) -> st.SearchStrategy[T]:
    """The last of *values*, and now and then one before it; shrinks towards the first."""
    *simpler, own = values
    return st.sampled_from([*simpler, *[own] * _OFTEN])
