"""Whatever a train_dataloader may return: samplers and loader classes of one's own, several loaders, streams."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from resumable import ReplayError
from tests.support.batch_samplers import BATCH_SAMPLERS, Legacy, SaysFifty, Unsized, Varying, undecorated
from tests.support.cuts import Cut, also_with_workers, raised_in, saved_after_step, saved_at_epoch_end
from tests.support.lightning_runs import PlainNumbers, Scenario, check, numbers, resumed, uninterrupted
from tests.support.samplers import (
    LIMITS,
    SET_VITAL,
    EpochSampler,
    EvenAndOdd,
    GlobalRandomSampler,
    NamedLoader,
    every_cut,
    some_cuts,
)

Loaders = Callable[[Scenario], Any]


def mostly_slow(kinds: Iterable[str], *quick: str) -> list[Any]:
    """The *kinds* as parameters, all but the *quick* ones left to the longer proof."""
    return [kind if kind in quick else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


def twice(ids: list[int]) -> dict[str, torch.Tensor]:
    """A collate function of one's own."""
    return {"ids": torch.tensor(ids), "first": torch.tensor(ids[:1])}


MAP_STYLE: dict[str, Loaders] = {
    "own sampler with set_epoch": lambda s: s.loader(sampler=EpochSampler(s.samples)),
    "sampler of global random streams": lambda s: s.loader(sampler=GlobalRandomSampler(s.samples)),
    "WeightedRandomSampler": lambda s: s.loader(sampler=WeightedRandomSampler([1.0] * 11 + [3.0] * 11, 21)),
    "SubsetRandomSampler": lambda s: s.loader(sampler=SubsetRandomSampler(range(1, 22))),
    "RandomSampler with replacement": lambda s: s.loader(
        sampler=RandomSampler(range(9), replacement=True, num_samples=22)
    ),
    "RandomSampler with a generator": lambda s: s.loader(
        sampler=RandomSampler(range(22), generator=torch.Generator().manual_seed(5))
    ),
    "SequentialSampler": lambda s: s.loader(sampler=SequentialSampler(range(22))),
    "a list as sampler": lambda s: s.loader(sampler=list(range(21, -1, -1))),
    "torch's BatchSampler": lambda s: s.loader(
        batch_sampler=BatchSampler(RandomSampler(range(s.samples)), s.batch_size, drop_last=False)
    ),
    "BatchSampler around an own sampler": lambda s: s.loader(
        batch_sampler=BatchSampler(EpochSampler(s.samples), s.batch_size, drop_last=False)
    ),
    "own batch sampler": lambda s: s.loader(batch_sampler=EvenAndOdd(s.samples)),
    "batches of any size and number": lambda s: s.loader(numbers(23), batch_sampler=Varying()),
    "arrays of a sampler that remembers": lambda s: s.loader(numbers(23), batch_sampler=Legacy()),
    "a batch sampler without a length": lambda s: s.loader(numbers(23), batch_sampler=Unsized()),
    "subclass with its own __init__": lambda s: s.loader("a", numbers(22), cls=NamedLoader),
    "Subset of a dataset": lambda s: s.loader(Subset(numbers(50), range(7, 29))),
    "StatefulDataLoader": lambda s: s.loader(cls=StatefulDataLoader),
    "shuffled by a generator": lambda s: s.loader(generator=torch.Generator().manual_seed(5)),
    "collate_fn": lambda s: s.loader(collate_fn=twice),
}


@pytest.fixture(scope="module", params=MAP_STYLE)
def map_style(request: pytest.FixtureRequest) -> Scenario:
    """One scenario for each kind, shared by its cuts."""
    return Scenario(loaders=MAP_STYLE[request.param])


@pytest.mark.filterwarnings(SET_VITAL)
@every_cut
def test_samplers_and_loaders_of_ones_own(map_style: Scenario, cuts: tuple[Cut, ...]) -> None:
    """A user's own order is drawn for each epoch from the run's seed, and entered where the training stands."""
    check(map_style, *cuts)


@pytest.mark.filterwarnings(SET_VITAL)
@pytest.mark.parametrize(
    "kind", mostly_slow(MAP_STYLE, "own sampler with set_epoch", "WeightedRandomSampler", "own batch sampler")
)
def test_samplers_and_loaders_of_ones_own_with_workers(kind: str) -> None:
    """The same with two workers, under max_steps."""
    scenario = Scenario(loaders=MAP_STYLE[kind], num_workers=2, trainer={"max_epochs": -1, "max_steps": 15})
    check(scenario, saved_after_step(3), saved_after_step(6), raised_in("training_step", (1, 2)))


