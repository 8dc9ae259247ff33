"""`reseed=True` under Lightning: random numbers are seeded as a batch leaves Lightning's fetcher, and as its step begins.

A fetcher may read ahead of the step, and validation, logging and callbacks lie in between: so it is seeded twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from resumable.loading.reseeding import STEP_BEGINS, YIELDED
from resumable.stopping.workers import mix_in

__all__ = ["Reseeds", "reseed_from"]


class Reseeds(Protocol):
    """Seeds what the training draws from, at a *moment* of the *number*-th batch of the pass."""

    def __call__(self, moment: int, number: int | None = None, /) -> None:
        """Without a *number*, it is the batch whose step begins now, or at `YIELDED` the one that follows."""
        ...


def reseed_from(fit: Any, reseed: Reseeds, /) -> None:
    """Let *reseed* be called for each batch that leaves the fetcher of the *fit* loop, for the transforms on the device."""
    fit._data_fetcher = _reseeding(_Reseeded, fit._data_fetcher, reseed)


def _reseeding(mixin: type[Any], fetcher: Any, reseed: Reseeds) -> Any:
    reseeding = mix_in(mixin, fetcher)
    reseeding._resumable_reseed = reseed
    return reseeding


class _Reseeded(Iterator[Any]):
    """Mixed into Lightning's fetcher."""

    _resumable_reseed: Reseeds

    def __next__(self) -> Any:
        fetcher: Any = super()
        fetched: Any = fetcher.__next__()
        if callable(getattr(fetched, "__next__", None)):  # `training_step(dataloader_iter)` draws its batches by itself
            return _reseeding(_ReseededSteps, fetched, self._resumable_reseed)
        self._resumable_reseed(YIELDED)
        return fetched


class _ReseededSteps(Iterator[Any]):
    """Mixed into the iterator that a training step is given."""

    _resumable_reseed: Reseeds
    _resumable_given = 0
    """Batches of this pass; Lightning's own count adds those of the epoch that were trained before a resume."""

    def __next__(self) -> Any:
        batches: Any = super()
        batch = batches.__next__()
        self._resumable_reseed(STEP_BEGINS, self._resumable_given)
        self._resumable_given += 1
        return batch
