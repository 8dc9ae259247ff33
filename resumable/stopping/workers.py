"""DataLoader workers that survive the signal that asks the main process to stop.

A scheduler signals every process of a job; `timeout` and a shell signal every process of a group. SIGTERM kills a
worker, and the main process then fails in its next fetch with "DataLoader worker is killed by signal", before it can save.

    in the main process    the signals are held back while workers start; a fork server holds them back by itself
    in each worker         the signals do nothing from then on, before the user's own `worker_init_fn` runs
    a worker's end         the loader ends it, as without this package. A worker whose main process is gone ends within
                           seconds: torch watches for that, but misses a main process that is killed while workers
                           start, or that has a fork server, so they look here too. When the interpreter ends, they are
                           ended here, since `multiprocessing` ends its children with SIGTERM: also those that a failed
                           start or first draw has left

torch lets its parent end a worker with SIGTERM (torch 2.13, csrc/DataLoader.cpp). That is lost: a process that signals
its own group sends the same.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import types
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.process import BaseProcess
from typing import Any, SupportsIndex, cast
from weakref import WeakKeyDictionary, WeakSet

from torch.utils.data import DataLoader
from typing_extensions import TypeVar

from resumable.stopping.signals import FORK_SERVER, SERVER, WATCHABLE, answered, keep_fork_servers

__all__ = ["ShieldLoader", "keep_apart", "mix_in", "mixed", "pass_is_over", "shield"]

T = TypeVar("T", default=Any)
M = TypeVar("M")


class ShieldLoader(DataLoader[T]):
    """A DataLoader whose workers ignore the signals that the main process answers when they start."""

    worker_init_fn: Callable[[int], None] | None

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]  # torch names its private iterator class
        begin: Callable[[], Iterator[T]] = super().__iter__
        held = _held.get(self)
        if held is None or not (self.persistent_workers and self.num_workers):
            return begin()
        held = [passing for passing in held if passing() is not None]
        if held:
            self._iterator = None  # torch would begin its one iterator anew: the pass that holds it keeps its workers
        passing = _Pass(begin())
        _held[self] = [*held, weakref.ref(passing)]
        return passing

    def _get_iterator(self) -> Any:
        begin: Callable[[], Any] = super()._get_iterator
        signals = answered()
        if not self.num_workers or isinstance(self.worker_init_fn, _IgnoreSignals):
            return begin()
        method = str((cast("Any", self).multiprocessing_context or multiprocessing).get_start_method())
        own, self.worker_init_fn = self.worker_init_fn, _IgnoreSignals(signals, self.worker_init_fn, method)
        before = multiprocessing.active_children()
        try:
            with _held_back(signals, method) if signals else nullcontext():
                batches = begin()
        except BaseException:  # of a worker's start or the first draw: the workers before it are alive
            started = [each for each in multiprocessing.active_children() if each.daemon and each not in before]
            _workers.note(started if signals else ())
            raise
        finally:
            self.worker_init_fn = own  # Lightning seeds the workers of loaders that have none
        _workers.note(getattr(batches, "_workers", ()) if signals else ())
        return batches

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        mixin, plain = type(self).__bases__[0], type(self).__bases__[-1]
        is_made_here = type(self) is _MADE.get((mixin, plain))
        return (_revived, (mixin, plain), vars(self)) if is_made_here else super().__reduce_ex__(protocol)


def shield(loader: DataLoader[T], /) -> DataLoader[T]:
    """The same *loader*; its workers now ignore the signals that `stop_on` watches, and SIGTERM wherever it is answered.

    A `ResumableLoader` and the train loaders of a decorated datamodule have this by themselves. A validation loader
    whose workers are alive while a run is asked to stop needs it too. Call `stop_on` first: workers decide when they
    start.

    >>> shield(DataLoader([1, 2], num_workers=2)).num_workers
    2
    """
    return mix_in(ShieldLoader, loader)


class _Pass(Iterator[T]):
    """A pass over persistent workers, held by whoever iterates it."""

    def __init__(self, batches: Iterator[T]) -> None:
        self._batches = batches

    def __next__(self) -> T:
        return next(self._batches)


_held: WeakKeyDictionary[ShieldLoader[Any], list[weakref.ref[_Pass[Any]]]] = WeakKeyDictionary()
"""The passes that may be under way over the persistent workers of each loader that keeps them apart."""


def keep_apart(loader: DataLoader[T], /) -> DataLoader[T]:
    """The same *loader*, shielded; a pass that begins beside another one has persistent workers of its own."""
    shielded = mix_in(ShieldLoader, loader)
    _held.setdefault(shielded, [])
    return shielded


def pass_is_over(loader: DataLoader[Any], /) -> None:
    """The oldest pass of *loader* has yielded all that it will, though its iterator may be there until the next begins."""
    if isinstance(loader, ShieldLoader):
        del _held.get(loader, [])[:1]


_MADE: dict[tuple[type[Any], type[Any]], type[Any]] = {}


def mixed(mixin: type[M], cls: type[Any], /) -> type[M]:
    """The class of the name of *cls* that also derives from *mixin*, made once."""
    if (mixin, cls) not in _MADE:
        made = types.new_class(cls.__name__, (mixin, cls))
        made.__module__, made.__qualname__, made.__doc__ = cls.__module__, cls.__qualname__, cls.__doc__
        _MADE[mixin, cls] = made
    return cast("type[M]", _MADE[mixin, cls])


def mix_in(mixin: type[M], thing: object, /) -> M:
    """The same *thing*, its class exchanged for one of the same name that also derives from *mixin*.

    Where Python cannot exchange it, since a class before DataLoader comes first in its bases, it is another object with
    the same attributes.
    """
    if isinstance(thing, mixin):
        return thing
    made: Any = mixed(mixin, type(thing))
    try:
        object.__setattr__(thing, "__class__", made)
    except TypeError:
        same = object.__new__(made)
        object.__setattr__(same, "__dict__", vars(thing))
        return cast("M", same)
    return cast("M", thing)


def _revived(mixin: type[Any], cls: type[Any]) -> Any:
    return mix_in(mixin, object.__new__(cls))


class _IgnoreSignals:
    """A `worker_init_fn` that lets *signals* do nothing, and then calls the user's own."""

    def __init__(self, signals: frozenset[signal.Signals], own: Callable[[int], None] | None, method: str) -> None:
        self._signals = signals
        self._own = own
        self._parent = None if method == "forkserver" else os.getpid()

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        if FORK_SERVER in sys.modules:  # the signals wait in a process that the fork server has begun
            sys.modules[FORK_SERVER].hold(self._signals)

    def __call__(self, worker_id: int, /) -> None:
        is_process = threading.current_thread() is threading.main_thread()  # a worker that is a thread shares it
        if self._parent is None and is_process:
            threading.Thread(target=_end_with_parent, daemon=True).start()
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


