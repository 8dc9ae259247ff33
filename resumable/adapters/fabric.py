"""Lightning Fabric: a loader whose batches come on Fabric's device.

    loader = prepare(fabric, ResumableLoader(..., ranks=Ranks(fabric)))
    fabric.save(path, {"loader": loader, ...})      saves its position; fabric.load(path, ...) loads it

`fabric.setup_dataloaders(loader)` works too, on several ranks as well, and gives Fabric's own wrapper around the loader.
Fabric does not know how a loop accumulates: where one does, it calls `loader.commit()` after `optimizer.step()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from resumable.extras import check_release, naming_the_extra
from resumable.loading.counted import Counted
from resumable.loading.prepared import MovedPass, passes_of, prepared

with naming_the_extra("fabric"):
    from lightning.fabric.utilities import move_data_to_device

    check_release("lightning", "fabric")

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["Ranks", "prepare"]

L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class Ranks:
    """The data-parallel rank and size of *fabric*'s process: a `resumable.Ranks`. A strategy may share data among ranks."""

    fabric: Fabric

    @property
    def data_parallel_rank(self) -> int:
        """This process's rank among those that load different data."""
        return int(self._sampled("rank", self.fabric.global_rank))

    @property
    def data_parallel_size(self) -> int:
        """How many processes, or groups of them, load different data."""
        return int(self._sampled("num_replicas", self.fabric.world_size))

    def _sampled(self, name: str, otherwise: int) -> int:
        options: dict[str, int] = getattr(self.fabric.strategy, "distributed_sampler_kwargs", None) or {}
        return options.get(name, otherwise)


def prepare(fabric: Fabric, loader: L, /) -> L:
    """The same *loader*, for a loop of *fabric*: call it in place of `fabric.setup_dataloaders(loader)`.

    Raises:
        ConfigurationError: if the loader is not resumable, is prepared already, or loads another rank's part than *fabric* says.
    """

    def follow(batches: Counted[Any]) -> Iterator[Any]:
        return MovedPass(batches, lambda batch: move_data_to_device(batch, fabric.device))

    return prepared(loader, passes_of("fabric", loader, Ranks(fabric)), "fabric", follow)
