"""The epoch that a dataset is told before each pass, as torch's users know it: `dataset.set_epoch(epoch)`.

Workers that end with their pass are given a copy of the dataset that knows it. Workers that stay read it from shared
memory when they begin a pass.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any

from torch.utils import data as torch_data

from resumable.checks import accepts

if TYPE_CHECKING:
    import torch

__all__ = ["FollowEpoch", "tell_epoch"]


def tell_epoch(dataset: Any, epoch: int, /) -> bool:
    """Call `dataset.set_epoch(epoch)`; False where it has none."""
    set_epoch: Any = getattr(dataset, "set_epoch", None)
    if not accepts(set_epoch, epoch):
        return False
    set_epoch(epoch)
    return True


class FollowEpoch:
    """A `worker_init_fn` that calls the user's *own*, and tells a worker's dataset each later *epoch*.

    *changed*, where it is given, changes what takes the samples of a pass from the dataset.
    """

    def __init__(
        self,
        epoch: torch.Tensor | None,
        own: Callable[[int], None] | None,
        changed: Callable[[Any], Any] | None = None,
    ) -> None:
        shared: Any = epoch
        self._epoch: torch.Tensor | None = None if epoch is None else shared.share_memory_()
        self._told = -1 if epoch is None else int(epoch)  # what the worker's copy knows, however late the worker starts
        self._own = own
        self._changed = changed

    def __call__(self, worker_id: int, /) -> None:
        """Prepare this worker process, before its first pass."""
        if self._own is not None:
            self._own(worker_id)
        if parent_process() is None:  # a worker that is a thread has the main process's dataset
            return
        kinds: Any = torch_data._DatasetKind  # noqa: SLF001  # torch's and torchdata's workers begin each pass there
        create: Callable[..., Any] = kinds.create_fetcher

        def created(kind: int, dataset: Any, *options: Any) -> Any:
            if self._epoch is not None and self._told != (epoch := int(self._epoch)):
                self._told = epoch
                tell_epoch(dataset, epoch)
            fetcher = create(kind, dataset, *options)
            return fetcher if self._changed is None else self._changed(fetcher)

        kinds.create_fetcher = staticmethod(created)
