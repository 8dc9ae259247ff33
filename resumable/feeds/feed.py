"""The batches of a map-style DataLoader, entered at any place: what takes the place of torch's batch sampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from torch.utils.data import DistributedSampler, Sampler, SequentialSampler

from resumable.errors import MismatchError, ReplayError, explain
from resumable.orders.identity import Identity
from resumable.steps.batch_plan import BatchPlan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "FIRST_BLOCK",
    "Feed",
    "RankSampler",
    "ResumableSampler",
    "SequentialRankSampler",
    "Shard",
    "cut",
    "miscounted",
]

FIRST_BLOCK, BLOCK = 256, 16_384
"""Samples drawn at once: few for the first batch after a resume, then as many as run fast."""


class Feed(Protocol):
    """Where a loader's batches of indices come from, at any place of any epoch."""

    batching: BatchPlan

    @property
    def micro_batch_size(self) -> int:
        """Samples of a batch on one rank."""
        ...

    @property
    def identity(self) -> Identity:
        """What the order depends on."""
        ...

    def padded_samples(self, offset: int, /) -> int:
        """Samples that the end of an epoch trains again in a pass from *offset* on, so that all ranks get equally many."""
        ...

    def adopt(self, identity: Identity, /) -> None:
        """Go on in the order that *identity* tells."""
        ...

    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        """The canary at *offset* of *epoch* in the order that *identity* tells; None where there is none.

        A sampler that is replayed is begun for it only if somebody *looks*.
        """
        ...

    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        """The *count* batches from *offset* of *epoch* on; None means all to its end."""
        ...


def cut(indices: list[Any] | NDArray[np.int64], size: int) -> list[list[Any]]:
    """*indices*, a list or an array, as batches of *size*; what is left over is a short batch.

    >>> cut([3, 1, 4, 1, 5], 2)
    [[3, 1], [4, 1], [5]]
    """
    if isinstance(indices, list):
        return [indices[start : start + size] for start in range(0, len(indices), size)]
    whole = len(indices) // size * size
    # an array makes the lists of its rows in less time than slices of one long list take
    batches: list[list[Any]] = indices[:whole].reshape(-1, size).tolist()
    if whole < len(indices):
        batches.append(indices[whole:].tolist())
    return batches


class ResumableSampler(Sampler[Any]):
    """What torch's DataLoader iterates: *feed*'s batches, from the place that was set last.

    *count* are the batches of a pass that does not end with its epoch. With *single*, it yields indices instead of lists of one (a DataLoader with `batch_size=None`). With *endless*,
    an epoch is followed by the next: Lightning cycles a shorter loader beside a longer one.
    """

    def __init__(self, feed: Feed, *, single: bool = False) -> None:
        self.feed = feed
        self.endless = False
        self.start: tuple[int, int] = (0, 0)
        self.count: int | None = None
        self.batch_size: int = feed.micro_batch_size
        self.drop_last: bool = feed.batching.drop_last is True
        self._single = single

    def __len__(self) -> int:
        return replace(self.feed.batching, limit=None).batches  # whoever set a limit applies it to this

    def __iter__(self) -> Iterator[Any]:
        # the place is read here and not at the first draw, since workers draw ahead and others may set it meanwhile
        batches = self._from(*self.start)
        return (batch[0] for batch in batches) if self._single else batches

    def _from(self, epoch: int, offset: int) -> Iterator[list[Any]]:
        if not self.endless:
            return self.feed.batches(epoch, offset, self.count)
        return self._endlessly(epoch, offset)

    def _endlessly(self, epoch: int, offset: int) -> Iterator[list[Any]]:
        while True:
            yield from self.feed.batches(epoch, offset)
            epoch, offset = epoch + 1, 0


def miscounted(identity: Identity, epoch: int, wanted: int, given: int) -> ReplayError:
    """The error for an order or a sampler that is not as long as it says."""
    return ReplayError(
        explain(
            f"The order {identity.kind!r} gave {'fewer' if given < wanted else 'more'} than its length promises, "
            "so no place in it could be told.",
            [("epoch", epoch), ("asked for", wanted), ("given", given)],
            "Let its __len__ tell how much an epoch yields.",
        )
    )


def _cannot_adopt(saved: Identity, current: Identity) -> MismatchError:
    return MismatchError(
        explain(
            "The saved order cannot be taken over.",
            [("saved", saved), ("current", current)],
            "Pass the sampler or order that the run began with. Nothing was loaded.",
        )
    )


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of the data this process loads: that of data-parallel rank *rank* of *size*.

    *is_drawn*: the loader yields this rank's samples alone, so nothing of them is for the other ranks.
    *is_guarded*: a framework would put a sampler of its own into the loader unless it finds one.
    """

    rank: int = 0
    size: int = 1
    is_drawn: bool = False
    is_guarded: bool = False


class RankSampler(DistributedSampler[Any]):
    """What a loader shows as its sampler on several ranks: the indices of the pass that begins next, on this rank.

    Lightning puts a DistributedSampler into every loader that has none, and builds the loader anew for it.
    """

    def __init__(self, batches: ResumableSampler, shard: Shard, *, single: bool) -> None:
        length = batches.feed.batching.length
        super().__init__(range(length), num_replicas=shard.size, rank=shard.rank, shuffle=False)  # type: ignore[arg-type]
        self._batches = batches
        self._single = single

    def __len__(self) -> int:
        batching = self._batches.feed.batching
        whole, size = batching.length // batching.batch_size, self._batches.feed.micro_batch_size
        return whole * size if batching.drop_last else -(-batching.length // self.num_replicas)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches) if self._single else chain.from_iterable(self._batches)


class SequentialRankSampler(RankSampler, SequentialSampler):
    """The same, for loaders that Lightning asked to leave out the shuffling; it looks for a SequentialSampler."""
