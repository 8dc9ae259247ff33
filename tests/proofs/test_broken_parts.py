"""Broken parts of the package, which the simulation must find."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from resumable.feeds.order_feed import OrderFeed
from resumable.loading import loop_progress as resuming
from resumable.loading.counted import Counted
from resumable.loading.cursor import Cursor, Pass
from resumable.loading.loop_progress import LoopProgress
from resumable.orders.identity import Identity
from resumable.orders.orders import Shuffled
from resumable.position import Position
from resumable.saved import resolve as policy
from resumable.saved.ledger import Ledger
from resumable.state import ResumptionState, tracker_of
from resumable.steps.batch_plan import BatchPlan
from resumable.steps.schedules import StepSchedule
from tests.proofs.__main__ import main
from tests.proofs.simulation.chains import Chain, Session, Setup, chain_of
from tests.proofs.simulation.log import Counts, Entry, counted
from tests.proofs.simulation.play import play
from tests.proofs.simulation.sizes import Sizes

CHAINS = 300


def failures(chains: int = CHAINS) -> Iterator[str]:
    """What the chains of a seed come to that are not exact."""
    for number in range(chains):
        failure = play(chain_of(1, number)).failure
        if failure is not None:
            yield failure


# Broken parts.


class Drawn(Counted[Any]):
    """A pass that counts a batch when it is prefetched."""

    ahead: deque[Any] | None = None

    @override
    def __next__(self) -> Any:
        self.ahead = deque() if self.ahead is None else self.ahead
        with suppress(StopIteration):
            while len(self.ahead) < 3:
                self.ahead.append(super().__next__())
        if not self.ahead:
            raise StopIteration
        return self.ahead.popleft()


def patched(cls: type[Any], name: str, change: Callable[[Any, Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """The method or property *name* of *cls*, whose result *change* is given, behind the instance."""
    own = cls.__dict__[name]

    def called(self: Any, *arguments: Any, **options: Any) -> Any:
        return change(self, own(self, *arguments, **options))

    def apply(patch: pytest.MonkeyPatch) -> None:
        if isinstance(own, property):
            getter: Any = own.fget
            patch.setattr(cls, name, property(lambda self: change(self, getter(self))))
        else:
            patch.setattr(cls, name, called)

    return apply


def on_read(cursor: Cursor, _: Position) -> Position:
    """The place that was read, whatever was committed."""
    return cursor.read_position


def one_again(feed: OrderFeed, places: Any) -> Any:
    """The first place twice, in the place of the second."""
    again = places.copy()
    again[1:2] = again[:1]
    return again


def strided(feed: OrderFeed, places: Any) -> Any:
    """Torch's layout instead of Megatron's: rank r takes every size-th sample."""
    if len(places) < 2 or places[-1] >= feed.plan.length or feed.plan.carries:
        return places
    rank, size = feed.shard.rank, feed.shard.size
    micro, rounds = feed.micro_batch_size, len(places) // feed.micro_batch_size
    starts = places[: rounds * micro].reshape(rounds, micro)[:, :1] - rank * micro
    return (starts + rank + np.arange(micro) * size).ravel()


def resized(patch: pytest.MonkeyPatch) -> None:
    """An order that depends on the number of ranks, as that of many samplers does."""
    own: Callable[..., None] = vars(OrderFeed)["_set"]

    def put(self: OrderFeed, order: Any) -> None:
        own(self, order)
        if isinstance(order, Shuffled):
            self.order = Shuffled(order.n, (order.seed + self.shard.size - 1) % 2**64)

    patch.setattr(OrderFeed, "_set", put)


def at_the_epochs_beginning(patch: pytest.MonkeyPatch) -> None:
    """A resume that forgets the offset."""
    own = policy.resolve

    def resolve(*arguments: Any, **options: Any) -> policy.ResumePoint:
        found = own(*arguments, **options)
        at = found.position
        return replace(found, position=Position(at.consumed_samples, at.epoch, 0))

    patch.setattr(resuming, "resolve", resolve)


def another_state(state: ResumptionState, found: dict[str, Any]) -> dict[str, Any]:
    """A key that comes and goes."""
    return found if found["offset"] % 2 else {**found, "is_even": True}


def of_its_rank(state: ResumptionState, found: dict[str, Any]) -> dict[str, Any]:
    """A state that says which rank saved it."""
    progress: Any = tracker_of(state).progress
    return {**found, "global_step": progress.feed.shard.rank}


def set_in(where: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Another value for a name."""
    return lambda patch: patch.setattr(where, name, value)


def filled_with_the_last(feed: OrderFeed, places: Any) -> Any:
    """What a short round lacks is its last sample again, not the epoch's first ones."""
    return places if feed.plan.carries else np.minimum(places, feed.plan.length - 1)


def as_it_is(batching: BatchPlan, position: Position) -> Position:
    """A place in no canonical form."""
    return position


def grows_late(patch: pytest.MonkeyPatch) -> None:
    """The size of the sample before."""
    own = StepSchedule.stages_from

    def stages_from(self: StepSchedule, consumed_samples: int) -> Iterator[Any]:
        return own(self, max(0, consumed_samples - 1))

    patch.setattr(StepSchedule, "stages_from", stages_from)


def a_batch_further(cursor: Cursor, _: None) -> None:
    """It stands behind the batch with which it should go on."""
    at = cursor.current.begun_at
    if at.offset:
        cursor.current = Pass(cursor.plan.advance(at, 1))


