"""A process whose loader fails ends as it does without a shield: with the same error and exit code, and it does end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, ForkProcess
from pathlib import Path
from typing import Any, NoReturn

import pytest
from torch.utils.data import DataLoader, Sampler

from resumable import shield, stop_on
from tests.support.stopped_loops import FORK, exit_code_of

ROOT = Path(__file__).parents[2]
KEPT: list[BaseException] = []


class Bug(Exception):
    """A user's own."""


@dataclass(frozen=True)
class Failing(Sampler[int]):
    """A sampler, and a dataset, of 12 samples, in which something is wrong."""

    place: str

    def here(self, place: str) -> None:
        """Fail, if *place* is where."""
        if place == self.place:
            raise Bug(place)

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Iterator[int]:
        self.here("pass")
        return self.draws()

    def draws(self) -> Iterator[int]:
        """The samples' indices."""
        self.here("first draw")
        if self.place == "interrupted draw":
            raise KeyboardInterrupt
        yield from range(11)
        self.here("late draw")
        if self.place == "second pass" and KEPT:
            raise KEPT[0]
        yield 11

    def __getitem__(self, index: int) -> int:
        self.here("sample")
        if self.place == "dead worker":
            os._exit(3)
        return index

    def init(self, worker_id: int) -> None:
        """The user's `worker_init_fn`."""
        if worker_id:
            self.here("init")
        if self.place == "dead start":
            os._exit(4)

    def collate(self, samples: list[int]) -> list[int]:
        """The user's `collate_fn`."""
        self.here("collation")
        return samples

    def step(self, batch: list[int]) -> None:
        """What the training does with a batch."""
        if 5 in batch:
            self.here("step")
            if self.place == "exit":
                sys.exit(7)
        if 11 in batch and self.place == "second pass":
            KEPT.append(Bug(self.place))


class NoSecondProcess(ForkProcess):
    """A worker whose start fails for want of processes, once one is alive."""

    started = 0

    def start(self) -> None:
        NoSecondProcess.started += 1
        if NoSecondProcess.started == 2:
            raise OSError("no more processes")
        super().start()


class FewProcesses(ForkContext):
    """Starts such workers."""

    Process = NoSecondProcess


def train(told: Connection, place: str, persistent: bool, shielded: bool) -> NoReturn:
    """Two epochs with workers; says what went wrong, and ends of it while the error holds all that it has seen."""
    failing = Failing(place)
    dataset: Any = failing  # torch takes what has both methods
    loader: DataLoader[Any] = DataLoader(
        dataset,
        2,
        sampler=failing,
        num_workers=2,
        persistent_workers=persistent,
        collate_fn=failing.collate,
        worker_init_fn=failing.init,
        multiprocessing_context=FewProcesses() if place == "start" else "fork",
    )
    if shielded:
        stop_on()
        loader = shield(loader)
    try:
        for _ in range(2):
            for batch in loader:
                failing.step(batch)
    except BaseException as error:
        KEPT.append(error)
        told.send((type(error).__name__, str(error).partition("Traceback")[0].partition("(pid")[0]))
        raise
    told.send(None)
    sys.exit()


def end_of(place: str, persistent: bool, shielded: bool) -> tuple[Any, int | None]:
    """What a run said, and its exit code; None if it does not end."""
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=train, args=(theirs, place, persistent, shielded))
    child.start()
    code = exit_code_of(child)
    return ours.recv() if ours.poll() else None, code


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("pass", 1),
        ("first draw", 1),
        ("interrupted draw", 1),
        ("late draw", 1),
        ("second pass", 1),
        ("start", 1),
        ("init", 1),
        pytest.param("dead start", 1, marks=pytest.mark.slow),
        ("dead worker", 1),
        ("sample", 1),
        ("collation", 1),
        ("step", 1),
        ("exit", 7),
        ("nowhere", 0),
    ],
)
def test_a_failing_run_ends_as_without_the_shield(place: str, code: int, persistent: bool) -> None:
    """Wherever it fails, with whatever workers are alive by then; SIGTERM would not end them."""
    plain = end_of(place, persistent, shielded=False)
    assert (plain[0] is None, code) == (place == "nowhere", plain[1])
    assert plain == end_of(place, persistent, shielded=True)


FAILS_IN_ITS_FIRST_DRAW = """
from torch.utils.data import DataLoader, Sampler
from resumable import ResumableLoader, resumable, stop_on

class Failing(Sampler):
    def __len__(self):
        return 10
    def __iter__(self):
        raise KeyError("a bug")
        yield
    def indices(self, epoch, start, stop, /):
        raise KeyError("a bug")

def fit():
    import lightning as L
    from tests.support.recording import Recording

    @resumable
    class Data(L.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(range(10), sampler=Failing(), num_workers=2)

    L.Trainer(barebones=True, max_steps=2).fit(Recording(), Data())

def loop(**options):
    stop_on()
    next(iter(ResumableLoader(range(10), order=Failing(), num_workers=2, **options)))

if __name__ == "__main__":
    {run}
"""


@pytest.mark.parametrize(
    "run",
    [
        "fit()",
        "loop()",
        pytest.param("loop(multiprocessing_context='spawn')", marks=pytest.mark.slow),
        pytest.param("loop(multiprocessing_context='forkserver')", marks=pytest.mark.slow),
    ],
)
def test_an_interpreter_ends_that_fails_in_its_first_draw(run: str, tmp_path: Path) -> None:
    """In Lightning, which answers SIGTERM by itself, and in a loop; `multiprocessing` joins the workers at the end."""
    script = tmp_path / "run.py"
    script.write_text(FAILS_IN_ITS_FIRST_DRAW.format(run=run))
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert 1 == done.returncode, done.stderr
    assert "KeyError: 'a bug'" in done.stderr
