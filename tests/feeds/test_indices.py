"""Indices of any form, and datasets without a length, are trained as torch trains them, wherever the run is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Sampler

import resumable.feeds.replay
from resumable import ResumptionWarning, resumption_of
from resumable.feeds.replay import ReplayedSampler
from tests.support.batch_samplers import BatchSampled, LengthUndefined, OwnIterator, Unsized

COUNT = 7


class Plain:
    """A dataset without a length, whose samples show their indices."""

    def __getitem__(self, index: Any) -> str:
        return repr(index)


class Whole(Plain):
    """One that takes whole batches, of any kind."""

    def __getitems__(self, batch: Any) -> list[str]:
        return [repr(batch)]


class Refilled(Sampler[Any]):
    """What *form* makes of each of a few numbers; it may fill one object anew each time."""

    def __init__(self, form: Callable[[int], Any]) -> None:
        self.form = form

    def __iter__(self) -> Iterator[Any]:
        return map(self.form, range(COUNT))

    def __len__(self) -> int:
        return COUNT


def a_number() -> Callable[[int], Any]:
    """The number itself."""
    return int


def an_array() -> Callable[[int], Any]:
    """One array, with the number in it."""
    array = np.zeros(2, dtype=np.int64)

    def form(number: int) -> Any:
        array[:] = number, number + 1
        return array

    return form


def a_tensor() -> Callable[[int], Any]:
    """One tensor, with the number in it."""
    tensor = torch.zeros(2, dtype=torch.int64)
    return tensor.fill_


def a_list(items: list[Callable[[int], Any]]) -> Callable[[int], Any]:
    """One list, whose items change."""
    kept: list[Any] = []

    def form(number: int) -> Any:
        kept[:] = [item(number) for item in items]
        return kept

    return form


def a_dict(items: list[Callable[[int], Any]]) -> Callable[[int], Any]:
    """One dict, whose values change."""
    kept: dict[str, Any] = {}

    def form(number: int) -> Any:
        kept.update({str(at): item(number) for at, item in enumerate(items)})
        return kept

    return form


def a_tuple(items: list[Callable[[int], Any]]) -> Callable[[int], Any]:
    """A tuple of what changes."""
    return lambda number: tuple(item(number) for item in items)


Form = Callable[[int], Any]


def made(make: Callable[[list[Form]], Form], items: list[Form]) -> Form:
    """A container of *items*."""
    return make(items)


LEAVES: st.SearchStrategy[Form] = st.sampled_from([a_number, an_array, a_tensor]).map(lambda make: make())
CONTAINERS = st.sampled_from([a_list, a_dict, a_tuple])


def containers(inner: st.SearchStrategy[Form]) -> st.SearchStrategy[Form]:
    """Containers of what *inner* draws."""
    return st.builds(made, CONTAINERS, st.lists(inner, min_size=1, max_size=3))


FORMS: st.SearchStrategy[Form] = st.recursive(LEAVES, containers)


def expected_of(loader: Any, epochs: int = 3) -> list[Any]:
    """What torch's own loader yields, where a loop tells its sampler the epoch."""
    found: list[Any] = []
    for epoch in range(epochs):
        for each in (loader.sampler, loader.batch_sampler):
            getattr(each, "set_epoch", int)(epoch)
        found.extend(chain(loader))  # of the loader itself, it would ask for the length
    return found


class Data(BatchSampled):
    """A datamodule for a loop, with a loader that *make* makes."""

    def train_dataloader(self) -> Any:
        """The loader."""
        return self.make()

    def take(self, batches: int | None = None) -> list[Any]:
        """The next batches, or a run of 3 epochs."""
        loader, taken = self.train_dataloader(), list[Any]()
        for _ in range(self.state_dict()["epoch"], 3):
            for batch in loader:
                taken.append(batch)
                if len(taken) == batches:
                    return taken
        return taken


def check(make: Callable[[], Any], cuts: Any) -> None:
    """Compare a run with torch's own, whole and cut."""
    expected = expected_of(make())
    assert expected == Data(make).take()
    for cut in cuts:
        data = Data(make)
        before = data.take(cut)
        assert expected == before + data.again().take(), cut


