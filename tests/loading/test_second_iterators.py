"""A second iterator of a loader while one is alive: it moves nothing, and a kept look gives way to what trains."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import islice, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler, WeightedRandomSampler

from resumable import ConstantBatchSize, ResumptionWarning, resumable, resumption_of
from tests.support.loader_runs import SIZE, WITH_WORKERS, N, expected, loader_of
from tests.support.reference import numbers

PERSISTENT: dict[str, Any] = {**WITH_WORKERS, "persistent_workers": True}
SCHEDULED: dict[str, Any] = {"schedule": ConstantBatchSize(SIZE)}


def one(loader: Any) -> object:
    """A look at the next batch."""
    return next(iter(loader))


def kept(loader: Any) -> object:
    """A look whose iterator stays alive while the next batch is trained."""
    iterator = iter(loader)
    next(iterator)
    return iterator


def three(loader: Any) -> object:
    """An evaluation on some batches of the train loader."""
    return [batch for _, batch in zip(range(3), loader, strict=False)]


def rest(loader: Any) -> object:
    """A walk through all that is left."""
    return list(loader)


def unused(loader: Any) -> object:
    """An iterator that nobody advances."""
    return iter(loader)


LOOKS = [one, kept, three, rest, unused]


def trained_and_counted(loader: Any, looks: dict[int, Any], *, commits: bool) -> tuple[list[list[int]], list[int]]:
    """The batches of two epochs, and the samples that are counted after each, with *looks* after some of them."""
    trained: list[list[int]] = []
    counted: list[int] = []
    for _ in range(2):
        for batch in loader:
            trained.append(batch.tolist())
            look = looks.get(len(trained))
            alive = None if look is None else look(loader)
            if commits:
                loader.commit()
            counted.append(loader.state.consumed_samples)
            del alive
    return trained, counted


@pytest.mark.parametrize(
    ("look", "options"),
    [*product(LOOKS, [{}, SCHEDULED]), (one, WITH_WORKERS), (one, PERSISTENT), (kept, PERSISTENT), (rest, PERSISTENT)],
)
@pytest.mark.parametrize("commits", [False, True])
def test_a_second_iterator_moves_nothing(look: Any, commits: bool, options: dict[str, Any]) -> None:
    """Whatever it yields, and whether it is kept: the pass under way goes on, and it alone counts."""
    loader = loader_of(23, **options)
    trained, counted = trained_and_counted(loader, {2: look, 3: look, 6: look, 8: look}, commits=commits)
    assert expected(23, epochs=2) == trained
    assert [sum(map(len, trained[:number])) for number in range(1, 13)] == counted


@pytest.mark.parametrize("options", [WITH_WORKERS, PERSISTENT], ids=str)
def test_a_look_after_an_epochs_last_batch_begins_no_iterator_anew(options: dict[str, Any]) -> None:
    """The pass is still under way there: it ends with the next call, whoever has begun another one."""
    trained, _ = trained_and_counted(loader := loader_of(**options), {3: one}, commits=False)
    assert (expected(epochs=2), 22) == (trained, loader.state.consumed_samples)


@settings(max_examples=60)
@given(
    st.integers(1, 30),
    st.integers(1, 5),
    st.booleans(),
    st.dictionaries(st.integers(1, 30), st.sampled_from([one, kept, unused])),
)
def test_looks_anywhere_in_a_run(n: int, size: int, commits: bool, looks: dict[int, Any]) -> None:
    """Looks at one batch move nothing, after an epoch's first batch and after its last one as well."""
    loader = loader_of(n, batch_size=size)
    trained, counted = trained_and_counted(loader, looks, commits=commits)
    assert expected(n, batch_size=size, epochs=2) == trained
    assert [sum(map(len, trained[:number])) for number in range(1, len(trained) + 1)] == counted


@pytest.mark.parametrize("options", [{}, PERSISTENT], ids=str)
@pytest.mark.parametrize("commits", [False, True])
def test_a_kept_look_before_the_loop_is_not_the_training(commits: bool, options: dict[str, Any]) -> None:
    """`batches = iter(loader); next(batches)` to see an example: the loop that follows counts, also when it is used again."""
    loader = loader_of(23, **options)
    example = iter(loader)
    next(example)

    def again(_: Any) -> object:
        return next(example)

    trained, counted = trained_and_counted(loader, {3: again, 9: again}, commits=commits)
    assert expected(23, epochs=2) == trained
    assert [sum(map(len, trained[:number])) for number in range(1, 13)] == counted


def test_an_iterator_that_takes_the_name_of_the_last_one() -> None:
    """`batches = iter(loader)` in mid-epoch lets go of the earlier iterator only after the new one has begun."""
    loader = loader_of(23)
    taken: list[list[int]] = []
    for number in (3, 1, 2):
        batches = iter(loader)
        taken += [next(batches).tolist() for _ in range(number)]
        loader.state_dict()
    assert expected(23)[:6] == taken
    assert sum(map(len, taken)) == loader.state.consumed_samples


