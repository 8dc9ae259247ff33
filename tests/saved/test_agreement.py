"""Ranks at different positions all raise an error, before anything is saved or trained."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch.distributed as dist
from torch.utils.data import DataLoader

from resumable import (
    AgreementError,
    ConfigurationError,
    ConstantBatchSize,
    MismatchError,
    ResumableLoader,
    ResumptionState,
    StateError,
    resumable,
)
from resumable.adapters.distributed import AllGather, Ranks
from resumable.saved.agreement import RECORD_BYTES, check_agreement, record_of
from tests.support.cuts import saved_after_step
from tests.support.lightning_runs import Scenario, numbers
from tests.support.rank_runs import Session, refusal, run, uncut
from tests.support.ranks import in_ranks
from tests.support.reference import Loader

N = 24


def everyones(mine: Callable[[int], Any]) -> list[Any]:
    """What *mine* gives on each rank of a new process group."""
    dist.init_process_group("gloo")
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine(dist.get_rank()))
    dist.destroy_process_group()
    return found


def said(ranks: int, mine: Callable[[int], Any]) -> list[Any]:
    """The same, in so many processes."""
    found = in_ranks(ranks, partial(everyones, mine))
    assert found is not None
    return found


def loader_of(length: int = N, seed: int = 0, **options: Any) -> Any:
    """A loader whose ranks agree."""
    given = {"shuffle": True, "seed": seed, "ranks": Ranks(), "agreement": AllGather(), **options}
    return Loader(range(length), batch_size=2, **given)


def refused(work: Callable[[], Any], *errors: type[Exception]) -> str:
    """The name of the error and what it says."""
    with pytest.raises(errors or (AgreementError,)) as caught:
        work()
    return f"{type(caught.value).__name__}: {caught.value}"


def trained(loader: Any, batches: int) -> Any:
    """*loader*, after so many batches."""
    for _, _ in zip(range(batches), loader, strict=False):
        pass
    return loader


def saves(batches: Sequence[int], rank: int) -> Any:
    """Save after as many batches as this rank has trained."""
    loader = trained(loader_of(), batches[rank])
    return loader.state_dict() if len(set(batches)) == 1 else refused(loader.state_dict)


def test_ranks_that_agree_save_the_same() -> None:
    """Nothing is in the way, and the state is that of ranks that are not asked."""
    states = said(3, partial(saves, (2, 2, 2)))
    alone = trained(loader_of(ranks=None, agreement=None, data_parallel_rank=1, data_parallel_size=3), 2)
    assert [alone.state_dict()] * 3 == states


def test_ranks_that_disagree_are_listed() -> None:
    """Those that stand at one place together, in the order of the ranks; the same words on every rank."""
    told = said(3, partial(saves, (2, 1, 2)))
    assert 1 == len(set(told))
    lines = told[0].splitlines()
    assert "AgreementError: The ranks disagree on the position of the run." == lines[0]
    assert lines[1].startswith("  ranks 0, 2: 'consumed_samples=12 epoch=0 offset=12 canary=")
    assert lines[2].startswith("  rank 1:     'consumed_samples=6 epoch=0 offset=6 canary=")
    assert lines[3].startswith("Load the same checkpoint on every rank")


def loads(state: dict[str, Any], others: dict[str, Any], rank: int, **options: Any) -> tuple[str, bool]:
    """Load *state*, on rank 1 *others*; what it says and whether all is as it was."""
    loader = loader_of(**options)
    alone = copy.copy(loader.state)  # asks no other rank
    before = alone.state_dict()
    words = refused(lambda: loader.load_state_dict(others if rank == 1 else state), AgreementError, StateError)
    after = copy.copy(loader.state).state_dict()
    return words, before == after


def state_after(batches: int, **options: Any) -> dict[str, Any]:
    """A state that was saved on three ranks."""
    loader = loader_of(ranks=None, agreement=None, data_parallel_rank=0, data_parallel_size=3, **options)
    state: dict[str, Any] = trained(loader, batches).state_dict()
    return state


def test_different_checkpoints_are_loaded_on_no_rank() -> None:
    """A checkpoint that is older on one rank: all ranks say so, and stand where they stood."""
    found = said(3, partial(loads, state_after(3), state_after(1)))
    assert [True] * 3 == [is_as_before for _, is_as_before in found]
    assert 1 == len({words for words, _ in found})
    assert "ranks 0, 2: 'consumed_samples=18 " in found[0][0]
    assert "rank 1:     'consumed_samples=6 " in found[0][0]


def test_one_rank_that_cannot_load() -> None:
    """It raises its own error, and the others that of the ranks, instead of waiting for it in a collective."""
    found = said(3, partial(loads, state_after(3), {"consumed_samples": -1}))
    assert [True] * 3 == [is_as_before for _, is_as_before in found]
    assert found[0] == found[2]
    assert found[0][0].startswith("AgreementError: The ranks disagree on the position of the run.")
    assert (
        "rank 1:     \"failed=StateError with=The saved 'consumed_samples' must be a whole number from 0 to 2**63 - 1.\""
        in found[0][0]
    )
    assert found[1][0].startswith(
        "StateError: The saved 'consumed_samples' must be a whole number from 0 to 2**63 - 1."
    )


def differs(options: Sequence[dict[str, Any]], rank: int) -> str:
    """Load a bare count, which fits everything, into a loader that is another on each rank."""
    loader = loader_of(**options[rank])
    return refused(lambda: loader.load_state_dict({"consumed_samples": 8}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([{"length": N}, {"length": N + 1}], ["length=24", "length=25"]),
        ([{"seed": 1}, {"seed": 2}], ["seed=1", "seed=2"]),
        ([{"shuffle": True}, {"shuffle": False, "seed": None}], ["order=shuffled", "order=sequential"]),
    ],
    ids=["datasets", "seeds", "orders"],
)
def test_different_datasets_and_seeds_are_refused(options: list[dict[str, Any]], words: list[str]) -> None:
    """What the position alone does not show: the ranks would train samples twice and others never."""
    told = said(2, partial(differs, options))
    assert told[0] == told[1]
    assert words[0] in told[0].splitlines()[1]
    assert words[1] in told[0].splitlines()[2]


def of_a_group(rank: int) -> list[str]:
    """Only the first two ranks are asked."""
    group: Any = dist.new_group([0, 1])
    if rank == 2:
        return []
    loader = loader_of(ranks=Ranks(group), agreement=AllGather(group))
    return sorted(trained(loader, 1).state_dict())


def test_a_group_of_ranks_agrees_alone() -> None:
    """The others are neither asked nor awaited."""
    first, second, third = said(3, of_a_group)
    assert (first, []) == (second, third)
    assert "consumed_samples" in first


def saves_to_a_file(folder: str, rank: int) -> int:
    """Rank 0 alone writes the file, without asking the others; then all load it."""
    loader = trained(loader_of(), 2)
    if rank == 0:
        loader.state.save(f"{folder}/state.json")
    dist.barrier()
    again = loader_of()
    again.load_state_dict(ResumptionState.load(f"{folder}/state.json").state_dict())
    return int(again.state.consumed_samples)


def test_a_state_file_is_written_by_one_rank(tmp_path: Any) -> None:
    """The file is the same whoever writes it."""
    assert [8, 8] == said(2, partial(saves_to_a_file, str(tmp_path)))


def test_a_process_alone_agrees_with_itself() -> None:
    """The same script runs without a process group."""
    loader = trained(loader_of(ranks=None), 2)
    again = loader_of(ranks=None)
    again.load_state_dict(loader.state_dict())
    assert loader.state_dict() == again.state_dict()


# In Lightning.


@resumable(agreement=AllGather())
class AgreeingNumbers(L.LightningDataModule):
    """The same data on each rank."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self.scenario = scenario

    def train_dataloader(self) -> Any:
        return self.scenario.loader()

    def val_dataloader(self) -> Any:
        return DataLoader(numbers(100, 106), batch_size=2)


