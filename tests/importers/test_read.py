"""Each tool's own checkpoint is read: where the run was, under which name, after how many steps."""

from __future__ import annotations

import argparse
import collections
import enum
import json
import pickle
from pathlib import Path
from typing import Any, cast

import accelerate
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as checkpoints
from lightning.pytorch.callbacks import ModelCheckpoint
from torchdata.stateful_dataloader import StatefulDataLoader

from resumable import ResumableLoader, ResumptionState, StateError
from resumable.adapters.accelerate import prepare
from resumable.importers import Found, read
from tests.support.lightning_runs import PlainNumbers, Scenario, numbers, train

dcp: Any = checkpoints


class Kind(enum.Enum):
    """An enum of a user's, as Megatron's arguments hold some."""

    ONE = 1


def loader_after(batches: int) -> ResumableLoader[Any]:
    """A loader that has trained *batches* batches of 5 among 100 samples."""
    loader = ResumableLoader(range(100), 5, shuffle=True)
    endless = loader.forever()
    for _ in range(batches):
        next(endless)
    return loader


def told(found: Found) -> tuple[str, int | None, list[tuple[str, int | None]]]:
    """The tool, the steps, and the samples of each state by its name."""
    states = [(each.name, None if each.snapshot is None else each.snapshot.consumed_samples) for each in found.states]
    return found.tool, found.steps, states


def test_a_state_file(tmp_path: Path) -> None:
    """The file of `save`, and a state as plain JSON."""
    loader = loader_after(23)
    loader.save(tmp_path / "state.json")
    (tmp_path / "plain.json").write_text(json.dumps({"data": loader.state_dict()}))
    assert ("a state file", None, [("", 115)]) == told(read(tmp_path / "state.json"))
    assert ("a state file", None, [("data", 115)]) == told(read(tmp_path / "plain.json"))


def test_lightning(tmp_path: Path) -> None:
    """A decorated datamodule's state is under its class's name, that of a handed loader under its place."""
    saver = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=3, enable_version_counter=False)
    train(Scenario(trainer={"max_steps": 3}), None, saver)
    assert ("Lightning", 3, [("Numbers", 12)]) == told(read(tmp_path / "last.ckpt"))
    handed = Scenario(
        loaders=lambda scenario: ResumableLoader(numbers(scenario.samples), 4),
        data=PlainNumbers,
        trainer={"max_steps": 2},
    )
    saver = ModelCheckpoint(tmp_path, filename="handed", every_n_train_steps=2, enable_version_counter=False)
    train(handed, None, saver)
    tool, steps, states = told(read(tmp_path / "handed.ckpt"))
    assert ("Lightning", 2, [8]) == (tool, steps, [count for _, count in states])


def test_lightning_without_a_position(tmp_path: Path) -> None:
    """A checkpoint of a run that saved none is told apart from what is no checkpoint."""
    saver = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)
    train(Scenario(data=PlainNumbers, trainer={"max_steps": 1}), None, saver)
    with pytest.raises(StateError, match="holds no position of the data"):
        read(tmp_path / "last.ckpt")


def test_accelerate(tmp_path: Path) -> None:
    """A folder of `save_state`, of a prepared loader."""
    accelerator = accelerate.Accelerator(cpu=True)
    loader = prepare(accelerator, ResumableLoader(range(100), 5))
    model: Any = cast("Any", accelerator).prepare(torch.nn.Linear(1, 1))
    for number, _ in enumerate(loader, 1):
        with accelerator.accumulate(model):
            pass
        if number == 3:
            break
    accelerator.save_state(str(tmp_path / "saved"))
    assert ("accelerate", None, [("dl_state_dict.bin", 15)]) == told(read(tmp_path / "saved"))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_dcp(tmp_path: Path) -> None:
    """States that DCP has taken apart are put together, at the top and further down."""
    loader = loader_after(7)
    content = {"loader": loader, "app": {"data": loader.state_dict()}, "weights": {"a": torch.ones(4)}, "step": 7}
    dcp.save(content, checkpoint_id=tmp_path / "dcp", no_dist=True)
    assert ("DCP", 7, [("app.data", 35), ("loader", 35)]) == (
        *told(read(tmp_path / "dcp"))[:2],
        sorted(told(read(tmp_path / "dcp"))[2]),
    )
    saved = {each.name: each.state for each in read(tmp_path / "dcp").states}
    assert loader.state_dict() == saved["loader"]