@pytest.mark.parametrize(
    "kind", [kind for kind in MAP_STYLE if "Random" in kind or "random" in kind or "shuffled" in kind]
)
@pytest.mark.filterwarnings(SET_VITAL)
def test_a_random_sampler_draws_other_samples_in_each_epoch(kind: str) -> None:
    """Seeding for the resume must not make all epochs alike."""
    run = uninterrupted(Scenario(loaders=MAP_STYLE[kind]))
    assert 3 == len({tuple(run.ids(epoch)) for epoch in range(3)})


def test_a_samplers_own_order_is_the_one_that_is_trained() -> None:
    """What the sampler says is what is trained: the weights of a WeightedRandomSampler keep their meaning."""
    only_odd = [float(i % 2) for i in range(22)]
    run = uninterrupted(Scenario(loaders=lambda s: s.loader(sampler=WeightedRandomSampler(only_odd, 22))))
    assert {1} == {i % 2 for epoch in range(3) for i in run.ids(epoch)}
    plain = Scenario(loaders=lambda s: s.loader(sampler=EpochSampler(22)))
    assert uninterrupted(replace(plain, data=PlainNumbers)).steps == uninterrupted(plain).steps


@pytest.mark.parametrize("name", ["lists", "says too many", "says nothing", "in place"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_epochs_have_as_many_batches_as_come(name: str, accumulated: int) -> None:
    """Lightning alone takes the first epoch's number for all, and leaves out what a later epoch has more."""
    make = BATCH_SAMPLERS[name]
    scenario = Scenario(
        loaders=lambda s: s.loader(numbers(23), batch_sampler=make()),
        trainer={"max_epochs": 3, "accumulate_grad_batches": accumulated},
    )
    run = uninterrupted(scenario)
    for epoch, batches in enumerate(undecorated(make())):
        assert (len(batches), [index for batch in batches for index in batch]) == (run.batches(epoch), run.ids(epoch))
    check(scenario, saved_after_step(3), raised_in("training_step", (1, 2)))


def test_an_epoch_is_no_longer_than_its_sampler_says() -> None:
    """As without the package: a sampler without an end, or with more batches than it says, is left there."""

    class Endless(SaysFifty):
        def __iter__(self) -> Iterator[Any]:
            return (list(range(first % 20, first % 20 + 2)) for first in itertools.count())

        def __len__(self) -> int:
            return 5

    scenario = Scenario(loaders=lambda s: s.loader(numbers(23), batch_sampler=Endless()))
    assert [5, 5, 5] == [uninterrupted(scenario).batches(epoch) for epoch in range(3)]
    check(scenario, saved_after_step(3), raised_in("training_step", (1, 2)))


def test_a_sampler_that_does_not_repeat_itself_is_refused() -> None:
    """A sampler that nothing can bring back to an earlier place cannot be entered again at it."""
    iterations = iter(range(1, 99))

    class Remembers(EpochSampler):
        def __iter__(self) -> Iterator[int]:
            return iter(range(0, self.samples, next(iterations)))

    with pytest.raises(ReplayError, match="Remembers does not repeat itself"):
        uninterrupted(Scenario(loaders=lambda s: s.loader(sampler=Remembers(s.samples))))


@also_with_workers
@pytest.mark.parametrize("limit", LIMITS, ids=str)
@every_cut
def test_a_loader_of_single_samples_goes_on_exactly(
    cuts: tuple[Cut, ...], limit: dict[str, int], num_workers: int
) -> None:
    """batch_size=None: the loader yields samples, not batches."""
    options: dict[str, Any] = {"batch_size": None, "drop_last": False}
    check(
        Scenario(samples=6, num_workers=num_workers, loaders=lambda s: s.loader(**options), trainer=limit),
        *cuts,
    )


@some_cuts
@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_persistent_workers_read_ahead_for_nothing(cuts: tuple[Cut, ...], limit: dict[str, int]) -> None:
    """Workers that live over the epochs' ends, prefetching more than usual."""
    scenario = Scenario(
        num_workers=2, loaders=lambda s: s.loader(persistent_workers=True, prefetch_factor=4), trainer=limit
    )
    check(scenario, *cuts)


SHORT, LONG = numbers(22), numbers(100, 113)


def combined(mode: str, other: int, s: Scenario) -> CombinedLoader:
    """The 22 samples beside so many *other* ones."""
    return CombinedLoader({"a": s.loader(SHORT), "b": s.loader(numbers(100, 100 + other))}, mode)  # type: ignore[arg-type]  # its four literals


SEVERAL: dict[str, Loaders] = {
    "list": lambda s: [s.loader(SHORT), s.loader(LONG, batch_size=3)],
    "dict": lambda s: {"a": s.loader(SHORT), "b": s.loader(LONG, batch_size=2)},
    "nested": lambda s: {"a": [s.loader(SHORT), s.loader(LONG)], "b": s.loader(numbers(200, 205))},
    "one in a list": lambda s: [s.loader(SHORT)],
    **{
        f"{mode}, {name}": partial(combined, mode, other)
        for mode in ("min_size", "max_size", "max_size_cycle")
        for name, other in (("shorter", 9), ("equal", 22), ("longer", 31))
    },
}


@pytest.fixture(scope="module", params=SEVERAL)
def several(request: pytest.FixtureRequest) -> Scenario:
    """One scenario for each way to return several loaders."""
    return Scenario(loaders=SEVERAL[request.param])


SEVERAL_CUTS = [
    (saved_after_step(2),),
    (raised_in("training_step", (0, 2)), saved_after_step(4)),
    (saved_at_epoch_end(0), raised_in("on_train_batch_end", (1, 1))),
]


@pytest.mark.parametrize("cuts", SEVERAL_CUTS, ids=lambda cuts: "+".join(map(str, cuts)))
def test_each_of_several_loaders_has_its_place(several: Scenario, cuts: tuple[Cut, ...]) -> None:
    """Each loader has a place of its own, also where a shorter one is begun again beside a longer one."""
    check(several, *cuts)


@pytest.mark.parametrize("kind", mostly_slow(SEVERAL, "list", "max_size, longer"))
def test_several_loaders_with_workers(kind: str) -> None:
    """The same with two workers for each loader, under max_steps."""
    scenario = Scenario(loaders=SEVERAL[kind], num_workers=2, trainer={"max_epochs": -1, "max_steps": 15})
    check(scenario, raised_in("training_step", (0, 2)), saved_at_epoch_end(0))


@pytest.mark.parametrize("kind", ["list", "max_size, longer", "min_size, shorter"])
def test_several_loaders_on_an_epochs_last_batch(kind: str) -> None:
    """A checkpoint on the last batch of an epoch, of which the loaders do not all stand at an end."""
    scenario = Scenario(loaders=SEVERAL[kind])
    batches = uninterrupted(scenario).batches(0)
    check(scenario, saved_after_step(batches))
    check(scenario, raised_in("on_train_batch_end", (1, batches - 1)))


@pytest.mark.parametrize("kind", ["list", "max_size, longer", "min_size, shorter"])
@pytest.mark.parametrize("limit_train_batches", [3, 0.5])
def test_several_loaders_with_a_limit(kind: str, limit_train_batches: float) -> None:
    """The limit cuts each loader's epoch."""
    check(
        Scenario(loaders=SEVERAL[kind], trainer={"limit_train_batches": limit_train_batches}),
        raised_in("training_step", (1, 0)),
    )


@pytest.mark.filterwarnings("ignore:This resume reads the stream again")
@every_cut
def test_an_iterable_that_is_no_loader(cuts: tuple[Cut, ...]) -> None:
    """Lightning trains any iterable; one of batches that saves nothing is read again."""

    class Batches:
        def __iter__(self) -> Iterator[torch.Tensor]:
            return iter(torch.arange(24).reshape(6, 4))

    check(Scenario(loaders=lambda s: Batches()), *cuts)


@also_with_workers
@pytest.mark.parametrize("cut", [saved_after_step(3), saved_at_epoch_end(0)], ids=str)
def test_sessions_with_loaders_of_another_class(cut: Cut, num_workers: int) -> None:
    """From a DataLoader to a subclass of it: the position does not depend on the loader's class."""
    scenario = Scenario(num_workers=num_workers)
    then = replace(scenario, loaders=MAP_STYLE["subclass with its own __init__"])
    assert uninterrupted(scenario) == resumed(scenario, cut, then=then)
