"""The orders of Megatron's samplers, and the dataset as long as their epochs.

    "single"   the dataset's own order, `resumable.Sequential`, in one pass
    "cyclic"   `CyclicOrder`: a shuffle of each rank's part or of all, of as many samples as fill rounds
    "batch"    `GlobalBatchOrder`: a shuffle of all, of as many samples as fill global batches, or padded to that

An epoch has as many samples as at the sizes that the run began with: `Sizes`. So the consumed samples alone say where the
run is, whatever its present sizes are. The order stays as well; only its grouping follows the present sizes.

Source: Megatron-Bridge at 067f987 (2026-08), src/megatron/bridge/data/samplers.py; Megatron-LM at d98e8a6 (2026-08),
megatron/training/datasets/data_samplers.py, whose "single" and "cyclic" are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch.utils.data import Dataset
from typing_extensions import Self, override

from resumable.checks import whole_number
from resumable.errors import ConfigurationError
from resumable.orders.identity import CYCLIC, Identity

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CyclicOrder", "EpochOf", "GlobalBatchOrder", "Sizes"]

_NAMES = ("micro_batch_size", "data_parallel_size", "global_batch_size")


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that a run began with: its "cyclic" data is shuffled by the first two, its "batch" data by the last.

    Raises:
        ConfigurationError: unless they are whole numbers from 1 on.
    """

    micro_batch_size: int = 1
    data_parallel_size: int = 1
    global_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in _NAMES:
            value: object = getattr(self, name)
            if name != "global_batch_size" or value is not None:
                object.__setattr__(self, name, whole_number(name, value, least=1))

    @property
    def per_round(self) -> int:
        """Samples of one micro batch on all ranks."""
        return self.micro_batch_size * self.data_parallel_size


class _Permutations:
    """The shuffles of *length* samples that *seed* gives for each epoch; the last two are kept."""

    def __init__(self, length: int, seed: Callable[[int], int]) -> None:
        self._length, self._seed = length, seed
        self._kept: dict[int, NDArray[np.int64]] = {}

    def of(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._kept:
            generator = torch.Generator()
            generator.manual_seed(self._seed(epoch))
            shuffle = cast("NDArray[np.int64]", torch.randperm(self._length, generator=generator).numpy())
            self._kept = {**dict(list(self._kept.items())[-1:]), epoch: shuffle}
        return self._kept[epoch]


class CyclicOrder:
    """The order of Megatron's "cyclic" data of *samples* samples.

    With *data_sharding*, each rank shuffles its own part, all ranks alike, and a round is a micro batch of each part.
    Otherwise all samples are shuffled, and the ranks are dealt a round's samples one by one. The tail that fills no round
    is left out: the same samples in each epoch with *data_sharding*, others otherwise.
    """

    def __init__(self, samples: int, sizes: Sizes, *, data_sharding: bool) -> None:
        micro, ranks = sizes.micro_batch_size, sizes.data_parallel_size
        self.sizes = sizes
        self.kind: str = f"{CYCLIC}, {micro} x {ranks}{' sharded' if data_sharding else ''}"
        self.interleaves: bool = not data_sharding
        self._rounds = samples // sizes.per_round
        if not self._rounds:
            raise _no_round("round", samples, sizes.per_round)
        shuffled = self._rounds * micro if data_sharding else samples // micro * micro
        self._shuffles = _Permutations(shuffled, lambda epoch: epoch)

    def __len__(self) -> int:
        return self._rounds * self.sizes.per_round

    def indices(self, epoch: int, start: int, stop: int, /) -> NDArray[np.int64]:
        """The indices at the places *start* to *stop* of *epoch*."""
        shuffle = self._shuffles.of(epoch)
        if self.interleaves:
            return shuffle[start:stop]
        micro = self.sizes.micro_batch_size
        of_round, within = np.divmod(np.arange(start, stop, dtype=np.int64), self.sizes.per_round)
        rank, own = np.divmod(within, micro)
        places: NDArray[np.int64] = rank * (self._rounds * micro) + shuffle[of_round * micro + own]
        return places


class GlobalBatchOrder:
    """The order of Bridge's "batch" data of *samples* samples: a shuffle of all, dealt out one by one in each global batch.

    With *pads*, places past *samples* fill the last global batch: `EpochOf` gives `dataset[-1]` for them, as Bridge does.
    """

    interleaves: ClassVar[bool] = True

    def __init__(self, samples: int, global_batch_size: int, seed: int, *, pads: bool) -> None:
        self.kind: str = f"global batches, {global_batch_size}{' padded' if pads else ''}"
        self.seed: int = seed % 2**64
        self._samples = samples
        self._length = -(-samples // global_batch_size) if pads else samples // global_batch_size
        self._length *= global_batch_size
        if not self._length:
            raise _no_round("global batch", samples, global_batch_size)
        self._shuffles = _Permutations(
            samples, lambda epoch: seed + epoch if seed + epoch < 2**64 else seed + epoch - 2**64
        )

    def __len__(self) -> int:
        return self._length

    def indices(self, epoch: int, start: int, stop: int, /) -> NDArray[np.int64]:
        """The indices at the places *start* to *stop* of *epoch*."""
        shuffled = self._shuffles.of(epoch)[start : min(stop, self._length)]
        return np.concatenate((shuffled, np.arange(max(start, self._samples), stop, dtype=np.int64)))


def sizes_of(saved: Identity, /) -> Sizes | None:
    """The sizes that *saved*, the order of a state, was made with; None where it depends on none of them."""
    for kind, names in ((f"{CYCLIC}, (\\d+) x (\\d+).*", _NAMES[:2]), (r"global batches, (\d+).*", _NAMES[2:])):
        found = re.fullmatch(kind, saved.kind)
        if found is not None:
            return Sizes(**{name: int(size) for name, size in zip(names, found.groups(), strict=True)})
    return None


def _no_round(what: str, samples: int, size: int) -> ConfigurationError:
    return ConfigurationError(
        f"The dataset does not fill one {what}.",
        [("samples", samples), (f"samples of a {what}", size)],
        "Use more samples, or smaller batches.",
    )


class EpochOf(Dataset[Any]):
    """The samples of *dataset* that an epoch of *length* has; past its end it gives the dataset's -1, which stands for padding.

    Everything else is the dataset's own.
    """

    def __init__(self, dataset: Any, length: int) -> None:
        self.dataset = dataset
        self.length = length
        self.samples: int = len(dataset)

    @classmethod
    def of(cls, dataset: Any, length: int) -> Any | Self:
        """*dataset* itself, where its length is that of the epoch."""
        return dataset if len(dataset) == length else cls(dataset, length)

    def __len__(self) -> int:
        return self.length + len(self.dataset) - self.samples  # another length than the order's, once it has changed

    @override
    def __getitem__(self, index: int) -> Any:
        return self.dataset[index if index < self.samples else -1]

    def __getattr__(self, name: str) -> Any:
        if name == "__getitems__":
            return partial(self._fetch, getattr(self.dataset, name))
        if name.startswith("__") or name in ("dataset", "samples"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return getattr(self.dataset, name)

    def _fetch(self, fetch: Callable[[list[int]], Any], indices: list[int]) -> Any:
        return fetch([index if index < self.samples else -1 for index in indices])
