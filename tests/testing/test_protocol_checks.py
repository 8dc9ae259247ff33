"""What fits the Protocols passes its check, and each broken promise is found, with both values."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# (what is wrong on purpose has no types)

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resumable import (
    ConformanceError,
    ConstantBatchSize,
    LinearRampup,
    Order,
    ResumableLoader,
    ResumptionError,
    ResumptionState,
    Sequential,
    Shuffled,
    StepSchedule,
)
from resumable.testing import check_order, check_ranks, check_schedule, check_state
from tests.support.reference import numbers

Change = Callable[[int, int, int, "np.ndarray[Any, Any]"], Any]


class Changed:
    """A shuffled order whose answers *change* makes over."""

    def __init__(self, change: Change, n: int = 20) -> None:
        self.order, self.change, self.calls = Shuffled(n, 1), change, 0

    def __len__(self) -> int:
        return len(self.order)

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        self.calls += 1
        return self.change(epoch, start, stop, self.order.indices(epoch, start, stop))


def memory(n: int = 20) -> Order:
    """An order that hands out its own memory."""
    kept = [Shuffled(n, 1).indices(epoch, 0, n).copy() for epoch in range(9)]

    class Kept(Changed):
        def indices(self, epoch: int, start: int, stop: int, /) -> Any:
            Shuffled(n).indices(epoch, start, stop)
            return kept[epoch][start:stop]

    return Kept(lambda *_: None)


class Counting(Changed):
    """An order whose answers depend on how often it was asked."""

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        self.calls += 1
        return self.order.indices(epoch + (self.calls > 50), start, stop)


class Lenient(Changed):
    """An order that clips what it is asked for."""

    def indices(self, epoch: int, start: int, stop: int, /) -> Any:
        start, stop = max(start, 0), min(stop, len(self))
        return self.order.indices(epoch, start, max(start, stop))


def own_seed() -> Order:
    """An order with a seed of its own in each process."""
    return Shuffled(20, random.randrange(2**32))


def drawn(epoch: int, start: int, stop: int, found: Any) -> Any:
    """Drawn from the global stream, and the same until somebody seeds it."""
    return np.random.default_rng(int(random.random() * 2**32)).permutation(20)[start:stop]


@pytest.mark.parametrize(
    "order", [Sequential(1), Sequential(20), Shuffled(20), Shuffled(21, 7), Shuffled(999, 7)], ids=str
)
def test_the_orders_of_the_package_are_orders(order: Order) -> None:
    """Orders that keep each promise pass, and nothing of the process's random numbers has moved."""
    random.seed(3)
    before = random.getstate()
    check_order(lambda: order)
    assert before == random.getstate()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: Changed(lambda e, a, b, found: found.tolist()),
            "Indices must be an array of int64, one for each place.\n"
            "  call:     indices(0, 0, 20)\n"
            "  expected: 'int64 of shape (20,)'\n"
            "  actual:   'list'",
            id="a list",
        ),
        pytest.param(lambda: Changed(lambda e, a, b, found: found.astype("int32")), "actual:   'int32 of", id="int32"),
        pytest.param(
            lambda: Changed(lambda e, a, b, found: found[:-1]), "actual:   'int64 of shape (19,)'", id="short"
        ),
        pytest.param(
            lambda: Changed(lambda e, a, b, found: found + 1),
            "Epoch 0 has indices that are not in the dataset.\n  length:   20\n  expected: []\n  actual:   [20]",
            id="from 1",
        ),
        pytest.param(
            lambda: Changed(lambda e, a, b, found: found // 2),
            "Epoch 0 has an index more than once.",
            id="twice",
        ),
        pytest.param(
            lambda: Changed(lambda e, a, b, found: found[::-1]),
            "A slice of an epoch is not that part of the whole epoch.",
            id="a slice reversed",
        ),
        pytest.param(
            lambda: Changed(lambda e, a, b, found: Shuffled(20, a).indices(e, a, b)),
            "A slice of an epoch is not that part of the whole epoch.",
            id="seeded by the start",
        ),
        pytest.param(lambda: Counting(lambda *_: None), "A slice of an epoch is not that part", id="counts calls"),
        pytest.param(own_seed, "An order that is made anew has other indices.", id="a seed of its own"),
        pytest.param(
            lambda: Changed(drawn), "A slice of an epoch is not that part of the whole epoch.", id="global stream"
        ),
        pytest.param(memory, "Whoever writes into an answer changes the order.", id="its own memory"),
        pytest.param(
            lambda: Lenient(lambda *_: None),
            "An order gave an answer for places that are not in the epoch.\n"
            "  length:   20\n"
            "  call:     indices(0, -1, 0)\n"
            "  expected: an error\n"
            "  actual:   array([], dtype=int64)",
            id="lenient",
        ),
    ],
)
def test_a_broken_order_is_found(make: Callable[[], Order], message: str) -> None:
    """Each promise of an order that is not kept gets an error of ours that is an AssertionError too."""
    with pytest.raises(ConformanceError) as caught:
        check_order(make)
    assert message in str(caught.value)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, ResumptionError)


