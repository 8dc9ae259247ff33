"""Loaders that others build anew from the parts of ours: from its dataset and its samplers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import islice
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from resumable import ConfigurationError, ResumableLoader, ResumptionWarning, resumable, resumption_of
from resumable.feeds.feed import shown
from tests.support.datamodules import SIZE, N, Plain
from tests.support.samplers import SET_VITAL

TWELVE: Any = range(12)
REBUILT: dict[str, Callable[[Any], Any]] = {
    "of the batch sampler": lambda loader: DataLoader(loader.dataset, batch_sampler=loader.batch_sampler),
    "of the sampler": lambda loader: DataLoader(loader.dataset, batch_size=2, sampler=loader.sampler),
    "of the sampler in a batch sampler": lambda loader: DataLoader(
        loader.dataset, batch_sampler=BatchSampler(loader.sampler, 2, drop_last=False)
    ),
    "by torchdata": lambda loader: StatefulDataLoader(loader.dataset, batch_sampler=loader.batch_sampler),
    "by hand": lambda loader: loader.batch_sampler,
    "by hand, of single samples": lambda loader: loader.sampler,
    "of a copy": lambda loader: DataLoader(loader.dataset, batch_sampler=copy.deepcopy(loader.batch_sampler)),
    "of a copy of the sampler": lambda loader: DataLoader(loader.dataset, sampler=copy.deepcopy(loader.sampler)),
    "of a pickle": lambda loader: pickle.loads(pickle.dumps(loader.batch_sampler)),
    "of a pickle of the sampler": lambda loader: pickle.loads(pickle.dumps(loader.sampler)),
}


def ids(batches: Any) -> list[list[int]]:
    """The batches as lists."""
    return [batch.tolist() for batch in batches]


@pytest.mark.filterwarnings(SET_VITAL)
@settings(max_examples=50)
@given(
    rebuilt=st.sampled_from(sorted(REBUILT)),
    is_decorated=st.booleans(),
    taken=st.integers(0, N // SIZE),
    ends=st.booleans(),
)
def test_a_loader_of_our_parts_is_refused_and_moves_nothing(
    rebuilt: str, is_decorated: bool, taken: int, ends: bool
) -> None:
    """Before, in and after a pass: nobody but the loader iterates its samplers, and what the loader trains stays as it was."""
    data = Plain()
    whole = ids(Plain().train_dataloader())
    loader: Any = data.train_dataloader() if is_decorated else ResumableLoader(range(N), batch_size=SIZE, shuffle=True)
    state = resumption_of(data) if is_decorated else loader.state
    batches = iter(loader)
    trained = ids(islice(batches, taken))
    if ends:
        trained += ids(batches)
    before = state.position
    with pytest.raises(ConfigurationError, match=r"iterated outside of that loader.*\n.*\n.*accelerate"):
        list(REBUILT[rebuilt](loader))
    assert before == state.position
    assert whole == trained + ids(batches)


REBUILDS = """
def prepare(loader, cls):
    return cls(loader.dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn, timeout=loader.timeout)
