"""DeviceMesh: this process's data-parallel rank, from its place along one or several of the mesh's dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resumable.errors import ConfigurationError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Ranks"]


@dataclass(frozen=True, slots=True)
class Ranks:
    """The rank and size along the named *dimensions* of *mesh*, the last one running fastest: a `resumable.Ranks`.

    Processes along all other dimensions, tensor- and pipeline-parallel ones, share a rank. A mesh with one dimension
    needs no name; hybrid sharding has two: ("dp_replicate", "dp_shard"). Raises ConfigurationError for a name that the
    mesh does not have.
    """

    mesh: DeviceMesh
    dimensions: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names, wanted = self.mesh.mesh_dim_names or (), self._names
        if (not wanted and self.mesh.ndim != 1) or any(name not in names for name in wanted):
            raise ConfigurationError(
                "The mesh has no such dimension.",
                [("asked for", self.dimensions), ("its dimensions", names), ("its shape", tuple(self.mesh.shape))],
                "Pass the name of the data-parallel dimension, or the names of those that share the data.",
            )

    @property
    def _names(self) -> tuple[str, ...]:
        return (self.dimensions,) if isinstance(self.dimensions, str) else self.dimensions

    @property
    def data_parallel_rank(self) -> int:
        """This process's place along the dimensions."""
        if not self._names:
            return self.mesh.get_local_rank()
        rank = 0
        for name in self._names:
            rank = rank * self.mesh[name].size() + self.mesh.get_local_rank(name)
        return rank

    @property
    def data_parallel_size(self) -> int:
        """Places along the dimensions."""
        size = 1
        for name in self._names:
            size *= self.mesh[name].size()
        return size if self._names else self.mesh.size()