@pytest.mark.parametrize("save", ["state_dict", "commit"])
def test_training_beside_an_iterator_that_is_never_let_go_is_said(save: str) -> None:
    """Nobody can tell it from a long look: once something is saved, a warning says which iterator counts, one time."""
    loader = loader_of(23)
    first = iter(loader)
    assert expected(23)[:2] == [next(first).tolist(), next(first).tolist()]
    with pytest.warns(ResumptionWarning, match="an earlier one is still alive") as caught:
        assert 4 == len([getattr(loader, save)() for _ in loader])
    assert (1, 8) == (len(caught), loader.state.consumed_samples)


def test_an_evaluation_after_the_very_first_batch() -> None:
    """One batch may have been a look, so the later iterator counts until the first one goes on."""
    loader = loader_of(23)
    for number, _ in enumerate(loader):
        if number == 0:
            three(loader)
        elif number == 1:
            break
    assert 8 == loader.state.consumed_samples


@settings(max_examples=60)
@given(st.integers(1, 6), st.sampled_from(["state_dict", "commit", "goes on"]), st.booleans(), st.booleans())
def test_a_short_look_after_the_very_first_batch_moves_nothing_or_is_said(
    length: int, then: str, is_kept: bool, of_another: bool
) -> None:
    """Whichever of the two passes trains: what a save counts, or the next pass leaves out, was trained, or it is told."""

    @resumable
    class Data:
        trainer = None

        def train_dataloader(self) -> Any:
            return DataLoader(numbers(40), batch_size=SIZE)

    data: Any = Data()
    loader = data.train_dataloader()
    first = iter(loader)
    next(first)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        beside: Any = data.train_dataloader() if of_another else loader
        assert length == sum(1 for _ in islice(beside, length))
        del beside
        if not is_kept:
            del first
        if then == "goes on":
            begins = int(next(iter(data.train_dataloader()))[0])
        else:
            getattr(resumption_of(data), then)()
            begins = resumption_of(data).state_dict()["offset"]
    is_told = ["was left after a few" in str(each.message) for each in caught]
    assert begins in (0, SIZE) or is_told == [True], (begins, is_told)


def test_a_look_that_was_let_go_of_before_the_loop_is_not_told_of() -> None:
    """The line that the warning names: then one pass alone has trained."""
    loader: Any = loader_of(23)
    example = iter(loader)
    next(example)
    del example
    three(loader)
    loader.state_dict()
    assert 12 == loader.state.consumed_samples


def test_a_whole_pass_after_the_very_first_batch_is_said() -> None:
    """That could be the training and the first batch a look, so the iterator that goes on is named."""
    loader = loader_of(23)
    batches = iter(loader)
    next(batches)
    rest(loader)
    with pytest.warns(ResumptionWarning, match="is older than the last one"):
        next(batches)
    assert 8 == loader.state.consumed_samples


# Below a decorator, each call of train_dataloader makes a new loader.


def decorated(make: Callable[[], Any]) -> Any:
    """An instance of a decorated class whose loaders *make* makes."""

    @resumable(seed=5)
    class Data:
        trainer: Any = None

        def train_dataloader(self) -> Any:
            return make()

    return Data()


def shuffled(**options: Any) -> Any:
    """A loader in a permutation's order."""
    return DataLoader(numbers(N), batch_size=SIZE, shuffle=True, **options)


def replayed(**options: Any) -> Any:
    """A loader whose sampler is replayed."""
    return DataLoader(numbers(N), batch_size=SIZE, sampler=WeightedRandomSampler([1.0] * N, N), **options)


def batched(**options: Any) -> Any:
    """A loader with a user's batch sampler."""
    return DataLoader(numbers(N), batch_sampler=PairSampler(numbers(N)), **options)


class PairSampler(RandomSampler):
    """Batches of a sampler's."""

    batch_size = SIZE

    def __len__(self) -> int:
        return len(range(0, N, SIZE))

    def __iter__(self) -> Any:
        indices = list(super().__iter__())
        return iter([indices[start : start + SIZE] for start in range(0, N, SIZE)])


@pytest.mark.parametrize(
    ("look", "make"),
    [*product([one, kept, three, rest], [shuffled, replayed, batched]), (one, lambda: shuffled(**PERSISTENT))],
)
@pytest.mark.parametrize("commits", [False, True])
def test_a_look_at_another_loader_of_the_same_run(make: Any, look: Any, commits: bool) -> None:
    """`next(iter(data.train_dataloader()))` in mid-loop moves nothing either, and the loader of the loop counts on."""
    data = decorated(make)
    trained: list[list[int]] = []
    counted: list[int] = []
    for _ in range(2):
        for batch in data.train_dataloader():
            trained.append(batch.tolist())
            alive = look(data.train_dataloader()) if len(trained) in (2, 5) else None
            if commits:
                resumption_of(data).commit()
            counted.append(resumption_of(data).consumed_samples)
            del alive
    plain = decorated(make)
    assert [batch.tolist() for _ in range(2) for batch in plain.train_dataloader()] == trained
    assert [sum(map(len, trained[:number])) for number in range(1, 7)] == counted


def test_a_look_at_a_datamodules_loader_again_and_again_is_said() -> None:
    """Each new loader begins with the batch that the last one was left after, and the third look says so."""
    data = decorated(shuffled)
    first = [next(iter(data.train_dataloader())).tolist() for _ in range(2)]
    with pytest.warns(ResumptionWarning, match="taken for a look"):
        first.append(next(iter(data.train_dataloader())).tolist())
    assert [expected()[0]] * 3 == first
