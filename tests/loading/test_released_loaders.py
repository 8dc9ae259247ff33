"""A loader is no reference cycle: `del` frees it, its dataset and its workers, without the garbage collector."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from resumable import ConstantBatchSize, ResumableLoader, resumable, stop_on

WORKERS: dict[str, Any] = {"num_workers": 1, "persistent_workers": True}


class Numbers(Dataset[int]):
    """Some numbers, to which a weak reference can be had."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        return index


def decorated(**options: Any) -> Any:
    """A loader of a decorated class's instance, which stays alive."""

    @resumable(schedule=options.pop("schedule", None))
    class Data:
        trainer: Any = None

        def train_dataloader(self) -> Any:
            return DataLoader(Numbers(), batch_size=4, **options)

    data: Any = Data()
    loader = data.train_dataloader()
    _alive.append(data)
    return loader


def replayed() -> Any:
    """One with a user's sampler."""
    return decorated(sampler=WeightedRandomSampler([1.0] * 11 + [0.0], 12))


def workers_of(loader: Any) -> list[Any]:
    """The processes of the loader's persistent workers."""
    return getattr(loader._iterator, "_workers", [])


_alive: list[Any] = []
SCHEDULE = ConstantBatchSize(8)


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    """Only references count."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    _alive.clear()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResumableLoader(Numbers(), 4),
        lambda: ResumableLoader(Numbers(), 4, schedule=SCHEDULE),
        lambda: ResumableLoader(Numbers(), 4, **WORKERS),
        decorated,
        replayed,
        lambda: decorated(schedule=SCHEDULE),
        lambda: decorated(**WORKERS),
    ],
)
@pytest.mark.parametrize("use", ["never", "in a whole pass", "in a pass that was left"])
def test_a_loader_is_freed_when_it_is_let_go(make: Callable[[], Any], use: str) -> None:
    """With its dataset and its workers, however far it was iterated."""
    loader = make()
    batches = iter(loader)
    if use != "never":
        next(batches)
    if use == "in a whole pass":
        list(batches)
    workers = workers_of(loader)
    freed, dataset, iterator = (weakref.ref(each) for each in (loader, loader.dataset, batches))
    del batches
    assert iterator() is None
    del loader
    assert (None, None) == (freed(), dataset())
    for worker in workers:
        worker.join(timeout=30)
        assert not worker.is_alive()


def test_a_look_beside_persistent_workers_ends_its_own() -> None:
    """The workers of the pass under way go on, and all end with the loader."""
    loader = ResumableLoader(Numbers(), 4, **WORKERS)
    batches = iter(loader)
    next(batches)
    mine = workers_of(loader)
    next(iter(loader))
    looks = workers_of(loader)
    assert mine[0] is not looks[0]
    next(batches)
    del batches, loader
    for worker in [*mine, *looks]:
        worker.join(timeout=30)
        assert not worker.is_alive()


def test_watched_workers_are_freed_too() -> None:
    """Where a signal is watched, a worker's process is kept by nobody either."""
    with stop_on(signal.SIGUSR2):
        loader = decorated(**WORKERS)
        next(iter(loader))
        workers = [weakref.ref(worker) for worker in workers_of(loader)]
        del loader
        multiprocessing.active_children()  # which are those that have not ended
    assert [None] == [worker() for worker in workers]
