"""A Megatron-style train loader whose passes begin at the trained position, in any epoch.

Megatron's batch samplers take their first sample from `consumed_samples` when they are built. So later epochs of a
resumed run skip what was consumed before it, a run that is resumed in a later epoch finds no samples left, and their
length is that of what remains. Here they are built at 0, and each pass begins where a source says.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import chain, islice
from typing import Any, Protocol, cast

from resumable.checks import as_int, length_if_known, whole_number
from resumable.errors import ConfigurationError, warn
from resumable.feeds.draws import Draws, DrawsSampler
from resumable.orders.identity import CYCLIC, Identity
from resumable.saved.resolve import refuse_or_warn
from resumable.saved.snapshot import save_nothing
from resumable.steps.batch_plan import BatchPlan
from resumable.verdict import Difference, Verdict

__all__ = [
    "PositionSource",
    "SeekableSampler",
    "at_count",
    "check_begins",
    "epoch_sizes",
    "first_of",
    "loaders_in",
    "seekable",
]

_SHUFFLED = "shuffled by its batch sampler"


class PositionSource(Protocol):
    """Knows where the train loader's next pass begins."""

    def place(self, sampler: SeekableSampler, /) -> None:
        """A train loader with the batches of *sampler* is there."""
        ...

    def start_of(self, sampler: SeekableSampler, /) -> tuple[int, int]:
        """Epoch and offset of the next sample."""
        ...


