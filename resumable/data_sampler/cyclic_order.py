"""Megatron's "cyclic" order, as a saved state names it: what its batch samplers deal out to the ranks, in closed form.

    "cyclic, 2 x 48 shuffled"     each of 2 ranks shuffles its own 48 samples
    "cyclic, 96 shuffled"         one shuffle, dealt out sample by sample

Source: `MegatronPretrainingRandomSampler` of NeMo 2.5 (lightning/data.py), and that of Megatron-LM
(legacy/data/data_samplers.py) with `data_sharding` on and off.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from resumable.orders.identity import CYCLIC, Identity

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CyclicOrder"]


class CyclicOrder:
    """The order of *identity* for micro batches of *micro_batch_size* on each of *ranks*, as an `Order`.

    >>> CyclicOrder(Identity("cyclic, 2 x 3 shuffled", 7), micro_batch_size=1, ranks=2).indices(0, 0, 6).tolist()
    [2, 5, 0, 3, 1, 4]
    """

    def __init__(self, identity: Identity, micro_batch_size: int, ranks: int) -> None:
        self._seed = identity.seed or 0
        self._micro, self._ranks = micro_batch_size, ranks
        sizes = re.findall(r"\d+", identity.kind)
        self._shuffled = int(sizes[-1])
        self._is_sharded = len(sizes) > 1
        per_round = micro_batch_size * ranks
        self._length = identity.length - identity.length % per_round

    @staticmethod
    def knows(identity: Identity) -> bool:
        """Whether *identity* is that of such an order."""
        return re.fullmatch(CYCLIC + r", (\d+ x )?\d+ shuffled", identity.kind) is not None

    def __len__(self) -> int:
        return self._length

    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """The indices at the places *start* to *stop* of *epoch*, round by round and rank by rank."""
        places = np.arange(start, stop, dtype=np.int64)
        turn, within = np.divmod(places, self._micro * self._ranks)
        rank, number = np.divmod(within, self._micro)
        order = _shuffle(self._shuffled, self._seed + epoch)
        of_rank = turn * self._micro + number
        first = rank * self._shuffled if self._is_sharded else np.zeros_like(rank)
        indices: NDArray[np.int64] = first + order[of_rank if self._is_sharded else of_rank * self._ranks + rank]
        return indices


@lru_cache(maxsize=2)
def _shuffle(length: int, seed: int) -> NDArray[np.int64]:
    generator: Any = torch.Generator().manual_seed(seed)
    return np.asarray(torch.randperm(length, generator=generator).tolist(), np.int64)