def test_the_global_seed_of_a_stable_order_is_found() -> None:
    """An order that was drawn once from the process's random numbers is that of no other process."""

    class Drawn(Changed):
        def indices(self, epoch: int, start: int, stop: int, /) -> Any:
            Shuffled(20).indices(epoch, start, stop)
            found = np.arange(20)
            np.random.RandomState(random.getstate()[1][1] % 2**32).shuffle(found)
            return found[start:stop]

    with pytest.raises(ConformanceError, match=r"The order depends on the random numbers of the process\."):
        check_order(lambda: Drawn(lambda *_: None))


SCHEDULES = [ConstantBatchSize(8), LinearRampup(4, 16, 4, 30), StepSchedule.parse("0:3 10:7 11:1 40:16")]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_schedules_of_the_package_are_schedules(schedule: Any) -> None:
    """Schedules whose methods agree pass."""
    check_schedule(lambda: schedule)


def schedule_with(**methods: Callable[..., Any]) -> Callable[[], Any]:
    """A ramp, some of whose methods are others."""
    ramp = LinearRampup(4, 16, 4, 30)
    own = {name: getattr(ramp, name) for name in ("batch_size_at", "samples_after", "steps_between")}
    return lambda: SimpleNamespace(**{**own, **methods})


def forgetful() -> Any:
    """A schedule that follows the largest count that it was asked for."""
    ramp, seen = LinearRampup(4, 16, 4, 30), [0]

    def size(consumed: int) -> int:
        seen[0] = max(consumed, seen[0])
        return ramp.batch_size_at(seen[0])

    return schedule_with(batch_size_at=size)()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            schedule_with(batch_size_at=lambda consumed: 0), "expected: '1 or more'\n  actual:   0", id="a size of 0"
        ),
        pytest.param(schedule_with(batch_size_at=lambda consumed: 4.0), "actual:   4.0", id="a float"),
        pytest.param(
            schedule_with(samples_after=lambda steps, consumed=0: consumed + 4 * steps),
            "samples_after(4, 0) is not where the walk of batch_size_at ends.\n  expected: 20\n  actual:   16",
            id="no ramp",
        ),
        pytest.param(
            schedule_with(steps_between=lambda a, b: -(-(b - a) // 16)),
            "steps_between(0, 8) is not where",
            id="rounded up",
        ),
        pytest.param(
            schedule_with(steps_between=lambda a, b: LinearRampup(4, 16, 4, 30).steps_between(a, b + 1)),
            "steps_between(0, 3) is not where the walk",
            id="a step too early",
        ),
        pytest.param(forgetful, "samples_after(1, 1) is not where", id="remembers"),
    ],
)
def test_a_broken_schedule_is_found(make: Callable[[], Any], message: str) -> None:
    """Methods that tell of different steps get an error with the call and both values."""
    with pytest.raises(ConformanceError) as caught:
        check_schedule(make)
    assert message in str(caught.value)


def ranks_of(*pairs: tuple[Any, Any]) -> Callable[[int], Any]:
    """The ranks and sizes of the processes of a run."""
    return lambda process: SimpleNamespace(data_parallel_rank=pairs[process][0], data_parallel_size=pairs[process][1])


class Moving:
    """A rank that moves on when it is read."""

    data_parallel_size = 1

    def __init__(self, process: int) -> None:
        self.reads = -1

    @property
    def data_parallel_rank(self) -> int:
        self.reads += 1
        return self.reads


@pytest.mark.parametrize(
    ("make", "processes", "message"),
    [
        pytest.param(ranks_of((0, 2), (1, 1)), 2, "must be the same on all processes", id="sizes differ"),
        pytest.param(ranks_of((0, 2), (0, 2)), 2, "actual:   [0, 0]", id="a rank is missing"),
        pytest.param(ranks_of((0, 2), (2, 2)), 2, "actual:   [0, 2]", id="out of range"),
        pytest.param(ranks_of((0, 2), (0, 2), (1, 2)), 3, "equally many processes of each rank, 0 to 1", id="unequal"),
        pytest.param(ranks_of((0, 0)), 1, "expected: '1 or more'\n  actual:   0", id="no rank"),
        pytest.param(Moving, 1, "A second reading of the ranks differs.", id="moves"),
    ],
)
def test_broken_ranks_are_found(make: Callable[[int], Any], processes: int, message: str) -> None:
    """Ranks that do not share the data are found; those that share a rank equally are not."""
    check_ranks(ranks_of((0, 2), (1, 2), (0, 2), (1, 2)), processes=4)
    with pytest.raises(ConformanceError) as caught:
        check_ranks(make, processes=processes)
    assert message in str(caught.value)