class SeekableSampler(DrawsSampler):
    """The batches of a sampler that begins at its `consumed_samples`; *source* says at each pass where that is.

    *is_cyclic*: the sampler takes all epochs as one stream, as Megatron's "cyclic" does. *samples_per_round* are those
    of a micro batch on each rank; without it, those of a batch. *rank_offset* are those of the ranks before this one.
    """

    def __init__(
        self,
        sampler: Any,
        source: PositionSource,
        *,
        samples_per_batch: int,
        is_cyclic: bool,
        total_samples: int | None = None,
        samples_per_round: int | None = None,
        rank_offset: int = 0,
    ) -> None:
        self._sampler = sampler
        self.rank_offset = rank_offset
        self.source = source
        self.samples_per_batch = samples_per_batch
        self.samples_per_round: int = samples_per_round or samples_per_batch
        self.is_cyclic = is_cyclic
        self.total_samples: int = sampler.total_samples if total_samples is None else total_samples
        self.drop_last: bool = bool(getattr(sampler, "drop_last", True))
        self._is_padded = not self.drop_last and bool(getattr(sampler, "pad_samples_to_global_batch_size", False))
        whole = BatchPlan(self.total_samples, samples_per_batch, self.drop_last).batches
        # the length of NeMo's samplers is in batches, some with a last one that is dropped; Megatron-LM's is in samples
        length = length_if_known(at_count(sampler, 0))
        self._batches = whole if length is None else length if self._is_padded else min(length, whole)
        self.begun: tuple[int, int] = (0, 0)
        """Epoch and offset of the pass that was begun last."""

    @cached_property
    def identity(self) -> Identity:
        """What the order depends on. Megatron's "cyclic" shuffles the part of each rank, or whole micro batches of all.

        Source: `MegatronPretrainingRandomSampler` of NeMo 2.5 (lightning/data.py), which always shards, and that of
        Megatron-LM (legacy/data/data_samplers.py), which has a `data_sharding` to turn that off. NeMo's
        `MegatronPretrainingRandomBatchSampler` (megatron_batch_samplers.py) shards too; `MegatronPretrainingBatchSampler`
        of Megatron-Bridge (data/samplers.py), which has a `shuffle`, deals out one shuffle of all.
        """
        total, sampler, first = self.total_samples, self._sampler, self._first_indices()
        seed = getattr(sampler, "seed", 0)
        own_seed = seed % 2**64 if isinstance(seed, int) and seed else None  # 0 is Megatron's
        micro: int = getattr(sampler, "micro_batch_size", self.samples_per_round)
        ranks = max(1, self.samples_per_round // micro)
        shards = f"{ranks} x {total // self.samples_per_round * micro}"
        if self.is_cyclic:
            shuffled = shards if getattr(sampler, "data_sharding", True) else f"{total // micro * micro}"
            return Identity(f"{CYCLIC}, {shuffled} shuffled", total, own_seed)
        if first == sorted(first) and max(first, default=0) < self.samples_per_batch:  # those of the dataset
            return Identity("sequential", total)
        return Identity(_SHUFFLED if hasattr(sampler, "shuffle") else f"{_SHUFFLED}, {shards}", total, own_seed)

    def _first_indices(self) -> list[int]:
        """The indices of an epoch's first batch, without a padded one's, drawn without a trace.

        Raises:
            ConfigurationError: if the batches of any count begin with it.
        """
        from resumable.feeds.replay import first_draws  # brings torch

        own, middle = self._sampler, len(self) // 2 * self.samples_per_batch
        draws = ((0, 0), (0, 1), (middle, 0))
        first, again, later = (first_of(first_draws(at_count(own, count), seed)) for count, seed in draws)
        if first != again:
            warn(
                "A batch sampler draws other batches each time, so a resumed run trains other samples.",
                [("batch sampler", type(own).__qualname__)],
                "Let its order follow from its seed and the epoch alone.",
            )
        elif middle and first and first == later:
            raise ConfigurationError(
                "A batch sampler does not begin at its consumed_samples, so a resumed run would train its first samples again.",
                [
                    ("batch sampler", type(own).__qualname__),
                    ("consumed_samples", f"0 and {middle}"),
                    ("first batch", first[0]),
                ],
                "Let its __iter__ begin at consumed_samples, in place of a start or an order that it was built with.",
            )
        return [index for index in map(as_int, chain.from_iterable(first or ())) if index is not None and index >= 0]

    @property
    def is_dealt(self) -> bool:
        """Whether a shuffle for each rank, or of whole micro batches, is begun where a round is."""
        return self.identity.kind not in ("sequential", _SHUFFLED)

    @cached_property
    def _samples_per_epoch(self) -> int:
        """What an epoch adds to the sampler's own count; 0 where the count is the offset in every epoch."""
        total, size, own = self.total_samples, self.samples_per_batch, self._sampler
        left_out = as_int(getattr(own, "last_batch_size", None))
        if left_out is not None:  # Megatron's name for what its epochs leave out
            return total - left_out
        tries = epoch_sizes(total, size)
        last = first_of(at_count(own, tries[-1]))
        if last == [] or not (last or any(first_of(at_count(own, each)) for each in tries)):
            return 0
        if len(tries) == 1:
            return total
        batches = _drawn(at_count(own, 0))
        for each in tries:
            if _drawn(at_count(own, each)) == batches:
                return each
        raise ConfigurationError(
            "A batch sampler's epochs cannot be told from its consumed_samples.",
            [("batch sampler", type(own).__qualname__), ("total_samples", total), ("tried epochs of", tries)],
            "Let consumed_samples // n be the epoch, where n is one of these.",
        )

    @cached_property
    def _epochs_counted(self) -> int:
        """What a pass adds to an attribute `epoch` that the sampler counts by itself, and that its order may follow."""
        own = at_count(self._sampler, 0)
        _drawn(own)
        counted: int = own.epoch - self._sampler.epoch
        return counted

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Any]:
        # read here and not at the first draw, since workers draw ahead and the position may move meanwhile
        self.begun = epoch, offset = self.source.start_of(self)
        left = self._batches_left(offset)
        if not left:
            return iter(())
        own = at_count(self._sampler, epoch * self._samples_per_epoch + offset if epoch else offset)
        if callable(getattr(own, "set_epoch", None)):
            own.set_epoch(epoch)
        elif epoch and isinstance(getattr(own, "__dict__", {}).get("epoch"), int):
            own.epoch += epoch * self._epochs_counted
        batches = islice(own, left)
        return self.marked(Draws(batch, epoch) for batch in batches) if self.yields_draws else batches

    def _batches_left(self, offset: int) -> int:
        size = self.samples_per_batch
        if self._is_padded:
            return max(0, self._batches - -(-offset // size))
        return BatchPlan(self.total_samples, size, self.drop_last, self._batches).batches_left(offset)

    @property
    def own(self) -> Any:
        """The user's batch sampler."""
        return self._sampler

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle has no source: it is the sampler, from its own count on."""
        return copy.copy, (self._sampler,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_sampler":  # a copy is asked before it has one
            raise AttributeError(name)
        return getattr(self._sampler, name)


class _Unplaced:
    """The batches of a loader that could not begin at the count. A strategy may still transform the loader."""

    def __init__(self, batches: Any, loader: Any) -> None:
        self._batches = batches
        self._loader = type(loader).__qualname__

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        raise ConfigurationError(
            "This train loader cannot begin where its data sampler's count is, so it would train its first samples again.",
            [
                ("loader", self._loader),
                ("batch sampler", type(self._batches).__qualname__),
                ("missing", "consumed_samples, the attribute that Megatron's batch samplers begin at"),
            ],
            "Let transform_dataloader put such a batch sampler into it, or give its batch sampler that attribute.",
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_batches":
            raise AttributeError(name)
        return getattr(self._batches, name)


def seekable(
    loader: Any, sampler: Any, source: PositionSource, /, *, is_held: bool = False
) -> SeekableSampler | _Unplaced | None:
    """The batches of *loader*, whose passes then begin where *source* says.

    *sampler* is the data sampler that made it: its `dataloader_type` says how to count. Batches without a count are
    refused at their first draw. None for those of a stream, or of a loader that another one holds: they are left as
    they are.

    Raises:
        ConfigurationError: if the size of the batches is unknown.
    """
    slot = "sampler" if loader.batch_sampler is None else "batch_sampler"
    batches: Any = getattr(loader, slot)
    if isinstance(batches, SeekableSampler):
        batches.source = source
        return batches
    if hasattr(batches, "consumed_samples"):
        placed: SeekableSampler | _Unplaced = _placed(batches, loader, sampler, source)
        save_nothing(loader)
    elif is_held or any(base.__name__ == "IterableDataset" for base in type(loader.dataset).__mro__):
        return None
    else:
        placed = batches if isinstance(batches, _Unplaced) else _Unplaced(batches, loader)
    # torch refuses to set this after __init__; between two passes the one attribute that is iterated is exchanged
    vars(loader)[slot] = placed
    return placed


def _placed(batches: Any, loader: Any, sampler: Any, source: PositionSource) -> SeekableSampler:
    kind = getattr(sampler, "dataloader_type", "single")
    micro = _known("micro_batch_size", batches, sampler)
    per_round = _known("micro_batch_times_data_parallel_size", batches)
    ranks = _known("data_parallel_size", batches, sampler)
    per_round = per_round or (micro * ranks if micro and ranks else None)
    # a batch of the "batch" kind is a global one, of the others a micro batch of each rank
    size = (
        (_known("global_batch_size", sampler) or _known("_global_batch_size", batches))
        if kind == "batch"
        else per_round
    )
    if size is None:
        raise ConfigurationError(
            "The samples of a train loader's batches are unknown, so its position cannot be counted.",
            [
                ("batch sampler", type(batches).__qualname__),
                ("dataloader_type", kind),
                ("missing", "global_batch_size" if kind == "batch" else "micro_batch_times_data_parallel_size"),
            ],
            "Give the data sampler, or its batch sampler, this attribute: samples over all data-parallel ranks.",
        )
    total = _known("total_samples", batches)
    return SeekableSampler(
        batches,
        source,
        samples_per_batch=size,
        is_cyclic=kind == CYCLIC,
        total_samples=whole_number("the length of the dataset", len(loader.dataset)) if total is None else total,
        samples_per_round=per_round,
        rank_offset=(_known("data_parallel_rank", batches, sampler) or 0) * (micro or size),
    )


def _known(name: str, *sources: object) -> int | None:
    """The attribute *name* of the first of *sources* that has it as a number of at least 1."""
    found = (as_int(getattr(source, name, None)) for source in sources)
    return next((size for size in found if size is not None and size > 0), None)


def loaders_in(wrapper: object, depth: int = 3, /) -> Iterator[Any]:
    """The DataLoader that *wrapper* is, or those that it holds in its attributes, down to *depth* of them.

    >>> list(loaders_in([1, 2]))
    []
    """
    attributes: Any = getattr(wrapper, "__dict__", {})
    if "batch_sampler" in attributes and "dataset" in attributes:
        yield wrapper
    elif depth:
        held: Any = cast("list[Any]", wrapper) if isinstance(wrapper, (list, tuple)) else attributes.values()
        if isinstance(wrapper, Mapping):
            held = cast("dict[Any, Any]", wrapper).values()
        for each in islice(held, 100):  # of a list of batches, all are alike
            yield from loaders_in(each, depth - 1)


def check_begins(sampler: SeekableSampler, offset: int, /) -> None:
    """Raise MismatchError where no batch of *sampler* begins at *offset*: shuffled batches lie at fixed places."""
    if offset % sampler.samples_per_round and sampler.is_dealt:
        difference = Difference(
            "No batch of this cyclic order begins where the saved run stands.",
            offset,
            f"batches of {sampler.samples_per_round} samples",
            "Go on with the micro_batch_size and data_parallel_size that the run began with.",
        )
        refuse_or_warn(Verdict("refused", (difference,)), "error")


def epoch_sizes(total: int, size: int, /) -> list[int]:
    """What an epoch of *total* samples, in batches of *size*, may add to a batch sampler's own count.

    >>> epoch_sizes(10, 4)
    [8, 10, 12]
    """
    return sorted({total - total % size, total, total + -total % size} - {0})


def at_count(sampler: Any, consumed_samples: int, /) -> Any:
    """A copy of *sampler* that begins at *consumed_samples*."""
    own = copy.copy(sampler)
    try:
        own.consumed_samples = consumed_samples
    except AttributeError as error:
        raise ConfigurationError(
            "The consumed_samples of a batch sampler cannot be set, so it cannot begin at the count.",
            [("batch sampler", type(sampler).__qualname__), ("reason", str(error))],
            "Give it the plain attribute consumed_samples, or a property with a setter.",
        ) from None
    return own


def first_of(batches: Any) -> list[list[Any]] | None:
    """The first of *batches* in a list; [] where there is none, and None where a sampler refuses to begin there."""
    try:
        return [list(batch) for batch in islice(batches, 1)]
    except Exception:  # noqa: BLE001  # the user's, of any kind
        return None


def _drawn(batches: Any) -> int:
    """How many *batches* there are; 0 where a sampler refuses to begin there."""
    try:
        return sum(1 for _ in batches)
    except Exception:  # noqa: BLE001  # the user's, of any kind
        return 0
