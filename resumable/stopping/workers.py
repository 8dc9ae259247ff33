"""DataLoader workers that survive the signal that asks the main process to stop.

A scheduler signals every process of a job; `timeout` and a shell signal every process of a group. SIGTERM kills a
worker, and the main process then fails in its next fetch with "DataLoader worker is killed by signal", before it can save.

    in the main process    the signals are held back while workers start
    in each worker         the signals do nothing from then on, before the user's own `worker_init_fn` runs
    a worker's end         the loader ends it, as without this package. A worker whose main process is gone ends within
                           seconds: torch watches for that, but misses a main process that is killed while workers
                           start, so they look here too. When the interpreter ends, they are ended here, since
                           `multiprocessing` ends its children with SIGTERM

torch lets its parent end a worker with SIGTERM (torch 2.13, csrc/DataLoader.cpp). That is lost: a process that signals
its own group sends the same.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import types
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, nullcontext
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.process import BaseProcess
from typing import Any, SupportsIndex, cast
from weakref import WeakSet

from torch.utils.data import DataLoader
from typing_extensions import TypeVar

from resumable.stopping.signals import answered

__all__ = ["ShieldLoader", "mix_in", "mixed", "shield"]

T = TypeVar("T", default=Any)
M = TypeVar("M")
_IN_FORK_SERVER = "resumable.stopping.fork_server"


class ShieldLoader(DataLoader[T]):
    """A DataLoader whose workers ignore the signals that the main process answers when they start."""

    worker_init_fn: Callable[[int], None] | None

    def _get_iterator(self) -> Any:
        begin: Callable[[], Any] = super()._get_iterator
        signals = answered()
        if not self.num_workers or isinstance(self.worker_init_fn, _IgnoreSignals):
            return begin()
        method = str((cast("Any", self).multiprocessing_context or multiprocessing).get_start_method())
        own, self.worker_init_fn = self.worker_init_fn, _IgnoreSignals(signals, self.worker_init_fn, method)
        try:
            with _held_back(signals, method) if signals else nullcontext():
                batches = begin()
        finally:
            self.worker_init_fn = own  # Lightning seeds the workers of loaders that have none
        if signals:
            _workers.note(batches)
        return batches

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        plain = type(self).__bases__[-1]
        is_made_here = type(self) is _MADE.get((ShieldLoader, plain))
        return (_revived, (plain, vars(self))) if is_made_here else super().__reduce_ex__(protocol)


def shield(loader: DataLoader[T], /) -> DataLoader[T]:
    """The same *loader*; its workers now ignore the signals that `stop_on` watches, and SIGTERM wherever it is answered.

    A `ResumableLoader` and the train loaders of a decorated datamodule have this by themselves. A validation loader
    whose workers are alive while a run is asked to stop needs it too. Call `stop_on` first: workers decide when they
    start.

    >>> shield(DataLoader([1, 2], num_workers=2)).num_workers
    2
    """
    return mix_in(ShieldLoader, loader)


_MADE: dict[tuple[type[Any], type[Any]], type[Any]] = {}


def mixed(mixin: type[M], cls: type[Any], /) -> type[M]:
    """The class of the name of *cls* that also derives from *mixin*, made once."""
    if (mixin, cls) not in _MADE:
        made = types.new_class(cls.__name__, (mixin, cls))
        made.__module__, made.__qualname__, made.__doc__ = cls.__module__, cls.__qualname__, cls.__doc__
        _MADE[mixin, cls] = made
    return cast("type[M]", _MADE[mixin, cls])


def mix_in(mixin: type[M], thing: object, /) -> M:
    """The same *thing*, its class exchanged for one of the same name that also derives from *mixin*."""
    if not isinstance(thing, mixin):
        object.__setattr__(thing, "__class__", mixed(mixin, type(thing)))
    return cast("M", thing)


def _revived(cls: type[Any], kept: dict[str, Any]) -> Any:
    loader = object.__new__(cls)
    vars(loader).update(kept)
    return shield(loader)


class _IgnoreSignals:
    """A `worker_init_fn` that lets *signals* do nothing, and then calls the user's own."""

    def __init__(self, signals: frozenset[signal.Signals], own: Callable[[int], None] | None, method: str) -> None:
        self._signals = signals
        self._own = own
        self._parent = None if method == "forkserver" else os.getpid()

    def __call__(self, worker_id: int, /) -> None:
        is_process = threading.current_thread() is threading.main_thread()  # a worker that is a thread shares it
        if self._signals and is_process:
            for number in self._signals:
                # no SIG_IGN: programs that a worker starts would inherit it, and no terminate() would end them
                signal.signal(number, self._do_nothing)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        if self._own is not None:
            self._own(worker_id)
        self._end_without_parent()  # torch's watch begins here, and never sees a parent that is gone by now

    def _do_nothing(self, number: int, frame: types.FrameType | None) -> None:
        """Nothing, while the main process is there to answer for all."""
        self._end_without_parent()

    def _end_without_parent(self) -> None:
        if self._parent is not None and self._parent not in (os.getpid(), os.getppid()):
            os._exit(1)


@contextmanager
def _held_back(signals: Iterable[signal.Signals], method: str) -> Generator[None, None, None]:
    """Let *signals* wait in this thread and in the processes that it starts, until each has installed its handlers.

    A fork server would keep them waiting for all processes that it ever forks: there nothing waits, but it must not die.
    """
    if method == "forkserver":
        _keep_fork_server()
        yield
        return
    if method == "spawn":
        resource_tracker.ensure_running()  # its own start would end the waiting
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _keep_fork_server() -> None:
    """Let Python's fork server survive the signals, if it has not started yet."""
    # set_forkserver_preload replaces what is preloaded, and Python has no public way to ask what that is
    preloaded: list[str] = getattr(vars(forkserver)["_forkserver"], "_preload_modules", ["__main__"])
    if _IN_FORK_SERVER not in preloaded:
        forkserver.set_forkserver_preload([*preloaded, _IN_FORK_SERVER])


class _Workers:
    """The shielded workers of this process that may be alive when it ends."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._passes: WeakSet[Any] = WeakSet()
        self._processes: WeakSet[BaseProcess] = WeakSet()

    def note(self, batches: Any) -> None:
        """*batches* has started workers, which SIGTERM does not end."""
        if self._pid != os.getpid():
            self._pid, self._passes, self._processes = os.getpid(), WeakSet(), WeakSet()
            # An interpreter's end. The function registered last runs first: this one, then torch's, after which torch
            # ends no worker, then multiprocessing's.
            atexit.register(self.end)
            # The end of a process that multiprocessing started, such as a spawned rank, which runs no atexit.
            util.Finalize(None, self.end, exitpriority=100)
        self._passes.add(batches)
        for process in getattr(batches, "_workers", ()):
            process.terminate = process.kill  # what torch does with a worker that does not come to its end
            self._processes.add(process)

    def end(self) -> None:
        """End what is left, as torch ends the workers of a loader that is no longer used."""
        if self._pid != os.getpid():
            return
        for batches in list(self._passes):
            shutdown: Callable[[], None] | None = getattr(batches, "_shutdown_workers", None)
            if shutdown is not None:
                shutdown()
        for process in list(self._processes):
            if process.is_alive():
                process.kill()


_workers = _Workers()