class Counter:
    """Counts, and saves and loads its count as the options say."""

    def __init__(self, **faults: Any) -> None:
        self.state: dict[str, Any] = {"count": 0, "old": []}
        self.faults = faults

    def advance(self) -> None:
        self.state["count"] += 1

    def state_dict(self) -> dict[str, Any]:
        change = self.faults.get("save")
        kept = {**self.state, "old": list(self.state["old"])}
        return change(self, kept) if change else kept

    def load_state_dict(self, state_dict: Any, /) -> None:
        self.faults.get("load", Counter.replace)(self, state_dict)

    def replace(self, given: Any) -> None:
        if not isinstance(given.get("count"), int) or not isinstance(given.get("old"), list):
            raise TypeError("no count")
        self.state = {"count": given["count"], "old": list(given["old"])}


def saves(change: Callable[[Counter, dict[str, Any]], Any]) -> Callable[[], Counter]:
    """A counter whose saved state *change* makes over."""
    return lambda: Counter(save=change)


def loads(load: Callable[[Counter, Any], Any]) -> Callable[[], Counter]:
    """A counter that loads by *load*."""
    return lambda: Counter(load=load)


def counts_saves(counter: Counter, kept: dict[str, Any]) -> dict[str, Any]:
    """Saving is a step, too."""
    counter.advance()
    return kept


def in_parts(counter: Counter, given: Any) -> None:
    """The first key is loaded before the second is looked at."""
    counter.state["count"] = given["count"]
    counter.state["old"] = list(given["old"])


def adds(counter: Counter, given: Any) -> None:
    """A load adds to what is there."""
    counter.replace({**given, "count": given["count"] + counter.state["count"]})


def pops(counter: Counter, given: Any) -> None:
    """A load that takes the state apart."""
    counter.replace({"count": given.pop("count"), "old": given["old"]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(saves(lambda c, kept: {**kept, "count": np.int64(1)}), "state['count'] is not of", id="numpy"),
        pytest.param(saves(lambda c, kept: {**kept, "old": [(1,)]}), "state['old'][0] is not of a JSON", id="a tuple"),
        pytest.param(saves(lambda c, kept: {**kept, 1: 1}), "state has a key that JSON does not have", id="a key"),
        pytest.param(saves(lambda c, kept: {**kept, "x": float("nan")}), "actual:   nan", id="no number"),
        pytest.param(saves(lambda c, kept: c.state), "Whoever writes into a saved state", id="its own memory"),
        pytest.param(saves(counts_saves), "A second state_dict() differs from the first", id="saving counts"),
        pytest.param(
            saves(lambda c, kept: {**kept, **({"odd": 1} if kept["count"] % 2 else {})}),
            "The keys of a state differ from those before.",
            id="other keys",
        ),
        pytest.param(loads(lambda c, given: None), "A state is another after a load and a save", id="forgets"),
        pytest.param(loads(adds), "A second load of a state differs from the first", id="adds"),
        pytest.param(loads(pops), "load_state_dict() changes the state that it is given", id="takes apart"),
        pytest.param(
            loads(lambda c, given: c.state.update(given)),
            "Whoever writes into a loaded state",
            id="keeps what is given",
        ),
        pytest.param(loads(in_parts), "was refused, and left a trace", id="a trace"),
    ],
)
def test_a_broken_state_is_found(make: Callable[[], Counter], message: str) -> None:
    """Each promise of a saved state that is not kept is found."""
    check_state(Counter, advance=Counter.advance)
    with pytest.raises(ConformanceError) as caught:
        check_state(make, advance=Counter.advance)
    assert message in str(caught.value)


def test_an_advance_that_changes_nothing_is_found() -> None:
    """A check of one state alone is not taken for one of many."""
    with pytest.raises(ConformanceError, match=r"advance= changed nothing in the state\."):
        check_state(Counter, advance=lambda counter: None)


def test_the_states_of_the_package_are_states() -> None:
    """A loader's state and a state of its own keep each promise."""

    def train(loader: Any) -> None:
        next(batches := iter(loader))
        next(batches)
        loader.commit()

    check_state(lambda: ResumableLoader(numbers(20), batch_size=2, shuffle=True), advance=train)
    check_state(ResumptionState)
