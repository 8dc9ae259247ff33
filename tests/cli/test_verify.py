"""`resumable verify`: the verdict of resuming a checkpoint with some code, and its exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from resumable import ResumableLoader
from resumable.cli.main import main
from tests.support.lightning_runs import Scenario, train

CODE = """
import lightning as L
import torch
from torch.utils.data import DataLoader
from resumable import ResumableLoader, resumable

@resumable
class Numbers(L.LightningDataModule):
    def __init__(self, samples=22, batch_size=4, seed=None):
        super().__init__()
        self.samples, self.batch_size = samples, batch_size
    def setup(self, stage):
        self.numbers = range(self.samples)
    def train_dataloader(self):
        return DataLoader(self.numbers, batch_size=self.batch_size, shuffle=True)

@resumable
class Renamed(Numbers):
    pass

class Plain(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(range(22), batch_size=4, shuffle=True)

def loader(samples=100, batch_size=5, **options):
    return ResumableLoader(range(samples), batch_size, shuffle=True, **options)

def fails():
    raise OSError("no such disk")

def foreign():
    from torchdata.stateful_dataloader import StatefulDataLoader
    return StatefulDataLoader(range(100), batch_size=5)

class Outer:
    @resumable
    class Renamed(Numbers):
        pass

ready = loader()
number = 7
"""


@pytest.fixture(autouse=True)
def _code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the user's module, from which the command is called."""
    (tmp_path / "users_module.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "users_module", raising=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A checkpoint of Lightning, of a decorated datamodule of two accumulated batches."""
    saver = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=2, enable_version_counter=False)
    train(Scenario(trainer={"max_steps": 2, "accumulate_grad_batches": 2}), None, saver)
    return str(tmp_path / "last.ckpt")


@pytest.fixture
def state(tmp_path: Path) -> str:
    """A state file, of rank 0 of two."""
    loader = ResumableLoader(range(100), 5, shuffle=True, data_parallel_rank=0, data_parallel_size=2)
    endless = loader.forever()
    for _ in range(3):
        next(endless)
    loader.save(tmp_path / "state.json")
    return str(tmp_path / "state.json")


@pytest.mark.parametrize(
    ("arguments", "code_", "verdict"),
    [
        (["users_module:Numbers"], 0, "exact"),
        (["users_module.py:Numbers", "--strict"], 0, "exact"),
        (["users_module:Numbers", "-k", "batch_size=8"], 0, "regrouped"),
        (["users_module:Numbers", "-k", "batch_size=8", "--strict"], 1, "regrouped"),
        (["users_module:Numbers", "-k", "samples=30"], 1, "inexact"),
        (["users_module:Renamed"], 1, "refused"),
        (["users_module:Renamed", "--state", "Numbers"], 0, "exact"),
        (["users_module:Plain"], 1, "refused"),
        (["users_module:Outer.Renamed"], 1, "refused"),
    ],
)
def test_datamodules(
    arguments: list[str], code_: int, verdict: str, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class and its arguments against a checkpoint of Lightning: by its name, its length and its batches."""
    assert code_ == main(["verify", checkpoint, *arguments, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (code_ == 0, verdict) == (told["exact"], told["verdict"])


@pytest.mark.parametrize(
    ("arguments", "code_"),
    [
        (["users_module:loader"], 0),
        (["users_module:ready"], 0),
        (["users_module:loader", "-k", "samples=90"], 1),
        (["users_module:loader", "-k", "seed=3"], 1),
        (["users_module:loader", "-k", "seed=3", "-k", "on_mismatch=warn"], 1),
        (["users_module:loader", "-k", "batch_size=10"], 0),
    ],
)
def test_loaders(arguments: list[str], code_: int, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A function that makes a loader, or a loader: ranks are not compared, since this is one process."""
    assert code_ == main(["verify", state, *arguments])
    assert (
        "Not compared, since the trainer decides it: number of data-parallel ranks: saved 2." in capsys.readouterr().out
    )


def test_the_verdict_in_words(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both values, and what to do."""
    main(["verify", state, "users_module:loader", "-k", "seed=3"])
    assert capsys.readouterr().out.endswith(
        "Verdict: not exact\n"
        "The order has another seed.\n"
        "  saved:   0\n"
        "  current: 3\n"
        "  Pass seed=0, or pass no seed: the saved one is taken over.\n"
    )


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("users_module", "is not MODULE:NAME"),
        ("nowhere:Data", "There is no module nowhere"),
        ("nowhere.py:Data", "there is no file nowhere.py"),
        ("users_module:Nothing", "users_module has no Nothing"),
        ("users_module:fails", "OSError: no such disk"),
        ("users_module:foreign", "it must be a datamodule or a ResumableLoader"),
        ("users_module:number", "it must be a datamodule or a ResumableLoader"),
    ],
)
def test_wrong_use(target: str, says: str, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be imported or made ends with 2 and one line."""
    assert 2 == main(["verify", state, target])
    shown = capsys.readouterr()
    assert ("", 1, True) == (shown.out, len(shown.err.splitlines()), says in shown.err)


def test_wrong_arguments(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments that the code does not take are told with the way to give others."""
    assert 2 == main(["verify", state, "users_module:Numbers", "-k", "size=3"])
    assert "Give its arguments with -k NAME=VALUE." in capsys.readouterr().err
    assert 2 == main(["verify", state, "users_module:Numbers", "-k", "size"])
    assert "-k size is not NAME=VALUE" in capsys.readouterr().err


def test_nothing_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint without a position ends with 3, before any code is run."""
    torch.save({"model": {}}, tmp_path / "a.pt")
    assert 3 == main(["verify", str(tmp_path / "a.pt"), "users_module:fails"])
    assert 1 == len(capsys.readouterr().err.splitlines())
