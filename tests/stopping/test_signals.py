"""Being asked to stop: real signals to real processes, their workers included, and what the handlers leave.

A session is a fork of the test's process in a group of its own. It halts after each batch until the test lets it go
on, so that a signal comes at the batch that a test says, to the process alone or to its whole group.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import pytest
from torch.utils.data import DataLoader, get_worker_info

from resumable import ConfigurationError, ResumptionState, agree_to_stop, shield, stop_on
from resumable.stopping.signals import answered, request_stop, stop_requested, take_back, watched
from tests.support.reference import Loader, numbers, order_of, whole

N, EPOCHS = 50, 2
ROOT = Path(__file__).parents[2]
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    assert before == {number: signal.getsignal(number) for number in before}
    assert watched() == frozenset()


# -- loops that are asked to stop


@dataclass(frozen=True)
class Setup:
    """How a session loads and steps, and by what it lets itself be stopped."""

    workers: int = 0
    accumulation: int = 1
    signals: tuple[signal.Signals, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


def session(pipe: Connection, path: Path, setup: Setup) -> None:
    """Resume and train; save and exit with 0 at the first step boundary after the signal, otherwise at the run's end."""
    os.setsid()  # a group of its own
    stop_on(*setup.signals)
    loader = Loader(numbers(N), 3, shuffle=True, seed=5, num_workers=setup.workers, **dict(setup.options))
    trained: list[int] = []
    if path.exists():
        saved = json.loads(path.read_text())
        trained = saved["trained"]
        loader.load_state_dict(saved["data"])
    loader.state.commit()
    pending: list[int] = []
    for _ in range(loader.epoch, EPOCHS):
        for number, batch in enumerate(loader, start=1):
            pending += batch.tolist()
            pipe.send(len(trained) + len(pending))
            pipe.recv()
            if number % setup.accumulation == 0 or (len(trained) + len(pending)) % N == 0:
                trained, pending = trained + pending, []
                loader.state.commit()
                if loader.state.stop_requested:
                    path.write_text(json.dumps({"trained": trained, "data": loader.state_dict()}))
                    sys.exit(0)
    path.write_text(json.dumps({"trained": trained, "data": loader.state_dict()}))


Send = Callable[[int], None]


def to_the_process(*signals: signal.Signals) -> Send:
    """To the training process alone, as Kubernetes does."""

    def send(pid: int) -> None:
        for number in signals:
            os.kill(pid, number)

    return send


def to_the_group(*signals: signal.Signals) -> Send:
    """To every process of the group, workers too, as Slurm, `timeout` and a shell do."""

    def send(pid: int) -> None:
        for number in signals:
            os.killpg(pid, number)

    return send


def exit_code_of(child: BaseProcess) -> int | None:
    """None for a child that does not end, for which no test waits for ever."""
    child.join(60)
    code = child.exitcode
    child.kill()
    return code


def exit_code(path: Path, setup: Setup, at: int, send: Send) -> int | None:
    """That of a session that gets *send*'s signals after its batch number *at*."""
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=session, args=(theirs, path, setup))
    child.start()
    theirs.close()
    seen = 0
    try:
        while ours.recv():
            seen += 1
            if seen == at and child.pid is not None:
                send(child.pid)
            ours.send("go on")
    except (EOFError, ConnectionResetError):
        pass
    return exit_code_of(child)


