"""Which data-parallel rank a trainer's process is, as its strategy gives it to samplers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resumable.feeds.feed import Shard

__all__ = ["Ranks", "puts_samplers_in", "shard_of"]


def shard_of(trainer: Any) -> Shard:
    """The part of the data that Lightning would give this process.

    A strategy gives it to the DistributedSampler that Lightning puts into a loader: the data-parallel ranks alone, so
    that tensor-parallel ones get the same samples. With `use_distributed_sampler=False` the user shares the data out.
    """
    given = _sampler_options(trainer)
    if given is None:
        return Shard()
    is_users = not trainer._accelerator_connector.use_distributed_sampler
    return Shard(rank=int(given["rank"]), size=int(given["num_replicas"]), already_sharded=is_users, is_own=False)


def puts_samplers_in(trainer: Any) -> bool:
    """Whether Lightning puts a DistributedSampler, which shuffles all there is, into each train loader without one."""
    return trainer._accelerator_connector.use_distributed_sampler and _sampler_options(trainer) is not None


def _sampler_options(trainer: Any) -> dict[str, Any] | None:
    if not trainer._accelerator_connector.is_distributed:
        return None
    try:
        given: dict[str, Any] | None = trainer.distributed_sampler_kwargs
    except RuntimeError:  # a device mesh that is not there yet: the loader was asked for before the processes were
        return None
    return given


@dataclass(frozen=True, slots=True)
class Ranks:
    """The data-parallel rank that *trainer*'s strategy gives this process: a `resumable.Ranks`.

    For a ResumableLoader in a Lightning module's or datamodule's hook; a plain DataLoader is given its part by itself.
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
