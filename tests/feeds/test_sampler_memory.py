"""Samplers that remember their last epoch: a random stream of their own, a list shuffled in place, a count."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, Sampler, WeightedRandomSampler

from resumable import MismatchError, ReplayError, ResumptionWarning, resumable, resumption_of
from resumable.feeds import replay as replay_module
from resumable.feeds.replay import ReplayedSampler
from resumable.feeds.sampler_memory import SamplerMemory, unseeded_streams
from tests.support.batch_samplers import EPOCHS, N


class Remembering(Sampler[int]):
    """A sampler with one of everything that is put back, and a dataset that is not."""

    def __init__(self, dataset: Any = None) -> None:
        self.dataset = dataset
        self.count = 0
        self.numpy, self.legacy = np.random.default_rng(1), np.random.RandomState(1)
        self.torch, self.python = torch.Generator().manual_seed(1), random.Random(1)
        self.order, self.array, self.tensor = list(range(N)), np.arange(N), torch.arange(N)
        self.nested: dict[str, Any] = {"lists": [[0], [1]], "queue": deque([0])}
        self.key = partial(max, 0)

    def __iter__(self) -> Iterator[int]:
        self.count += 1
        self.numpy.shuffle(self.order)
        self.python.shuffle(self.order)
        self.array += int(self.legacy.randint(9))
        self.tensor += int(torch.randint(9, (), generator=self.torch))
        self.nested["lists"][0].append(self.count)
        self.nested["queue"].append(self.count)
        shift = (
            self.count
            + int(self.array[0])
            + int(self.tensor[0])
            + len(self.nested["lists"][0])
            + len(self.nested["queue"])
        )
        return iter([(index + shift) % N for index in self.order])

    def __len__(self) -> int:
        return N


class CountsAtItsEnd(Sampler[int]):
    """A sampler that counts its epochs, once each has been drawn."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        yield from np.random.default_rng(self.epoch).permutation(N).tolist()
        self.epoch += 1

    def __len__(self) -> int:
        return N


class Outer(Sampler[int]):
    """A sampler around others, in a list."""

    def __init__(self) -> None:
        self.parts = [Remembering(), CountsAtItsEnd()]

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self.parts)

    def __len__(self) -> int:
        return 2 * N


KINDS: dict[str, Any] = {
    "everything": lambda: {"sampler": Remembering(), "batch_size": 4},
    "at its end": lambda: {"sampler": CountsAtItsEnd(), "batch_size": 4},
    "in a list": lambda: {"sampler": Outer(), "batch_size": 4},
    "in a batch sampler": lambda: {"batch_sampler": BatchSampler(Remembering(), 4, drop_last=True)},
}


@resumable
class Data:
    """A datamodule for a loop."""

    trainer = None

    def __init__(self, name: str) -> None:
        self.name = name

    def train_dataloader(self) -> Any:
        """With the sampler of this name."""
        return DataLoader(range(N), **KINDS[self.name]())  # type: ignore[arg-type]


def trained(data: Any, batches: int | None = None) -> list[list[int]]:
    """The next batches, or all of a few epochs."""
    loader, taken, state = data.train_dataloader(), list[list[int]](), resumption_of(data)
    for _ in range(state.position.epoch, EPOCHS):
        for batch in loader:
            taken.append(batch.tolist())
            state.commit()
            if len(taken) == batches:
                return taken
    return taken


@pytest.mark.parametrize("chunk", [4096, 5])
@pytest.mark.parametrize("name", KINDS)
def test_what_a_sampler_remembers_is_exact_at_every_cut(monkeypatch: pytest.MonkeyPatch, name: str, chunk: int) -> None:
    """The run trains what torch's loader yields, in any number of sessions; however little of an epoch is looked at."""
    monkeypatch.setattr(replay_module, "_CHUNK", chunk)
    torchs: Any = DataLoader(range(N), **KINDS[name]())  # type: ignore[arg-type]
    expected = [batch.tolist() for _ in range(EPOCHS) for batch in torchs]
    assert expected == trained(Data(name))
    for cut in range(1, len(expected), 2):
        data, resumed = Data(name), Data(name)
        before = trained(data, cut)
        resumption_of(resumed).load_state_dict(resumption_of(data).state_dict())
        assert expected == before + trained(resumed), cut


def test_an_epoch_that_is_drawn_again() -> None:
    """Going back is going to the same draws, also where epochs have been drawn since."""
    sampler = ReplayedSampler(Remembering(), 0)
    drawn = [list(sampler.begin(epoch)) for epoch in range(4)]
    assert [drawn[epoch] for epoch in (2, 0, 3, 3, 1)] == [list(sampler.begin(epoch)) for epoch in (2, 0, 3, 3, 1)]


