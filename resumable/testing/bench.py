"""Sessions of a run, each in a process of its own, and the cell that a stopped run comes to."""

from __future__ import annotations

import logging
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeAlias

from typing_extensions import override

from resumable.errors import ConfigurationError
from resumable.testing.comparison import Difference, compare, compare_resized
from resumable.testing.identities import Identify, UnidentifiedError
from resumable.testing.loops import train_loader, train_loop
from resumable.testing.matrix import Cell
from resumable.testing.processes import Parent, in_process
from resumable.testing.seeds import seed_all
from resumable.testing.sessions import Kill, Moment, Recorder, Run, Sizes, Step, Stop

__all__ = ["Bench", "Kind", "Options", "import_libraries"]

_LIBRARIES: Final = (
    *("torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "torchdata"),
    *("accelerate", "datasets", "transformers", "numpy", "resumable", *sys.stdlib_module_names),
)
"""What is imported here where a session imported it: nothing of the user's own, which a new process imports anew."""

Kind: TypeAlias = Literal["datamodule", "loader", "loop"]
"""What is trained: a LightningDataModule by Lightning, a loader or any other datamodule by a loop, or a `Loop`."""

_MOMENTS: Final[dict[str, Moment]] = {"exception": "exception", "epoch end": "epoch end"}
_UNTOLD: Final = (DeprecationWarning, FutureWarning, PendingDeprecationWarning, ResourceWarning)


@dataclass(frozen=True, slots=True)
class Options:
    """What all sessions have in common."""

    make: Callable[..., Any]
    kind: Kind
    epochs: int
    max_steps: int
    identify: Identify | None
    time_limit: float


@dataclass(frozen=True, slots=True)
class _Session:
    """What one session came to, over all ranks."""

    end: Literal["returned", "crash", "hang"]
    steps: tuple[Step, ...] = ()
    states: tuple[Any, ...] = ()
    text: str = ""
    warned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a session begins: what each rank loads, the steps that are complete, and the random numbers."""

    states: tuple[Any, ...] = ()
    done: int = 0
    seed: int = 0


@dataclass(slots=True)
class Bench:
    """Runs sessions, each first one once."""

    options: Options
    notes: dict[str, None] = field(default_factory=dict[str, None])
    _firsts: dict[tuple[Sizes, Stop | None], _Session] = field(default_factory=dict[Any, _Session])

    def reference(self, sizes: Sizes) -> tuple[Step, ...]:
        """The steps of the uninterrupted run; none where it does not come to its end."""
        is_first = not self._firsts
        session = self._first(sizes, None)
        if session.end != "returned":
            return ()
        if is_first and session.steps:
            self._note_what_is_odd(sizes, session.steps)
        return session.steps

    def without_a_run(self, sizes: Sizes) -> Cell:
        """The cell that says why there is no uninterrupted run."""
        session, cell = self._first(sizes, None), Cell(stopped="not stopped", sizes=sizes, then=sizes)
        if session.end == "returned":
            return replace(cell, outcome="lost", text="the uninterrupted run trains nothing")
        return replace(cell, outcome=session.end, text=session.text)

    def row(self, stopped: str, sizes: Sizes, then: Sizes, cuts: Iterable[tuple[int, ...]]) -> Iterator[Cell]:
        """A cell for each of *cuts*; no further ones after one that hangs."""
        for cut in cuts:
            cell = self._cell(Cell(stopped=stopped, sizes=sizes, then=then, cuts=cut))
            yield cell
            if cell.outcome == "hang":
                return

    def _note_what_is_odd(self, sizes: Sizes, steps: tuple[Step, ...]) -> None:
        epochs: dict[int, list[Any]] = {}
        for step in steps:
            epochs.setdefault(step.epoch, []).extend(step.samples)
        first, *others = epochs.values()
        if (
            len(others) + 1 < self.options.epochs
            and self.options.kind != "loop"
            and len(steps) < self.options.max_steps
        ):
            self.note(f"Of {self.options.epochs} epochs, {len(others) + 1} trained anything.")
        alike = len(first) - len({*first})
        if len(first) > 1 and alike == len(first) - 1:
            raise ConfigurationError(
                "The samples cannot be told apart: all look the same.",
                [("samples", len(first)), ("each", first[0])],
                "Pass data that differ, or identify=, which returns a number or a string for each sample of a batch.",
            )
        if alike:
            self.note(f"{alike} samples of the first epoch look like others of it: what happens to them is not seen.")
        if (
            first in others
            and len(first) > 1
            and first != sorted(first, key=lambda sample: (isinstance(sample, str), sample))
        ):
            self.note("Epochs have the same order. If they are to be shuffled, they are not shuffled anew.")
        if len(steps) == self.options.max_steps:
            self.note(f"Only the first {len(steps)} steps of the run were looked at.")
        again = self._session(sizes, _Start(seed=1), None, self.options.max_steps)
        if again.end == "returned" and compare(steps, again.steps) is not None:
            self.note("The uninterrupted run is another in each process: it draws random numbers that nothing seeds.")

    def note(self, text: str) -> None:
        """Say *text* below the table, once."""
        self.notes[text] = None

    def _first(self, sizes: Sizes, stop: Stop | None) -> _Session:
        key = (sizes, stop)
        if key not in self._firsts:
            self._firsts[key] = self._session(sizes, _Start(), stop, self.options.max_steps)
        return self._firsts[key]

    def _cell(self, cell: Cell) -> Cell:
        sizes, then, cuts = cell.sizes, cell.then, cell.cuts
        reference = self._first(sizes, None)
        stops = [self._stop(cell.stopped, cut, sizes, reference.steps) for cut in cuts]
        session = self._first(sizes, stops[0])
        steps, warned = session.steps[: cuts[0]], dict.fromkeys(session.warned)
        for seed, stop in enumerate([*stops[1:], None], start=1):
            if session.end != "returned" or not session.states:
                break  # without a state it ended before it was to be stopped
            start = _Start(self._given(session.states, then), len(steps), seed)
            session = self._session(then, start, stop, self._most(sizes, then))
            steps += session.steps[: stop.step - len(steps) if stop else None]
            warned.update(dict.fromkeys(session.warned))
        if session.end != "returned":
            return replace(cell, outcome=session.end, text=session.text)
        found = self._compared(cell, reference.steps, steps)
        said = [text for text in warned if text not in reference.warned]
        return cell if found is None else _cell_of(cell, found, said[0] if said else "")

    @staticmethod
    def _stop(stopped: str, cut: int, sizes: Sizes, reference: Sequence[Step]) -> Stop:
        moment = _MOMENTS.get(stopped, "after a step")
        if moment != "exception":
            return Stop(moment, cut)
        return Stop(moment, cut, min(2, -(-len(reference[cut].batches) // sizes.ranks)))

    def _most(self, sizes: Sizes, then: Sizes) -> int:
        """The steps after which a resumed run is ended, if it does not end by itself."""
        limit = max(len(self._first(sizes, None).steps), len(self._first(then, None).steps))
        return limit if limit == self.options.max_steps else limit + limit // self.options.epochs + 1

    def _given(self, states: tuple[Any, ...], then: Sizes) -> tuple[Any, ...]:
        """Each rank's own; rank 0's for all where their number changes, and where Lightning saves it alone."""
        is_own = len(states) == then.ranks and self.options.kind != "datamodule"
        return states if is_own else states[:1] * then.ranks

    def _compared(self, cell: Cell, reference: Sequence[Step], steps: Sequence[Step]) -> Difference | None:
        sizes, then = cell.sizes, cell.then
        if replace(sizes, num_workers=then.num_workers) == then:
            return compare(reference, steps)
        ranks = max(sizes.ranks, then.ranks)
        return compare_resized(reference, self._first(then, None).steps, steps, cell.cuts[0], ranks=ranks)

    def _session(self, sizes: Sizes, start: _Start, stop: Stop | None, max_steps: int) -> _Session:
        """One session, all its ranks at the same time: they exchange nothing."""
        works = [partial(self._work, sizes, rank, start, stop, max_steps) for rank in range(sizes.ranks)]
        results = in_process(*works, time_limit=self.options.time_limit)
        if any(result.end == "hang" for result in results):
            results = in_process(*works, time_limit=self.options.time_limit)
        wrong = next((result for result in results if result.end != "returned"), None)
        if wrong is not None:
            return _Session(wrong.end, text=wrong.text)
        ranks: list[dict[str, Any]] = [dict(result.sent) for result in results]
        if any("unidentified" in rank for rank in ranks):
            raise ConfigurationError(next(rank["unidentified"] for rank in ranks if "unidentified" in rank))
        numbers = [len(rank["steps"]) for rank in ranks]
        if len({*numbers}) > 1:
            self.note(f"The ranks trained different numbers of steps, {numbers}: in a real run, some wait for ever.")
        states = tuple(rank["state"] for rank in ranks if "state" in rank)
        import_libraries(ranks[0]["modules"])
        steps = tuple(_merged(together) for together in zip_longest(*(rank["steps"] for rank in ranks)))
        return _Session("returned", steps, states if len(states) == len(ranks) else (), "", tuple(ranks[0]["warned"]))

    def _work(  # noqa: PLR0917  # what partial is given
        self, sizes: Sizes, rank: int, start: _Start, stop: Stop | None, max_steps: int, parent: Parent
    ) -> None:
        """A session on one rank, in its own process."""
        seed_all(start.seed)
        before = {*sys.modules}
        logged = _listen()
        with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("always")

            def report() -> None:
                parent.send(("steps", recorder.steps))
                told = [str(each.message) for each in caught if not issubclass(each.category, _UNTOLD)]
                parent.send(("warned", [*told, *logged]))
                parent.send(("modules", [name for name in sys.modules if name not in before]))

            def die() -> NoReturn:
                report()
                parent.die()

            def leave(state: Any) -> None:
                parent.send(("state", pickle.dumps(state)))

            options = self.options
            recorder = Recorder(stop, max_steps, options.identify, leave, die, start.done)
            state = pickle.loads(start.states[rank]) if start.states else None
            run = Run(options.make(**sizes.keywords(rank)), state, recorder, options.epochs, sizes.accumulation)
            try:
                _train(options.kind, run, Path(folder))
            except Kill:
                if not recorder.saved:
                    raise
            except UnidentifiedError as error:
                parent.send(("unidentified", str(error)))
            report()


def _listen() -> list[str]:
    """What is logged from now on as a warning or worse; in this process, nothing is printed of it."""
    logged: list[str] = []

    class Listener(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record.getMessage())

    logging.root.handlers = [Listener(logging.WARNING)]
    return logged


def import_libraries(modules: Iterable[str], /) -> None:
    """Import those of *modules* that a session imported of libraries, once for all that follow.

    >>> import_libraries(["json.tool", "a_module_of_the_user"])
    """
    for name in modules:
        if name.partition(".")[0] in _LIBRARIES:
            with suppress(ImportError):
                import_module(name)


def _train(kind: Kind, run: Run, folder: Path) -> None:
    if kind == "datamodule":
        from resumable.testing.with_lightning import train_datamodule

        train_datamodule(run, folder)
    elif kind == "loop":
        train_loop(run)
    else:
        train_loader(run)


def _cell_of(cell: Cell, found: Difference, said: str) -> Cell:
    return replace(
        cell,
        outcome=found.outcome,
        step=found.step,
        expected=found.expected,
        actual=found.actual,
        repeated=found.repeated,
        lost=found.lost,
        text=said,
    )


def _merged(steps: Sequence[Step | None]) -> Step:
    """One step of all ranks: the first micro batch of each, then the second of each."""
    there = [step for step in steps if step is not None]
    rounds = zip_longest(*(step.batches for step in there))
    return Step(there[0].epoch, tuple(batch for each in rounds for batch in each if batch is not None))
