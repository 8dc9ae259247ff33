"""A chain that fails made as short as it can be while it still fails, one part after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from resumable.testing.chains import Chain, Session, Setup

__all__ = ["shorter"]

_PLAIN: Final[dict[str, Any]] = {
    "peeks": False,
    "closes": False,
    "saves_inside": False,
    "fails_before": None,
    "beyond": 0,
    "save_every": 1,
    "knows_seed": True,
}
_TRIES: Final = 300


def shorter(chain: Chain, fails: Callable[[Chain], bool], /) -> Chain:
    """The shortest chain found below *chain* of which *fails* is true, as it is of *chain*.

    >>> long = Chain(10, (Session(Setup(), steps=4, beyond=2), Session(Setup(), steps=9)), seed=7)
    >>> shorter(long, lambda chain: sum(session.steps for session in chain.sessions) > 5)
    Chain(length=10, sessions=(Session(setup=Setup(data_parallel_size=1, micro_batch_size=1, accumulation=1, num_workers=0, prefetch_factor=2, sizes=None, drop_last=False), ranks=(0,), steps=6, save_every=1, saves_inside=False, commits=False, beyond=0, fails_before=None, peeks=False, closes=False, knows_seed=True),), shuffle=False, seed=0, start=0)
    """
    left = _TRIES
    while True:
        for candidate in _below(chain):
            left -= 1
            if left < 0:
                return chain
            if fails(candidate):
                chain = candidate
                break
        else:
            return chain


def _below(chain: Chain) -> Iterator[Chain]:
    """Chains with one thing less; the largest things first."""
    sessions = chain.sessions
    for at in reversed(range(len(sessions))):
        if len(sessions) > 1:
            yield replace(chain, sessions=sessions[:at] + sessions[at + 1 :])
    for plain in (replace(chain, shuffle=False), replace(chain, seed=0)):
        if plain != chain:
            yield plain
    for at, session in enumerate(sessions):
        for less in _less(session):
            yield replace(chain, sessions=(*sessions[:at], less, *sessions[at + 1 :]))


def _less(session: Session) -> Iterator[Session]:
    for steps in {0, session.steps // 2, session.steps - 1} - {-1, session.steps}:
        yield replace(session, steps=steps)
    for name, value in _PLAIN.items():
        if getattr(session, name) != value:
            yield replace(session, **{name: value})
    setup: Setup = session.setup
    for plain in (replace(setup, num_workers=0, prefetch_factor=2), replace(setup, accumulation=1)):
        if plain != setup:
            yield replace(session, setup=plain)