@given(FORMS, st.integers(1, 3 * COUNT - 1), st.booleans())
@settings(deadline=None)
def test_a_sampler_may_fill_an_object_anew(form: Callable[[int], Any], cut: int, is_batched: bool) -> None:
    """Batches and indices are drawn ahead, and each is what it was when it was drawn, at any depth."""

    def make() -> Any:
        if is_batched:
            return DataLoader(Plain(), batch_sampler=Refilled(lambda number: [form(number)]))  # type: ignore[arg-type]
        return DataLoader(Plain(), batch_size=None, sampler=Refilled(form))  # type: ignore[arg-type]

    check(make, [cut])


WHOLE: dict[str, list[Any]] = {
    "slices": [slice(0, 4), slice(4, 8), slice(8, 9)],
    "numbers": [3, 1, 2],
    "nothing": [None] * 3,
    "strings": ["ab", "c", "def"],
    "ranges": [range(3), range(5, 9)],
}


@pytest.mark.parametrize("batches", WHOLE.values(), ids=WHOLE)
def test_a_dataset_may_take_whole_batches(batches: list[Any]) -> None:
    """Each counts as its length says; where it has none, as one sample."""

    def make() -> Any:
        return DataLoader(Whole(), batch_sampler=batches)  # type: ignore[arg-type]

    check(make, range(1, 3 * len(batches)))
    data = Data(make)
    data.take()
    sizes = [len(batch) if hasattr(batch, "__len__") else 1 for batch in batches]
    assert 3 * sum(sizes) == resumption_of(data).consumed_samples


@pytest.mark.parametrize("options", [{"batch_size": 2}, {"batch_size": None}], ids=str)
@pytest.mark.parametrize("sampler", [list(range(COUNT)), range(COUNT), "abcdefg"], ids=str)
def test_a_dataset_may_have_no_length(sampler: Any, options: Any) -> None:
    """Its sampler has one."""
    check(lambda: DataLoader(Plain(), sampler=sampler, **options), range(1, 20, 3))  # type: ignore[arg-type]


class Lhotses(OwnIterator):
    """The same without a length."""

    def __len__(self) -> int:
        raise TypeError


@pytest.mark.parametrize("sampler", [Unsized, LengthUndefined, Lhotses])
def test_a_sampler_without_a_length_may_give_whole_batches(sampler: Any) -> None:
    """As Lhotse's do: with batch_size=None, the dataset takes what they yield."""
    check(lambda: DataLoader(Plain(), sampler=sampler(), batch_size=None), range(1, 14, 3))  # type: ignore[arg-type]


def test_a_sampler_of_unknown_length_that_is_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume in a later epoch asks for no length, and an iterator that begins anew is asked for once."""
    monkeypatch.setattr(resumable.feeds.replay, "_CHUNK", 2)
    check(lambda: DataLoader(Plain(), batch_sampler=LengthUndefined()), range(1, 20, 4))  # type: ignore[arg-type]
    check(lambda: DataLoader(Plain(), batch_sampler=OwnIterator()), range(1, 20, 4))  # type: ignore[arg-type]


class EmptyOnce(Unsized):
    """One whose second epoch is empty."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """As torch's DistributedSampler has it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        return iter([]) if self.epoch == 1 else super().__iter__()


def test_an_empty_epoch_is_said() -> None:
    """No batch leads out of it."""
    data = Data(lambda: DataLoader(Plain(), batch_sampler=EmptyOnce()))  # type: ignore[arg-type]
    with pytest.warns(ResumptionWarning, match=r"has no batch(?s:.*)epoch: +1"):
        assert len(data.take()) == len(list(Unsized()))


def test_a_set_epoch_that_takes_more_than_the_epoch() -> None:
    """It is called by the user's loop alone, as without this package."""

    class Staged(Sampler[int]):
        stage = 0

        def set_epoch(self, epoch: int, stage: int) -> None:
            self.stage = stage

        def __iter__(self) -> Iterator[int]:
            return iter([self.stage, 1, 2])

        def __len__(self) -> int:
            return 3

    assert [0, 1, 2] == list(ReplayedSampler(Staged(), 0).begin(0))
