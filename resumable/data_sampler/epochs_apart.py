"""What a batch sampler makes of the epochs after the first one without this package: its own count says it.

    the count moves with the batches      the next epoch goes on after it, also where the trainer's limit has ended the last
    it stays                              the next epoch has the order of the first one again

Here an epoch begins a pass of the data, in the order that its own count has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resumable.checks import as_int
from resumable.data_sampler.placed_loader import SeekableSampler, at_count, epoch_sizes, first_of
from resumable.errors import warn

__all__ = ["tell_of_epochs"]


def tell_of_epochs(sampler: SeekableSampler, /, *, is_limited: bool) -> None:
    """Warn where the epochs of *sampler* are others than without this package; *is_limited*: the trainer cuts them."""
    own, kind = sampler.own, type(sampler.own).__qualname__
    if _moves(own, 0):
        if is_limited:
            warn(
                "A batch sampler moves its consumed_samples while it is drawn, and the trainer limits its epochs: each one "
                "begins a new pass of the data, where without the decorator it goes on after the one before.",
                [("batch sampler", kind), ("batches of a pass", len(sampler))],
                "What is past the limit is not trained. A resume is exact. To train all of the data, limit the run by "
                "max_steps, in place of limit_train_batches.",
            )
    elif not callable(getattr(own, "set_epoch", None)) and _follows_its_count(sampler):
        near_the_end = max(0, sampler.total_samples - 2 * sampler.samples_per_batch)
        if is_limited or not _moves(own, near_the_end):
            warn(
                "A batch sampler's order follows its consumed_samples, which it does not move: each epoch has the order of "
                "its own count, where without the decorator it has that of the first one.",
                [("batch sampler", kind)],
                "A resume is exact.",
            )


def _follows_its_count(sampler: SeekableSampler) -> bool:
    """Whether no epoch after the first begins with the first one's batch."""
    sizes = epoch_sizes(sampler.total_samples, sampler.samples_per_batch)
    first, *later = (first_of(_apart(at_count(sampler.own, count), 1)) for count in (0, *sizes))
    return any(later) and first not in later


def _moves(own: Any, count: int) -> bool:
    """Whether the batches from *count* on, or their end, move the sampler's own count."""
    sampler = at_count(own, count)
    first_of(_apart(sampler, 4))
    return as_int(sampler.consumed_samples) != count


def _apart(batches: Any, number: int) -> Iterator[Any]:
    """The first *number* of *batches*, drawn without a trace in the process's random streams."""
    from resumable.feeds.replay import first_draws  # brings torch

    return first_draws(batches, 0, number)
