"""Which rank of how many a trainer's process is, as its strategy tells its samplers."""

from __future__ import annotations

from typing import Any

from resumable.sharing import Shard

__all__ = ["shard_of"]


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
