"""Random numbers that follow the position, in loops: the same after any resume, in any worker, on any number of ranks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, WeightedRandomSampler

from resumable import (
    MismatchError,
    ResumableLoader,
    ResumptionWarning,
    Sequential,
    resumable,
    resumption_of,
    sample_seed,
)
from resumable.errors import ConfigurationError
from resumable.loading.reseeding import YIELDED, Reseeded, reseed, seed_generators
from tests.support.random_samples import Augmented, AugmentedBatches, drawn_now

Batch = tuple[Any, tuple[float, float, float]]
SAMPLES, EPOCHS = 11, 2


def loader_of(**options: Any) -> ResumableLoader[Any]:
    """A loader of augmented samples, whose random numbers follow the position."""
    chosen: dict[str, Any] = {"dataset": Augmented(SAMPLES), "batch_size": 2, "shuffle": True, "seed": 7} | options
    return ResumableLoader(reseed=True, **chosen)


def trained(loader: ResumableLoader[Any], epochs: int = EPOCHS) -> Iterator[Batch]:
    """Each batch, and what its step draws."""
    for _ in range(loader.epoch, epochs):
        for batch in loader:
            yield batch.tolist(), drawn_now()


def disturb() -> None:
    """Leave the global generators anywhere, as a new process does."""
    torch.seed()
    random.seed()
    np.random.seed()  # noqa: NPY002


def resumed(after: int, make: Callable[[], ResumableLoader[Any]] = loader_of, **later: Any) -> list[Batch]:
    """The batches of a run that is left *after* some of them and goes on in another loader."""
    disturb()
    loader = make()
    run = trained(loader)
    first = list(itertools.islice(run, after))
    state = loader.state_dict()
    del run
    disturb()
    following = loader_of(**later) if later else make()
    following.load_state_dict(state)
    return first + list(trained(following))


WHOLE = list(trained(loader_of()))


@pytest.mark.parametrize("after", range(len(WHOLE) + 1))
def test_every_cut_point_of_two_epochs(after: int) -> None:
    """Samples draw what they drew, and so do steps."""
    assert WHOLE == resumed(after)


@pytest.mark.parametrize("after", [0, 3, 6, 9])
@pytest.mark.parametrize(
    "workers",
    [
        {"num_workers": 1},
        {"num_workers": 2, "persistent_workers": True},
        {"num_workers": 2, "multiprocessing_context": "fork"},
        {"num_workers": 1, "multiprocessing_context": "forkserver"},
    ],
    ids=str,
)
def test_other_workers_after_a_resume(workers: dict[str, Any], after: int) -> None:
    """From none to some: the position alone counts."""
    assert WHOLE == resumed(after, loader_of, **{"num_workers": 0} | workers)


def test_workers_that_are_spawned() -> None:
    """They import everything anew."""
    assert WHOLE == resumed(4, lambda: loader_of(num_workers=2, multiprocessing_context="spawn"), num_workers=0)


def test_it_is_off_by_default() -> None:
    """Then nobody's generator is touched."""
    drawn: list[Any] = []
    for make in (DataLoader, ResumableLoader):
        seed_generators(1)
        list(make(range(4), batch_size=2))  # type: ignore[arg-type]  # torch takes whatever has __getitem__ and __len__
        drawn.append(drawn_now())
    assert drawn[0] == drawn[1]


def test_without_it_a_resume_draws_other_numbers() -> None:
    """Which is what the tests above would see."""
    runs = []
    for _ in range(2):
        disturb()
        runs.append([batch.tolist() for batch in ResumableLoader(Augmented(4), batch_size=2)])
    assert runs[0] != runs[1]


