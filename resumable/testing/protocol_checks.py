"""Checks of the objects that a user writes for the Protocols: orders, schedules, ranks, and whatever saves its state.

Each takes a function that makes the object afresh, as a new process does, and raises `ConformanceError` with both values
at the first promise that is not kept. What they draw, they draw from a fixed seed: a failure comes back.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement, pairwise
from math import isnan
from typing import Any, Final, TypeVar, cast

import numpy as np

from resumable.errors import ConformanceError
from resumable.protocols import BatchSchedule, Order, Ranks, SavesState
from resumable.testing.seeds import seeded

__all__ = ["check_order", "check_ranks", "check_schedule", "check_state"]

S = TypeVar("S", bound=SavesState)

_ALL_SLICES: Final = 24
"""Orders up to this length are cut at every pair of places, longer ones at some two hundred."""

_WRONG: Final[tuple[object, ...]] = (None, "wrong", -1, [], {"wrong": 1})
"""What a damaged state may have in the place of a value."""


def check_order(make_order: Callable[[], Order], /, *, epochs: int = 3) -> None:
    """Check that an `Order` is pure: in range, each index once in an epoch, and the same however it is cut and asked.

    The order is made twice, and asked for *epochs* epochs. Whole epochs are held in memory: make a short one.

    Raises:
        ConformanceError: for a wrong shape or type, an index out of range, missing or twice; a slice that differs from that
            part of the whole; an answer that depends on earlier calls, on the random numbers of the process or on the
            object; an answer that changes when the caller writes into an earlier one; places that are not in the epoch
            and get an answer: a negative start, a stop before it or past the end.

    >>> from resumable import Sequential, Shuffled
    >>> check_order(lambda: Shuffled(20, seed=1))
    >>> class Reversed(Sequential):
    ...     def indices(self, epoch, start, stop):
    ...         return Sequential(20).indices(epoch, start, stop)[::-1]
    >>> check_order(lambda: Reversed(20))
    Traceback (most recent call last):
    resumable.errors.ConformanceError: A slice of an epoch is not that part of the whole epoch.
      call:     indices(2, 0, 1)
      expected: [19]
      actual:   [0]
    An order is a pure function of the epoch and the place.
    """
    order, twin = make_order(), make_order()
    length = len(order)
    wholes = [_indices(order, epoch, 0, length) for epoch in range(epochs)]
    for epoch, whole in enumerate(wholes):
        _check_permutation(whole, length, epoch)
    for epoch, whole in reversed(list(enumerate(wholes))):  # against the first calls' order
        for start, stop in _slices(length):
            _same_order(
                "A slice of an epoch is not that part of the whole epoch.", order, epoch, start, whole[start:stop]
            )
    _same_order("An order that is made anew has other indices.", twin, epochs - 1, 0, wholes[-1])
    for seed in range(2):
        with seeded(seed):
            for each in (order, make_order()):
                _same_order("The order depends on the random numbers of the process.", each, 0, 0, wholes[0])
    _check_own_memory(order, length, wholes[0])
    for start, stop in ((-1, 0), (0, length + 1), (1, 0), (-2, -1)):
        _check_refused(order, length, start, stop)


def _indices(order: Order, epoch: int, start: int, stop: int) -> list[int]:
    found: Any = order.indices(epoch, start, stop)
    kind = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
    _same(
        "Indices must be an array of int64, one for each place.",
        f"int64 of shape ({stop - start},)",
        kind,
        [("call", _Call(epoch, start, stop))],
    )
    return [int(index) for index in found]


class _Call:
    """A call of `indices`, as a message shows it."""

    def __init__(self, *arguments: int) -> None:
        self._arguments = arguments

    def __repr__(self) -> str:
        return f"indices{self._arguments}"


class _Words(str):
    """Words that a message shows without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _same_order(what: str, order: Order, epoch: int, start: int, expected: list[int]) -> None:
    call = _Call(epoch, start, start + len(expected))
    actual = _indices(order, epoch, start, start + len(expected))
    _same(what, expected, actual, [("call", call)], "An order is a pure function of the epoch and the place.")


def _check_permutation(whole: list[int], length: int, epoch: int) -> None:
    outside = [index for index in whole if not 0 <= index < length]
    _same(f"Epoch {epoch} has indices that are not in the dataset.", [], outside, [("length", length)])
    times = Counter(whole)
    _same(f"Epoch {epoch} has an index more than once.", [], [index for index in times if times[index] > 1])