class UnlikeNumbers(AgreeingNumbers):
    """A sample more on rank 1."""

    def train_dataloader(self) -> Any:
        trainer: Any = self.trainer
        return self.scenario.loader(numbers(self.scenario.samples + trainer.global_rank))


def test_lightnings_ranks_agree() -> None:
    """Every save and load, and each train loader, is a question to all ranks; the run is that of ranks not asked."""
    scenario = Scenario(data=AgreeingNumbers, trainer={"max_epochs": 2})
    plain = Scenario(trainer={"max_epochs": 2})
    session = Session(2, scenario, saved_after_step(2))
    assert uncut(plain, 2).steps == run(session, Session(2, scenario)).steps


def test_lightnings_ranks_with_different_datasets_are_refused() -> None:
    """It is said before the first step."""
    told = refusal(Session(2, Scenario(data=UnlikeNumbers)))
    assert told.startswith("The ranks disagree on the position of the run.")
    assert "length=22" in told
    assert "length=23" in told


# The records themselves.


def test_records_are_of_one_length() -> None:
    """The longest of numbers and names fit, and what does not fit is said at least in its digest."""
    state: dict[str, Any] = {
        "consumed_samples": 2**63, "epoch": 2**63, "offset": 2**63, "global_step": 2**63, "canary": 32 * "f",
        "order": [100 * "k", 2**60, 2**64 - 1], "loaders": [],
    }  # fmt: skip
    first = record_of(state)
    assert RECORD_BYTES == len(first)
    said = json.loads(first)
    assert (2**63, 80 * "k", 2**64 - 1) == (said["consumed_samples"], said["order"], said["seed"])
    other = {**state, "order": [100 * "k" + "!", 2**60, 2**64 - 1]}
    for odd in ('"', "é", "\U0001f40d"):
        record = record_of({**state, "order": [100 * odd, *state["order"][1:]]})
        assert (RECORD_BYTES, 2**63) == (len(record), json.loads(record)["offset"])
    with pytest.raises(AgreementError, match=r"all=[0-9a-f]{8}'\n  rank 1: .*all=[0-9a-f]{8}'"):
        check_agreement([first, record_of(other)])