def test_megatron_lm(tmp_path: Path) -> None:
    """The newest iteration's arguments, in both layouts, whatever else they hold."""
    arguments = argparse.Namespace(
        consumed_train_samples=640, consumed_valid_samples=32, kind=Kind.ONE, path=tmp_path, numbers=np.arange(3)
    )
    content = {"args": arguments, "iteration": 10, "rng_state": [np.random.get_state()], "checkpoint_version": 3.0}  # noqa: NPY002
    old = tmp_path / "iter_0000010" / "mp_rank_00"
    old.mkdir(parents=True)
    torch.save(content, old / "model_optim_rng.pt")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("10\n")
    new = tmp_path / "iter_0000020"
    new.mkdir()
    torch.save({**content, "iteration": 20}, new / "common.pt")
    states = [("train", 640), ("validation", 32)]
    assert ("Megatron-LM", 10, states) == told(read(tmp_path))
    assert ("Megatron-LM", 10, states) == told(read(old / "model_optim_rng.pt"))
    assert ("Megatron-LM", 20, states) == told(read(new))


def test_megatron_lm_without_counts(tmp_path: Path) -> None:
    """Where only steps are known, steps are told and no count is made up."""
    torch.save({"iteration": 10, "model": {}}, tmp_path / "model_optim_rng.pt")
    assert ("Megatron-LM", 10, []) == told(read(tmp_path))


def test_nemo(tmp_path: Path) -> None:
    """A datamodule's count in `weights/common.pt`, also where it is NumPy's."""
    weights = tmp_path / "weights"
    weights.mkdir()
    content = {"global_step": 12, "PreTrainingDataModule": {"consumed_samples": np.int64(96)}, "loops": {}}
    torch.save({"pytorch-lightning_version": "2.4.0", "state_dict": {}, **content}, weights / "common.pt")
    expected = ("NeMo", 12, [("PreTrainingDataModule", 96)])
    assert [expected, expected] == [told(read(tmp_path)), told(read(weights))]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_nemo_among_the_shards(tmp_path: Path) -> None:
    """Newer releases keep the same as `common_state` in the distributed checkpoint."""
    content = {"global_step": 12, "Data": {"consumed_samples": 96}}
    for name, common in (("apart", content), ("whole", Whole(content))):
        saved = {"common_state": common, "w": torch.ones(3)}
        dcp.save(saved, checkpoint_id=tmp_path / name / "weights", no_dist=True)
        assert ("NeMo", 12, [("Data", 96)]) == told(read(tmp_path / name))


class Whole(collections.UserDict[str, Any]):
    """A value that DCP does not take apart."""


def test_megatron_bridge(tmp_path: Path) -> None:
    """Counts that are tensors of one element."""
    counts = {
        "step": 5,
        "consumed_train_samples": 500,
        "consumed_valid_samples": 7,
        "floating_point_operations_so_far": 1,
    }
    torch.save(
        {name: torch.tensor(value, dtype=torch.int32) for name, value in counts.items()}, tmp_path / "train_state.pt"
    )
    expected = ("Megatron-Bridge", 5, [("train", 500), ("validation", 7)])
    assert [expected, expected] == [told(read(tmp_path)), told(read(tmp_path / "train_state.pt"))]


