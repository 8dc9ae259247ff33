"""Torch's own options of a DataLoader, orders of the user's, and copies."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from itertools import islice
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from resumable import ConfigurationError, MismatchError, ResumptionError, ResumptionWarning
from resumable.feeds.feed import Shard
from resumable.loading.map_loader import MapLoader
from resumable.loading.trainers import hand_over
from tests.support.loader_runs import EPOCHS, SIZE, WITH_WORKERS, N, cut, expected, loader_of, restarted
from tests.support.reference import Loader, Reference, batches_of, order_of, whole
from tests.support.users_own import Backwards

# DataLoader's own options.


def double(batch: list[int]) -> list[int]:
    """A collate function."""
    return [2 * index for index in batch]


class Marked(Dataset[tuple[int, int]]):
    """Samples that carry what `worker_init_fn` left in the worker."""

    mark = -1

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index, Marked.mark


def mark(worker: int) -> None:
    """A `worker_init_fn`."""
    Marked.mark = worker


def test_samples_are_collated_as_the_user_says() -> None:
    """Samples are collated as the user says."""
    loader = loader_of(collate_fn=double)
    assert [[2 * index for index in batch] for batch in expected()[:3]] == list(loader)


def test_workers_are_set_up_as_the_user_says() -> None:
    """Workers are set up as the user says, and their batches come in order."""
    loader = Loader(Marked(), batch_size=SIZE, shuffle=True, seed=5, num_workers=2, worker_init_fn=mark)
    batches = list(loader)
    assert expected()[:3] == [indices.tolist() for indices, _ in batches]
    assert [{0}, {1}, {0}] == [set(marks.tolist()) for _, marks in batches]


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found:UserWarning")
@pytest.mark.parametrize("options", [{}, WITH_WORKERS], ids=str)
def test_pinning_changes_no_batch(options: dict[str, Any]) -> None:
    """Pinning, or its lack of an accelerator, changes no batch."""
    behind, state = cut(loader_of(pin_memory=True, **options), 2)
    assert expected() == behind + list(batches_of(restarted(state, pin_memory=True, **options), EPOCHS))


def test_single_samples_are_cut_between_any_two() -> None:
    """`batch_size=None` yields single samples as the dataset gives them, and cuts between any two."""
    loader = loader_of(batch_size=None)
    taken: list[int] = list(islice(loader, 5))
    assert whole(order_of(N, shuffle=True, seed=5), 1)[:5] == taken
    again = restarted(loader.state_dict(), batch_size=None)
    rest = [sample for _ in range(2) for sample in again]
    assert whole(order_of(N, shuffle=True, seed=5), 2) == taken + rest


def test_batches_in_any_order_are_refused() -> None:
    """With `in_order=False` batches come as workers finish: which ones were trained, no count could tell."""
    with pytest.raises(ConfigurationError, match="in_order"):
        loader_of(in_order=False, **WITH_WORKERS)


def test_an_order_of_ones_own() -> None:
    """Any pure function of (epoch, start, stop) is resumed as exactly; its class names it."""
    reference = Reference(Backwards(N))
    loader = Loader(range(N), batch_size=SIZE, order=Backwards(N))
    taken = [batch.tolist() for batch in islice(loader, 2)]
    state = json.loads(json.dumps(loader.state_dict()))
    assert ["Backwards", N, None] == state["order"]
    loader = Loader(range(N), batch_size=SIZE, order=Backwards(N))
    loader.load_state_dict(state)
    taken += batches_of(loader, EPOCHS)
    assert [reference.take(SIZE) for _ in taken] == taken
    with pytest.raises(
        MismatchError, match=r"The order is of another kind\.\n  saved:   'Backwards'\n  current: 'shuff"
    ):
        loader_of(seed=None).load_state_dict(state)


class Miscounting(Backwards):
    """An order that gives fewer or more indices than it is asked for."""

    def __init__(self, n: int, by: int) -> None:
        super().__init__(n)
        self.by = by

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        """Wrong by a few."""
        return np.arange(start, stop + self.by)


@pytest.mark.parametrize("by", [-3, 1])
def test_an_order_that_gives_another_number_of_indices(by: int) -> None:
    """A place in such an order would be wrong in silence: it is an error."""
    with pytest.raises(ResumptionError, match="order"):
        list(Loader(range(N), batch_size=SIZE, order=Miscounting(N, by)))


@pytest.mark.parametrize("seed", [np.int64(3), "three", -1, 2**64, 1.5, True])
def test_an_orders_seed_that_could_not_be_saved(seed: Any) -> None:
    """What is saved can be loaded: a NumPy seed is saved as an int, any other is refused when the loader is built."""
    order = Backwards(N)
    cast("Any", order).seed = seed
    if isinstance(seed, np.integer):
        loader = Loader(range(N), order=order)
        assert [3] == json.loads(json.dumps(loader.state_dict()))["order"][2:]
        return
    with pytest.raises(ConfigurationError, match="seed"):
        Loader(range(N), order=order)


def test_a_copy_of_a_loader_counts_for_itself() -> None:
    """A deep copy, or a pickle that went to another process, stands where its original stood and goes its own way."""
    loader = loader_of()
    for _ in islice(loader, 2):
        pass
    for twin in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert loader.state_dict() == twin.state_dict()
        for _ in islice(twin, 2):
            pass
        assert (8, 11) == (loader.state.consumed_samples, twin.state.consumed_samples)


def test_torchs_random_stream_decides_nothing() -> None:
    """The order depends on the seed alone, whatever was drawn before."""
    torch.manual_seed(1)
    one = list(batches_of(loader_of(), 1))
    torch.manual_seed(2)
    assert one == list(batches_of(loader_of(), 1)) == expected()[:3]


class Counting(Marked):
    """A dataset that says what it has counted, as torchdata's loader saves it."""

    def state_dict(self) -> dict[str, Any]:
        return {"mark": self.mark}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mark = state["mark"]


@pytest.mark.parametrize("dataset", [Marked, Counting])
def test_a_map_style_datasets_own_state_is_warned_of(dataset: Any) -> None:
    """Torchdata's loader would save it, and a decorated datamodule's does not."""
    torchdata: Any = pytest.importorskip("torchdata.stateful_dataloader")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MapLoader(torchdata.StatefulDataLoader(dataset()), 0, Shard(), hand_over)
    ours = [str(each.message) for each in caught if each.category is ResumptionWarning]
    assert [dataset is Counting] * len(ours) == ["StatefulDataLoader would save" in each for each in ours]
    assert len(ours) == (dataset is Counting)