def check_chain(path: Path, setup: Setup, send: Send) -> None:
    """Two sessions are asked to stop and one comes to the end: each exits with 0, and the run is the uninterrupted one."""
    places: list[int] = []
    for at in (4, 7, sys.maxsize):
        assert 0 == exit_code(path, setup, at, send)
        places.append(len(json.loads(path.read_text())["trained"]))
    saved = json.loads(path.read_text())
    assert whole(order_of(N, shuffle=True, seed=5), EPOCHS) == saved["trained"]
    assert {"consumed_samples": 2 * N, "epoch": 2, "offset": 0}.items() <= saved["data"].items()
    behind = [-(-at // setup.accumulation) * setup.accumulation * 3 for at in (4, 7)]
    assert [behind[0], min(behind[0] + behind[1], N), 2 * N] == places


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "send", [to_the_process(signal.SIGTERM), to_the_group(signal.SIGTERM)], ids=["process", "group"]
)
@pytest.mark.parametrize("accumulation", [1, 6])
def test_a_loop_stops_at_its_next_step(tmp_path: Path, workers: int, send: Send, accumulation: int) -> None:
    """The step is finished, with batches that workers have yet to load, and saved; the run goes on exactly."""
    check_chain(tmp_path / "run.json", Setup(workers, accumulation), send)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_signal_of_choice(tmp_path: Path, number: signal.Signals) -> None:
    """What Slurm's `--signal` sends, and Ctrl-C: to the whole group, and the workers live on."""
    check_chain(tmp_path / "run.json", Setup(2, 6, (signal.SIGTERM, number)), to_the_group(number))


def test_a_signal_that_comes_twice(tmp_path: Path) -> None:
    """Launchers pass on what the whole group got: the save does not die of it."""
    twice = to_the_group(signal.SIGTERM, signal.SIGTERM)
    check_chain(tmp_path / "run.json", Setup(2, 6), twice)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_that_stay(tmp_path: Path, persistent: bool) -> None:
    """A session that exits inside its loop, with workers that it would use again, comes to an end."""
    setup = Setup(2, 6, options=(("persistent_workers", persistent), ("pin_memory", False)))
    check_chain(tmp_path / "run.json", setup, to_the_group(signal.SIGTERM))


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_of_other_start_methods(tmp_path: Path, context: str) -> None:
    """Workers that inherit nothing get the list of signals to ignore."""
    setup = Setup(1, 6, options=(("multiprocessing_context", context),))
    check_chain(tmp_path / "run.json", setup, to_the_group(signal.SIGTERM))


def test_without_a_word_the_signal_kills(tmp_path: Path) -> None:
    """The sessions above would notice: without `stop_on` the signal ends them."""
    path = tmp_path / "run.json"
    assert -signal.SIGUSR1 == exit_code(path, Setup(), 4, to_the_group(signal.SIGUSR1))
    assert not path.exists()


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


# -- the flag


def test_a_signal_sets_the_flag_of_every_state() -> None:
    """The process was asked, not one loader; and it stays asked until signals are watched anew."""
    with stop_on(signal.SIGUSR1) as watch:
        state, loader = ResumptionState(), Loader(numbers(4), 2)
        assert (False, False, []) == (state.stop_requested, loader.state.stop_requested, watch.received)
        signal.raise_signal(signal.SIGUSR1)
        assert (True, True, [signal.SIGUSR1]) == (state.stop_requested, loader.state.stop_requested, watch.received)
    assert state.stop_requested
    with stop_on():
        assert not state.stop_requested


def test_watching_more_forgets_no_request() -> None:
    """A second `stop_on`, in a `setup` that comes later, leaves a request that is there already."""
    with stop_on():
        signal.raise_signal(signal.SIGTERM)
        with stop_on(signal.SIGTERM, signal.SIGUSR1):
            assert stop_requested()
        assert {signal.SIGTERM} == watched()


def test_the_default_is_sigterm() -> None:
    """A number will do, and one signal said twice is one."""
    with stop_on() as watch:
        assert (signal.SIGTERM,) == watch.signals
    number: Any = 15
    with stop_on(number, signal.SIGTERM) as watch:
        assert (signal.SIGTERM,) == watch.signals


def test_a_request_from_another_thread() -> None:
    """A cloud's notice that a thread waits for."""
    with stop_on():
        asking = threading.Thread(target=request_stop)
        asking.start()
        asking.join()
        assert stop_requested()


def test_agreeing_alone() -> None:
    """Without a process group the answer is the process's own."""
    with stop_on():
        assert not agree_to_stop()
        request_stop()
        assert agree_to_stop()


# -- handlers


def test_a_handler_that_was_there_before_is_called_too() -> None:
    """Behind the flag, so that it may look at it; and it is the only one again in the end."""
    heard: list[tuple[int, bool]] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append((number, stop_requested())))
    try:
        with stop_on(signal.SIGUSR1):
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert [(signal.SIGUSR1, True), (signal.SIGUSR1, True)] == heard
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_python_s_own_answer_to_ctrl_c_waits() -> None:
    """The first Ctrl-C is a request, and no KeyboardInterrupt in the middle of a step."""
    with stop_on(signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        assert stop_requested()


def test_a_second_ctrl_c_is_an_impatient_person_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a second after the first request it interrupts; any other signal never does."""
    now = 100.0
    monkeypatch.setattr("resumable.stopping.signals.time.monotonic", lambda: now)
    with stop_on(signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        now = 100.9
        signal.raise_signal(signal.SIGINT)
        now = 1000.0
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_restoring_in_any_order(order: tuple[int, int]) -> None:
    """Whoever was there first is there in the end; and twice is once."""
    before = signal.getsignal(signal.SIGTERM)
    watches = [stop_on(), stop_on()]
    for number in order:
        watches[number].restore()
        watches[number].restore()
    assert before is signal.getsignal(signal.SIGTERM)


def test_restoring_under_a_handler_on_top() -> None:
    """Somebody else's handler stays, and what it calls of ours does nothing any more."""
    before = signal.getsignal(signal.SIGUSR1)
    watch = stop_on(signal.SIGUSR1)
    ours: Any = signal.getsignal(signal.SIGUSR1)

    def theirs(*signalled: Any) -> None:
        ours(*signalled)

    signal.signal(signal.SIGUSR1, theirs)
    watch.restore()
    with stop_on():
        assert theirs is signal.getsignal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert not stop_requested()
    signal.signal(signal.SIGUSR1, before)


def test_taking_a_signal_back() -> None:
    """The handler on top is no longer called, until its owner installs it anew; the one before ours still is."""
    heard: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append("before"))
    with stop_on():
        signal.signal(signal.SIGTERM, lambda number, frame: heard.append("on top"))
        take_back()
        signal.raise_signal(signal.SIGTERM)
        assert (["before"], True) == (heard, stop_requested())
    signal.signal(signal.SIGTERM, before)


