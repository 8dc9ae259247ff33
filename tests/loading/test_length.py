"""A dataset whose length changes between two passes of a loop."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from resumable import ConfigurationError, ConstantBatchSize, MismatchError, ResumableLoader, resumable, resumption_of


class Buffer:
    """A dataset that grows and shrinks, and knows no index past its end."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return index


def loader_of(length: int, **options: Any) -> ResumableLoader:
    """A loader over a dataset that has this length when it is made."""
    return ResumableLoader(Buffer(length), 3, shuffle=True, **options)


def trained(
    lengths: list[int], cuts: set[int], options: dict[str, Any]
) -> tuple[list[tuple[int, list[int]]], ResumableLoader]:
    """The batches of each epoch of a run that is killed and resumed at *cuts*, and its last loader."""
    batches: list[tuple[int, list[int]]] = []
    loader = loader_of(lengths[0], **options)
    while loader.epoch < len(lengths):
        epoch = loader.epoch
        buffer: Any = loader.dataset
        buffer.length = lengths[epoch]
        assert len(loader) == len(DataLoader(buffer, 3, drop_last=loader.drop_last))
        for batch in loader:
            batches.append((epoch, batch.tolist()))
            assert len(batches) < 100, "the run does not end"
            loader.commit()
            if len(batches) in cuts:
                saved = loader.state_dict()
                loader = loader_of(saved["order"][1], **options)
                loader.load_state_dict(saved)
                assert saved == loader.state_dict()
                break
    return batches, loader


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(3, 14), min_size=2, max_size=4),
    cuts=st.sets(st.integers(1, 20), max_size=4),
    options=st.sampled_from([{}, {"drop_last": True}, {"schedule": ConstantBatchSize(3)}]),
)
def test_a_dataset_is_trained_with_the_length_that_it_has_at_the_epoch_s_start(
    lengths: list[int], cuts: set[int], options: dict[str, Any]
) -> None:
    """Each epoch has every sample once, resumes are exact, and the ledger counts each epoch with its length."""
    batches, loader = trained(lengths, set(), options)
    again, resumed = trained(lengths, cuts, options)
    assert (batches, loader.state_dict()) == (again, resumed.state_dict())
    for epoch, length in enumerate(lengths):
        samples = [index for of, batch in batches if of == epoch for index in batch]
        assert len(samples) == len(set(samples)) == (length // 3 * 3 if loader.drop_last else length)
    counts = [sum(len(batch) for _, batch in batches[:step]) for step in range(len(batches) + 1)]
    ledger = loader.state.ledger
    assert counts == [ledger.consumed_samples_at(step) for step in range(len(counts))]
    assert list(range(len(counts))) == list(map(ledger.global_step_at, counts))


def test_an_epoch_that_has_begun_keeps_its_length() -> None:
    """A pass that goes on in its middle trains what it began with; only the next epoch has the new samples."""
    loader = loader_of(6)
    buffer: Any = loader.dataset
    first = next(iter(loader)).tolist()
    loader.commit()
    buffer.length = 9
    assert list(range(6)) == sorted([*first, *(index for batch in loader for index in batch.tolist())])
    assert list(range(9)) == sorted(index for batch in loader for index in batch.tolist())


@pytest.mark.parametrize(("options", "length"), [({}, 5), ({"drop_last": "carry"}, 7), ({"drop_last": "carry"}, 9)])
def test_an_epoch_that_cannot_go_on_is_refused(options: dict[str, Any], length: int) -> None:
    """Its indices are no longer there, or its end leads into an epoch of another length; saving is still possible."""
    loader = loader_of(8, **options)
    buffer: Any = loader.dataset
    next(iter(loader))
    loader.commit()
    buffer.length = length
    assert 3 == loader.state_dict()["offset"]
    with pytest.raises(ConfigurationError) as refused:
        iter(loader)
    assert f"""\
The length of the dataset has changed in the middle of an epoch.
  length at its start: 8
  now:                 {length}
  position:            Position(consumed_samples=3, epoch=0, offset=3)
Change it between two epochs, and not with drop_last='carry', where they overlap.""" == str(refused.value)


def test_an_order_of_the_user_s_follows_by_itself() -> None:
    """Or the next pass is refused."""

    class Backwards:
        def __init__(self, buffer: Buffer) -> None:
            self.buffer = buffer

        def __len__(self) -> int:
            return self.buffer.length

        def indices(self, epoch: int, start: int, stop: int, /) -> Any:
            return len(self) - 1 - np.arange(start, stop)

    buffer = Buffer(4)
    loader = ResumableLoader(buffer, 4, order=Backwards(buffer))
    assert [[3, 2, 1, 0]] == [batch.tolist() for batch in loader]
    buffer.length = 6
    assert [[5, 4, 3, 2], [1, 0]] == [batch.tolist() for batch in loader]

    loader = ResumableLoader(buffer, 4, order=Backwards(Buffer(6)))
    list(loader)
    buffer.length = 7
    with pytest.raises(ConfigurationError, match="different lengths"):
        iter(loader)


def test_a_state_of_another_length_is_refused() -> None:
    """A loader that was made before its dataset was filled takes the state of the filled one, and no other."""
    full = loader_of(9)
    list(full)
    loader = loader_of(3)
    buffer: Any = loader.dataset
    buffer.length = 9
    loader.load_state_dict(full.state_dict())
    assert (1, "exact") == (loader.epoch, loader.state.verdict.outcome)
    with pytest.raises(MismatchError, match="another length"):
        loader_of(8).load_state_dict(full.state_dict())


@pytest.mark.parametrize("makes", [DataLoader, ResumableLoader])
def test_a_decorated_datamodule_in_a_loop(makes: Any) -> None:
    """Its loader follows as well, and the datamodule's state counts."""

    @resumable
    class Data:
        trainer: Any = None

        def __init__(self, length: int) -> None:
            self.buffer = Buffer(length)

        def train_dataloader(self) -> Any:
            return makes(self.buffer, 3, shuffle=True)

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state_dict: Any) -> None:
            pass

    def batches(data: Data, loader: Any, grow: int) -> list[list[int]]:
        found = [batch.tolist() for batch in loader]
        data.buffer.length += grow
        return found

    data = Data(4)
    again = [batches(data, data.train_dataloader(), 3), batches(data, data.train_dataloader(), 0)]
    data = Data(4)
    loader = data.train_dataloader()
    whole = [batches(data, loader, 3), batches(data, loader, 0)]
    assert whole == again
    assert [list(range(4)), list(range(7))] == [sorted(chain.from_iterable(each)) for each in whole]
    assert [4, 7] == [stretch.length for stretch in resumption_of(data).ledger]

    data = Data(4)
    loader = data.train_dataloader()
    batches(data, loader, 3)
    next(iter(loader))
    saved = resumption_of(data).state_dict()
    resumed = Data(7)
    resumption_of(resumed).load_state_dict({**saved, "offset": 3, "consumed_samples": 7})
    assert whole[1][1:] == batches(resumed, resumed.train_dataloader(), 0)
