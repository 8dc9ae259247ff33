"""torchdata: its loader saves the state of a dataset that lives in workers.

Source: `StatefulDataLoader` of torchdata 0.11 (torchdata/stateful_dataloader/stateful_dataloader.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resumable.extras import naming_the_extra

with naming_the_extra():
    from torchdata.stateful_dataloader import StatefulDataLoader

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["stateful"]


def stateful(loader: DataLoader[Any], /) -> DataLoader[Any]:
    """A StatefulDataLoader with the options of *loader*, over the same dataset, which must be iterable-style."""
    made: DataLoader[Any] = StatefulDataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )
    return made
