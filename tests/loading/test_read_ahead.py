"""Wrappers that take batches from a loader ahead of the training, and `commit(batches=...)`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from resumable import ConfigurationError, ResumptionError, resumable, resumption_of
from resumable.steps.batch_plan import DropLast
from tests.support.reference import Loader
from tests.support.sharded import TAILS, ramped, steps_of

EPOCHS = 3


def ahead(batches: Iterable[Any], depth: int) -> Iterator[Any]:
    """*batches*, of which *depth* more are always taken already, as a prefetcher to a device does."""
    source = iter(batches)
    taken = deque(islice(source, depth))
    for batch in source:
        taken.append(batch)
        yield taken.popleft()
    yield from taken


def endless(loader: Any) -> Iterator[Any]:
    """Pass after pass."""
    while True:
        yield from loader


def each_epoch(loader: Any, depth: int) -> Iterator[Any]:
    """The epochs that are left, each read ahead by itself."""
    for _ in range(loader.epoch, EPOCHS):
        yield from ahead(loader, depth)


def across_epochs(loader: Any, depth: int) -> Iterator[Any]:
    """What is left of all epochs, read ahead over their ends."""
    loader.commit(batches=0)
    left = (EPOCHS - loader.epoch) * len(loader) - loader.batches_done
    return islice(ahead(endless(loader), depth), left)


class Reading(NamedTuple):
    """A loader and what reads it: *depth* batches ahead, *window* batches for a step, over epochs' ends or not."""

    samples: int
    batch_size: int
    drop_last: bool
    depth: int
    window: int
    wrapper: Callable[[Any, int], Iterator[Any]]

    def loader(self) -> Any:
        """A shuffled one."""
        size = min(self.batch_size, self.samples)
        return Loader(range(self.samples), size, shuffle=True, seed=1, drop_last=self.drop_last)


@settings(max_examples=60)
@given(
    st.builds(
        Reading,
        samples=st.integers(1, 14),
        batch_size=st.integers(1, 4),
        drop_last=st.booleans(),
        depth=st.integers(0, 5),
        window=st.integers(1, 3),
        wrapper=st.sampled_from([each_epoch, across_epochs]),
    ),
    st.lists(st.integers(0, 9), max_size=3),
)
@example(Reading(5, 2, False, 1, 1, each_epoch), [2, 1])  # the loader's pass has ended, its last batch is untrained
@example(Reading(2, 4, False, 3, 1, across_epochs), [1, 1])  # several epochs are read ahead
def test_a_wrapper_that_reads_ahead_goes_on_with_the_next_untrained_batch(reading: Reading, stops: list[int]) -> None:
    """However far it reads, within an epoch or over its end, and however many batches a step accumulates."""
    make, depth, window, wrapper = reading.loader, reading.depth, reading.window, reading.wrapper
    whole = [batch.tolist() for loader in [make()] for _ in range(EPOCHS) for batch in loader]
    trained: list[list[int]] = []
    state: dict[str, Any] | None = None
    for stop in (*stops, None):
        loader = make()
        if state is not None:
            loader.load_state_dict(json.loads(json.dumps(state)))
        loader.commit(batches=0)
        batches = wrapper(loader, depth)
        for _ in range(len(whole)) if stop is None else range(stop):
            step = [batch.tolist() for batch in islice(batches, window)]
            loader.commit(batches=len(step))
            trained += step
            assert sum(map(len, trained)) == loader.state.consumed_samples
        state = loader.state_dict()
    assert whole == trained


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("depth", [1, 5])
def test_steps_of_a_schedule_that_are_read_ahead(tail: DropLast, depth: int) -> None:
    """`num_microbatches` is that of the step that is trained next, and every cut goes on with the step after it."""
    expected = list(steps_of(ramped(tail=tail), EPOCHS))

    def steps(loader: Any) -> Iterator[list[list[int]]]:
        batches = ahead((batch for _ in range(loader.epoch, EPOCHS) for batch in loader), depth)
        loader.commit(batches=0)
        for batch in batches:
            number = loader.num_microbatches
            step = [batch.tolist(), *(each.tolist() for each in islice(batches, number - 1))]
            loader.commit(batches=number)
            yield step

    assert expected == list(steps(ramped(tail=tail)))
    for cut in range(len(expected)):
        loader, again = ramped(tail=tail), ramped(tail=tail)
        assert expected[:cut] == list(islice(steps(loader), cut))
        again.load_state_dict(loader.state_dict())
        assert expected[cut:] == list(steps(again))


