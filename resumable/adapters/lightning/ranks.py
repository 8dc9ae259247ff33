"""Which rank of how many a trainer's process is, as its strategy tells its samplers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resumable.feeds.feed import Shard

__all__ = ["Ranks", "shard_of"]


def shard_of(trainer: Any) -> Shard:
    """The part of the data that Lightning would give this process.

    A strategy tells it to the DistributedSampler that Lightning puts into a loader: the data-parallel ranks alone, so
    that tensor-parallel ones get the same samples. With `use_distributed_sampler=False` the user shares the data out.
    """
    connector = trainer._accelerator_connector
    if not connector.is_distributed:
        return Shard()
    try:
        told = trainer.distributed_sampler_kwargs
    except RuntimeError:  # a device mesh that is not there yet: the loader was asked for before the processes were
        told = None
    if told is None:
        return Shard()
    return Shard(
        rank=int(told["rank"]),
        size=int(told["num_replicas"]),
        is_drawn=not connector.use_distributed_sampler,
        is_guarded=connector.use_distributed_sampler,
    )


@dataclass(frozen=True, slots=True)
class Ranks:
    """The data-parallel rank that *trainer*'s strategy gives this process: a `resumable.Ranks`.

    For a ResumableLoader in a Lightning module's or datamodule's hook; a plain DataLoader is told by itself.
    """

    trainer: Any

    @property
    def data_parallel_rank(self) -> int:
        """This process among those that share the data."""
        return shard_of(self.trainer).rank

    @property
    def data_parallel_size(self) -> int:
        """How many processes share the data."""
        return shard_of(self.trainer).size
