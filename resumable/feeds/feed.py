"""The batches of a map-style DataLoader from any position, in place of torch's batch sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from itertools import count as counted
from typing import TYPE_CHECKING, Any, Final, Protocol, SupportsIndex, cast
from weakref import WeakSet

from torch.utils.data import BatchSampler, Sampler
from typing_extensions import Self, override

from resumable.errors import ConfigurationError, MismatchError, ReplayError
from resumable.feeds.draws import Draws, DrawsSampler
from resumable.orders.identity import Identity
from resumable.saved.agreement import Part
from resumable.saved.ledger import Stretch
from resumable.saved.snapshot import Snapshot
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan
from resumable.stopping.workers import mixed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "FIRST_BLOCK",
    "Feed",
    "Grouping",
    "ITERATE_IT",
    "RebuiltSampler",
    "ResumableSampler",
    "Shard",
    "StreamGrouping",
    "cannot_adopt",
    "cut",
    "iterated_outside",
    "miscounted",
    "shown",
]

FIRST_BLOCK, BLOCK = 256, 16_384
"""Samples drawn at once: few for the first batch after a resume, then as many as run fast."""

ITERATE_IT: Final = (
    "With accelerate, call resumable.adapters.accelerate.prepare(accelerator, loader) before accelerator.prepare. Otherwise "
    "iterate the loader itself, in place of a StatefulDataLoader too, since it has state_dict and load_state_dict: "
    "`for batch in loader`. Or put a wrapper around it that iterates it and does not rebuild it."
)
"""The advice where a loader is built anew."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of the data this process loads: that of data-parallel rank *rank* of *size*.

    *already_sharded*: the loader yields this rank's samples alone. *is_own*: no other process loads this part too, as
    model-parallel ones do.
    """

    rank: int = 0
    size: int = 1
    already_sharded: bool = False
    is_own: bool = True

    @property
    def part(self) -> Part:
        """What ranks compare of it."""
        return Part(self.rank, self.size, self.is_own)


class Grouping(Protocol):
    """How a loader's samples fall into batches of all ranks together: as *plan* says. This rank loads *shard*."""

    plan: BatchPlan
    shard: Shard

    @property
    def micro_batch_size(self) -> int:
        """Samples of a batch on one rank."""
        return self.plan.batch_size // self.shard.size

    def padded_samples(self, offset: int, /, epoch: int = 0) -> int:
        """Samples that the end of *epoch* trains again in a pass from *offset* on, so that all ranks get equally many."""
        return 0

    def place(self, epoch: int, offset: int, /) -> int:
        """Where in *epoch* this rank's batch of the round at *offset* begins; the same with any number of ranks."""
        return offset + self.shard.rank * self.micro_batch_size

    def plan_of(self, identity: Identity, /) -> BatchPlan:
        """The plan of the order of *identity*, where that changes it."""
        return self.plan

    def check_one_size(self) -> None:
        """Raise `ConfigurationError`, now or at the first other one, unless each batch has the size that is expected."""
        return

    def as_counted(self, saved: Snapshot, /) -> Snapshot:
        """*saved* in the present way to count, where an older version counted otherwise."""
        return saved

    def noted(self, stretch: Stretch, /) -> Stretch:
        """*stretch*, or the same one with what the batches that were drawn since have shown."""
        return stretch

    def adopt(self, identity: Identity, /) -> None:
        """Go on in the order of *identity*.

        Raises:
            MismatchError: where it cannot.
        """
        ...

    def canary(self, identity: Identity, epoch: int, offset: int, /, *, looks: bool = False) -> str | None:
        """The digest of the indices that follow *offset* of *epoch* in the order of *identity*; None where there is none.

        A user's sampler gives it only once its epoch has begun; with *looks*, the epoch begins for it.
        """
        return None