def _slices(length: int) -> Iterator[tuple[int, int]]:
    if length <= _ALL_SLICES:
        yield from combinations_with_replacement(range(length + 1), 2)
        return
    edges = sorted({0, 1, 2, length // 2, length - 1, length})
    yield from combinations_with_replacement(edges, 2)
    drawn = random.Random(0)
    for _ in range(200):
        start = drawn.randint(0, length)
        yield start, min(length, start + drawn.randint(0, 64))


def _check_own_memory(order: Order, length: int, whole: list[int]) -> None:
    given = order.indices(0, 0, length)
    if given.flags.writeable:
        given[:] = -1
    _same_order("Whoever writes into an answer changes the order.", order, 0, 0, whole)


def _check_refused(order: Order, length: int, start: int, stop: int) -> None:
    try:
        found = order.indices(0, start, stop)
    except Exception:  # noqa: BLE001  # whatever the order raises is a refusal
        return
    raise ConformanceError(
        "An order gave an answer for places that are not in the epoch.",
        [("length", length), ("call", _Call(0, start, stop)), ("expected", _Words("an error")), ("actual", found)],
        "Raise an error unless 0 <= start <= stop <= len(order).",
    )


def check_schedule(make_schedule: Callable[[], BatchSchedule], /, *, steps: int = 200) -> None:
    """Check that the three methods of a `BatchSchedule` tell of the same steps, and are pure.

    The first *steps* steps are walked by `batch_size_at`, from 0 and from counts that no step ends at. So let *steps*
    reach past the last change of the size.

    Raises:
        ConformanceError: for a size below 1 or that is not an int; where `samples_after` or `steps_between` differ from
            the walk; where a further schedule, or another sequence of calls, gives something else.

    >>> from resumable import ConstantBatchSize, LinearRampup
    >>> check_schedule(lambda: LinearRampup(start=4, end=16, increment=4, rampup_samples=30))
    >>> class Late(ConstantBatchSize):
    ...     def samples_after(self, steps, consumed=0):
    ...         return 8 * max(steps - 1, 0) + consumed
    >>> check_schedule(lambda: Late(8))
    Traceback (most recent call last):
    resumable.errors.ConformanceError: samples_after(1, 0) is not where the walk of batch_size_at ends.
      expected: 8
      actual:   0
    """
    schedule, twin = make_schedule(), make_schedule()
    for begin in (0, 1, 7):
        walk = [begin]
        for _ in range(steps):
            size: Any = schedule.batch_size_at(walk[-1])  # of the user's code, whatever its type says
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ConformanceError(
                    f"batch_size_at({walk[-1]}) is not a whole number of at least 1.",
                    [("expected", "1 or more"), ("actual", size)],
                )
            walk.append(walk[-1] + size)
        _check_walk(schedule, walk)
        _check_walk(twin, walk[-2:])
    sizes = [schedule.batch_size_at(consumed) for consumed in range(steps)]
    again = [twin.batch_size_at(consumed) for consumed in reversed(range(steps))][::-1]
    _same("batch_size_at depends on the calls before it.", sizes, again)


def _check_walk(schedule: BatchSchedule, walk: list[int]) -> None:
    begin, end, last = walk[0], walk[-1], len(walk) - 1
    for steps, consumed in enumerate(walk):
        _same_end(f"samples_after({steps}, {begin})", consumed, schedule.samples_after(steps, begin))
        _same_end(f"steps_between({begin}, {consumed})", steps, schedule.steps_between(begin, consumed))
    for steps, consumed in reversed(list(enumerate(walk))):
        _same_end(f"samples_after({last - steps}, {consumed})", end, schedule.samples_after(last - steps, consumed))
    for number, (consumed, later) in enumerate(pairwise(walk)):
        _same_end(f"steps_between({begin}, {later - 1})", number, schedule.steps_between(begin, later - 1))
        _same_end(f"steps_between({consumed}, {later})", 1, schedule.steps_between(consumed, later))
    if begin == 0:
        _same_end(f"samples_after({last})", walk[-1], schedule.samples_after(last))


def _same_end(call: str, expected: int, actual: object) -> None:
    _same(f"{call} is not where the walk of batch_size_at ends.", expected, actual)


def check_ranks(make_ranks: Callable[[int], Ranks], /, *, processes: int) -> None:
    """Check that the `Ranks` of a run's processes agree on their number, and that all ranks are there.

    *make_ranks* gets the number of a process, 0 to *processes* - 1. Processes may share a rank, as tensor-parallel ones
    do, each rank by equally many.

    Raises:
        ConformanceError: where the sizes differ, a rank is out of range or missing, ranks are shared unequally, or a
            second reading differs.

    >>> from types import SimpleNamespace
    >>> check_ranks(lambda n: SimpleNamespace(data_parallel_rank=n // 2, data_parallel_size=4), processes=8)
    >>> check_ranks(lambda n: SimpleNamespace(data_parallel_rank=n, data_parallel_size=2), processes=3)
    Traceback (most recent call last):
    resumable.errors.ConformanceError: The ranks of 3 processes do not share the data.
      expected: equally many processes of each rank, 0 to 1
      actual:   [0, 1, 2]
    """
    made = [make_ranks(process) for process in range(processes)]
    sizes: list[object] = [each.data_parallel_size for each in made]
    ranks: list[object] = [each.data_parallel_rank for each in made]
    _same("data_parallel_size must be the same on all processes.", sizes[:1] * processes, sizes)
    size = sizes[0]
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConformanceError(
            "data_parallel_size must be a whole number.", [("expected", "1 or more"), ("actual", size)]
        )
    times = Counter(ranks)
    if set(times) != set(range(size)) or len(set(times.values())) > 1:
        raise ConformanceError(
            f"The ranks of {processes} processes do not share the data.",
            [("expected", _Words(f"equally many processes of each rank, 0 to {size - 1}")), ("actual", ranks)],
        )
    again = [(each.data_parallel_rank, each.data_parallel_size) for each in made]
    _same("A second reading of the ranks differs.", list(zip(ranks, sizes, strict=True)), again)


def check_state(make: Callable[[], S], /, *, advance: Callable[[S], object] | None = None, times: int = 3) -> None:
    """Check `state_dict` and `load_state_dict` of anything that saves its state, in *times* states between *advance* calls.

    *advance* trains a little, so that the object's state becomes another. Without it, only the first state is checked.

    Raises:
        ConformanceError: where saving changes something, holds more than JSON types, or other keys than before; where load
            and save give something else, a second load differs from the first, or a load changes what it is given or
            keeps it; where a load that is refused leaves a trace; where all states are the same.

    >>> from resumable import ResumableLoader
    >>> def train(loader):
    ...     next(batches := iter(loader)), next(batches)
    >>> check_state(lambda: ResumableLoader(range(20), batch_size=2), advance=train)
    """
    made = make()
    states = [_saved(made)]
    for _ in range(times if advance else 0):
        advance(made) if advance else None
        states.append(_saved(made))
    keys = [sorted(state) for state in states]
    _same("The keys of a state differ from those before.", keys[:1] * len(keys), keys)
    if advance and times and all(state == states[0] for state in states):
        raise ConformanceError("advance= changed nothing in the state.", [("state", states[0])])
    for state in states:
        _check_loads(make, state, states[0])
    for name, damaged in _damaged(states[-1]):
        _check_refusal(make, states[0], name, damaged)


def _saved(made: SavesState) -> dict[str, Any]:
    first = made.state_dict()
    kept = copy.deepcopy(first)
    _check_json(first)
    _same("A second state_dict() differs from the first.", kept, made.state_dict())
    _scribble(first)
    _same("Whoever writes into a saved state changes the object.", kept, _state_or_error(made))
    return kept


def _state_or_error(made: SavesState) -> object:
    try:
        return made.state_dict()
    except Exception as error:  # noqa: BLE001  # an object that was spoilt may raise anything
        return error


def _check_json(value: object, path: str = "state") -> None:
    if isinstance(value, (Mapping, list)):
        for key, inner in _parts(value):
            if isinstance(value, Mapping) and not isinstance(key, str):
                raise ConformanceError(
                    f"{path} has a key that JSON does not have.", [("expected", "a string"), ("actual", key)]
                )
            _check_json(inner, f"{path}[{key!r}]")
    elif type(value) not in (bool, int, float, str, type(None)) or (isinstance(value, float) and isnan(value)):
        raise ConformanceError(
            f"{path} is not of a JSON type.",
            [("expected", _Words("dict, list, str, int, float, bool or None")), ("actual", value)],
            "Save Python's own numbers and strings: they load under torch's weights_only=True, and everywhere else.",
        )


def _parts(value: Any) -> list[tuple[Any, Any]]:
    pairs = cast("Any", value.items() if isinstance(value, Mapping) else enumerate(value))
    return list(pairs)


def _scribble(state: Any) -> None:
    """Write into *state*, at every depth."""
    for _, inner in _parts(state):
        if isinstance(inner, (dict, list)):
            _scribble(inner)
    state.clear()
    state.update(written=1) if isinstance(state, dict) else state.append("written")


def _check_loads(make: Callable[[], SavesState], state: dict[str, Any], other: dict[str, Any]) -> None:
    text = json.dumps(state)
    made, given = make(), json.loads(text)
    made.load_state_dict(given)
    _same("load_state_dict() changes the state that it is given.", state, given)
    _same("A state is another after a load and a save.", state, made.state_dict())
    _scribble(given)
    _same("Whoever writes into a loaded state changes the object.", state, _state_or_error(made))
    made.load_state_dict(json.loads(text))
    _same("A second load of a state differs from the first.", state, made.state_dict())
    made.load_state_dict(copy.deepcopy(other))
    made.load_state_dict(json.loads(text))
    _same("A load depends on what was loaded before it.", state, made.state_dict())


def _damaged(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "an empty state", {}
    for key in state:
        yield f"a state without {key!r}", {name: value for name, value in state.items() if name != key}
        for wrong in _WRONG:
            yield f"{key!r} of {wrong!r}", {**state, key: wrong}


def _check_refusal(make: Callable[[], SavesState], state: dict[str, Any], name: str, damaged: Any) -> None:
    made = make()
    made.load_state_dict(copy.deepcopy(state))
    try:
        made.load_state_dict(damaged)
    except Exception:  # noqa: BLE001  # whatever it raises is a refusal
        _same(f"The load of {name} was refused, and left a trace.", state, _state_or_error(made))


def _same(
    what: str,
    expected: object,
    actual: object,
    values: Sequence[tuple[str, object]] = (),
    advice: str = "",
) -> None:
    if type(expected) is not type(actual) or expected != actual:
        shown = [("expected", expected), ("actual", actual)]
        raise ConformanceError(what, [*values, *shown], advice)