def _end_with_parent() -> None:
    """End this worker once the process that asked for it is gone.

    torch watches the process that forked it: the fork server, which lives as long as one of its children.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _held_back(signals: frozenset[signal.Signals], method: str) -> Generator[None, None, None]:
    """Let *signals* wait in this thread and in the processes that it starts, until each has installed its handlers.

    In a fork server all signals wait for ever, and in its children as `resumable.stopping.fork_server` says; not here.
    """
    waiting = WATCHABLE if method == "forkserver" else signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    try:
        if method != "fork":
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, waiting)  # the tracker's start ends the waiting of two
        if method == "forkserver":
            _start_fork_server()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_fork_server() -> None:
    """Start the fork server such that it survives the signals; one that was started otherwise gets no more work."""
    if SERVER["_forkserver_pid"] != _kept_servers.get(os.getpid()):
        SERVER["_forkserver_pid"] = None
    keep_fork_servers()
    forkserver.ensure_running()
    _kept_servers[os.getpid()] = SERVER["_forkserver_pid"]


_kept_servers: dict[int, int | None] = {}
"""The fork server that survives the signals, of each process: a forked one has its parent's in here too."""


def _kill(process: weakref.ref[BaseProcess]) -> None:
    alive = process()
    if alive is not None:
        alive.kill()


class _Workers:
    """The shielded workers of this process that may be alive when it ends."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._processes: WeakSet[BaseProcess] = WeakSet()

    def note(self, processes: Iterable[BaseProcess]) -> None:
        """*processes* are workers, which SIGTERM does not end."""
        if self._pid != os.getpid():
            self._pid, self._processes = os.getpid(), WeakSet()
            # An interpreter's end. The function registered last runs first: this one, then multiprocessing's.
            atexit.register(self.end)
            # The end of a process that multiprocessing started, such as a spawned rank, which runs no atexit.
            util.Finalize(None, self.end, exitpriority=100)
        for process in processes:
            # what torch does with a worker that does not come to its end; a bound method would hold its process for ever
            cast("Any", process).terminate = partial(_kill, weakref.ref(process))
            self._processes.add(process)

    def end(self) -> None:
        """End what is left, as multiprocessing ends its children by SIGTERM."""
        if self._pid == os.getpid():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error where a worker was killed
            for process in list(self._processes):
                if process.is_alive():
                    process.kill()


_workers = _Workers()
