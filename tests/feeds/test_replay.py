"""Users' own samplers and batch samplers, seeded per epoch and replayed on their indices alone."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from resumable import ReplayError, ResumptionWarning, resumable
from resumable.feeds.feed import Shard
from resumable.feeds.from_dataloader import feed_of
from resumable.feeds.replay import ReplayedSampler, replay
from resumable.feeds.sampler_feeds import BatchSamplerFeed
from resumable.steps.batch_plan import BatchPlan
from tests.support.reference import numbers

N, EPOCHS = 11, 3


class Numbers(Dataset[int]):
    """0 to 10, and a note of every sample that was loaded."""

    loaded: list[int]

    def __init__(self) -> None:
        self.loaded = []

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> int:
        self.loaded.append(index)
        return index


class Drawing(Sampler[int]):
    """A sampler that draws from the stream that *how* names."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.epoch = 0
        self.generator = torch.Generator() if how == "its own generator" else None

    def __len__(self) -> int:
        return N

    def set_epoch(self, epoch: int) -> None:
        """As torch's DistributedSampler has it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        for _ in range(N):
            if self.how == "torch":
                yield int(torch.randint(N, ()))
            elif self.how == "numpy":
                yield int(np.random.randint(N))  # noqa: NPY002  # users' samplers draw from the global stream
            elif self.how == "python":
                yield random.randrange(N)
            elif self.how == "its own generator":
                yield int(torch.randint(N, (), generator=self.generator))
            else:
                yield (self.epoch * 3 + _) % N


class Pairs(Sampler[list[int]]):
    """A batch sampler that shuffles batches of neighbours; *batch_size* says how many there are in each."""

    batch_size = 3

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[list[int]]:
        for start in cast("list[int]", torch.randperm(4).tolist()):
            yield list(range(N))[3 * start : 3 * start + 3]


class Ragged(Sampler[list[int]]):
    """A batch sampler whose batches have any size: it tells none."""

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[list[int]]:
        for size in cast("list[int]", torch.randint(1, 4, (5,)).tolist()):
            yield torch.randint(N, (size,)).tolist()


class Forgetful(Sampler[int]):
    """A sampler that is another one each time, since nobody can seed it."""

    def __len__(self) -> int:
        return N

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng().permutation(N).tolist())


class Counting(Sampler[int]):
    """A sampler that counts how often any of its kind was iterated."""

    times = 0

    def __len__(self) -> int:
        return N

    def __iter__(self) -> Iterator[int]:
        type(self).times += 1
        return iter([(index + self.times) % N for index in range(N)])


def every_other() -> Any:
    """Torch's sampler of one rank of two."""
    made: Any = DistributedSampler[int](numbers(N), num_replicas=2, rank=1)
    return made


SAMPLERS: dict[str, Any] = {
    **{
        f"from {how}": (lambda how=how: {"sampler": Drawing(how), "batch_size": 4})
        for how in ("torch", "numpy", "python", "its own generator", "its epoch")
    },
    "weighted": lambda: {"sampler": WeightedRandomSampler([1.0, 2.0] * 10, num_samples=9), "batch_size": 4},
    "subset": lambda: {"sampler": SubsetRandomSampler(range(7)), "batch_size": 4},
    "with replacement": lambda: {"sampler": RandomSampler(range(N), replacement=True, num_samples=14), "batch_size": 4},
    "fewer than all": lambda: {"sampler": RandomSampler(range(N), num_samples=6), "batch_size": 4},
    "distributed": lambda: {"sampler": every_other(), "batch_size": 2},
    "without short batches": lambda: {"sampler": Drawing("torch"), "batch_size": 4, "drop_last": True},
    "single samples": lambda: {"sampler": Drawing("torch"), "batch_size": None},
    "batch sampler": lambda: {"batch_sampler": Pairs()},
    "ragged batches": lambda: {"batch_sampler": Ragged()},
    "torch's batch sampler": lambda: {"batch_sampler": BatchSampler(Drawing("torch"), 4, drop_last=False)},
    "shuffled": lambda: {"shuffle": True, "batch_size": 4},
    "as they come": lambda: {"batch_size": 4},
}


