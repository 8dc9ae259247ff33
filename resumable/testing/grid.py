"""`check_resume`: stop a run at every place, resume it, and compare it with the run that was never stopped.

Each session is a process of its own, forked from this one, as a resumed run is: whatever the session before it left in
memory is gone. The first session and the uninterrupted run begin with the same random numbers, and each later session
with others.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import product
from typing import Any, Final

from resumable.errors import ConfigurationError
from resumable.extras import naming_the_extra
from resumable.testing.bench import Bench, Kind, Options, import_libraries
from resumable.testing.identities import Identify
from resumable.testing.matrix import Cell, Matrix
from resumable.testing.processes import Parent, in_process
from resumable.testing.sessions import Sizes, Step

__all__ = ["check_resume"]

_FEW: Final = 4
"""The places at which a run is stopped in all but the first sizes, twice, or to be resized; beside the ends of epochs."""

_KEYWORDS: Final = ("num_workers", "batch_size", "data_parallel_rank", "data_parallel_size")


def check_resume(
    make: Callable[..., Any],
    /,
    *,
    epochs: int = 2,
    num_workers: Sequence[int] = (0, 2),
    batch_sizes: Sequence[int] = (4, 3),
    data_parallel_sizes: Sequence[int] = (1, 2),
    accumulation: Sequence[int] = (1, 2),
    resizes: bool = True,
    cuts: int = 12,
    max_steps: int = 100,
    identify: Identify | None = None,
    time_limit: float = 60.0,
) -> Matrix:
    """Train what *make* makes, stop and resume it at every place, and compare each run with the uninterrupted one.

    *make* returns a `LightningDataModule`, which Lightning's own Trainer trains; a loader or any other iterable of batches,
    or an object with a `train_dataloader`, which a plain loop trains; or a `Loop` of your own. With `state_dict` and
    `load_state_dict`, these are saved and loaded; without them, a loop saves its epoch alone. *make* is called with those of
    the keywords `num_workers`, `batch_size`, `data_parallel_rank` and `data_parallel_size` that it accepts; what it does not
    accept is not varied. Let it make the data too: some 20 samples, a number that no batch size divides.

    A run is stopped

        after a step      the state is saved after an optimizer step; two further batches are read, then comes SIGKILL
        exception         raised in a step, with one or two of its batches read; the state is saved on the way out. A loader
                          that counts what it yields loses them, unless the loop can tell it what is trained: `commit()`
        epoch end         the state is saved at the end of an epoch, then as after a step
        twice             after a step, and after the next one again
        saved again       after a step; the resumed session saves before it trains, and ends
        resized           after a step, and goes on with other workers, batch size or ranks

    Args:
        make: makes what is checked, afresh in each session.
        epochs: the epochs of a run.
        num_workers: the first is run with all combinations of the other sizes, later ones with the first and the last.
        batch_sizes: of one rank's micro batch.
        data_parallel_sizes: how many ranks share the data. Each is a process; they exchange nothing.
        accumulation: micro batches of one optimizer step.
        resizes: whether runs go on in other sizes. What trains the same samples in the same order is exact then.
        cuts: the most places at which a run of the first sizes is stopped in one way; the ends of epochs are among them. In
            other sizes there are fewer.
        max_steps: the most optimizer steps of a run that are looked at; for data without end.
        identify: the samples in a batch, as numbers, strings or tensors; by default those of
            `resumable.testing.identities`.
        time_limit: seconds for one session. Only a session that exceeds it twice hangs.

    Raises:
        ConfigurationError: where *make* returns something else, or its samples cannot be told apart.
        MissingExtraError: for a LightningDataModule without Lightning.

    >>> from resumable import ResumableLoader
    >>> def make(batch_size):
    ...     return ResumableLoader(range(7), batch_size=batch_size, shuffle=True)
    >>> check_resume(make, batch_sizes=[3], accumulation=[1], resizes=False).is_exact
    True
    """
    accepted = _accepted(make)
    first = Sizes(
        num_workers[0] if "num_workers" in accepted else None,
        batch_sizes[0] if "batch_size" in accepted else None,
        data_parallel_sizes[0] if {"data_parallel_rank", "data_parallel_size"} <= accepted else None,
        accumulation[0],
    )
    kind = _kind_of(make, first, time_limit)
    bench = Bench(Options(make, kind, epochs, max_steps, identify, time_limit))
    axes: list[Sequence[Any]] = [
        (None,) if first.num_workers is None else num_workers,
        (None,) if first.batch_size is None else batch_sizes,
        (None,) if first.data_parallel_size is None else data_parallel_sizes,
        (1,) if kind == "loop" else accumulation,
    ]
    cells: list[Cell] = []
    for sizes in _grid(axes):
        cells += _stopped(bench, sizes, cuts if sizes == first else min(cuts, _FEW))
    if resizes:
        for sizes, then in _resizes(axes):
            cells += _resized(bench, sizes, then)
    return Matrix(tuple(cells), tuple(bench.notes))


def _accepted(make: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(make).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return set(_KEYWORDS)
    return {
        name
        for name in _KEYWORDS
        if name in parameters and parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY
    }


def _grid(axes: list[Sequence[Any]]) -> Iterator[Sizes]:
    workers, *others = axes
    for sizes in product(*others):
        yield Sizes(workers[0], *sizes)
    for number in workers[1:]:
        yield from dict.fromkeys(Sizes(number, *[axis[at] for axis in others]) for at in (0, -1))


def _resizes(axes: list[Sequence[Any]]) -> Iterator[tuple[Sizes, Sizes]]:
    first = Sizes(*[axis[0] for axis in axes])
    for name, axis in zip(("num_workers", "batch_size", "data_parallel_size"), axes, strict=False):
        for value in axis[1:]:
            other = replace(first, **{name: value})
            yield from ((first, other), (other, first))


def _stopped(bench: Bench, sizes: Sizes, cuts: int) -> Iterator[Cell]:
    reference = bench.reference(sizes)
    if not reference:
        yield bench.without_a_run(sizes)
        return
    total, ends = len(reference), _ends(reference)
    last = [] if total == bench.options.max_steps else [total]
    few = _spread(range(total), _FEW, ends)
    places: dict[str, list[tuple[int, ...]]] = {
        "after a step": [(at,) for at in _spread([*range(total), *last], cuts, [*ends, *last])],
        "exception": [(at,) for at in _spread(range(total), cuts, ends)],
        "epoch end": [(at,) for at in [*ends, *last]],
        "twice": [(at, at + 1) for at in few if at + 1 < total],
        "saved again": [(at, at) for at in few],
    }
    if bench.options.kind == "loop":
        del places["exception"], places["epoch end"]
    for stopped, cut in places.items():
        yield from bench.row(stopped, sizes, sizes, cut)


def _resized(bench: Bench, sizes: Sizes, then: Sizes) -> Iterator[Cell]:
    reference = bench.reference(sizes)
    if reference and bench.reference(then):
        places = _spread(range(1, len(reference)), _FEW, _ends(reference))
        yield from bench.row("resized", sizes, then, [(at,) for at in places])


def _ends(steps: Sequence[Step]) -> list[int]:
    """After how many steps an epoch ends and another begins."""
    return [at for at in range(1, len(steps)) if steps[at].epoch != steps[at - 1].epoch]


def _spread(places: Iterable[int], most: int, always: Iterable[int]) -> list[int]:
    """*places* in order; where there are more than *most*, those in *always* and some between them, two at least."""
    ordered = sorted(places)
    if len(ordered) <= most:
        return ordered
    kept = {*always} & {*ordered}
    others = [place for place in ordered if place not in kept]
    number = min(len(others), max(2, most - len(kept)))
    return sorted(kept | {others[(2 * at + 1) * len(others) // (2 * number)] for at in range(number)})


def _kind_of(make: Callable[..., Any], sizes: Sizes, time_limit: float) -> Kind:
    """What *make* makes; the libraries that it imported are imported here too, once for all sessions."""

    def look(parent: Parent) -> None:
        before = {*sys.modules}
        made = make(**sizes.keywords(0))
        parent.send(("kind", _kind(made)))
        parent.send(("type", type(made).__name__))
        parent.send(("modules", [name for name in sys.modules if name not in before]))

    (result,) = in_process(look, time_limit=time_limit)
    sent = dict(result.sent)
    if result.end != "returned":
        raise ConfigurationError(
            "make does not make what is to be checked.",
            [("called with", sizes.keywords(0)), (result.end, result.text or f"after {time_limit} seconds")],
            "Call it yourself first.",
        )
    kind: Kind | None = sent["kind"]
    if kind is None:
        raise ConfigurationError(
            "make made something that cannot be trained.",
            [("type", sent["type"])],
            "Return a LightningDataModule, a loader, or an object with run(step), state_dict() and load_state_dict().",
        )
    import_libraries(sent["modules"])
    if kind == "datamodule":
        with naming_the_extra():
            import_module("resumable.testing.with_lightning")
    return kind


def _kind(made: Any) -> Kind | None:
    for base in type(made).__mro__:
        if base.__name__ == "LightningDataModule" and base.__module__.partition(".")[0] in (
            "lightning",
            "pytorch_lightning",
        ):
            return "datamodule"
    if hasattr(made, "train_dataloader") or isinstance(made, Iterable):
        return "loader"
    return "loop" if callable(getattr(made, "run", None)) and hasattr(made, "state_dict") else None