def test_a_commit_ends_within_no_step_of_a_schedule() -> None:
    """A commit of part of a step, or of a step and a part, raises and moves nothing."""
    loader = ramped()
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    for part in (1, 3):
        with pytest.raises(ResumptionError, match=rf"micro batches of the step: 2\n  committed of them: +{part % 2}"):
            loader.commit(batches=part)
    for more in (6, 10**15):
        with pytest.raises(ResumptionError, match="More batches"):
            loader.commit(batches=more)
    assert 8 == loader.state.consumed_samples  # as long as nothing is committed, the steps that were yielded count
    loader.commit(batches=2)
    assert 4 == loader.state.consumed_samples


@pytest.mark.parametrize("batches", [-1, True, 1.0, "1", torch.tensor(1.5)], ids=repr)
def test_batches_are_a_whole_number_from_0_on(batches: Any) -> None:
    """Anything else raises, and moves nothing."""
    loader = Loader(range(8), 2)
    pass_ = iter(loader)
    next(pass_)
    with pytest.raises(ConfigurationError, match="batches"):
        loader.commit(batches=batches)
    assert (False, 2) == (loader.state_dict()["commits"], loader.state.consumed_samples)
    loader.commit(batches=np.int64(1))
    assert 2 == loader.state.consumed_samples


def test_no_more_is_committed_than_was_yielded() -> None:
    """The error shows both counts, and what was committed before stays."""
    loader = Loader(range(8), 2)
    with pytest.raises(ResumptionError, match="More batches"):
        loader.commit(batches=1)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    loader.commit(batches=2)
    with pytest.raises(ResumptionError, match=r"batches: +2\n  consumed_samples with them: 8\n  of all yielded: +6\n"):
        loader.commit(batches=2)
    assert 4 == loader.state.consumed_samples
    loader.commit()
    assert 6 == loader.state.consumed_samples


def test_a_first_commit_after_passes_without_one_is_refused() -> None:
    """Their batches counted when they were yielded: how many of them are trained, the loop has to say."""
    loader = Loader(range(8), 4)
    list(loader)
    batches = iter(loader)
    next(batches)
    with pytest.raises(ResumptionError, match=r"The first commit\(batches=\.\.\.\) came after"):
        loader.commit(batches=1)
    loader.commit()
    next(batches)
    loader.commit(batches=1)
    assert 16 == loader.state.consumed_samples


class ByHand(L.LightningModule):
    """Steps by hand, and commits one batch of two behind."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.data, self.seen, self.counted = data, list[int](), list[int]()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        """The batch before this one becomes trained."""
        self.seen.append(len(batch))
        state = resumption_of(self.data)
        state.commit(batches=int(len(self.seen) > 1))
        with pytest.raises(ResumptionError, match="More batches"):
            state.commit(batches=2)
        self.counted.append(state.consumed_samples)

    def configure_optimizers(self) -> Any:
        """Whatever."""
        return torch.optim.SGD(self.parameters())


def test_a_commit_by_number_under_lightning() -> None:
    """The batches that the trainer has begun are committed one by one, too."""

    @resumable
    class Data(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(range(8), batch_size=2)  # type: ignore[arg-type]

    model = ByHand(Data())
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    trainer.fit(model, model.data)
    assert [0, 2, 4, 6] == model.counted
