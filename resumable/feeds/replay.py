"""A user's sampler as epochs: each is seeded by itself and drawn again without its data.

Torch's samplers draw from torch's global random stream, others from NumPy's or Python's. During a draw all three are
set from (seed, epoch), and they are put back afterwards: the draws are the same in every session, and the training's
random numbers are as if no sampler had drawn.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from resumable.errors import ReplayError
from resumable.orders.canary import AHEAD, digest_of
from resumable.orders.permutation import stream_key

__all__ = ["ReplayedSampler", "first_draw", "replay"]

_CHUNK = 4096
"""Draws between two switches of the random streams: enough that the switch (some 20 µs) does not count."""


def replay(sampler: Iterable[Any], seed: int, epoch: int, /, *, verify: bool = False) -> Iterator[Any]:
    """What *sampler* yields in *epoch*, drawn from (seed, epoch) alone; *verify* compares two tries of the first draws.

    Raises:
        ReplayError: if the sampler gave other draws the second time.
    """
    if verify:
        _verify(sampler, seed, epoch)
    streams = _Streams(sampler, seed, epoch)
    with streams.switched():
        draws = iter(sampler)
        chunk = list(islice(draws, _CHUNK))
    while chunk:
        yield from chunk
        with streams.switched():
            chunk = list(islice(draws, _CHUNK))


def first_draw(sampler: Iterable[Any], seed: int, /) -> Iterator[Any]:
    """The first of what *sampler* yields where *seed* seeds the random streams, which are put back."""
    with _Streams(sampler, seed, 0).switched():
        drawn = list(islice(sampler, 1))
    yield from drawn


class ReplayedSampler:
    """A user's sampler as an order: each epoch is drawn from its beginning on, and going back draws it anew.

    With *batched*, the sampler yields lists of indices. The very first draws are made twice and compared.
    """

    def __init__(self, sampler: Iterable[Any], seed: int, /, *, kind: str | None = None, batched: bool = False) -> None:
        self.sampler = sampler
        self.seed = seed
        self.kind: str = kind or type(sampler).__qualname__
        self._batched = batched
        self._is_verified = False
        self._canaries: dict[int, str | None] = {}
        self._at: tuple[int, int] = (-1, 0)
        self._draws: Iterator[Any] = iter(())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_at": (-1, 0), "_draws": iter(())}  # a copy draws its epochs anew

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # torch's Sampler leaves __len__ to its subclasses

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        """A list of the draws *start* to *stop* of *epoch*; fewer where it ends before *stop*.

        Raises:
            ReplayError: as `replay`.
        """
        if self._at != (epoch, start):
            self._draws = islice(self.begin(epoch), start, None)
        drawn = list(islice(self._draws, stop - start))
        self._at = (epoch, start + len(drawn))
        return drawn

    def begin(self, epoch: int, /) -> Iterator[Any]:
        """What the sampler yields in *epoch*, from its first draw on.

        Raises:
            ReplayError: as `replay`.
        """
        at, self._at = self._at, (-1, 0)
        if at == (epoch, 0):
            return self._draws
        draws = replay(self.sampler, self.seed, epoch, verify=not self._is_verified)
        head = list(islice(draws, AHEAD))
        self._is_verified = True
        indices = list(islice(chain.from_iterable(head), AHEAD)) if self._batched else head
        # the position may still be in the epoch before, where workers have begun the next
        kept = {known: canary for known, canary in self._canaries.items() if known in (epoch - 1, epoch + 1)}
        self._canaries = {**kept, epoch: digest_of(indices)}
        return chain(head, draws)

    def canary(self, epoch: int, /, *, looks: bool) -> str | None:
        """The canary of *epoch*; None where it has not begun. With *looks*, its draws begin for the canary."""
        if looks and epoch not in self._canaries:
            self._draws = self.begin(epoch)
            self._at = (epoch, 0)
        return self._canaries.get(epoch)


class _Streams:
    """The random streams that a sampler may draw from, and their states between two draws."""

    def __init__(self, sampler: Iterable[Any], seed: int, epoch: int) -> None:
        samplers = _chain(sampler)
        own = [each.generator for each in samplers if getattr(each, "generator", None) is not None]
        self._generators: list[torch.Generator] = [torch.default_generator, *own]
        for each in samplers:
            if callable(set_epoch := getattr(each, "set_epoch", None)):
                set_epoch(epoch)
        self._seed = stream_key(0, seed, epoch)
        self._states: list[Any] = []

    @contextmanager
    def switched(self) -> Generator[None]:
        """Draw from the sampler's streams inside the block; afterwards the process's own are as before."""
        outside = self._get()
        if self._states:
            self._set(self._states)
        else:
            random.seed(self._seed)
            np.random.seed(self._seed % 2**32)
            for generator in self._generators:
                generator.manual_seed(self._seed)
        try:
            yield
        finally:
            self._states = self._get()
            self._set(outside)

    def _get(self) -> list[Any]:
        return [random.getstate(), np.random.get_state(), *(each.get_state() for each in self._generators)]

    def _set(self, states: list[Any]) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for generator, state in zip(self._generators, states[2:], strict=True):
            generator.set_state(state)


def _chain(sampler: Iterable[Any]) -> list[Any]:
    """A batch sampler and the sampler inside it, in the order from outside to inside."""
    found: list[Any] = [sampler]
    while (inner := getattr(found[-1], "sampler", None)) is not None and inner not in found:
        found.append(inner)
    return found


def _verify(sampler: Iterable[Any], seed: int, epoch: int) -> None:
    first, second = (list(islice(replay(sampler, seed, epoch), _CHUNK)) for _ in range(2))
    if first == second:
        return
    unlike = (i for i, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    at = next(unlike, min(len(first), len(second)))
    raise ReplayError(
        f"{type(sampler).__name__} does not repeat itself, so no resume with it could be exact.",
        [
            ("epoch", epoch),
            ("draw", at),
            ("first time", first[at : at + 1]),
            ("second time", second[at : at + 1]),
        ],
        "Let it draw from torch's, NumPy's or Python's global random stream, from its `generator`, or derive its "
        "order from the epoch that `set_epoch(epoch)` gives it; it must not remember its last iteration.",
    )