class Feed(Grouping, Protocol):
    """A `Grouping` that yields this rank's batches of indices, from any position of the order of *identity*."""

    identity: Identity
    contents: str | None = None
    """By which the data is told from other data, of the same length."""

    def note_contents(self, contents: str | None, /) -> None:
        """Let *contents* be a part of the identity from now on."""
        self.contents = contents
        self.identity = self.of_contents(self.identity)

    def of_contents(self, identity: Identity, /) -> Identity:
        """*identity*, of the present contents."""
        return replace(identity, contents=self.contents)

    def batches(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[list[Any]]:
        """The *count* batches from *offset* of *epoch* on; None means all to its end."""
        ...

    def draws(self, epoch: int, offset: int, count: int | None = None, /) -> Iterator[Draws]:
        """The same batches, which know of which epoch each index is, and how often it came earlier in it."""
        return (Draws(batch, epoch) for batch in self.batches(epoch, offset, count))

    def whole_epoch(self, epoch: int, /, *, drop_last: bool) -> Iterator[list[Any]]:
        """All batches of *epoch*, whatever limits the training; a user's batch sampler decides itself about *drop_last*."""
        return self.batches(epoch, 0, None if self.plan.is_drawn else replace(self.plan, limit=None).batches)


class StreamGrouping(Grouping):
    """How a stream falls into batches. Only the stream knows its order, and its next samples once they are read."""

    identity: None = None

    def __init__(self, plan: BatchPlan, shard: Shard) -> None:
        self.plan = plan
        self.shard = shard

    @override
    def adopt(self, identity: Identity, /) -> None:
        raise MismatchError(
            "The state was saved with a map-style dataset, and the loader streams.",
            [("saved order", identity), ("current", "a stream")],
            "Give the run the loader that it began with. Nothing was loaded.",
        )


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


class ResumableSampler(DrawsSampler, Sampler[Any]):
    """What torch's DataLoader iterates: the batches of *feed* from *start* on, an epoch and an offset.

    *count* limits a pass that does not end with its epoch. *evaluates*: the next pass is the whole epoch. *is_endless*: it
    goes on with the next epoch, as Lightning cycles a shorter loader beside a longer one. *single* yields indices in place
    of lists of one, for a DataLoader with `batch_size=None`.
    It is iterated while its own loader begins a pass, *is_open*, or goes on with one of *passes*, whose class begins it by
    itself: another loader around it would begin each of its passes at the same place, and nothing would count them. A
    framework that puts its own sampler into a loader makes a batch
    sampler of this class around it, with the arguments of torch's BatchSampler: that is a `RebuiltSampler`.
    """

    def __new__(cls, *feed: Any, **options: Any) -> Self:
        """A sampler of a feed, or a `RebuiltSampler` of a framework's, which gives batch_size and drop_last."""
        return cast("Self", RebuiltSampler(*feed, **options)) if "batch_size" in options else super().__new__(cls)

    def __init__(self, feed: Feed, *, single: bool = False) -> None:
        self.feed: Feed = feed
        self.single = single
        self.is_open = False
        self.passes: WeakSet[Any] = WeakSet()
        self.start: tuple[int, int] = (0, 0)
        self.count: int | None = None
        self.evaluates: bool = False
        self.is_endless: bool = False
        self.own: object = None  # the batch sampler whose place it takes, for those who look at it or set it
        self.sampler: Any = None
        self.batch_size: int = feed.micro_batch_size
        self.drop_last: bool = feed.plan.drop_last is True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or vars(self).get("own") is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return getattr(self.own, name)

    def __len__(self) -> int:
        batches = replace(self.feed.plan, limit=None).batches  # the framework that set a limit applies it to this
        if batches >= UNBOUNDED:
            raise TypeError(f"{self.feed.identity.kind} has no length")  # as torch says of such a sampler
        return batches

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "is_open": False, "passes": None}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept, passes=WeakSet())

    def __iter__(self) -> Iterator[Any]:
        if not (self.is_open or self.passes):
            raise iterated_outside(self)
        # `start` is read here and not at the first draw: workers draw ahead, and another pass may set it meanwhile
        is_taken_whole = not self.single or self.feed.plan.is_drawn
        if self.yields_draws:
            return self.marked(self.batches(self.feed.draws), is_one=not is_taken_whole)
        batches = self.batches(self.feed.batches)
        return batches if is_taken_whole else (batch[0] for batch in batches)

    def begin(
        self,
        feed: Feed,
        start: tuple[int, int],
        count: int | None = None,
        *,
        evaluates: bool = False,
        is_endless: bool = False,
    ) -> None:
        """Let the next pass go over *feed*, from *start* on."""
        self.feed, self.start, self.count = feed, start, count
        self.evaluates, self.is_endless = evaluates, is_endless

    def set_epoch(self, epoch: int) -> None:
        """Called by users as of their own batch sampler, whose place this one takes; the position knows the epoch."""

    @property
    def begun(self) -> dict[str, Any]:
        """The arguments of the last `begin`."""
        return {name: vars(self)[name] for name in ("feed", "start", "count", "evaluates", "is_endless")}

    def batches(self, drawn: Callable[[int, int, int | None], Iterator[Any]]) -> Iterator[Any]:
        """The pass that begins now, of what *drawn* draws of the feed."""
        feed, (first, offset), count = self.feed, self.start, self.count
        if self.evaluates:
            batches = feed.whole_epoch(first, drop_last=self.drop_last)
            return (Draws(batch, first) for batch in batches) if self.yields_draws else batches
        if self.is_endless:
            return chain.from_iterable(drawn(epoch, offset if epoch == first else 0, None) for epoch in counted(first))
        return drawn(first, offset, count)

    @property
    def left(self) -> int | None:
        """Batches of that pass; None where nobody counts them."""
        if self.evaluates or self.is_endless:
            return None
        return self.feed.plan.batches_left(self.start[1]) if self.count is None else self.count