"""


def prepared(loader: Any, module: str) -> Any:
    """*loader* as *module* builds it anew: from its dataset and its options, without any of its samplers."""
    names: dict[str, Any] = {"__name__": module}
    exec(REBUILDS, names)  # the module's name is what is tested
    return names["prepare"](loader, DataLoader)


@pytest.mark.filterwarnings(SET_VITAL)
@settings(max_examples=20, deadline=None)
@given(
    is_decorated=st.booleans(),
    batch_size=st.sampled_from([None, 2, SIZE]),
    taken=st.integers(0, 2),
    shuffle=st.booleans(),
)
def test_a_loader_that_is_rebuilt_without_its_samplers(
    is_decorated: bool, batch_size: int | None, taken: int, shuffle: bool
) -> None:
    """What accelerate and Ray would build from the dataset alone is refused; for any other reader it is said, once."""
    data = Loads(DataLoader(TWELVE, batch_size, shuffle=shuffle))
    loader: Any = data.train_dataloader() if is_decorated else ResumableLoader(range(12), batch_size, shuffle)
    for _, _ in zip(range(taken), loader, strict=False):
        pass
    before = loader.state_dict()
    for module in ("accelerate.data_loader", "ray.train.torch.train_loop_utils"):
        with pytest.raises(
            ConfigurationError, match=r"build this train loader anew(.*\n)+.*read by: +'(accelerate|ray)"
        ):
            prepared(loader, module)
    with pytest.warns(ResumptionWarning, match="builds a loader anew") as warned:
        _ = [prepared(loader, module) for module in ("a_users_own", "another")]
    assert 1 == len(warned)
    assert before == loader.state_dict()
    list(loader)


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}], ids=str)
def test_the_loader_itself_and_its_copies_are_iterated(workers: dict[str, Any]) -> None:
    """With workers or without, pass after pass, and as a copy or a pickle that was made in the middle of one."""
    loader = ResumableLoader(range(12), batch_size=2, shuffle=True, **workers)
    expected = [ids(loader) for _ in range(3)]
    loader = ResumableLoader(range(12), batch_size=2, shuffle=True, **workers)
    batches = iter(loader)
    first = ids(islice(batches, 2))
    if not workers.get("persistent_workers"):  # torch copies no worker
        for again in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
            assert expected[:2] == [first + ids(again), ids(again)]
    assert expected == [first + ids(batches), ids(loader), ids(loader)]


def test_the_sampler_that_a_loader_shows_has_everything_but_its_draws() -> None:
    """What looks at the class, the length or an attribute of a loader's sampler finds what the user put there."""
    own = RandomSampler(range(12))
    sampler: Any = shown(own)
    assert isinstance(sampler, RandomSampler)
    assert (12, own.data_source) == (len(sampler), sampler.data_source)
    sampler.generator = cast("Any", torch.Generator)()
    assert sampler.generator is own.generator
    assert 12 == len(list(own))


class Sized(BatchSampler):
    """A batch sampler with a setting of its own."""

    limit = 3

    def set_limit(self, limit: int) -> None:
        self.limit = limit


@resumable
class Loads:
    """Gives one loader, again and again."""

    trainer = None

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader


def test_the_batch_sampler_that_a_loader_shows_has_everything_but_its_draws() -> None:
    """Who looks at a loader's batch sampler, or sets something there, finds the user's own, also in copies."""
    own = Sized(RandomSampler(range(12)), 2, drop_last=False)
    data = Loads(DataLoader(TWELVE, batch_sampler=own))
    for limit in (5, 7):  # a trainer may ask for the same loader again
        loader: Any = data.train_dataloader()
        shows = loader.batch_sampler
        shows.set_limit(limit)
        for each in (own, shows, copy.deepcopy(shows), pickle.loads(pickle.dumps(shows))):
            assert limit == each.limit
        with pytest.raises(AttributeError, match="no attribute 'unknown'"):
            _ = shows.unknown
        with pytest.raises(ConfigurationError, match="outside of that loader"):
            iter(shows.sampler)


def test_a_loader_shows_one_sampler_in_both_places() -> None:
    """What tells both `loader.sampler` and `loader.batch_sampler.sampler` its epoch, as Lightning does, tells it once."""
    data = Loads(DataLoader(TWELVE, 2, shuffle=True))
    for _ in range(2):
        loader: Any = data.train_dataloader()
        for each in (loader, pickle.loads(pickle.dumps(loader))):
            assert each.sampler is each.batch_sampler.sampler


@pytest.mark.parametrize("sampler", [[2, 1], torch.tensor([2, 1]), range(3)], ids=["a list", "a tensor", "a range"])
def test_a_sampler_without_a_class_of_its_own_is_shown_as_it_is(sampler: Any) -> None:
    """What is a value, and knows nothing of a loader, stays one."""
    assert shown(sampler) is sampler
