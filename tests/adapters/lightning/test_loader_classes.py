"""Loader classes with an `__iter__` of their own, under Lightning, which counts what they yield."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from torch.utils.data import DataLoader, IterableDataset

from resumable import ResumptionWarning
from tests.support.cuts import raised_in, saved_after_step
from tests.support.lightning_runs import PlainNumbers, Scenario, check, resumed, uninterrupted
from tests.support.loader_classes import EXACT, LEFT_OUT, OTHERS, SHAPES, class_of, the_first_two

READS_ON = ["two_rounds"]
"""Lightning stops at the loader's length, before these go wrong."""
OTHER = [shape.__name__ for shape in (*LEFT_OUT, the_first_two, *OTHERS) if shape.__name__ not in READS_ON]


def scenario(shape: str, **options: object) -> Scenario:
    """A run with a loader of that shape."""
    cls = class_of(DataLoader, SHAPES[shape])
    return Scenario(samples=13, batch_size=2, loaders=lambda s: s.loader(cls=cls), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [*(shape.__name__ for shape in EXACT), *READS_ON])
def test_what_yields_its_samplers_batches_is_exact(shape: str) -> None:
    """One for one, changed or read ahead."""
    check(scenario(shape), saved_after_step(2), raised_in("training_step", (1, 2)))


@pytest.mark.parametrize("shape", OTHER)
def test_what_yields_others_is_warned_of_and_trains(shape: str) -> None:
    """The warning comes in the first session, which takes as many steps as without the decorator."""
    with pytest.warns(ResumptionWarning, match=f"{shape} yields other batches than its sampler"):
        whole = uninterrupted(scenario(shape))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResumptionWarning)
        after = resumed(scenario(shape), saved_after_step(2))
    assert after == whole or caught
    if shape not in {"every_other", "every_other_changed"}:  # whose number of batches depends on the shuffling
        assert len(uninterrupted(scenario(shape, data=PlainNumbers)).steps) == len(whole.steps)


class PromisesMore(DataLoader[int]):
    """A loader with fewer batches than its length says."""

    def __len__(self) -> int:
        return super().__len__() + 3


@pytest.mark.parametrize("step", [6, 7, 8, 14])
def test_an_epoch_is_over_where_its_last_batch_is_trained(step: int) -> None:
    """Also where a length promises more, which Lightning's counters believe."""
    cls = PromisesMore
    promising = Scenario(samples=13, batch_size=2, loaders=lambda s: s.loader(cls=cls))
    check(promising, saved_after_step(step))


class Stream(IterableDataset[int]):
    """A few numbers, which are read again up to a position."""

    def __iter__(self) -> Iterator[int]:
        return (7 * i % 13 for i in range(13))


@pytest.mark.filterwarnings("ignore:This resume reads the stream again")
@pytest.mark.parametrize("shape", ["changed", "ahead", "halves", "twice", "every_other", "all_but_the_first", "merged"])
def test_a_streams_batches_are_read_again_as_its_class_makes_them(shape: str) -> None:
    """Whatever it makes of them, it makes the same again."""
    cls = class_of(DataLoader, SHAPES[shape])
    stream = Scenario(batch_size=1, shuffle=False, loaders=lambda s: cls(Stream(), batch_size=2))
    assert uninterrupted(stream) == resumed(stream, saved_after_step(3), saved_after_step(5))


def test_a_class_that_keeps_a_streams_batches_is_warned_of() -> None:
    """Passes that read nothing of the stream have no position in it."""
    cls = class_of(DataLoader, SHAPES["kept"])
    with pytest.warns(ResumptionWarning, match=r"kept yields other batches.*\n.*\n.*not read in this pass"):
        uninterrupted(Scenario(loaders=lambda s: cls(Stream(), batch_size=2)))
