"""A train loader that cannot begin at the count is refused before its first batch, or warned of; never left in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from resumable import ConfigurationError, ResumptionWarning, resumable
from tests.support.megatron_shapes import InOrder, ShuffledBatches
from tests.support.sampler_loop import Steps


class Sampler:
    """A data sampler whose loaders *wrap* makes of Megatron's; steps of 8 samples, in micro batches of 8."""

    def __init__(self, batches: Callable[[int, int], Any], **others: Any) -> None:
        self.batches = batches
        self.global_batch_size = 8
        self.init_global_step = self.init_consumed_samples = self.prev_consumed_samples = self.if_first_step = 0
        vars(self).update(others)

    def compute_consumed_samples(self, steps_since_resume: int = 0) -> int:
        """In steps of 8."""
        return int(self.init_consumed_samples) + 8 * steps_since_resume

    def transform_dataloader(self, dataloader: Any, consumed_samples: int = 0) -> DataLoader[Any]:
        """With Megatron's batches."""
        batches = self.batches(len(dataloader.dataset), self.init_consumed_samples)
        return DataLoader(dataloader.dataset, batch_sampler=batches)


class Wrapper:
    """A loader of another class, which forwards what it does not know."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Any]:
        yield from self.inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


class Stream(IterableDataset[int]):
    """Numbers."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(64))


def data(loaders: Callable[[Any], Any], sampler: Any = None, global_step: int = 0) -> Any:
    """A decorated datamodule in a loop, whose loaders are made of the data sampler."""

    @resumable(sampler="data_sampler")
    class Data:
        def __init__(self) -> None:
            self.trainer = Steps(global_step)
            self.data_sampler = sampler or Sampler(megatron)

        def train_dataloader(self) -> Any:
            return loaders(self.data_sampler)

    return Data()


def megatron(total: int, consumed: int) -> InOrder:
    """A batch sampler with a count."""
    return InOrder(total, consumed, micro_batch_size=8)


def made(sampler: Sampler, length: int = 64) -> DataLoader[Any]:
    """A train loader as NeMo makes one."""
    return sampler.transform_dataloader(DataLoader(range(length)))  # type: ignore[arg-type]  # a range will do


class Uncounted:
    """A batch sampler that begins where it is told, and does not say where that was."""

    def __init__(self, total: int, first: int) -> None:
        self.total, self.first = total, first

    def __len__(self) -> int:
        return self.total // 8

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(self.first, self.total - 7, 8):
            yield list(range(start, start + 8))


REFUSED: dict[str, Callable[[Any], Any]] = {
    "another name for the count": lambda sampler: made(Sampler(Uncounted)),
    "torch's own": lambda sampler: DataLoader(range(64), batch_size=8),  # type: ignore[arg-type]
    "torch's own, shuffled": lambda sampler: DataLoader(range(64), batch_size=8, shuffle=True),  # type: ignore[arg-type]
    "without batches": lambda sampler: DataLoader(range(64), batch_size=None),  # type: ignore[arg-type]
    "one of several": lambda sampler: [made(sampler), made(Sampler(Uncounted))],
    "in a dict": lambda sampler: {"a": {"b": made(Sampler(Uncounted))}},
}


def leaves(tree: Any) -> list[Any]:
    """The loaders in *tree*."""
    branches = cast("dict[str, Any]", tree).values() if isinstance(tree, dict) else cast("list[Any]", tree)
    return [leaf for branch in branches for leaf in leaves(branch)] if isinstance(tree, (dict, list)) else [tree]


@pytest.mark.parametrize("loaders", REFUSED.values(), ids=REFUSED)
def test_batches_without_a_count_are_refused(loaders: Callable[[Any], Any]) -> None:
    """At the first draw, since a strategy may still transform the loader; the missing attribute is named."""
    last = leaves(data(loaders).train_dataloader())[-1]
    with pytest.raises(
        ConfigurationError, match=r"cannot begin where(?s:.*)missing: .*consumed_samples, the attribute"
    ):
        iter(last)


def test_a_fit_without_a_count_does_not_begin() -> None:
    """Nothing is trained before the refusal."""

    @resumable
    class Data(L.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.data_sampler = Sampler(Uncounted)

        def train_dataloader(self) -> Any:
            return made(self.data_sampler)

    class Model(L.LightningModule):
        def training_step(self, batch: Any) -> None:
            pytest.fail("a batch was trained")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])

    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(RuntimeError) as caught:  # Lightning's own, in its teardown after the refusal
        trainer.fit(Model(), Data())
    assert isinstance(caught.value.__context__, ConfigurationError)


def test_a_strategy_transforms_what_would_be_refused() -> None:
    """The loader of the datamodule is torch's own until then."""
    own = data(lambda sampler: DataLoader(range(64), batch_size=8), global_step=3)  # type: ignore[arg-type]
    loader = own.train_dataloader()
    assert list(range(24, 32)) == next(iter(own.data_sampler.transform_dataloader(loader))).tolist()


