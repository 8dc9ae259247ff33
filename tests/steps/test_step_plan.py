"""The closed forms of a schedule's steps, and what is refused, against a run that is walked sample by sample."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from resumable.errors import ConfigurationError
from resumable.position import Position
from resumable.protocols import BatchSchedule
from resumable.steps.batch_plan import BatchPlan, DropLast
from resumable.steps.schedules import ConstantBatchSize, LinearRampup, StepSchedule
from resumable.steps.stages import DivisibleSchedule, PiecewiseSchedule
from resumable.steps.step_plan import StepPlan
from tests.support.reference import LoaderPosition, Setup, WalkedStep, run_of, settled, size_at, vars_of


@dataclass(frozen=True)
class Foreign:
    """A schedule that tells nobody its stages."""

    schedule: PiecewiseSchedule

    def batch_size_at(self, consumed_samples: int, /) -> int:
        """As the schedule within."""
        return self.schedule.batch_size_at(consumed_samples)

    def samples_after(self, steps: int, consumed: int = 0, /) -> int:
        """As the schedule within."""
        return self.schedule.samples_after(steps, consumed)

    def steps_between(self, consumed: int, later: int, /) -> int:
        """As the schedule within."""
        return self.schedule.steps_between(consumed, later)


TAILS: list[DropLast] = [False, True, "carry"]


@st.composite
def setups(draw: st.DrawFn, *, fits: bool = True) -> Setup:
    """Runs with a schedule of a few stages, some so short that they are leapt over."""
    micro, ranks = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    length, drop_last = draw(st.integers(1, 40)), draw(st.sampled_from(TAILS))
    unit = micro * ranks if fits else 1
    largest = length if drop_last is True else 50
    assume(unit <= largest)
    sizes = st.integers(1, largest // unit).map(lambda times: times * unit)
    thresholds = sorted({0, *draw(st.lists(st.integers(1, 150), max_size=4))})
    return Setup(length, micro, ranks, tuple((threshold, draw(sizes)) for threshold in thresholds), drop_last)


def plan_of(
    length: int,
    micro: int,
    schedule: BatchSchedule,
    ranks: int = 1,
    *,
    drop_last: DropLast = False,
    limit: int | None = None,
) -> StepPlan:
    """A plan from the sizes of a run."""
    return StepPlan(BatchPlan(length, micro * ranks, drop_last, limit), schedule, micro)


def with_rounds(plan: StepPlan, **changes: Any) -> StepPlan:
    """*plan* with other rounds."""
    return replace(plan, rounds=replace(plan.rounds, **changes))


def scheduled(setup: Setup, *, foreign: bool = False) -> StepPlan:
    """The same as the package has it."""
    schedule = StepSchedule(setup.sizes)
    known: Any = Foreign(schedule) if foreign else schedule
    return plan_of(setup.length, setup.micro, known, setup.ranks, drop_last=setup.drop_last)


def walked(setup: Setup, at: LoaderPosition, steps: int) -> list[WalkedStep]:
    """So many steps."""
    return list(islice(run_of(setup, at), steps))


def pass_of(setup: Setup, at: LoaderPosition) -> list[WalkedStep]:
    """The steps up to and with the one that reaches the next epoch."""
    found: list[WalkedStep] = []
    for step in run_of(setup, at):
        found.append(step)
        if step.ends[1] != step.begins[1]:
            return found
    raise LookupError


places = st.tuples(st.integers(0, 200), st.integers(0, 3), st.integers(0, 40))


@given(setups(), places, st.booleans())
def test_the_steps_of_a_pass_are_those_of_the_walk(setup: Setup, at: LoaderPosition, foreign: bool) -> None:
    """From any place, each step begins, ends and falls into micro batches as in the walk."""
    assume(at[2] <= setup.length)
    run = scheduled(setup, foreign=foreign)
    expected = [(step.begins, step.ends, len(step.rounds)) for step in pass_of(setup, at)]
    assert expected == [(*map(vars_of, step[:2]), step.batches) for step in run.steps(Position(*at))]
    assert settled(setup, at) == vars_of(run.canonical(Position(*at)))
    assert sum(batches for *_, batches in expected) == run.batches_left(Position(*at))
    assert expected[0][2] == run.step_batches(Position(*at))


@given(setups(), places, st.booleans())
def test_advance_leads_to_the_last_whole_step(setup: Setup, at: LoaderPosition, foreign: bool) -> None:
    """Micro batches of a step that is not complete lead nowhere."""
    assume(at[2] <= setup.length)
    run = scheduled(setup, foreign=foreign)
    steps = pass_of(setup, at)
    batches = 0
    for step in steps:
        for part in range(len(step.rounds)):
            assert step.begins == vars_of(run.advance(Position(*at), batches + part))
        batches += len(step.rounds)
    assert steps[-1].ends == vars_of(run.advance(Position(*at), batches))


@given(setups(), places, st.integers(0, 60), st.booleans())
@example(
    Setup(20, 4, 1, ((0, 8), (16, 4)), drop_last=True), (0, 0, 0), 2, False
)  # the rest of an epoch takes a smaller step
def test_steps_and_samples_lead_where_the_walk_leads(
    setup: Setup, at: LoaderPosition, steps: int, foreign: bool
) -> None:
    """Any number of steps, over any number of epochs, and back from the samples, in the middle of a step too."""
    assume(at[2] <= setup.length)
    run = scheduled(setup, foreign=foreign)
    taken = walked(setup, at, steps + 1)
    assert taken[steps].begins == vars_of(run.after(Position(*at), steps))
    for samples in range(taken[steps].begins[0] - at[0], taken[steps].ends[0] - at[0]):
        assert steps == run.steps_within(Position(*at), samples)


@given(setups(), st.integers(0, 60), st.booleans())
def test_a_bare_count_finds_its_place(setup: Setup, steps: int, foreign: bool) -> None:
    """Epoch and offset follow from the samples, for a run that has always had this schedule."""
    run = scheduled(setup, foreign=foreign)
    place = walked(setup, (0, 0, 0), steps + 1)[steps].begins
    assert place == vars_of(run.position_at(place[0]))


def test_closed_forms_do_not_walk() -> None:
    """A billion epochs of a trillion samples cost what one of ten costs, on both sides of a ramp-up."""
    ramp = LinearRampup(start=16, end=1024, increment=16, rampup_samples=10**13)
    whole = plan_of(10**12, 8, ramp, ranks=2)
    for run in (whole, with_rounds(whole, drop_last=True)):
        far = run.after(Position(), 10**18)
        assert 10**18 == run.steps_within(Position(), far.consumed_samples)
        assert far == run.position_at(far.consumed_samples)
        assert far.epoch > 10**8
    carried = with_rounds(whole, drop_last="carry").after(Position(), 10**18)
    assert ramp.samples_after(10**18) == carried.consumed_samples == carried.epoch * 10**12 + carried.offset


def bad_sizes(setup: Setup, at: LoaderPosition) -> Iterator[tuple[int, int]]:
    """The whole steps of the walk that do not fall into rounds: consumed samples, size."""
    for step in walked(setup, at, 300):
        size = size_at(setup, step.begins[0])
        if size % setup.per_round and (setup.drop_last == "carry" or step.begins[2] + size <= setup.length):
            yield step.begins[0], size


@given(setups(fits=False), places, st.booleans())
@example(Setup(length=1, micro=1, ranks=2, sizes=((0, 3),), drop_last=False), (0, 0, 0), False)  # no step is whole
def test_what_does_not_fall_into_rounds_is_refused(setup: Setup, at: LoaderPosition, foreign: bool) -> None:
    """Where the walk comes to a bad step, it is named before the run begins, unless nobody knows the stages."""
    assume(at[2] <= setup.length)
    run = scheduled(setup, foreign=foreign)
    bad = next(bad_sizes(setup, at), None)
    first = walked(setup, at, 1)[0].begins[0]
    if bad is None or (foreign and bad[0] != first):
        run.check_from(Position(*at))
        return
    with pytest.raises(ConfigurationError, match="A global batch does not fall into whole micro batches") as caught:
        run.check_from(Position(*at))
    consumed, size = bad
    below = size - size % setup.per_round
    would_do = f"'{below} or {below + setup.per_round}'" if below else f"'{below + setup.per_round}'"
    assert [
        f"  global batch size:     {size}",
        f"  from consumed_samples: {consumed}",
        f"  micro_batch_size:      {setup.micro}",
        f"  data_parallel_size:    {setup.ranks}",
        f"  sizes that would do:   {would_do}",
    ] == str(caught.value).splitlines()[1:6]
    assert ("decrease_batch_size_if_needed" in str(caught.value)) == (below > 0)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


@given(setups(fits=False), places)
def test_rounded_down_steps_fall_into_rounds(setup: Setup, at: LoaderPosition) -> None:
    """Each size is the largest multiple that is not above the schedule's, at the schedule's own thresholds."""
    assume(at[2] <= setup.length)
    unit = setup.per_round
    schedule = DivisibleSchedule(StepSchedule(setup.sizes), unit)
    run = plan_of(setup.length, setup.micro, schedule, setup.ranks, drop_last=setup.drop_last)
    assume(all(size >= unit for _, size in setup.sizes))
    rounded = replace(setup, sizes=tuple((threshold, size - size % unit) for threshold, size in setup.sizes))
    expected = [(step.begins, step.ends, len(step.rounds)) for step in pass_of(rounded, at)]
    assert expected == [(*map(vars_of, step[:2]), step.batches) for step in run.steps(Position(*at))]
    run.check_from(Position(*at))


def test_nothing_is_rounded_down_to_nothing() -> None:
    """A step of no samples would never end: the size and the divisor are named."""
    run = plan_of(100, 8, DivisibleSchedule(StepSchedule(((0, 20), (40, 12), (80, 40))), 16), ranks=2)
    with pytest.raises(ConfigurationError, match="A global batch that is rounded down to whole micro") as caught:
        run.check_from(Position())
    assert "global batch size:                     12\n  micro_batch_size * data_parallel_size: 16\n" in str(
        caught.value
    )
    run.check_from(Position(80, 0, 80))


@given(st.integers(1, 8), st.integers(0, 9), st.integers(1, 9), st.integers(0, 200), st.integers(1, 4))
def test_rounding_is_that_of_the_ramp_ups_own_divisor(
    start: int, increments: int, increment: int, samples: int, divisor: int
) -> None:
    """A ramp-up that is rounded down is the ramp-up with a divisor, which is megatron-core's running batch size."""
    ramp = LinearRampup(start, start + increments * increment, increment, samples)
    assume(start >= divisor)
    own = replace(ramp, divisor=divisor)
    for consumed in range(samples + 20):
        assert own.batch_size_at(consumed) == DivisibleSchedule(ramp, divisor).batch_size_at(consumed)
    assert [own.samples_after(n) for n in range(50)] == [
        DivisibleSchedule(ramp, divisor).samples_after(n) for n in range(50)
    ]