@given(ranks=st.integers(1, 3), later=st.integers(1, 3), after=st.integers(0, 4), length=st.integers(6, 30))
def test_other_ranks_draw_the_same(ranks: int, later: int, after: int, length: int) -> None:
    """With the same micro batch size each micro batch has its samples, augmentations and step, on whichever rank."""

    def run(size: int, state: dict[str, Any] | None, most: int | None = None) -> tuple[list[Batch], dict[str, Any]]:
        loaders = [
            loader_of(
                dataset=Augmented(length),
                drop_last=True,
                data_parallel_rank=rank,
                data_parallel_size=size,
                batch_size=1,
            )
            for rank in range(size)
        ]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        # each rank is a process of its own, with generators of its own
        each = [list(itertools.islice(trained(loader, 1), most)) for loader in loaders]
        return [batch for batches in zip(*each, strict=True) for batch in batches], loaders[0].state_dict()

    one, _ = run(1, None)
    first, state = run(ranks, None, min(after, length // ranks - 1))
    then, _ = run(later, state)
    together = first + then
    assert one[: len(together)] == together


def test_indices_that_come_again_draw_anew() -> None:
    """A sampler with replacement: each draw of an index is another, and the same after a resume."""

    @resumable(reseed=True, seed=3)
    class Data:
        trainer = None

        def train_dataloader(self) -> DataLoader[Any]:
            weights = WeightedRandomSampler([8.0, 1.0, 1.0], 12)
            return DataLoader(Augmented(3), batch_size=2, sampler=weights)

    def run(data: Any) -> Iterator[Any]:
        for _ in range(resumption_of(data).position.epoch, 2):
            yield from (batch.tolist() for batch in data.train_dataloader())

    disturb()
    whole = list(run(Data()))
    samples = [tuple(sample) for batch in whole for sample in batch]
    assert len(samples) == len(set(samples)) == 24
    assert len({sample[0] for sample in samples}) == 3
    for after in range(len(whole)):
        disturb()
        data = Data()
        passes = run(data)
        first = list(itertools.islice(passes, after))
        state: Any = data.state_dict()  # type: ignore[attr-defined]  # the decorator adds it
        del passes
        disturb()
        following = Data()
        following.load_state_dict(state)  # type: ignore[attr-defined]
        assert whole == first + list(run(following))


def test_a_dataset_that_fetches_batches_is_seeded_once_for_each() -> None:
    """By its first index; and it goes on exactly."""
    dataset = AugmentedBatches(SAMPLES)

    def make() -> ResumableLoader[Any]:
        return loader_of(dataset=dataset)

    whole = list(trained(make()))
    assert [batch[0] for batch, _ in WHOLE] == [batch[0] for batch, _ in whole]
    assert WHOLE != whole
    assert whole == resumed(3, make)


def test_what_a_sample_is_seeded_by() -> None:
    """The documented function of seed, epoch and index; a dataset may ask for it too."""
    loader = loader_of()
    next(iter(loader))
    (first, _), epoch = WHOLE[0], 0
    seed_generators(sample_seed(int(first[0][0]), epoch, 7))
    assert first[0][1:] == list(drawn_now())


@pytest.mark.parametrize(
    "options", [{"shuffle": False, "seed": 5}, {"shuffle": False, "seed": 5, "order": Sequential(11)}]
)
def test_the_seed_is_the_loader_s_also_where_nothing_is_shuffled(options: dict[str, Any]) -> None:
    """And where the order is the user's."""
    one, other = (list(trained(loader_of(**options | {"seed": seed}))) for seed in (5, 6))
    assert [batch[0][0] for batch, _ in one] == [batch[0][0] for batch, _ in other]
    assert one != other


def test_a_loader_without_a_seed_takes_the_saved_one_over() -> None:
    """For its draws too."""
    for shuffle in (True, False):

        def make(seed: int | None = 5, shuffle: bool = shuffle) -> ResumableLoader[Any]:
            return loader_of(shuffle=shuffle, seed=seed)

        assert list(trained(make())) == resumed(4, make, shuffle=shuffle, seed=None)


def test_a_resume_without_it_gets_a_verdict() -> None:
    """The option and the seed are part of what is saved."""
    loader = loader_of(shuffle=False)
    next(iter(loader))
    loader.commit()
    state = loader.state_dict()
    without = ResumableLoader(Augmented(SAMPLES), batch_size=2)
    with pytest.raises(MismatchError, match="no longer follow the position"):
        without.load_state_dict(state)
    assert without.state.consumed_samples == 0
    with pytest.raises(MismatchError, match="random numbers have another seed"):
        loader_of(shuffle=False, seed=8).load_state_dict(state)
    going_on = ResumableLoader(Augmented(SAMPLES), batch_size=2, on_mismatch="warn")
    with pytest.warns(ResumptionWarning, match="no longer follow the position"):
        going_on.load_state_dict(state)
    assert going_on.state.consumed_samples == 2


def test_it_may_begin_in_the_middle_of_a_run() -> None:
    """Random numbers that followed nothing lose nothing; the ledger notes where it began."""
    before = ResumableLoader(Augmented(SAMPLES), batch_size=2)
    next(iter(before))
    before.commit()
    after = loader_of(shuffle=False, seed=None)
    after.load_state_dict(before.state_dict())
    assert after.state.verdict is not None
    assert after.state.verdict.outcome == "exact"
    next(iter(after))
    after.commit()
    assert [None, 0] == [stretch.reseed for stretch in after.state.ledger]
    assert loader_of(shuffle=False, seed=None).state.ledger.stretches == ()


@given(seed=st.integers(0, 2**64 - 1))
def test_the_saved_seed_comes_back(seed: int) -> None:
    """In JSON types, and loaded and saved again it is the same state."""
    loader = loader_of(shuffle=False, seed=seed)
    next(iter(loader))
    loader.commit()
    state = loader.state_dict()
    assert state["ledger"][-1][-1] == seed
    again = loader_of(shuffle=False, seed=seed)
    again.load_state_dict(state)
    assert state == again.state_dict()


def test_an_epoch_that_a_dataset_is_told() -> None:
    """pass_epoch=True: an int that knows its epoch and draw, in workers and after a resume."""

    class Told:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: Any) -> tuple[int, int, int]:
            return int(index), index.epoch, index.draw

    def make(workers: int) -> ResumableLoader[Any]:
        return ResumableLoader(Told(), batch_size=2, num_workers=workers, collate_fn=list, pass_epoch=True)

    loader = make(0)
    told = [batch for _ in range(2) for batch in loader]
    assert [[(0, 0, 0), (1, 0, 0)], [(2, 0, 0), (3, 0, 0)], [(4, 0, 0)]] == told[:3]
    assert [(4, 1, 0)] == told[-1]
    half = make(1)
    passing = iter(half)
    first = [next(passing) for _ in range(2)]
    half.commit()
    following = make(0)
    following.load_state_dict(half.state_dict())
    assert told == first + [batch for _ in range(2) for batch in following]


def test_single_samples() -> None:
    """A loader that does not collate seeds each of them."""

    def make() -> ResumableLoader[Any]:
        return loader_of(batch_size=None)

    whole = list(trained(make()))
    assert [sample for batch, _ in WHOLE for sample in batch] == [sample for sample, _ in whole]
    assert whole == resumed(5, make)


@pytest.mark.parametrize("name", ["reseed", "pass_epoch"])
@pytest.mark.parametrize("value", ["yes", 1, None])
def test_an_option_that_is_no_switch(name: str, value: Any) -> None:
    """It is named, where it was given."""
    with pytest.raises(ConfigurationError, match=f"{name} is either on or off"):
        ResumableLoader(range(4), **{name: value})
    with pytest.raises(ConfigurationError, match=f"{name} is either on or off"):
        resumable(**{name: value})


class NewAccelerator:
    """An accelerator that this process has not used."""

    def __init__(self, *, is_initialized: bool, error: Exception | None = None) -> None:
        self.is_used = is_initialized
        self.error = error
        self.seeds: list[int] = []

    def is_initialized(self) -> bool:
        """Whether it was used here."""
        return self.is_used

    def manual_seed(self, seed: int) -> None:
        """Note the seed."""
        if self.error is not None:
            raise self.error
        self.seeds.append(seed)


def use(accelerator: NewAccelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch have this accelerator."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))

    def module_of(device: torch.device) -> NewAccelerator:
        return accelerator

    monkeypatch.setattr(torch, "get_device_module", module_of)


def test_the_accelerator_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is seeded for each step, by its own bits; one that is not in use is not woken up."""
    for is_initialized in (True, False):
        accelerator = NewAccelerator(is_initialized=is_initialized)
        use(accelerator, monkeypatch)
        for offset in (0, 1, 0):
            reseed(YIELDED, 0, 0, offset)
        if is_initialized:
            first, second, again = accelerator.seeds
            assert first == again != second
        else:
            assert not accelerator.seeds


def test_an_accelerator_that_cannot_be_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a graph capture: the error says what to do."""
    use(NewAccelerator(is_initialized=True, error=RuntimeError("capturing")), monkeypatch)
    with pytest.raises(Exception, match="The accelerator's random numbers cannot be seeded now"):
        next(iter(loader_of()))


@pytest.mark.parametrize("size", [1, 7, 8, 33])
def test_a_sample_has_its_numbers_in_a_batch_of_any_size(size: int) -> None:
    """Small and large batches are seeded in two ways, which lead to the same numbers."""

    class Drawn(Augmented):
        def __getitem__(self, index: int) -> Any:
            return drawn_now()

    given: list[Any] = []
    for batch in ResumableLoader(Drawn(40), size, seed=3, reseed=True, collate_fn=list):
        given += batch
    expected: list[Any] = []
    for index in range(40):
        seed_generators(sample_seed(index, 0, 3))
        expected.append(drawn_now())
    assert expected == given


def test_a_pass_goes_on_after_an_error() -> None:
    """As torch's does; later steps draw what follows from their places."""

    class Broken(Augmented):
        def __getitem__(self, index: int) -> torch.Tensor:
            return super().__getitem__(index // (index != 3))

    batches = Reseeded(iter(DataLoader(Broken(6), batch_size=2)), 5, 0, 0, 2)
    next(batches)
    with pytest.raises(ZeroDivisionError):
        next(batches)
    next(batches)
    drawn = drawn_now()
    reseed(YIELDED, 5, 0, 4)
    assert drawn == drawn_now()
