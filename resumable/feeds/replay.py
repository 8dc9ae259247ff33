"""A user's sampler as epochs: each is seeded by itself and drawn again without its data.

Torch's samplers draw from torch's global random stream, others from NumPy's or Python's. During a draw all three are
set from (seed, epoch), and they are put back afterwards: the draws are the same in every session, and the training's
random numbers are as if no sampler had drawn. A sampler that remembers its last epoch is drawn from its first epoch on.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, Final

import numpy as np
import torch

from resumable.checks import accepts, length_if_known
from resumable.errors import ReplayError, warn
from resumable.feeds.sampler_memory import SamplerMemory, chain_of, unseeded_streams
from resumable.orders.canary import AHEAD, digest_of
from resumable.orders.permutation import stream_key
from resumable.verdict import OnMismatch

__all__ = ["ReplayedSampler", "first_draws", "replay"]

_CHUNK: Final = 4096
"""Draws between two switches of the random streams: enough that the switch (some 20 µs) does not count."""

_MOST: Final = 2**24
"""Draws of an epoch that are held at once, where a sampler remembers the last one."""

_NO_DRAW: Final = object()

_NUMBERS: Final = {int, np.int64}
"""Of a draw that holds nothing else, a shallow copy will do."""

_ADVICE: Final = (
    "Let it draw from torch's, NumPy's or Python's global random stream, from its `generator`, or derive its "
    "order from the epoch that `set_epoch(epoch)` gives it; it must not remember its last iteration. A stream of its own "
    "is seeded by the global one in one line: rng = np.random.default_rng(np.random.randint(2**31)), at the beginning of "
    '__iter__. To train it all the same, pass on_mismatch="warn".'
)


def replay(sampler: Iterable[Any], seed: int, epoch: int, /) -> Iterator[Any]:
    """What *sampler* yields in *epoch*, drawn from (seed, epoch).

    Containers, arrays and tensors are copied, since the sampler may fill them anew, and iterators become lists.
    """
    streams = _Streams(sampler, seed, epoch)
    draws: Iterator[Any] | None = None
    while True:
        with streams.switched():
            # asked for its iterator once: some begin anew each time, as Lhotse's do
            draws = chain(sampler) if draws is None else draws
            first = list(map(_own, islice(draws, 1)))
            rest = islice(draws, _CHUNK - 1)
            chunk = [*first, *(rest if first and type(first[0]) is int else map(_own, rest))]
        if not chunk:
            return
        yield from chunk


def _own(draw: Any) -> Any:
    kind: Any = draw.__class__
    if kind in (list, tuple):
        if set(map(type, draw)) <= _NUMBERS:
            return draw[:]
        return list(map(_own, draw)) if kind is list else tuple(map(_own, draw))
    if kind is dict:
        return {key: _own(value) for key, value in draw.items()}
    if kind is np.ndarray:
        return draw.copy()
    if isinstance(draw, torch.Tensor):
        return draw.clone()
    return list(draw) if hasattr(draw, "__next__") else draw


def first_draws(sampler: Iterable[Any], seed: int, number: int = 1, /) -> Iterator[Any]:
    """The first *number* of what *sampler* yields where *seed* seeds the random streams, which are put back."""
    with _Streams(sampler, seed, 0).switched():
        drawn = list(islice(sampler, number))
    yield from drawn


class ReplayedSampler:
    """A user's sampler as an order: each epoch is drawn from its beginning on, and going back draws it anew.

    With *batched*, the sampler yields batches of indices. The very first draws are made twice and compared. A sampler
    that remembers its last epoch is put back to its first one, from which each epoch is then drawn as a whole. If that
    repeats nothing either, *on_mismatch* says whether it is refused.
    """

    def __init__(
        self,
        sampler: Iterable[Any],
        seed: int,
        /,
        *,
        kind: str | None = None,
        batched: bool = False,
        on_mismatch: OnMismatch = "error",
    ) -> None:
        self.sampler = sampler
        self.seed = seed
        self.kind: str = kind or type(sampler).__qualname__
        self._batched = batched
        self._on_mismatch: OnMismatch = on_mismatch
        self._at_first: tuple[SamplerMemory | None, int, list[Any]] | None = None
        """What the sampler remembered before its first draws, their epoch, and the draws."""
        self._memories: dict[int, SamplerMemory] = {}
        """Of a sampler that remembers: what it did so at the beginning of some epochs, the first one among them."""
        self._canaries: dict[int, str | None] = {}
        self._at: tuple[int, int] = (-1, 0)
        self._draws: Iterator[Any] = iter(())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_at": (-1, 0), "_draws": iter(())}  # a copy draws its epochs anew

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # torch's Sampler leaves __len__ to its subclasses

    def seeded(self, seed: int, /) -> ReplayedSampler:
        """The same sampler, with epochs that are drawn from *seed*."""
        if seed == self.seed:
            return self
        if self._memories:
            self._memories[0].restore()
        return ReplayedSampler(self.sampler, seed, kind=self.kind, batched=self._batched, on_mismatch=self._on_mismatch)

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        """A list of the draws *start* to *stop* of *epoch*; fewer where it ends before *stop*.

        Raises:
            ReplayError: as `begin`.
        """
        if self._at != (epoch, start):
            self._draws = islice(self.begin(epoch), start, None)
        drawn = list(islice(self._draws, stop - start))
        self._at = (epoch, start + len(drawn))
        return drawn

    def has_more(self, epoch: int, number: int, /) -> bool:
        """Whether *epoch* has more draws than the first *number*, the last of which `indices` has just given."""
        if self._at != (epoch, number):
            return False
        self._at = (-1, 0)
        return next(self._draws, _NO_DRAW) is not _NO_DRAW

    def begin(self, epoch: int, /) -> Iterator[Any]:
        """What the sampler yields in *epoch*, from its first draw on.

        Raises:
            ReplayError: if it cannot be made to give the same draws twice.
        """
        at, self._at = self._at, (-1, 0)
        if at == (epoch, 0):
            return self._draws
        self._verify(epoch)
        draws = self._of(epoch) if self._memories else replay(self.sampler, self.seed, epoch)
        head = list(islice(draws, AHEAD))
        indices = _indices_in(head) if self._batched else head
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

    def _of(self, epoch: int) -> Iterator[Any]:
        """The draws of *epoch* of a sampler that remembers, once the epochs before it are drawn."""
        at = max(known for known in self._memories if known <= epoch)
        self._memories[at].restore()
        drawn: list[Any] = []
        for each in range(at, epoch + 1):
            self._memories = {0: self._memories[0], each: SamplerMemory(self.sampler)}
            drawn = list(islice(replay(self.sampler, self.seed, each), _MOST))
            if len(drawn) == _MOST:
                raise self._refusal(each, [("draws of an epoch", f"{_MOST} and more")])
        self._memories[epoch + 1] = SamplerMemory(self.sampler)
        return iter(drawn)

    # -- whether the sampler repeats itself

    def _verify(self, epoch: int) -> None:
        """See at the first draws, and again once an epoch was drawn, whether the sampler remembers anything."""
        if self._at_first is None:
            memory = SamplerMemory.of(self.sampler)
            first = self._first_draws(epoch)
            self._at_first = memory, epoch, first
            self._compare(memory, first, epoch)
            length = length_if_known(self.sampler)
            if not self._memories and len(first) == _CHUNK and epoch and length is not None:
                deque(islice(replay(self.sampler, self.seed, epoch), length), 0)
                self._compare(memory, first, epoch)
        elif epoch != self._at_first[1] and self._at_first[2] and not self._memories:
            memory, before, first = self._at_first
            self._at_first = None, epoch, []  # seen for good
            self._compare(memory, first, before)

    def _first_draws(self, epoch: int) -> list[Any]:
        return list(islice(replay(self.sampler, self.seed, epoch), _CHUNK))

    def _compare(self, memory: SamplerMemory | None, first: list[Any], epoch: int) -> None:
        """Compare the *first* draws of *epoch* with what they are now; where they differ, go back to before them."""
        second = self._first_draws(epoch)
        if _same(first, second):
            return
        if memory is not None:
            memory.restore()
            if _same(first, self._first_draws(epoch)):
                memory.restore()
                self._memories = {0: memory}
                return
        at = next((at for at, pair in enumerate(zip(first, second, strict=False)) if not _same(*pair)), None)
        at = min(len(first), len(second)) if at is None else at
        draws = [("draw", at), ("first time", first[at : at + 1]), ("second time", second[at : at + 1])]
        error = self._refusal(epoch, draws)
        if self._on_mismatch == "error":
            raise error
        warn(f"{error}\nIt is trained as it is: a resume goes on with other samples.")
        self._at_first = None, epoch, []

    def _refusal(self, epoch: int, values: Iterable[tuple[str, object]]) -> ReplayError:
        return ReplayError(
            f"{type(self.sampler).__name__} does not repeat itself, so no resume with it could be exact.",
            [("epoch", epoch), *values],
            _ADVICE,
        )


def _indices_in(batches: list[Any]) -> list[Any]:
    """The first indices in *batches*; a batch that the dataset takes whole, such as a slice, is one."""
    try:
        return list(islice(chain.from_iterable(batches), AHEAD))
    except TypeError:
        return batches


def _same(one: Any, other: Any) -> bool:
    """Whether two draws, or lists of them, are equal; they may be arrays and tensors, alone or in containers."""
    try:
        return bool(_plain(one) == _plain(other))
    except Exception:  # noqa: BLE001  # a user's object that cannot be compared
        return False


def _plain(draw: Any) -> Any:
    kind: Any = draw.__class__
    if hasattr(draw, "tolist"):
        return draw.tolist()
    if kind is dict:
        return {key: _plain(value) for key, value in draw.items()}
    return [_plain(each) for each in draw] if kind in (list, tuple) else draw


class _Streams:
    """The random streams that a sampler may draw from, and their states between two draws."""

    def __init__(self, sampler: Iterable[Any], seed: int, epoch: int) -> None:
        samplers = chain_of(sampler)
        own = [getattr(each, "generator", None) for each in samplers]
        self._generators: list[torch.Generator] = [torch.default_generator]
        self._generators += [each for each in own if isinstance(each, torch.Generator)]
        self._unseeded = unseeded_streams(sampler)
        for each in samplers:
            set_epoch: Any = getattr(each, "set_epoch", None)
            if accepts(set_epoch, epoch):
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
            for each in self._unseeded:
                _set_state(each, _state_of(type(each)(self._seed)))
        try:
            yield
        finally:
            self._states = self._get()
            self._set(outside)

    def _get(self) -> list[Any]:
        torchs = [each.get_state() for each in self._generators]
        return [random.getstate(), np.random.get_state(), torchs, [_state_of(each) for each in self._unseeded]]

    def _set(self, states: list[Any]) -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for generator, state in zip(self._generators, states[2], strict=True):
            generator.set_state(state)
        for each, state in zip(self._unseeded, states[3], strict=True):
            _set_state(each, state)


def _state_of(stream: Any) -> Any:
    """The state of one of Python's streams, or of a bit generator of NumPy's."""
    return stream.getstate() if isinstance(stream, random.Random) else stream.state


def _set_state(stream: Any, state: Any) -> None:
    if isinstance(stream, random.Random):
        stream.setstate(state)
    else:
        stream.state = state