@pytest.mark.parametrize("foreign", [False, True])
def test_an_epoch_without_a_step(foreign: bool) -> None:
    """Where a global batch is larger than the dataset and short steps are left out, it is said before the run begins."""
    run = scheduled(Setup(20, 4, 1, ((0, 8), (100, 24)), drop_last=True), foreign=foreign)
    there = Position(104, 6, 0)
    doing: list[Callable[[], object]] = [
        lambda: run.after(Position(), 99),
        lambda: run.position_at(10**6),
        lambda: run.batches_left(there),
        lambda: run.step_batches(there),
        lambda: run.check_from(there if foreign else Position()),
    ]
    for do in doing:
        with pytest.raises(ConfigurationError, match=r"An epoch has no batch(.|\n)*dataset length: 20\n") as caught:
            do()
        assert "batch size:     24\n  drop_last:      True" in str(caught.value)
    with_rounds(run, drop_last=False).check_from(Position())
    with_rounds(run, drop_last="carry").check_from(Position())


def test_small_batches_may_be_trained_already() -> None:
    """A run may get more ranks after the small batches of its ramp-up, but not where no size fits."""
    ramp = LinearRampup(start=8, end=32, increment=8, rampup_samples=300)
    wide = plan_of(1000, 8, ramp, ranks=4)
    assert not wide.check_for_ever()
    assert plan_of(1000, 8, ramp).check_for_ever()
    wide.check_from(Position(301, 0, 301))
    with pytest.raises(ConfigurationError, match="from consumed_samples: 0"):
        wide.check_from(Position())
    for hopeless in (plan_of(1000, 8, ramp, ranks=3), plan_of(31, 8, ramp, ranks=4, drop_last=True)):
        with pytest.raises(ConfigurationError):
            hopeless.check_for_ever()