def without_the_seed(patch: pytest.MonkeyPatch) -> None:
    """A feed that keeps its own."""

    def adopt(self: OrderFeed, identity: Identity) -> None:
        pass

    patch.setattr(OrderFeed, "adopt", adopt)


BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "a feed that repeats a sample": (patched(OrderFeed, "_places", one_again), "A micro batch of rank"),
    "a feed in another layout": (patched(OrderFeed, "_places", strided), "A micro batch of rank"),
    "a tail that is filled otherwise": (patched(OrderFeed, "_places", filled_with_the_last), "A micro batch of rank"),
    "a cursor that counts what is prefetched": (
        set_in(resuming, "Counted", Drawn),
        "The trained position",
    ),
    "a progress that forgets the window": (patched(Cursor, "position", on_read), "The trained position"),
    "a pass that begins where it was read": (patched(Cursor, "next_start", on_read), "A micro batch of rank"),
    "a resume that is a batch late": (patched(Cursor, "seek", a_batch_further), "The place of a resume"),
    "a resume that begins the epoch again": (at_the_epochs_beginning, "The place of a resume"),
    "a resize that changes the order": (resized, "A micro batch of rank"),
    "a seed that is not taken over": (without_the_seed, "A state that was loaded and saved"),
    "an epoch's end that is no beginning": (set_in(BatchPlan, "canonical", as_it_is), "The trained position"),
    "a state with other keys": (patched(ResumptionState, "state_dict", another_state), "The keys of a state"),
    "a state for each rank": (patched(ResumptionState, "state_dict", of_its_rank), "One state on every rank"),
    "a large state": (set_in(Shuffled, "kind", "s" * 1_000), "The bytes of a state"),
    "a ledger that is a step late": (
        patched(Ledger, "global_step_at", lambda _, step: step + (step > 3)),
        "The steps behind",
    ),
    "a ledger that is a sample late": (
        patched(Ledger, "consumed_samples_at", lambda _, samples: samples + (samples > 3)),
        "The samples behind step",
    ),
    "a schedule that grows a sample late": (grows_late, "num_microbatches"),
    "padding that is not told": (
        patched(LoopProgress, "padded_samples", lambda _, padded: padded - padded),
        "padded_samples",
    ),
    "steps that are miscounted": (
        patched(Cursor, "step_batches", lambda _, batches: batches + (batches > 1)),
        "num_microbatches",
    ),
    "a part that raises": (patched(OrderFeed, "_places", lambda _, places: places["first"]), "Traceback"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_parts_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part that is broken fails some chain, with words that say where to look."""
    broken, words = BROKEN[name]
    broken(monkeypatch)
    assert any(words in failure for failure in failures())


def test_what_is_lost_and_repeated() -> None:
    """Samples that did not come, that came again in their epoch, and that came in another place are told apart."""
    right = [Entry(0, [3, 0], [3, 0]), Entry(0, [1], [1]), Entry(1, [0, 3], [0, 3])]
    assert Counts() == counted(right)
    assert Counts(lost=1, repeated=1) == counted([*right, Entry(1, [1], [0])])
    assert Counts(lost=1, out_of_order=2) == counted([Entry(0, [3, 0], [0, 1])])
    assert Counts(out_of_order=2) == counted([Entry(0, [3, 0], [0, 3])])
    assert Counts(lost=1) == counted([*right, Entry(1, [1], [])])


def test_the_counts_of_a_broken_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed that gives a batch twice behind a resume repeats its samples, and loses as many up to there."""
    setup = Setup(micro_batch_size=2)
    chain = Chain(10, (Session(setup, steps=2), Session(setup, steps=2)), shuffle=False)
    assert None is play(chain).failure
    own = OrderFeed.batches

    def batches(self: OrderFeed, epoch: int, offset: int, count: int | None = None) -> Iterator[list[Any]]:
        return own(self, epoch, max(0, offset - 2), count)

    monkeypatch.setattr(OrderFeed, "batches", batches)
    outcome = play(chain)
    assert "expected: [4, 5]\n  got:      [2, 3]" in str(outcome.failure)
    assert (1, 2, 2, 0) == (
        outcome.session,
        *(outcome.tally[f"samples {w}"] for w in ("lost", "repeated", "out of order")),
    )


def test_a_failure_is_made_short(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command tells the first chain that fails, how to see it again, and a short one that can be played as it is."""
    at_the_epochs_beginning(monkeypatch)
    assert 1 == main(["simulate", "--chains", "50", "--processes", "1"])
    told = capsys.readouterr().out
    number = int(re.findall(r"Chain (\d+) of seed 0 is not exact", told)[0])
    assert [None] * number == [play(chain_of(0, before)).failure for before in range(number)]
    assert f"simulate --seed 0 --only {number}" in told
    short = eval(
        re.findall(r"play\((.*)\)", told)[0], {"Chain": Chain, "Session": Session, "Setup": Setup, "Sizes": Sizes}
    )
    assert isinstance(short, Chain)
    assert (2, [1, 0]) == (len(short.sessions), [session.steps for session in short.sessions])
    assert "The place of a resume" in str(play(short).failure)
    assert 1 == main(["simulate", "--only", str(number)])
    assert "session 1, from" in capsys.readouterr().out