def wait_for_the_end(told: Connection) -> NoReturn:
    """A child that says how it answers, and waits."""
    told.send((signal.getsignal(signal.SIGTERM), stop_requested(), watched()))
    while True:
        signal.pause()


def test_a_forked_child_dies_of_the_signal() -> None:
    """`terminate()` ends a user's own process as ever: a child has not been asked for what its parent was."""
    with stop_on():
        request_stop()
        ours, theirs = FORK.Pipe()
        child = FORK.Process(target=wait_for_the_end, args=(theirs,))
        child.start()
        assert (signal.SIG_DFL, False, frozenset()) == ours.recv()
        child.terminate()
        assert -signal.SIGTERM == exit_code_of(child)
        assert stop_requested()
        assert {signal.SIGTERM} == watched()


def test_what_is_answered() -> None:
    """The watched signals, and SIGTERM where it would not kill."""
    assert frozenset() == answered()
    with stop_on(signal.SIGUSR1):
        assert {signal.SIGUSR1} == answered()
        with stop_on():
            assert {signal.SIGUSR1, signal.SIGTERM} == answered()


def in_thread(action: Callable[[], object]) -> BaseException | None:
    """What *action* raises in another thread."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except ConfigurationError as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="other")
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_another_thread_cannot_answer_signals() -> None:
    """Neither begin nor end, since Python would refuse both; a trainer in a thread takes nothing back."""
    said = """\
Python sets signal handlers in the main thread only.
  this thread: 'other'
  main thread: 'MainThread'
Call stop_on() at the start of the script, before the training."""
    assert said == str(in_thread(stop_on))
    with stop_on() as watch:
        assert said == str(in_thread(watch.restore))
        assert in_thread(take_back) is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (signal.SIGKILL, "the kernel handles it itself"),
        (signal.SIGSTOP, "the kernel handles it itself"),
        (signal.SIGSEGV, "it reports a fault of the program"),
        (signal.SIGCHLD, "it shows torch that a worker has died"),
        ("SIGTERM", "it is not a signal"),
        (True, "it is not a signal"),
        (None, "it is not a signal"),
        (0, "it is not a signal"),
        (1000, "it is not a signal"),
    ],
    ids=str,
)
def test_signals_that_nobody_can_watch(given: Any, why: str) -> None:
    """They are refused with the reason, and no other handler is installed."""
    with pytest.raises(ConfigurationError) as refused:
        stop_on(signal.SIGTERM, given)
    assert f"""\
This signal cannot ask a run to stop.
  signal: {given!r}
  reason: {why!r}
Pass the signal that the scheduler sends: signal.SIGTERM, or what the job requests, such as SIGUSR1.""" == str(
        refused.value
    )