@pytest.mark.parametrize("size", [0, -8, 1.5, True, "8"])
def test_the_sizes_of_a_user_defined_schedule_are_checked(size: Any) -> None:
    """A schedule of the user's own that gives no size is named when it does."""

    class Wrong(Foreign):
        def batch_size_at(self, consumed_samples: int, /) -> Any:
            return size

    run = plan_of(20, 2, Wrong(ConstantBatchSize(4)))
    with pytest.raises(ConfigurationError, match=r"batch_size_at\(\)"):
        next(run.steps(Position()))


def test_a_limit_ends_an_epoch_early() -> None:
    """An epoch of at most three rounds is its first twelve samples, whatever becomes of the tail."""
    cases: list[tuple[DropLast, list[int]]] = [(False, [8, 4, 8]), (True, [8, 8, 8]), ("carry", [8, 8, 8])]
    for drop_last, expected in cases:
        run = plan_of(20, 4, ConstantBatchSize(8), drop_last=drop_last, limit=3)
        at, taken = Position(), list[int]()
        for _ in range(3):
            step = next(run.steps(at))
            taken.append(step.ends.consumed_samples - at.consumed_samples)
            at = step.ends
        assert expected == taken
        assert at == run.after(Position(), 3)


def test_an_epoch_that_would_take_hours_to_find() -> None:
    """A bare count under a user-defined schedule is found by counting, up to a bound; then it is refused."""

    class Mine:
        def batch_size_at(self, consumed_samples: int, /) -> int:
            return 8

        def samples_after(self, steps: int, consumed: int = 0, /) -> int:
            return consumed + 8 * steps

        def steps_between(self, consumed: int, later: int, /) -> int:
            return (later - consumed) // 8

    plan = StepPlan(BatchPlan(100, 4, drop_last=True), Mine(), 4)
    assert Position(96 * 50 + 16, 50, 16) == plan.position_at(96 * 50 + 16)
    with pytest.raises(ConfigurationError, match="too far on to be found"):
        plan.position_at(10**12)