def test_a_dataset_is_no_memory() -> None:
    """What is no container, number or random stream is kept as it is: a dataset is neither copied nor put back."""

    class Dataset:
        def __reduce__(self) -> str:
            raise AssertionError("copied")

    sampler = Remembering(Dataset())
    dataset, key, memory = sampler.dataset, sampler.key, SamplerMemory(sampler)
    drawn = [list(sampler)]
    memory.restore()
    drawn.append(list(sampler))
    assert drawn[0] == drawn[1]
    assert (dataset, key) == (sampler.dataset, sampler.key)


def test_torchs_samplers_remember_nothing() -> None:
    """So their weights and indices, of any length, are not copied."""
    assert SamplerMemory.of(BatchSampler(WeightedRandomSampler([1.0], 2), 2, drop_last=False)) is None
    assert SamplerMemory.of(Remembering()) == SamplerMemory.of(Remembering())
    assert SamplerMemory.of(Remembering()) != SamplerMemory.of(CountsAtItsEnd())


class Unseeded(Sampler[int]):
    """A sampler whose stream each process seeds by itself."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[int]:
        if isinstance(self.stream, random.Random):
            return iter(self.stream.sample(range(N), N))
        return iter(self.stream.permutation(N).tolist())

    def __len__(self) -> int:
        return N


class Around(Sampler[int]):
    """A sampler that holds others, and the stream that they share."""

    def __init__(self, stream: Any) -> None:
        self.parts = [Unseeded(stream)]

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self.parts)

    def __len__(self) -> int:
        return N


@pytest.mark.parametrize("stream", [np.random.default_rng, np.random.RandomState, random.Random])
def test_a_stream_without_a_seed_is_seeded_by_the_run(stream: Any) -> None:
    """Where a process would draw its own seed, the run's is used: the next process has the same order."""
    for kind in (Unseeded, Around):
        one, other = (ReplayedSampler(kind(stream()), 0) for _ in range(2))
        drawn = [[list(each.begin(epoch)) for epoch in range(2)] for each in (one, other)]
        assert drawn[0] == drawn[1]
        assert drawn[0][0] != drawn[0][1]


@given(st.integers() | st.integers(0, 2**4000) | st.text() | st.binary() | st.floats())
def test_a_stream_of_pythons_with_a_seed_keeps_it(seed: Any) -> None:
    """However long the seed is: the sampler is trained in its own order. Without one, no stream is taken for seeded."""
    sampler = Unseeded(random.Random(seed))
    assert [] == unseeded_streams(sampler)
    assert list(ReplayedSampler(Unseeded(random.Random(seed)), 0).begin(0)) == list(sampler)
    assert 1 == len(unseeded_streams(Unseeded(random.Random())))


class Forgetful(Sampler[int]):
    """One that nothing can bring back."""

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng().permutation(N).tolist())

    def __len__(self) -> int:
        return N


class Advised(Forgetful):
    """The same, with the one line that the error names."""

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002  # the global stream is the point
        return iter(rng.permutation(N).tolist())


def test_the_refusal_names_a_line_that_works() -> None:
    """One line makes such a sampler exact."""
    with pytest.raises(ReplayError, match=r"default_rng\(np.random.randint\(2\*\*31\)\)"):
        ReplayedSampler(Forgetful(), 0).begin(0)
    one, other = (ReplayedSampler(Advised(), 0) for _ in range(2))
    assert [list(one.begin(epoch)) for epoch in range(2)] == [list(other.begin(epoch)) for epoch in range(2)]
    assert list(one.begin(0)) != list(one.begin(1))


def test_warn_trains_what_does_not_repeat_itself() -> None:
    """With on_mismatch="warn" it trains as without the package, and a warning says that no resume is exact."""

    @resumable(on_mismatch="warn")
    class Warned:
        trainer = None

        def train_dataloader(self) -> Any:
            return DataLoader(range(N), sampler=Forgetful(), batch_size=4)  # type: ignore[arg-type]

    data = Warned()
    with pytest.warns(ResumptionWarning, match="a resume goes on with other samples"):
        taken = trained(data)
    assert [list(range(N))] * EPOCHS == [
        sorted(chain.from_iterable(taken[first : first + 6])) for first in range(0, len(taken), 6)
    ]
    assert EPOCHS * N == resumption_of(data).consumed_samples


def test_a_stream_of_another_seed_is_refused() -> None:
    """A sampler's own seed is part of its order: another one is found by the canary."""
    saved = Data("everything")
    trained(saved, 3)
    KINDS["another seed"] = lambda: {"sampler": Remembering(), "batch_size": 4}
    data = Data("another seed")
    loader = data.train_dataloader()
    loader.sampler.numpy.random()
    with pytest.raises(MismatchError, match="indices that come next"):
        resumption_of(data).load_state_dict(resumption_of(saved).state_dict())
    del KINDS["another seed"]
