"""The ledger, from step to sample and back, against a run that is simulated step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable.errors import StateError
from resumable.saved.ledger import Ledger, Stretch
from resumable.saved.schedule_format import UserSchedule
from resumable.steps.batch_plan import DropLast
from resumable.steps.schedules import ConstantBatchSize, StepSchedule
from tests.support.reference import Setup, rest_of, run_of, settled


@dataclass
class Simulation:
    """A run that takes one optimizer step after the other and writes down where each one led."""

    length: int
    step: int = 0
    sample: int = 0
    epoch: int = 0
    offset: int = 0

    def here(self, stretch: Stretch) -> Stretch:
        """*stretch*, begun at the present place."""
        return replace(
            stretch, length=self.length, step=self.step, sample=self.sample, epoch=self.epoch, offset=self.offset
        )

    def settle(self, stretch: Stretch) -> None:
        """Leave an epoch that has no batch left."""
        if self.offset and not self.rest(stretch):
            self.epoch, self.offset = self.epoch + 1, 0

    def rest(self, stretch: Stretch) -> list[tuple[int, int]]:
        """The epoch's batches from here on."""
        return rest_of(
            self.length,
            stretch.micro_batch_size * stretch.data_parallel_size,
            self.offset,
            drop_last=stretch.drop_last,
            limit=stretch.limit,
        )

    def take(self, stretch: Stretch) -> None:
        """One optimizer step: at most *accumulation* batches, and none beyond the end of the epoch."""
        self.settle(stretch)
        taken = self.rest(stretch)[: stretch.accumulation]
        self.step += 1
        self.sample += sum(stop - start for start, stop in taken)
        self.offset = taken[-1][1]
        self.settle(stretch)


@st.composite
def stretches(draw: st.DrawFn, length: int) -> Stretch:
    """A configuration in which an epoch has at least one batch."""
    per_batch = draw(st.integers(1, length + 3))
    ranks = draw(st.sampled_from([d for d in (1, 2, 3) if per_batch % d == 0]))
    return Stretch(
        micro_batch_size=per_batch // ranks,
        data_parallel_size=ranks,
        accumulation=draw(st.integers(1, 4)),
        num_workers=draw(st.integers(0, 2)),
        drop_last=draw(st.booleans()) if per_batch <= length else False,
        limit=draw(st.none() | st.integers(1, 5)),
    )


@st.composite
def runs(draw: st.DrawFn) -> tuple[Ledger, list[int]]:
    """A run of a few stretches: its ledger, and the consumed samples after each step."""
    simulation = Simulation(draw(st.integers(1, 25)))
    ledger, consumed = Ledger(), [0]
    for _ in range(draw(st.integers(1, 4))):
        stretch = draw(stretches(simulation.length))
        simulation.settle(stretch)
        ledger = ledger.note(simulation.here(stretch))
        for _ in range(draw(st.integers(1, 15))):
            simulation.take(stretch)
            consumed.append(simulation.sample)
    return ledger, consumed


@given(runs())
def test_step_to_sample_is_that_of_the_simulation(run: tuple[Ledger, list[int]]) -> None:
    """Every step of a run with changing configurations is found again by its samples."""
    ledger, consumed = run
    assert consumed == [ledger.consumed_samples_at(step) for step in range(len(consumed))]


@given(runs())
def test_sample_to_step_is_that_of_the_simulation(run: tuple[Ledger, list[int]]) -> None:
    """A count of samples completes the steps whose samples it includes, in the middle of a step too."""
    ledger, consumed = run
    expected = [sum(after <= samples for after in consumed) - 1 for samples in range(consumed[-1] + 1)]
    assert expected == [ledger.global_step_at(samples) for samples in range(consumed[-1] + 1)]


@given(runs())
def test_the_ledger_grows_with_changes_and_not_with_the_run(run: tuple[Ledger, list[int]]) -> None:
    """Neighbours differ in more than where they begin, and noting the last one again adds nothing."""
    ledger, _ = run
    assert not [one for one, other in zip(ledger, list(ledger)[1:], strict=False) if one.same_configuration(other)]
    assert ledger is ledger.note(replace(ledger.stretches[-1], step=10**6, sample=10**6))


@given(runs(), st.data())
def test_going_back_forgets_what_came_later(run: tuple[Ledger, list[int]], data: st.DataObject) -> None:
    """A resume from an older checkpoint in another configuration leaves nothing of the later stretches."""
    ledger, consumed = run
    step = data.draw(st.integers(0, len(consumed) - 1))
    other = replace(ledger.stretches[0], step=step, sample=consumed[step], num_workers=99)
    again = ledger.note(other)
    assert [*(s for s in ledger if s.sample < consumed[step]), other] == list(again)


