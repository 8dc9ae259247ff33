"""Loader classes with an `__iter__` of their own: followed, or warned of, and never at a wrong place in silence."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from resumable import ConfigurationError, ResumableLoader, ResumptionWarning, resumable, resumption_of
from tests.support.datamodules import Plain
from tests.support.loader_classes import EXACT, LEFT_OUT, OTHERS, SHAPES, Batches, class_of, the_first_two
from tests.support.random_samples import Augmented, disturb
from tests.support.samplers import SET_VITAL

N, SIZE, TRAINED = 13, 2, 18


def taken_over(cls: type[Any], **options: Any) -> tuple[Any, Any]:
    """The loader of a decorated datamodule that returns a *cls*, and its state."""

    @resumable
    class Data(Plain):
        def train_dataloader(self) -> Any:
            return cls(range(N), batch_size=SIZE, shuffle=True, **options)

    data = Data()
    return data.train_dataloader(), resumption_of(data)


def of_ours(cls: type[Any], **options: Any) -> tuple[Any, Any]:
    """A subclass of ResumableLoader, and its state."""
    loader = cls(range(N), SIZE, shuffle=True, **options)
    return loader, loader.state


MAKERS = {DataLoader: taken_over, ResumableLoader: of_ours}


def ids(batch: Any) -> list[int]:
    """The ids in a batch, or in several."""
    parts: tuple[Any, ...] = cast("Any", batch) if isinstance(batch, tuple) else (batch,)
    return [each for part in parts for each in part.tolist()]


def trained(
    make: Callable[[], tuple[Any, Any]], *cuts: int, commits: bool = False
) -> tuple[list[list[int]], list[str]]:
    """The first batches of a run of several sessions, and what it was warned of."""
    found, saved = list[list[int]](), None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResumptionWarning)
        for cut in (*cuts, TRAINED):
            loader, state = make()
            if saved is not None:
                state.load_state_dict(saved)
            assert state.position.epoch < TRAINED  # whoever asks for it is not told to
            for _ in range(2 * TRAINED):
                for batch in loader:
                    found.append(ids(batch))
                    if commits:
                        state.commit()
                    if len(found) >= cut:
                        break
                if len(found) >= cut:
                    break
            saved = state.state_dict()
    return found, [str(each.message) for each in caught if each.category is ResumptionWarning]


@settings(max_examples=100)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    base=st.sampled_from([DataLoader, ResumableLoader]),
    cuts=st.sets(st.integers(1, TRAINED - 1), max_size=2).map(sorted),
    commits=st.booleans(),
)
def test_a_loader_class_is_followed_or_warned_of(shape: str, base: type[Any], cuts: list[int], commits: bool) -> None:
    """Cut anywhere, the run is the uncut one; or the first session that yields something else than its sampler says so."""
    cls = class_of(base, SHAPES[shape])
    whole, said = trained(lambda: MAKERS[base](cls), commits=commits)
    resumed, warned = trained(lambda: MAKERS[base](cls), *cuts, commits=commits)
    if SHAPES[shape] in (*EXACT, the_first_two):
        assert ([], [], whole) == (said, warned, resumed)
    assert whole == resumed or any(f"{shape} yields other batches than its sampler" in each for each in warned)
    assert bool(said) == (SHAPES[shape] in (*OTHERS, *LEFT_OUT[:-1]))


@pytest.mark.filterwarnings(SET_VITAL)
@pytest.mark.parametrize("shape", ["ahead", "in_a_thread", "after_a_look", "halves"])
@pytest.mark.parametrize("workers", [{"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}], ids=str)
@pytest.mark.parametrize("base", [DataLoader, ResumableLoader, StatefulDataLoader])
def test_the_same_with_workers(shape: str, workers: dict[str, Any], base: type[Any]) -> None:
    """Workers that stay begin their passes in another way, and torchdata's loader has its own."""
    cls, make = class_of(base, SHAPES[shape]), of_ours if base is ResumableLoader else taken_over
    whole, said = trained(lambda: make(cls, **workers))
    resumed, warned = trained(lambda: make(cls, **workers), 3, 9)
    assert whole == resumed or warned
    assert (shape == "halves") == bool(said)


class Wrapped(DataLoader[Any]):
    """A loader that wraps torch's iterator in its own, as PyTorch Geometric's do."""

    class Iterator:
        """One for one."""

        def __init__(self, iterator: Any) -> None:
            self.iterator = iterator

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            return next(self.iterator) + 0

    def _get_iterator(self) -> Any:
        return Wrapped.Iterator(super()._get_iterator())


class Split(DataLoader[Any]):
    """One that splits them there."""

    def _get_iterator(self) -> Any:
        for batch in super()._get_iterator():
            yield batch[:1]
            yield batch[1:]


