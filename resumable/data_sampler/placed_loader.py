"""A Megatron-style train loader whose passes begin at the trained position, in any epoch.

Megatron's batch samplers take their first sample from `consumed_samples` when they are built. So later epochs of a
resumed run skip what was consumed before it, a run that is resumed in a later epoch finds no samples left, and their
length is that of what remains. Here they are built at 0, and each pass begins where a source says.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

from resumable.orders.identity import CYCLIC, Identity
from resumable.saved.resolve import refuse_or_warn
from resumable.saved.snapshot import save_nothing
from resumable.steps.batch_plan import BatchPlan
from resumable.verdict import Difference, Verdict

__all__ = ["PositionSource", "SeekableSampler", "check_begins", "seekable"]

_MEGATRONS = ("consumed_samples", "total_samples", "__len__")


class PositionSource(Protocol):
    """Knows where the train loader's next pass begins."""

    def place(self, sampler: SeekableSampler, /) -> None:
        """A train loader with the batches of *sampler* is there."""
        ...

    def start_of(self, sampler: SeekableSampler, /) -> tuple[int, int]:
        """Epoch and offset of the next sample."""
        ...


class SeekableSampler:
    """The batches of a sampler that begins at its `consumed_samples`; *source* says at each pass where that is.

    *is_cyclic*: the sampler takes all epochs as one stream, as Megatron's "cyclic" does; otherwise its count is the
    offset.
    """

    def __init__(self, sampler: Any, source: PositionSource, *, samples_per_batch: int, is_cyclic: bool) -> None:
        self.sampler = sampler
        self.source = source
        self.samples_per_batch = samples_per_batch
        self.is_cyclic = is_cyclic
        self.total_samples: int = sampler.total_samples
        self.drop_last: bool = bool(getattr(sampler, "drop_last", True))
        self._is_padded = not self.drop_last and bool(getattr(sampler, "pad_samples_to_global_batch_size", False))
        # the length of NeMo's samplers is in batches, some with a last one that is dropped; Megatron-LM's is in samples
        length, whole = len(_at(sampler, 0)), BatchPlan(self.total_samples, samples_per_batch, self.drop_last).batches
        self._batches = length if self._is_padded else min(length, whole)

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
        # read here and not at the first draw, since workers draw ahead and the position may move meanwhile
        epoch, offset = self.source.start_of(self)
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
        """A pickle has no source: it is the sampler, from its own count on."""
        return copy.copy, (self.sampler,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "sampler":  # a copy is asked before it has one
            raise AttributeError(name)
        return getattr(self.sampler, name)


def seekable(loader: Any, sampler: Any, source: PositionSource, /) -> None:
    """Let *loader*'s passes begin where *source* says, if it has a batch sampler with a count.

    *sampler* is the data sampler that made it: its `dataloader_type` says how to count.
    """
    batches: Any = getattr(loader, "batch_sampler", None)
    if isinstance(batches, SeekableSampler):
        batches.source = source
    elif all(hasattr(batches, name) for name in _MEGATRONS):
        kind = getattr(sampler, "dataloader_type", "single")
        # a batch of the "batch" kind is a global one, of the others a micro batch of each rank
        size = sampler.global_batch_size if kind == "batch" else batches.micro_batch_times_data_parallel_size
        batches = SeekableSampler(batches, source, samples_per_batch=int(size), is_cyclic=kind == CYCLIC)
        # torch refuses to set this after __init__; between two passes the one attribute that is iterated is exchanged
        vars(loader)["batch_sampler"] = batches
        save_nothing(loader)
    else:
        return
    source.place(batches)


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


def _at(sampler: Any, consumed_samples: int) -> Any:
    own = copy.copy(sampler)
    own.consumed_samples = consumed_samples
    return own