TAILS: list[DropLast] = [False, True, "carry"]


@st.composite
def scheduled_runs(draw: st.DrawFn) -> tuple[Ledger, list[int]]:
    """A run whose schedule, micro batch, ranks and tail change on the way."""
    length, place = draw(st.integers(9, 25)), (0, 0, 0)
    ledger, consumed = Ledger(), [0]
    for _ in range(draw(st.integers(1, 4))):
        micro, ranks, drop_last = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from(TAILS))
        unit = micro * ranks
        thresholds = [0, *sorted(draw(st.sets(st.integers(1, 200), max_size=3)))]
        times = st.integers(1, length // unit)
        sizes = tuple((at, draw(times) * unit) for at in thresholds) if draw(st.booleans()) else ()
        setup = Setup(length, micro, ranks, sizes, drop_last)
        place = settled(setup, place)
        stretch = Stretch(
            sample=place[0], epoch=place[1], offset=place[2], length=length, micro_batch_size=micro, data_parallel_size=ranks,
            drop_last=drop_last, schedule=StepSchedule(sizes) if sizes else None,
        )  # fmt: skip
        ledger = ledger.going_on(stretch)
        for step in islice(run_of(setup, place), draw(st.integers(1, 15))):
            place = step.ends
            consumed.append(place[0])
    return ledger, consumed


@given(scheduled_runs())
def test_schedules_are_counted_both_ways(run: tuple[Ledger, list[int]]) -> None:
    """Through changes of schedule, ranks and tail, every step is found by its samples and every sample by its step."""
    ledger, consumed = run
    assert consumed == [ledger.consumed_samples_at(step) for step in range(len(consumed))]
    expected = [sum(after <= samples for after in consumed) - 1 for samples in range(consumed[-1] + 1)]
    assert expected == [ledger.global_step_at(samples) for samples in range(consumed[-1] + 1)]


def test_a_schedule_that_only_its_program_knows() -> None:
    """It counts again once it is there; where another takes its place, steps are counted from there, and none before."""
    named = Stretch(step=3, sample=30, length=1000, micro_batch_size=10, schedule=UserSchedule("Mine"))
    loaded = Ledger((Stretch(length=1000, micro_batch_size=10), named))
    mine = replace(named, step=0, sample=50, schedule=UserSchedule("Mine", StepSchedule(((0, 10),))))
    again = loaded.going_on(mine)
    assert ([0, 3], 50, 5) == ([s.step for s in again], again.consumed_samples_at(5), again.global_step_at(50))
    other = replace(mine, schedule=ConstantBatchSize(20))
    assert [0, 3, 3] == [stretch.step for stretch in loaded.going_on(other)]
    assert [0, 3, 5] == [stretch.step for stretch in again.going_on(other)]
    with pytest.raises(StateError, match="holds only the name"):
        loaded.consumed_samples_at(4)


def test_an_empty_ledger_knows_where_the_run_begins_and_nothing_more() -> None:
    """Step 0 is sample 0; any other is unknown, and 0 would be wrong in silence."""
    assert (0, 0, 0) == (len(Ledger()), Ledger().consumed_samples_at(0), Ledger().global_step_at(0))
    with pytest.raises(StateError, match=r"global_step:\s+5"):
        Ledger().consumed_samples_at(5)
    with pytest.raises(StateError, match=r"consumed_samples:\s+5"):
        Ledger().global_step_at(5)


def test_a_ledger_that_begins_later_answers_from_there_on() -> None:
    """What was trained before its first stretch is unknown."""
    ledger = Ledger().note(Stretch(step=10, sample=80, epoch=0, offset=80, length=1000, micro_batch_size=8))
    assert [0, 80, 96] == [ledger.consumed_samples_at(step) for step in (0, 10, 12)]
    assert [0, 10, 12] == [ledger.global_step_at(sample) for sample in (0, 80, 96)]
    with pytest.raises(StateError, match="step 10, sample 80"):
        ledger.consumed_samples_at(9)
    with pytest.raises(StateError, match="step 10, sample 80"):
        ledger.global_step_at(79)


def test_steps_of_a_trillion_samples_are_computed() -> None:
    """A billion epochs of a trillion samples are closed forms."""
    ledger = Ledger().note(Stretch(length=10**12, micro_batch_size=8, data_parallel_size=4, accumulation=2))
    assert 64 * 10**15 == ledger.consumed_samples_at(10**15)
    assert 10**15 == ledger.global_step_at(64 * 10**15)
