"""A Megatron-style train loader, whose passes begin where the training stands, in any epoch.

Megatron's batch samplers take their first sample from `consumed_samples` when they are built. So later epochs of a
resumed run skip what was consumed before it, a run that is resumed in a later epoch finds no samples left, and their
length is that of what remains. Here they are built at 0, and told at each pass where it begins.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol
from weakref import WeakSet

from resumable.orders.identity import CYCLIC, Identity
from resumable.saved.resolve import refuse_or_warn
from resumable.steps.batch_plan import BatchPlan
from resumable.verdict import Difference, Verdict

__all__ = ["PassStarts", "SeekableSampler", "TransformHook", "check_begins", "known_order", "placed"]

_TRANSFORM = "transform_dataloader"
_MEGATRONS = ("consumed_samples", "total_samples", "__len__")


class PassStarts(Protocol):
    """Who knows where the train loader's next pass begins."""

    def place(self, sampler: SeekableSampler, /) -> None:
        """A train loader is there, that yields what *sampler* does."""
        ...

    def start_of(self, sampler: SeekableSampler, /) -> tuple[int, int]:
        """Epoch and offset of the next sample."""
        ...


class SeekableSampler:
    """The batches of a sampler that begins at its `consumed_samples`, from where *source* says at each pass.

    *is_cyclic*: the sampler takes all epochs as one stream, as Megatron's "cyclic" does; else its count is the offset.
    """

    def __init__(self, sampler: Any, source: PassStarts, *, samples_per_batch: int, is_cyclic: bool) -> None:
        self.sampler = sampler
        self.samples_per_batch = samples_per_batch
        self.is_cyclic = is_cyclic
        self.total_samples: int = sampler.total_samples
        self._source = source
        self.drop_last = bool(getattr(sampler, "drop_last", True))
        self._is_padded = not self.drop_last and bool(getattr(sampler, "pad_samples_to_global_batch_size", False))
        # NeMo's samplers tell batches, some with a last one that is dropped; Megatron-LM's tell samples
        told, whole = len(_at(sampler, 0)), BatchPlan(self.total_samples, samples_per_batch, self.drop_last).batches
        self._batches = told if self._is_padded else min(told, whole)

    @property
    def identity(self) -> Identity:
        """What the order depends on. Megatron's "cyclic" shuffles the part of each rank, or whole micro batches of all.

        Source: `MegatronPretrainingRandomSampler` of NeMo 2.5 (lightning/data.py), which always shards, and that of
        Megatron-LM (legacy/data/data_samplers.py), which has a `data_sharding` to turn that off.
        """
        total = self.total_samples
        if not self.is_cyclic:
            return Identity("sequential", total)
        micro: int = getattr(self.sampler, "micro_batch_size", self.samples_per_batch)
        ranks = max(1, self.samples_per_batch // micro)
        if getattr(self.sampler, "data_sharding", True):
            shuffled = f"{ranks} x {total // self.samples_per_batch * micro}"
        else:
            shuffled = f"{total // micro * micro}"
        seed = getattr(self.sampler, "seed", 0)
        own_seed = seed % 2**64 if isinstance(seed, int) and seed else None  # 0 is Megatron's
        return Identity(f"{CYCLIC}, {shuffled} shuffled", total, own_seed)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Any]:
        # the place is read here and not at the first draw, since workers draw ahead and others may be told meanwhile
        epoch, offset = self._source.start_of(self)
        size = self.samples_per_batch
        start = epoch * (self.total_samples - self.total_samples % size) + offset if self.is_cyclic else offset
        left = self._batches_left(offset)
        return islice(iter(_at(self.sampler, start)), left) if left else iter(())

    def _batches_left(self, offset: int) -> int:
        size = self.samples_per_batch
        if self._is_padded:
            return max(0, self._batches - -(-offset // size))
        return BatchPlan(self.total_samples, size, self.drop_last, self._batches).batches_left(offset)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle has nobody who places it: it is the sampler, from its own count on."""
        return copy.copy, (self.sampler,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "sampler":  # a copy is asked before it has one
            raise AttributeError(name)
        return getattr(self.sampler, name)


def placed(loader: Any, sampler: Any, source: PassStarts, /) -> Any:
    """*loader*, its passes begun by *source*, if it has a batch sampler with a count; else as it is.

    *sampler* is the data sampler that made it: its `dataloader_type` says how to count.
    """
    batches: Any = getattr(loader, "batch_sampler", None)
    if isinstance(batches, SeekableSampler):
        source.place(batches)
        return loader
    if not all(hasattr(batches, name) for name in _MEGATRONS):
        return loader
    kind = getattr(sampler, "dataloader_type", "single")
    # a batch of the "batch" kind is a global one, of the others a micro batch of each rank
    size = sampler.global_batch_size if kind == "batch" else batches.micro_batch_times_data_parallel_size
    own = SeekableSampler(batches, source, samples_per_batch=int(size), is_cyclic=kind == CYCLIC)
    # torch refuses to set this after __init__; between two passes the one attribute that is iterated is exchanged
    vars(loader).update(batch_sampler=own, state_dict=_nothing, load_state_dict=_ignore)
    source.place(own)
    return loader


def known_order(saved: Identity | None, current: Identity, /) -> Identity | None:
    """*saved*, with what older states did not tell of a cyclic order taken from *current*."""
    if saved is not None and saved.kind == CYCLIC and current.kind.startswith(CYCLIC):
        return replace(current, length=saved.length)
    return saved


def check_begins(sampler: SeekableSampler, offset: int, /) -> None:
    """Raise MismatchError where no batch of *sampler* begins at *offset*: cyclic batches lie at fixed places."""
    if sampler.is_cyclic and offset % sampler.samples_per_batch:
        difference = Difference(
            "No batch of this cyclic order begins where the saved run stands.",
            offset,
            f"batches of {sampler.samples_per_batch} samples",
            "Go on with the micro_batch_size and data_parallel_size that the run began with.",
        )
        refuse_or_warn(Verdict("refused", (difference,)), "error")


class TransformHook:
    """A data sampler's `transform_dataloader`, kept from building samplers in mid-data. A copy or pickle is plain."""

    def __init__(
        self,
        sampler: Any,
        method: Callable[..., Any],
        source: PassStarts | None,
        finish: Callable[[Any], Any] | None = None,
    ) -> None:
        self.sampler = sampler
        self.method = self.__wrapped__ = method  # whoever asks for its signature sees the method's
        self._is_building = False
        self._source = source
        self._finish = finish
        self._ours: WeakSet[Any] = WeakSet()

    @classmethod
    def of(cls, sampler: Any, source: PassStarts, finish: Callable[[Any], Any]) -> TransformHook | None:
        """Take the method's place in the instance; None where there is no such method.

        *finish* gets each train loader that is placed, and gives what is returned for it.
        """
        method = getattr(sampler, _TRANSFORM, None)
        if method is None or not hasattr(sampler, "__dict__"):
            return None
        own = cls(sampler, method.method if isinstance(method, TransformHook) else method, source, finish)
        vars(sampler)[_TRANSFORM] = own
        return own

    @contextmanager
    def building(self) -> Generator[None, None, None]:
        """What is transformed inside the block is a train loader, unless its mode says another thing."""
        self._is_building = True
        try:
            yield
        finally:
            self._is_building = False

    def note(self, loader: Any) -> None:
        """This is a train loader, which somebody will transform later: NeMo's strategy does."""
        self._ours.add(loader)

    def __call__(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """What the method makes of *dataloader*, begun at 0, and placed if it is a train loader."""
        if self._source is None:
            return self.method(dataloader, *args, **kwargs)
        count = self.sampler.init_consumed_samples
        self.sampler.init_consumed_samples = 0
        try:
            made = self.method(dataloader, *args, **kwargs)
        finally:
            self.sampler.init_consumed_samples = count
        is_ours = self._is_building and getattr(dataloader, "mode", "train") == "train"
        if not is_ours and dataloader not in self._ours:
            return made
        own = placed(made, self.sampler, self._source)
        return own if self._finish is None else self._finish(own)

    def __reduce__(self) -> tuple[Any, ...]:
        return TransformHook, (self.sampler, self.method, None)


def _at(sampler: Any, consumed_samples: int) -> Any:
    own = copy.copy(sampler)
    own.consumed_samples = consumed_samples
    return own


def _nothing() -> dict[str, Any]:
    return {}


def _ignore(state_dict: object) -> None:
    """The position is saved with the datamodule."""