def test_transformers(tmp_path: Path) -> None:
    """The newest checkpoint of a folder, or one of them; without a position, its steps."""
    for number, callbacks in ((9, {"resumable.loader": {"loader": loader_after(9).state_dict()}}), (10, {})):
        (tmp_path / f"checkpoint-{number}").mkdir()
        content = {"global_step": number, "epoch": 0.5, "stateful_callbacks": callbacks}
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text(json.dumps(content))
    assert ("transformers", 9, [("resumable.loader.loader", 45)]) == told(read(tmp_path / "checkpoint-9"))
    assert ("transformers", 10, []) == told(read(tmp_path))


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_torchdata(num_workers: int, tmp_path: Path) -> None:
    """A StatefulDataLoader counts batches, and they are told as such."""
    numbers_: Any = range(100)
    loader: Any = StatefulDataLoader(numbers_, batch_size=5, shuffle=True, num_workers=num_workers)
    batches = iter(loader)
    for _ in range(7):
        next(batches)
    torch.save(loader.state_dict(), tmp_path / "loader.pt")
    found = read(tmp_path / "loader.pt")
    assert ("torchdata", None, [("the loader", None)]) == told(found)
    assert (("batches yielded in its pass", 7),) == found.states[0].facts


@pytest.mark.parametrize("zipped", [True, False])
def test_a_loops_own_checkpoint(zipped: bool, tmp_path: Path) -> None:
    """A position under any key, in either form of torch.save, beside weights and objects of any class."""
    content: dict[str, Any] = {
        "model": torch.nn.Linear(3, 3).state_dict(),
        "position": [{"data": loader_after(7).state_dict()}],
        "extra": {"a": np.float64(3), "path": tmp_path, "counts": collections.defaultdict(list), "kind": Kind.ONE},
        "global_step": 7,
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert ("torch.save", 7, [("position[0].data", 35)]) == told(read(tmp_path / "a.pt"))
    assert loader_after(7).state_dict() == read(tmp_path / "a.pt").states[0].state


def test_a_plain_pickle(tmp_path: Path) -> None:
    """Old loops keep a pickle."""
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"consumed_samples": 640}))
    assert ("torch.save", None, [("", 640)]) == told(read(tmp_path / "a.pkl"))


def test_all_states_of_a_checkpoint_are_told(tmp_path: Path) -> None:
    """Two loaders have two states, and a content that refers to itself is searched once."""
    content: dict[str, Any] = {"train": loader_after(7).state_dict(), "valid": loader_after(3).state_dict()}
    content["again"] = content
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    assert [("train", 35), ("valid", 15)] == told(read(tmp_path / "a.pkl"))[2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "There is no checkpoint"),
        (b"", "cannot be read safely"),
        (b"\x00" * 100, "cannot be read safely"),
        (b"{", "no state file|damaged|torn"),
        (b"[1, 2]", "cannot be read safely"),
        (b'{"a": 1}', "holds no position"),
        ({"model": {}}, "holds no position"),
        ({"format": 9, "consumed_samples": 8, "epoch": 0, "offset": 8}, "is damaged"),
    ],
)
def test_what_cannot_be_read_is_said(content: Any, says: str, tmp_path: Path) -> None:
    """A StateError, which says what was found, and what was looked for."""
    path = tmp_path / "a.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(StateError, match=says):
        read(path)


def test_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    """An empty folder, one of something else, and a link to itself."""
    with pytest.raises(StateError, match="an empty folder"):
        read(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StateError, match=r"notes\.txt"):
        read(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(StateError, match="There is no checkpoint"):
        read(tmp_path / "link")


def test_a_state_that_was_read_can_be_loaded(tmp_path: Path) -> None:
    """What is found is a state as any other."""
    loader_after(7).save(tmp_path / "state.json")
    (found,) = read(tmp_path / "state.json").states
    state = ResumptionState()
    assert found.state is not None
    state.load_state_dict(found.state)
    assert 35 == state.consumed_samples