@resumable(seed=3)
class Data:
    """A datamodule for a loop without Lightning."""

    trainer = None

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.options = options
        self.dataset = Numbers()

    def train_dataloader(self) -> Any:
        """A loader with the sampler that *name* names."""
        return DataLoader(self.dataset, **SAMPLERS[self.name](), **self.options)

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing of its own."""


def batches(data: Data, number: int | None = None) -> list[list[int]]:
    """The next *number* batches, or a run of a few epochs; epochs go on by themselves."""
    loader = data.train_dataloader()
    taken: list[list[int]] = []
    for _ in range(data.state_dict()["epoch"], EPOCHS):
        for batch in loader:
            taken.append(np.atleast_1d(np.asarray(batch)).tolist())
            if len(taken) == number:
                return taken
    return taken


def again(data: Data, **options: Any) -> Data:
    """The datamodule of the next process, with what was saved as JSON."""
    fresh = Data(data.name, **options)
    fresh.load_state_dict(json.loads(json.dumps(data.state_dict())))
    return fresh


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_cut_with_every_sampler(name: str) -> None:
    """Whatever draws the indices, a resumed run yields what the uninterrupted one does, over several epochs."""
    whole = batches(Data(name))
    epoch = len(whole) // EPOCHS
    for number in sorted({1, epoch - 1, epoch, epoch + 1, 2 * epoch}):
        data = Data(name)
        behind = batches(data, number)
        resumed = again(data)
        middle = batches(resumed, 1)
        assert whole == behind + middle + batches(again(resumed)), number


@pytest.mark.parametrize("name", ["from torch", "batch sampler", "weighted"])
def test_what_workers_draw_ahead_counts_for_nothing(name: str) -> None:
    """Workers draw ahead, and what they drew counts for nothing."""
    data = Data(name, num_workers=2)
    behind = batches(data, 2)
    assert batches(Data(name)) == behind + batches(again(data, num_workers=2))


@pytest.mark.parametrize("name", ["from torch", "from its own generator", "weighted", "batch sampler"])
def test_a_sampler_draws_another_order_in_each_epoch(name: str) -> None:
    """Each epoch is drawn from (seed, epoch), so no two are alike."""
    whole = batches(Data(name))
    epoch = len(whole) // EPOCHS
    assert whole[:epoch] != whole[epoch : 2 * epoch] != whole[2 * epoch :]


@pytest.mark.parametrize("name", ["from torch", "batch sampler", "shuffled"])
def test_only_indices_are_replayed(name: str) -> None:
    """A resume draws the indices behind it again, and loads not one of their samples."""
    data = Data(name)
    batches(data, 2)
    resumed = again(data)
    rest = batches(resumed)
    assert [index for batch in rest for index in batch] == resumed.dataset.loaded


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name.startswith("from")])
def test_the_trainings_own_random_numbers_are_left_alone(name: str) -> None:
    """Torch's, NumPy's and Python's streams are after a draw as they were before."""
    sampler = SAMPLERS[name]()["sampler"]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002  # as a training may
    before = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    drawn = list(replay(sampler, 7, 2))
    after = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert before == after
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert drawn == list(replay(sampler, 7, 2))


def test_the_streams_are_put_back_between_the_draws_of_a_long_sampler() -> None:
    """A training that draws numbers while a long sampler is still drawing disturbs nothing, nor is it disturbed."""
    weighted = WeightedRandomSampler([1.0] * 10, num_samples=10_000)
    shuffled = RandomSampler(range(10_000), replacement=True, num_samples=10_000)
    for sampler in (weighted, shuffled):
        alone = list(replay(sampler, 1, 0))
        torch.manual_seed(5)
        own = cast("list[float]", torch.rand(20).tolist())
        torch.manual_seed(5)
        draws = replay(sampler, 1, 0)
        drawn: list[int] = []
        found: list[float] = []
        for _ in range(20):
            drawn += islice(draws, 500)
            found.append(float(torch.rand(())))
        assert own == found
        assert alone == drawn


def test_two_passes_that_overlap() -> None:
    """One sampler serves two live passes, each at its own place."""
    data = Data("from torch")
    first = iter(data.train_dataloader())
    expected = batches(Data("from torch"))
    assert expected[:2] == [next(first).tolist() for _ in range(2)]
    second = iter(data.train_dataloader())
    assert expected[2] == next(second).tolist() == next(first).tolist()