PLACED: dict[str, Callable[[Any], Any]] = {
    "as NeMo has it": made,
    "wrapped": lambda sampler: Wrapper(made(sampler)),
    "wrapped twice": lambda sampler: Wrapper(Wrapper(made(sampler))),
    "made without the data sampler": lambda sampler: DataLoader(range(64), batch_sampler=megatron(64, 40)),  # type: ignore[arg-type]
    "wrapped, made without it": lambda sampler: Wrapper(DataLoader(range(64), batch_sampler=megatron(64, 40))),  # type: ignore[arg-type]
    "a list": lambda sampler: [made(sampler), made(sampler)],
    "a dict": lambda sampler: {"a": [made(sampler)], "b": made(sampler)},
    "batches by a sampler": lambda sampler: DataLoader(
        torch.arange(64),  # type: ignore[arg-type]
        sampler=megatron(64, 40),
        batch_size=None,
    ),
}


@pytest.mark.parametrize("loaders", PLACED.values(), ids=PLACED)
def test_whatever_holds_a_count_begins_there(loaders: Callable[[Any], Any]) -> None:
    """In loaders of any class and in any nesting, whoever made them."""
    for loader in leaves(data(loaders, global_step=3).train_dataloader()):
        assert list(range(24, 32)) == next(iter(loader)).tolist()


LEFT: dict[str, Callable[[Any], Any]] = {
    "a stream": lambda sampler: DataLoader(Stream(), batch_size=8),
    "a list of batches": lambda sampler: [[0], [1]],
    "an iterator": lambda sampler: iter(made(Sampler(Uncounted))),
    "wrapped": lambda sampler: Wrapper(made(Sampler(Uncounted))),
    "one of several": lambda sampler: [made(sampler), Wrapper(DataLoader(Stream()))],
}


@pytest.mark.parametrize("loaders", LEFT.values(), ids=LEFT)
def test_what_begins_where_it_likes_is_warned_of(loaders: Callable[[Any], Any]) -> None:
    """Once for each time that the loaders are built."""
    with pytest.warns(ResumptionWarning, match="is left to begin where it likes") as caught:
        data(loaders).train_dataloader()
    assert 1 == len(caught)


class Bare:
    """A batch sampler with a count and what else it is given."""

    def __init__(self, total: int, consumed_samples: int, known: Mapping[str, int]) -> None:
        self._total = total
        self.consumed_samples = consumed_samples
        vars(self).update(known)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(self.consumed_samples, self._total - 7, 8):
            yield list(range(start, start + 8))


class BareWithLength(Bare):
    """The same, with a length."""

    def __len__(self) -> int:
        return (self._total - self.consumed_samples) // 8


ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "total_samples": st.just(64),
        "micro_batch_times_data_parallel_size": st.just(8),
        "micro_batch_size": st.just(4),
        "data_parallel_size": st.just(2),
    },
)


@given(
    known=ATTRIBUTES,
    others=ATTRIBUTES,
    step=st.integers(0, 20),
    kind=st.sampled_from(["batch", "single", "cyclic", None]),
    batches=st.sampled_from([Bare, BareWithLength]),
)
def test_a_count_is_enough_where_the_sizes_are_known(
    known: Mapping[str, int], others: Mapping[str, int], step: int, kind: str | None, batches: type[Bare]
) -> None:
    """From the batch sampler, the data sampler or the dataset; otherwise the missing attribute is named."""
    kinds = {} if kind is None else {"dataloader_type": kind}
    sampler = Sampler(lambda total, consumed: batches(total, consumed, known), **others, **kinds)
    own = data(made, sampler, global_step=step)
    both = {**others, **known}
    if (
        kind != "batch"
        and not {"micro_batch_times_data_parallel_size"} & {*known}
        and len({*both} & SIZES) < len(SIZES)
    ):
        with pytest.raises(ConfigurationError, match=r"missing: .*micro_batch_times_data_parallel_size"):
            own.train_dataloader()
        return
    loader = own.train_dataloader()
    offset = step % 8 * 8
    assert [list(range(start, start + 8)) for start in range(offset, 64, 8)] == [batch.tolist() for batch in loader]
    assert 8 == len(loader)


SIZES = {"micro_batch_size", "data_parallel_size"}


def test_the_epochs_of_two_loaders_are_one() -> None:
    """Loaders of unlike length would need positions of their own; only the first could be counted."""
    with pytest.raises(ConfigurationError, match=r"the epochs of one train loader(?s:.*)\(64, 8\)(?s:.*)\(32, 8\)"):
        data(lambda sampler: [made(sampler), made(sampler, 32)]).train_dataloader()


def test_an_epoch_of_shuffled_global_batches_in_a_loop() -> None:
    """Without a trainer of Lightning's, the epoch follows from the count."""
    sampler = Sampler(lambda total, consumed: ShuffledBatches(total, consumed, micro_batch_size=8))
    loader = data(made, sampler, global_step=19).train_dataloader()
    undecorated = list(ShuffledBatches(64, 19 * 8, micro_batch_size=8))
    assert (5, undecorated) == (len(undecorated), [batch.tolist() for batch in loader])
