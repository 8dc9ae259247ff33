"""Datasets are told their epoch before each pass: in the main process, in workers, and in workers that stay."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
import pytest
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from resumable import ResumableLoader
from resumable.checks import accepts
from resumable.loading.epochs import tell_epoch
from tests.support.cuts import raised_in
from tests.support.lightning_runs import Scenario, check, uninterrupted


class Told(Dataset[int]):
    """Samples that hold the epoch that their dataset was told."""

    def __init__(self, samples: int = 8) -> None:
        self.samples, self.epoch = samples, -1

    def set_epoch(self, epoch: int) -> None:
        """The epoch that begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> int:
        return 100 * self.epoch + index


WORKERS: list[Any] = [
    {},
    pytest.param({"num_workers": 2}, marks=pytest.mark.slow),
    {"num_workers": 1, "persistent_workers": True},
    pytest.param(
        {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "spawn"}, marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize("options", WORKERS, ids=str)
def test_a_loops_dataset_is_told_its_epoch(options: dict[str, Any]) -> None:
    """Each pass of a ResumableLoader tells its dataset the epoch, a resumed pass included."""
    loader = ResumableLoader(Told(), batch_size=4, **options)
    first = next(iter(loader))
    loader.commit()
    assert [0, 1, 2, 3] == first.tolist()
    resumed = ResumableLoader(Told(), batch_size=4, **options)
    resumed.load_state_dict(loader.state_dict())
    trained: list[Sequence[int]] = [batch.tolist() for _ in range(3) for batch in resumed]
    assert [[e * 100 + i for i in range(b, b + 4)] for e, b in [(0, 4), (1, 0), (1, 4), (2, 0), (2, 4)]] == trained


@pytest.mark.parametrize("options", WORKERS[:3], ids=str)
def test_a_trainers_dataset_is_told_its_epoch(options: dict[str, Any]) -> None:
    """The same under Lightning, where a decorated datamodule goes on in a later epoch."""

    def loaders(scenario: Scenario) -> Any:
        return DataLoader(Told(scenario.samples), scenario.batch_size, **options)

    scenario = Scenario(shuffle=False, loaders=loaders)
    check(scenario, raised_in("training_step", (1, 2)))
    assert [list(range(100 * e, 100 * e + 22)) for e in range(3)] == [uninterrupted(scenario).ids(e) for e in range(3)]


def test_own_init_functions_of_workers_are_called() -> None:
    """A user's `worker_init_fn` still runs in workers that follow the epoch, and the loader keeps it."""
    loader = ResumableLoader(Told(), num_workers=1, persistent_workers=True, worker_init_fn=_fail)
    with pytest.raises(RuntimeError, match="called in worker 0"):
        list(loader)
    assert _fail is loader.worker_init_fn


def _fail(worker_id: int) -> None:
    raise RuntimeError(f"called in worker {worker_id}")


def test_methods_of_another_shape_are_left_alone() -> None:
    """A `set_epoch` that needs more than an epoch is not called: nobody called it without this package."""

    class Other:
        def set_epoch(self, epoch: int, seed: int) -> None:
            raise AssertionError

    assert [False, False] == [tell_epoch(Other(), 0), tell_epoch(range(3), 0)]
    assert [True, False] == [accepts(Told().set_epoch, 3), accepts(Other().set_epoch, 3)]


class ByEpoch(Sampler[int]):
    """Indices that follow from the epoch."""

    def __init__(self, samples: int) -> None:
        self.samples, self.epoch = samples, -1

    def set_epoch(self, epoch: int) -> None:
        """The epoch that begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[int]:
        return iter(random.Random(self.epoch).sample(range(self.samples), self.samples))


class Pairs(Sampler[list[int]]):
    """A user's batch sampler around a sampler, which alone hears of the epoch."""

    batch_size = 2

    def __init__(self, sampler: ByEpoch) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler) // 2

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        return ([index, next(indices)] for index in indices)


def as_sampler(sampler: ByEpoch) -> dict[str, Any]:
    """The loader's sampler."""
    return {"sampler": sampler}


def in_torchs(sampler: ByEpoch) -> dict[str, Any]:
    """Inside a batch sampler of torch's."""
    return {"batch_sampler": BatchSampler(sampler, 4, drop_last=False)}


def in_users(sampler: ByEpoch) -> dict[str, Any]:
    """Inside a batch sampler of the user's."""
    return {"batch_sampler": Pairs(sampler)}


@pytest.mark.parametrize("options", [as_sampler, in_torchs, in_users])
def test_samplers_are_told_one_epoch_at_a_time(options: Callable[[ByEpoch], dict[str, Any]]) -> None:
    """Samplers hear of each epoch, those inside batch samplers too, and of no other one while it lasts."""
    samplers: list[ByEpoch] = []
    knew: list[tuple[int, int]] = []

    def loaders(scenario: Scenario) -> Any:
        samplers.append(ByEpoch(scenario.samples))
        return scenario.loader(**options(samplers[-1]))

    class Looks(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
            knew.append((trainer.current_epoch, samplers[-1].epoch))

    scenario = Scenario(shuffle=False, loaders=loaders, callbacks=lambda: [Looks()])
    check(scenario, raised_in("training_step", (1, 2)))
    assert {(0, 0), (1, 1), (2, 2)} == set(knew)
