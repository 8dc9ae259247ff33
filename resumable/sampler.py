"""The batches of a map-style DataLoader, entered at any place: what takes the place of torch's batch sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol

from torch.utils.data import Sampler

from resumable.batching import Batching
from resumable.canary import Canaries
from resumable.errors import MismatchError, ReplayError, explain
from resumable.order import Sequential, Shuffled
from resumable.protocols import Order
from resumable.replay import Epochs, ReplayedSampler
from resumable.verdict import Identity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "FIRST_BLOCK",
    "BatchSamplerFeed",
    "Feed",
    "OrderFeed",
    "ResumableSampler",
    "cut",
    "identity_of",
    "miscounted",
]

FIRST_BLOCK, BLOCK = 256, 16_384
"""Samples drawn at once: few for the first batch after a resume, then as many as run fast."""


class Feed(Protocol):
    """Where a loader's batches of indices come from, at any place of any epoch."""

    batching: Batching

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


def identity_of(order: Order, /) -> Identity:
    """What *order* depends on: its `kind` (else its class's name), its length and its `seed` (else None).

    >>> identity_of(Shuffled(10, seed=3))
    Identity(kind='shuffled', length=10, seed=3)
    """
    seed = getattr(order, "seed", None)
    return Identity(
        getattr(order, "kind", type(order).__qualname__), len(order), None if seed is None else Shuffled(1, seed).seed
    )


class OrderFeed:
    """Batches cut from an order, or from a user's sampler that is replayed."""

    def __init__(self, order: Order | ReplayedSampler, batching: Batching) -> None:
        self.batching = batching
        self._set(order)

    def _set(self, order: Order | ReplayedSampler) -> None:
        self.order = order
        if isinstance(order, ReplayedSampler):
            self.identity = Identity(order.kind, len(order), order.seed)
            self._draw: Callable[[int, int, int], list[Any] | NDArray[np.int64]] = order.draw
            self._canaries: Canaries | None = None
        else:
            self.identity = identity_of(order)
            self._draw = order.indices
            self._canaries = Canaries(order)

    @property
    def micro_batch_size(self) -> int:
        """Samples of a batch on one rank."""
        return self.batching.batch_size

    def padded_samples(self, offset: int, /) -> int:
        """Samples that the end of an epoch trains again, one a rank at most, in a pass from *offset* on."""
        ranks = self.batching.batch_size // self.micro_batch_size
        return 0 if self.batching.drop_last else -(self.batching.reach - offset) % ranks

    def adopt(self, identity: Identity, /) -> None:
        """Take over another seed, and "sequential" for "shuffled" or the other way round."""
        if identity != self.identity:
            self._set(self._order_of(identity))

    def _order_of(self, identity: Identity) -> Order | ReplayedSampler:
        if isinstance(self.order, ReplayedSampler) and identity.kind == self.identity.kind:
            return ReplayedSampler(self.order.sampler, identity.seed or 0, kind=identity.kind)
        if identity.kind == Shuffled.kind:
            return Shuffled(identity.length, identity.seed or 0)
        if identity.kind == Sequential.kind:
            return Sequential(identity.length)
        raise _cannot_adopt(identity, self.identity)

    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        """The canary at *offset* of *epoch* in the order that *identity* tells; None where there is none."""
        order, canaries = self.order, self._canaries
        if identity is not self.identity and identity != self.identity:
            order = self._order_of(identity)
            canaries = None if isinstance(order, ReplayedSampler) else Canaries(order)
        if canaries is not None:
            return canaries.at(epoch, offset)
        return order.canary(epoch, looks=looks) if isinstance(order, ReplayedSampler) else None

    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        """The *count* batches from *offset* of *epoch* on, drawn in blocks, the first one small."""
        left = self.batching.batches_left(offset) if count is None else count
        return chain.from_iterable(self._blocks(epoch, offset, left))

    def _blocks(self, epoch: int, offset: int, left: int) -> Iterator[list[list[Any]]]:
        size, length, draw = self.batching.batch_size, self.batching.length, self._draw
        block = FIRST_BLOCK
        while left:
            batches = min(left, max(1, block // size))
            stop = min(offset + batches * size, length)
            indices = draw(epoch, offset, stop)
            if len(indices) != stop - offset:
                raise miscounted(self.identity, epoch, stop - offset, len(indices))
            yield cut(indices, size)
            left, offset, block = left - batches, stop, BLOCK


class BatchSamplerFeed:
    """The batches of a user's own batch sampler, replayed.

    A position of whole batches is met by counting batches. Any other (the batch size has changed in mid-epoch) is
    met by counting samples, and the rest of that epoch is cut into batches anew.
    """

    def __init__(self, sampler: Iterable[list[Any]], seed: int, batching: Batching) -> None:
        self.batching = batching
        self.identity = Identity(type(sampler).__qualname__, batching.length, seed)
        self._epochs = Epochs(sampler, seed, batched=True)

    @property
    def micro_batch_size(self) -> int:
        """Samples of a batch."""
        return self.batching.batch_size

    def padded_samples(self, offset: int, /) -> int:
        """None: there is one rank."""
        return 0

    def adopt(self, identity: Identity, /) -> None:
        """Take over another seed."""
        if replace(identity, seed=None) != replace(self.identity, seed=None):
            raise _cannot_adopt(identity, self.identity)
        self._epochs, self.identity = self._epochs_of(identity), identity

    def _epochs_of(self, identity: Identity) -> Epochs:
        is_present = identity.seed == self.identity.seed
        return self._epochs if is_present else Epochs(self._epochs.sampler, identity.seed or 0, batched=True)

    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        """The canary of *epoch*'s first draws with *identity*'s seed; see `Epochs.canary`."""
        return self._epochs_of(identity).canary(epoch, looks=looks)

    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        """The *count* batches from *offset* of *epoch* on; None means all to its end."""
        return islice(self._batches(epoch, offset), count)

    def _batches(self, epoch: int, offset: int) -> Iterator[list[Any]]:
        draws = self._epochs.begin(epoch)
        size = self.batching.batch_size
        if offset % size == 0:
            left, given = self.batching.batches_left(offset), 0
            for batch in islice(draws, offset // size, None):
                given += 1
                yield batch
            if given < left:
                raise miscounted(self.identity, epoch, left, given)
            return
        indices = islice(chain.from_iterable(draws), offset, None)
        for _ in range(self.batching.batches_left(offset)):
            yield list(islice(indices, size))


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
        self.batch_size = feed.micro_batch_size
        self.drop_last = feed.batching.drop_last is True
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
