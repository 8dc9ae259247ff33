"""Batches that know of which epoch each index is, and how often it came earlier in it: what random numbers follow from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from resumable.checks import as_int
from resumable.errors import ConfigurationError
from resumable.randomness import MANY, seed_of_draw, seeds_of_first_draws, text_of

__all__ = ["Draw", "Draws", "DrawsSampler", "SampleIndex", "Tally"]

Draw: TypeAlias = tuple[int, int]
"""The epoch of an index, and how often it came earlier in that epoch, over all ranks."""


class Draws:
    """What a sampler yields, *given*: a batch of indices, or with *is_one* one index, where the loader does not collate.

    *of* has a `Draw` for each index; None means the first one of *epoch* for each. With a *seed*, random numbers are
    seeded before a sample is taken; with *passes_epoch*, the dataset is given each index as a `SampleIndex`. A batch of a
    stream has no indices, and is known by its *number* in the epoch.
    """

    __slots__ = ("epoch", "given", "is_one", "number", "of", "passes_epoch", "seed")

    def __init__(self, given: Any, epoch: int, of: list[Draw] | None = None, *, number: int | None = None) -> None:
        self.given: Any = given
        self.epoch: int = epoch
        self.of: list[Draw] | None = of
        self.number: int | None = number
        self.is_one: bool = False
        self.seed: int | None = None
        self.passes_epoch: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _draws, tuple(getattr(self, name) for name in self.__slots__)

    def __len__(self) -> int:
        return len(self.given)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.given)

    def seeds(self) -> Sequence[int]:
        """The seed of each index; none where random numbers are left alone."""
        seed, given = self.seed, self._all
        if seed is None:
            return ()
        if self.of is None and len(given) >= MANY and set(map(type, given)) == {int}:
            return seeds_of_first_draws(given, self.epoch, seed)
        return [seed_of_draw(index, epoch, seed, earlier) for index, (epoch, earlier) in self._each()]

    def indices(self) -> Iterable[Any]:
        """The indices as the dataset is given them."""
        return [SampleIndex.of(index, *draw) for index, draw in self._each()] if self.passes_epoch else self._all

    @property
    def _all(self) -> Any:
        return [self.given] if self.is_one else self.given

    def _each(self) -> Iterator[tuple[Any, Draw]]:
        given = self._all
        return zip(given, [(self.epoch, 0)] * len(given) if self.of is None else self.of, strict=True)

    def whole(self) -> tuple[int | None, Any]:
        """The seed of all of it, which is that of its first index, and all of it as the dataset is given it."""
        if self.number is not None:
            return None if self.seed is None else seed_of_draw(self.number, self.epoch, self.seed, 0), self.given
        first = next(self._each(), None)
        seed = (
            None if self.seed is None or first is None else seed_of_draw(first[0], first[1][0], self.seed, first[1][1])
        )
        given = self.indices() if self.passes_epoch else self.given
        return seed, next(iter(given)) if self.passes_epoch and self.is_one else given


def _draws(*values: Any) -> Draws:
    made = Draws(None, 0)
    for name, value in zip(Draws.__slots__, values, strict=True):
        setattr(made, name, value)
    return made


class DrawsSampler:
    """Yields `Draws`, which only a loader of this package understands, where one of its two options is set."""

    reseed: int | None = None
    """The seed of the samples' random numbers; None where they are left alone."""
    passes_epoch: bool = False
    """Whether the dataset is given each index as a `SampleIndex`."""

    @property
    def yields_draws(self) -> bool:
        """Whether one of the options is set."""
        return self.reseed is not None or self.passes_epoch

    def marked(self, batches: Iterable[Draws], *, is_one: bool = False) -> Iterator[Draws]:
        """*batches* with the present options; with *is_one*, the one index of each."""
        seed, passes_epoch = self.reseed, self.passes_epoch
        for drawn in batches:
            drawn.seed, drawn.passes_epoch, drawn.is_one = seed, passes_epoch, is_one
            if is_one:
                drawn.given = drawn.given[0]
            yield drawn


class SampleIndex(int):
    """An index that knows its *epoch*, and its *draw*: how often it came earlier in that epoch, from 0.

    >>> index = SampleIndex.of(7, epoch=2, draw=0)
    >>> index + 1, index.epoch, index.draw
    (8, 2, 0)
    """

    epoch: int
    draw: int

    @classmethod
    def of(cls, index: Any, epoch: int, draw: int) -> SampleIndex:
        """*index*, a whole number, as that *draw* of *epoch*."""
        number = as_int(index)
        if number is None:
            raise ConfigurationError(
                "pass_epoch=True needs whole numbers as indices.",
                [("index", index), ("type", type(index).__name__)],
                "Let the sampler yield whole numbers, or leave pass_epoch=True out.",
            )
        made = cls(number)
        made.epoch, made.draw = epoch, draw
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleIndex.of, (int(self), self.epoch, self.draw)


class Tally:
    """How often each index has come in the present epoch."""

    def __init__(self) -> None:
        self._epoch = -1
        self._seen: Counter[Any] = Counter()

    def note(self, epoch: int, indices: Iterable[Any]) -> list[Draw]:
        """Count *indices* of *epoch*, in order; the draw of each.

        Raises:
            ConfigurationError: for an index of a kind that random numbers cannot follow from.
        """
        if epoch != self._epoch:
            self._epoch, self._seen = epoch, Counter()
        seen, draws = self._seen, list[Draw]()
        for index in indices:
            number = index if type(index) is int else as_int(index)  # a tensor's hash is not its number's
            key = text_of(index) if number is None else number
            earlier = seen[key]
            draws.append((epoch, earlier))
            seen[key] = earlier + 1
        return draws
