"""Workers, which live through a watched signal and end with their main process."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkContext, ForkProcess
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, get_worker_info

from resumable import shield, stop_on
from tests.support.reference import Loader, numbers
from tests.support.stopped_loops import FORK, exit_code_of

ROOT = Path(__file__).parents[2]


ENDS_WITH_LIVE_WORKERS = """
from resumable import ResumableLoader, stop_on
stop_on()
batches = iter(ResumableLoader(range(100), batch_size=2, num_workers=2, persistent_workers={persistent}))
next(batches)
{end}
"""


@pytest.mark.parametrize(
    ("persistent", "end", "code"),
    [
        (False, "", 0),
        pytest.param(True, "import sys; sys.exit(0)", 0, marks=pytest.mark.slow),
        pytest.param(False, "raise ValueError", 1, marks=pytest.mark.slow),
    ],
)
def test_an_interpreter_ends_with_workers_alive(persistent: bool, end: str, code: int) -> None:
    """What `multiprocessing` ends its children with is SIGTERM, which they ignore; nobody waits for them for ever."""
    script = ENDS_WITH_LIVE_WORKERS.format(persistent=persistent, end=end)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert code == done.returncode, done.stderr
    assert ("" if code == 0 else "ValueError") == done.stderr.strip().rpartition("\n")[2]


def hold_workers(stuck: bool) -> None:
    """The end of a rank that `multiprocessing` started: it knows no `atexit`."""
    stop_on()
    loader = Loader(Stuck() if stuck else numbers(100), 1, num_workers=2, collate_fn=first)
    KEPT.append(iter(loader))
    next(KEPT[0])


KEPT: list[Iterator[Any]] = []


class Stuck:
    """A dataset whose first samples are there at once, and whose others take for ever."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        while index > 1:
            signal.pause()
        return index


def first(samples: list[Any]) -> Any:
    """The one sample of a batch, as it is."""
    return samples[0]


@pytest.mark.parametrize("stuck", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_spawned_rank_ends_with_workers_alive(stuck: bool) -> None:
    """The same; a worker that hangs in its dataset is killed."""
    child = FORK.Process(target=hold_workers, args=(stuck,))
    child.start()
    assert 0 == exit_code_of(child)


def lives(told: int) -> None:
    """A main process that waits with its workers to be killed."""
    stop_on()
    loader = Loader(numbers(100), 1, num_workers=2)
    KEPT.append(iter(loader))
    next(KEPT[0])
    os.write(told, b".")
    while True:
        signal.pause()


def test_workers_end_when_the_main_process_is_gone() -> None:
    """No SIGTERM ends them, so they look for themselves: torch's own watch. Each of them holds a pipe open."""
    read, write = os.pipe()
    child = FORK.Process(target=lives, args=(write,))
    child.start()
    os.close(write)
    assert b"." == os.read(read, 1)
    child.kill()
    assert b"" == os.read(read, 1)
    os.close(read)
    child.join()


def kill_the_parent(worker_id: int) -> None:
    """A `worker_init_fn` in whose time the main process dies, before torch's own watch begins."""
    parent = os.getppid()
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        os.sched_yield()


def starts(told: int, watching: bool) -> None:
    """A main process that is killed while its workers start, whether it answers signals or not."""
    if watching:
        stop_on()
    KEPT.append(iter(Loader(numbers(100), 1, num_workers=1, worker_init_fn=kill_the_parent)))
    next(KEPT[0])


@pytest.mark.parametrize("watching", [True, False])
def test_workers_end_when_the_main_process_dies_at_their_start(watching: bool) -> None:
    """Torch's watch compares the parent with the one that it began with; a worker left behind would wait for ever."""
    read, write = os.pipe()
    child = FORK.Process(target=starts, args=(write, watching))
    child.start()
    os.close(write)
    assert select.select([read], [], [], 60)[0], "a worker lives on and holds the pipe"
    assert b"" == os.read(read, 1)
    os.close(read)
    child.join()
    assert -signal.SIGKILL == child.exitcode


# -- the shield


class Handlers:
    """A dataset that says how its process answers signals."""

    def __init__(self, *signals: signal.Signals) -> None:
        self.signals = signals or (signal.SIGTERM,)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> list[str]:
        handlers: list[Any] = list(map(signal.getsignal, self.signals))
        found = [getattr(handler, "__name__", None) or handler.name for handler in handlers]
        waiting = [str(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, []) if number in self.signals]
        return [*found, *waiting, *SEEN]


SEEN: list[str] = []


def note_worker(worker_id: int) -> None:
    """A `worker_init_fn` of a user's."""
    info = get_worker_info()
    assert info is not None
    SEEN.append(f"worker {worker_id} of {info.num_workers}")


def nothing(number: int, frame: object) -> None:
    """A handler."""


def in_worker(dataset: Handlers, **options: Any) -> list[str]:
    """What one worker of a loader says."""
    loader = Loader(dataset, 1, num_workers=1, collate_fn=first, **options)
    said: list[str] = next(iter(loader))
    assert loader.worker_init_fn is options.get("worker_init_fn")
    return said


def test_workers_ignore_what_is_watched() -> None:
    """Each watched signal does nothing in a worker, and waits there no longer; the user's own function runs too."""
    with stop_on(signal.SIGTERM, signal.SIGUSR1):
        said = in_worker(Handlers(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2), worker_init_fn=note_worker)
    assert ["_do_nothing", "_do_nothing", "SIG_DFL", "worker 0 of 1"] == said


class SignalledAtOnce(ForkProcess):
    """A worker that gets the signal before it can say that it ignores it."""

    def start(self) -> None:
        super().start()
        assert self.pid is not None
        os.kill(self.pid, signal.SIGTERM)


class SignalsAtOnce(ForkContext):
    """Starts such workers."""

    Process = SignalledAtOnce


def test_a_signal_while_workers_start() -> None:
    """It waits until they ignore it; and none waits any more in the main process."""
    with stop_on():
        loader = Loader(numbers(20), 2, num_workers=2, multiprocessing_context=SignalsAtOnce())
        assert 20 == sum(len(batch) for batch in loader)
        assert set() == signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_ignore_sigterm_wherever_it_is_answered() -> None:
    """Who has a handler of their own, as Lightning has, needs the shield as well; who has none is left alone."""
    before = signal.signal(signal.SIGTERM, nothing)
    try:
        assert ["_do_nothing"] == in_worker(Handlers())
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert ["_do_nothing"] == in_worker(Handlers())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ["SIG_DFL"] == in_worker(Handlers())


def test_a_shielded_loader_of_torchs_own() -> None:
    """A validation loader, say: the same object, of a class with the same name, that pickles as what it was."""
    plain: DataLoader[Any] = DataLoader(Handlers(), batch_size=None, num_workers=1)  # type: ignore[arg-type]  # torch takes what has both methods
    loader = shield(plain)
    assert plain is loader is shield(loader)
    assert ("DataLoader", True) == (type(loader).__name__, isinstance(loader, DataLoader))
    with stop_on():
        for each in (loader, pickle.loads(pickle.dumps(loader))):
            assert ["_do_nothing"] == next(iter(each))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
def test_a_shielded_loader_of_torchdatas() -> None:
    """It starts its workers in its own way."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    with stop_on():
        loader = shield(stateful(Handlers(), batch_size=None, num_workers=1))
        assert (["_do_nothing"], stateful) == (next(iter(loader)), type(loader).__bases__[-1])


def test_a_shielded_loader_without_workers() -> None:
    """There is nobody to shield."""
    with stop_on():
        assert [0, 1] == list(shield(DataLoader(numbers(2), batch_size=None)))