def test_many_ranks_are_counted() -> None:
    """Thousands of ranks do not make a message of thousands of words."""
    records = [record_of({"consumed_samples": rank % 2}) for rank in range(4096)]
    with pytest.raises(AgreementError) as caught:
        check_agreement(records)
    assert "  ranks 0, 2, 4, 6, 8, 10, 12, 14 and 2040 more: 'consumed_samples=0'" in str(caught.value).splitlines()
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


def test_agreement_is_asked_once_each() -> None:
    """One all-gather for each save and each load, and none otherwise."""
    asked: list[int] = []

    def gather(record: bytes, /) -> list[bytes]:
        asked.append(len(record))
        return [record]

    loader = ResumableLoader[Any](numbers(8), batch_size=2, agreement=gather)
    for _ in loader:
        assert [] == asked
    state = loader.state_dict()
    assert [RECORD_BYTES] == asked
    loader.load_state_dict(state)
    with pytest.raises(MismatchError):
        loader.load_state_dict({**state, "canary": "00000000"})
    assert 3 == len(asked)


def test_a_rank_whose_loader_cannot_be_trained_tells_the_others() -> None:
    """Other ranks may have a loader that can, and would wait for this one in their next collective."""
    records: list[bytes] = []

    def gather(record: bytes, /) -> list[bytes]:
        records.append(record)
        return [record]

    @resumable(agreement=gather, schedule=ConstantBatchSize(3))
    class Data:
        trainer: Any = None

        def train_dataloader(self) -> Any:
            return DataLoader(numbers(12), batch_size=2)

    with pytest.raises(ConfigurationError):
        Data().train_dataloader()
    assert ["ConfigurationError"] == [json.loads(record)["failed"] for record in records]