@pytest.mark.parametrize(("cls", "is_exact"), [(Wrapped, True), (Split, False)])
def test_an_iterator_in_place_of_torchs(cls: type[Any], is_exact: bool) -> None:
    """It is followed like an `__iter__`."""
    whole, said = trained(lambda: taken_over(cls))
    resumed, warned = trained(lambda: taken_over(cls), 3)
    assert (is_exact, is_exact) == (not said, whole == resumed and not warned)


class Backwards(DataLoader[Any]):
    """One that gives torch the batches of its sampler in another order."""

    @property
    def _index_sampler(self) -> Any:
        return list(cast("Any", self).batch_sampler)[::-1]


def test_indices_in_place_of_the_samplers() -> None:
    """What torch is given in place of the loader's sampler does not begin where the sampler does."""
    whole, said = trained(lambda: taken_over(Backwards))
    assert said
    assert whole != trained(lambda: taken_over(Backwards), 3)[0]


class NextOfItself:
    """Mixed into a loader that is its own iterator."""

    def __iter__(self) -> Any:
        self.batches: Any = super().__iter__()  # type: ignore[misc]  # a loader's
        return self

    def __next__(self) -> Any:
        return next(self.batches)


@pytest.mark.parametrize("base", [DataLoader, ResumableLoader])
def test_a_loader_that_is_its_own_iterator(base: type[Any]) -> None:
    """A `for` over it is followed, also where its class does not begin with a DataLoader's; `next(loader)` is warned of."""
    cls: Any = type("Own", (NextOfItself, base), {})
    whole, said = trained(lambda: MAKERS[base](cls))
    assert ([], (whole, [])) == (said, trained(lambda: MAKERS[base](cls), 4))
    loader, _ = MAKERS[base](cls)
    iter(loader)
    with pytest.warns(
        ResumptionWarning, match=r"Own yields other batches.*\n  class: .*\n  found: \"?'?Its batches are taken"
    ):
        next(loader)


def test_subclasses_of_such_classes() -> None:
    """The outermost `__iter__` is the one that counts, whichever of them is inherited."""
    base = class_of(ResumableLoader, SHAPES["changed"])

    def back(loader: Any, batches: Batches) -> Any:
        return (batch - 100 for batch in batches())

    for cls in (class_of(base, back), type("Same", (base,), {})):
        whole, _ = trained(lambda cls=cls: of_ours(cls))  # type: ignore[misc]
        assert (whole, []) == trained(lambda cls=cls: of_ours(cls), 2, 9)  # type: ignore[misc]


def test_passes_of_a_class_that_begins_them_late() -> None:
    """Each is its own, in whatever order they go on, and none of them opens the sampler to others."""
    loader, _ = of_ours(class_of(ResumableLoader, SHAPES["changed"]))
    first, second = iter(loader), iter(loader)
    looked = next(second)
    again = copy.deepcopy(loader)
    del second
    assert torch.equal(looked, next(first))
    assert 6 == len(list(again))
    del first
    with pytest.raises(ConfigurationError, match="outside of that loader"):
        list(loader.batch_sampler)


class Noisy:
    """Goes on after errors, and draws as it does."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        with suppress(ZeroDivisionError):
            return next(self.batches) + torch.rand(())
        return next(self)


def noisy(loader: Any, batches: Batches) -> Any:
    """What draws as it goes on, and leaves out what cannot be loaded."""
    return Noisy(batches())


class Broken(Augmented):
    """A sample of it fails."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index // (index != 3))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_class_draws_follows_the_position(workers: int) -> None:
    """And what its own `__iter__` has left out after an error is counted, whether workers took it or not."""
    cls = class_of(ResumableLoader, noisy)

    def loader_of(num_workers: int) -> Any:
        disturb()
        return cls(Broken(N), SIZE, shuffle=True, seed=1, reseed=True, num_workers=num_workers)

    loader, found = loader_of(workers), list[tuple[Any, Any]]()
    for _ in range(2):
        found += [(batch.tolist(), loader.state_dict()) for batch in loader]
    assert 12 == len(found)
    for at in (0, 4, 5, 6, 10):
        following = loader_of(0)
        following.load_state_dict(found[at][1])
        resumed = [batch.tolist() for _ in range(following.epoch, 2) for batch in following]
        assert [batch for batch, _ in found[at + 1 :]] == resumed


def test_a_thread_that_takes_samples_while_the_training_draws() -> None:
    """With `reseed` they would race for the global generators; workers have their own."""
    cls = class_of(ResumableLoader, SHAPES["in_a_thread"])
    with pytest.warns(ResumptionWarning, match=r"in_a_thread reads ahead in a thread.*\n  class: .*\n  num_workers: 0"):
        list(cls(Augmented(N), SIZE, reseed=True))
    list(cls(Augmented(N), SIZE, reseed=True, num_workers=1))