@pytest.mark.parametrize("sampler", [Forgetful(), Counting()], ids=["forgetful", "counting"])
def test_a_sampler_that_does_not_repeat_itself(sampler: Sampler[int]) -> None:
    """It is refused before its first sample, with both draws and what it may draw from."""
    SAMPLERS["bad"] = lambda: {"sampler": sampler, "batch_size": 4}
    data = Data("bad")
    with pytest.raises(ReplayError, match=f"{type(sampler).__name__} does not repeat itself") as caught:
        batches(data)
    assert ["epoch:", "draw:", "first", "second", "Let"] == [
        line.split()[0] for line in str(caught.value).splitlines()[1:]
    ]
    assert "from its `generator`, or derive its order from the epoch that `set_epoch(epoch)` gives it" in str(
        caught.value
    )
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))
    assert ([], 0) == (data.dataset.loaded, data.state_dict()["consumed_samples"])
    del SAMPLERS["bad"]


def test_a_batch_sampler_that_does_not_repeat_itself() -> None:
    """The same for batches."""
    SAMPLERS["bad"] = lambda: {"batch_sampler": BatchSampler(Forgetful(), 2, drop_last=False)}
    with pytest.raises(ReplayError, match="does not repeat itself"):
        batches(Data("bad"))
    del SAMPLERS["bad"]


class Short(Drawing):
    """A sampler that yields fewer samples than its length promises."""

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), 5)


def test_a_sampler_that_yields_fewer_than_it_says() -> None:
    """No place in its epochs could be told, so it is an error: no run stands still, or skips an epoch, in silence."""
    SAMPLERS["short"] = lambda: {"sampler": Short("torch"), "batch_size": 4}
    with pytest.raises(ReplayError, match="fewer"):
        batches(Data("short"))
    del SAMPLERS["short"]


@pytest.mark.parametrize("batched", [False, True])
def test_a_copy_in_mid_epoch_draws_what_its_original_draws(batched: bool) -> None:
    """The draws under way are no part of a copy or a pickle: it draws the epoch anew, up to the same place."""
    plain = SequentialSampler(range(9))
    own: Sampler[Any] = BatchSampler(plain, 2, drop_last=False) if batched else plain
    replayed = ReplayedSampler(own, 0, batched=batched)
    replayed.indices(1, 0, 2)
    copies = [copy.deepcopy(replayed), pickle.loads(pickle.dumps(replayed))]
    expected = replayed.indices(1, 2, 4)
    assert [expected, expected] == [each.indices(1, 2, 4) for each in copies]


def test_another_batch_size_in_mid_epoch() -> None:
    """The sampler's samples go on in other batches."""
    data = Data("from torch")
    behind = batches(data, 2)
    SAMPLERS["from torch, by 3"] = lambda: {"sampler": Drawing("torch"), "batch_size": 3}
    data.name = "from torch, by 3"
    rest = batches(again(data))
    samples = [index for batch in batches(Data("from torch")) for index in batch]
    assert samples == [index for batch in behind + rest for index in batch]
    assert 3 == len(rest[0])
    del SAMPLERS["from torch, by 3"]


def test_the_loader_saves_and_loads_too() -> None:
    """The loader that a plain loop gets saves and loads the position too."""
    data = Data("weighted")
    loader = data.train_dataloader()
    for _ in islice(loader, 2):
        pass
    assert data.state_dict() == loader.state_dict()
    fresh = Data("weighted").train_dataloader()
    fresh.load_state_dict(loader.state_dict())
    assert next(iter(loader)).tolist() == next(iter(fresh)).tolist()


class Threes(Ragged):
    """Five batches of three."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[first, first, first] for first in range(5)])


@pytest.mark.parametrize(("limit", "padded"), [(None, 3), (2, 0)])
def test_a_limit_that_leaves_out_the_last_round_pads_nothing(limit: int | None, padded: int) -> None:
    """Five batches on two ranks need a sixth in their third round, which a limit of two rounds leaves out."""
    feed = BatchSamplerFeed(
        ReplayedSampler(Threes(), 0, batched=True), BatchPlan(15, 3 * 2, limit=limit), Shard(rank=1, size=2)
    )
    assert padded == feed.padded_samples(0)


class Modest(Sampler[int]):
    """A sampler that yields more samples than its length promises."""

    def __len__(self) -> int:
        return N - 3

    def __iter__(self) -> Iterator[int]:
        return iter(range(N))


def test_a_sampler_that_yields_more_than_it_says() -> None:
    """Its epochs are as long as it says, and that the rest is left out is said once."""
    feed = feed_of(DataLoader(numbers(N), sampler=Modest(), batch_size=4), 0, Shard())
    with pytest.warns(ResumptionWarning, match="yields more indices") as said:
        drawn = [list(chain.from_iterable(feed.batches(epoch, 0))) for epoch in range(3)]
    assert ([list(range(N - 3))] * 3, 1) == (drawn, len(said))