class RebuiltSampler(BatchSampler):
    """A framework's sampler in batches, as torch's BatchSampler; a `RankSampler` of ours gives its own whole epoch."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool) -> None:
        super().__init__(sampler.hidden() if isinstance(sampler, _Shown) else sampler, batch_size, drop_last)

    def __iter__(self) -> Iterator[list[Any]]:
        whole_epoch: Any = getattr(self.sampler, "whole_epoch", None)
        return super().__iter__() if whole_epoch is None else whole_epoch()


class _Shown:
    """Mixed into what a loader shows as its sampler, once its batches come from elsewhere: all of it but the draws."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        raise iterated_outside(self)

    def hidden(self) -> Any:
        """The sampler as it was made, which can be iterated."""
        cls: type[Any] = type(self).__bases__[-1]
        own = object.__new__(cls)
        vars(own).update(vars(self))
        return own

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return shown, (self.hidden(),)


def shown(sampler: object, /) -> Any:
    """*sampler* as others may see it in a loader: of its class and with its attributes, but iterated by nobody.

    >>> from torch.utils.data import SequentialSampler
    >>> shown(SequentialSampler([5, 6])).data_source
    [5, 6]
    """
    cls: type[Any] = type(sampler)
    is_plain = all("__new__" not in vars(base) and not vars(base).get("__slots__") for base in cls.__mro__[:-1])
    if not is_plain or isinstance(sampler, _Shown):
        return sampler
    same: Any = object.__new__(mixed(_Shown, cls))
    object.__setattr__(same, "__dict__", vars(sampler))  # what is set on one is set on both
    return same


def iterated_outside(sampler: object, /) -> ConfigurationError:
    """The error for a sampler of a resumable loader that something else iterates."""
    return ConfigurationError(
        "The sampler of a resumable loader was iterated outside of that loader, where nobody follows the position or counts.",
        [("sampler", type(sampler).__qualname__)],
        f"A loader that a trainer or a library builds anew from .dataset and .batch_sampler, or .sampler, does so. {ITERATE_IT}",
    )


def miscounted(identity: Identity, epoch: int, wanted: int, given: int) -> ReplayError:
    """The error for an order or a sampler that is not as long as its `__len__`."""
    return ReplayError(
        f"The order {identity.kind!r} gave {'fewer' if given < wanted else 'more'} indices than its length promises, "
        "so no position in it is known.",
        [("epoch", epoch), ("asked for", wanted), ("given", given)],
        "Let its __len__ return how many indices an epoch has.",
    )


def cannot_adopt(saved: Identity, current: Identity) -> MismatchError:
    """The error for a saved order that the present sampler or order cannot give."""
    return MismatchError(
        "The saved order cannot be taken over.",
        [("saved", saved), ("current", current)],
        "Pass the sampler or order that the run began with. Nothing was loaded.",
    )
