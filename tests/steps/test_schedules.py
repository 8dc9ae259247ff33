"""Schedules give the batch sizes of Megatron's calculators, and their counts are those of a walk step by step.

The calculator of an installed megatron-core is loaded from its file alone: importing the package around it takes
seconds and warns. Its values lie in a golden file as well, for machines that do not have it.
"""

from __future__ import annotations

import json
import pickle
import tracemalloc
from bisect import bisect_left
from collections.abc import Callable, Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import groupby, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resumable.errors import ConfigurationError, StateError
from resumable.protocols import BatchSchedule
from resumable.saved.schedule_format import ledger_schedule, parse_schedule
from resumable.steps.schedules import ConstantBatchSize, LinearRampup, StepSchedule, in_whole_rounds
from tests.support.schedules import step_schedules

GOLDEN_FILE = Path(__file__).parents[1] / "golden" / "schedules.json"
GOLDEN: list[dict[str, Any]] = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))["ramps"]

Sizes = Callable[[int], int]


def walk(size_at: Sizes, consumed: int = 0) -> Iterator[int]:
    """The consumed counts at which the steps begin."""
    while True:
        yield consumed
        consumed += size_at(consumed)


# Megatron's calculator.


@pytest.fixture(scope="module")
def calculators() -> ModuleType:
    """The module `megatron.core.num_microbatches_calculator`, without the package around it."""
    pytest.importorskip("megatron")
    package = find_spec("megatron.core")
    if package is None or not package.submodule_search_locations:
        pytest.skip("megatron.core is not installed")
    path = Path(package.submodule_search_locations[0]) / "num_microbatches_calculator.py"
    spec = spec_from_file_location("calculators_of_megatron", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "RampupBatchsizeNumMicroBatchesCalculator"):
        pytest.skip("this megatron.core has no ramp-ups any more")
    return module


def their_sizes(calculators: ModuleType, ramp: LinearRampup) -> Sizes:
    """The running global batch size that megatron-core calculates for *ramp*."""
    calculator = calculators.RampupBatchsizeNumMicroBatchesCalculator(
        global_batch_size=ramp.end,
        micro_batch_size=ramp.divisor,
        data_parallel_size=1,
        decrease_batch_size_if_needed=True,
        rank=1,
        start_global_batch_size=ramp.start,
        batch_size_increment=ramp.increment,
        ramup_samples=ramp.rampup_samples,
    )

    def size_at(consumed: int) -> int:
        calculator.update(consumed, consistency_check=False)
        return int(calculator.current_running_global_batch_size)

    return size_at


def ramp_of(case: dict[str, Any]) -> LinearRampup:
    """The schedule of a golden case."""
    return LinearRampup.from_megatron(case["rampup_batch_size"], case["global_batch_size"], case["divisor"])


def calculated(case: dict[str, Any], size_at: Sizes) -> dict[str, Any]:
    """What the golden file holds of *size_at*: where each size begins, and how many steps of the run take it."""
    (_, _, samples), end = case["rampup_batch_size"], size_at(case["rampup_batch_size"][2] + 1)
    begins: list[tuple[int, int]] = [(0, size_at(0))]
    while (last := begins[-1][1]) < end:
        at = bisect_left(range(samples + 2), last + 1, 0, samples + 1, key=size_at)
        begins.append((at, size_at(at)))
    places = islice(walk(size_at), case["walked_steps"])
    taken = [[len(list(steps)), size] for size, steps in groupby(map(size_at, places))]
    return {**case, "begins": [list(begin) for begin in begins], "steps_of_size": taken}


def disagreements(ramp: LinearRampup, case: dict[str, Any]) -> list[str]:
    """Where *ramp* differs from a golden case: at a boundary, just below it, or along the first steps."""
    found: list[str] = []
    for (_, before), (begin, size) in zip([(0, 0), *case["begins"]], case["begins"], strict=False):
        if size != ramp.batch_size_at(begin):
            found.append(f"{size} at {begin}")
        if begin and before != ramp.batch_size_at(begin - 1):
            found.append(f"{before} at {begin - 1}")
    steps = consumed = 0
    for count, size in case["steps_of_size"]:
        steps, consumed = steps + count, consumed + count * size
        if (consumed, steps) != (ramp.samples_after(steps), ramp.steps_between(0, consumed)):
            found.append(f"{consumed} after {steps} steps")
    return found


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["rampup_batch_size"]))
def test_ramps_have_the_golden_values(case: dict[str, Any]) -> None:
    """Boundaries and steps of a ramp-up are megatron-core 0.16.1's, to the sample."""
    assert [] == disagreements(ramp_of(case), case)


def test_the_golden_values_are_megatrons(calculators: ModuleType) -> None:
    """The golden file holds what the installed calculator gives."""
    given = [{key: case[key] for key in list(case)[:4]} for case in GOLDEN]
    assert GOLDEN == [calculated(case, their_sizes(calculators, ramp_of(case))) for case in given]


class Shifted(LinearRampup):
    """A ramp-up whose boundaries all lie one sample too late."""

    def _increments_at(self, consumed: int) -> int:
        return LinearRampup._increments_at(self, max(0, consumed - 1))


class InExactNumbers(LinearRampup):
    """A ramp-up by the rule as one would write it without knowing of the calculator's doubles."""

    def _increments_at(self, consumed: int) -> int:
        return min(consumed * self._all_increments // self.rampup_samples, self._all_increments)


@pytest.mark.parametrize("broken", [Shifted, InExactNumbers])
def test_a_boundary_that_is_off_by_one_is_noticed(broken: type[LinearRampup]) -> None:
    """The golden comparison sees a boundary one sample too late, and one that knows nothing of rounding."""
    ramps = [(ramp_of(case), case) for case in GOLDEN]
    wrong = [broken(r.start, r.end, r.increment, r.rampup_samples, divisor=r.divisor) for r, _ in ramps]
    assert any(disagreements(ramp, case) for ramp, (_, case) in zip(wrong, ramps, strict=True))


def test_short_ramps_are_megatrons_at_every_sample(calculators: ModuleType) -> None:
    """Every ramp-up of up to 14 increments over up to 40 samples has the calculator's size at every count."""
    for increments in range(1, 15):
        for samples in range(1, 41):
            ramp = LinearRampup(1, 1 + increments, 1, samples)
            theirs = their_sizes(calculators, ramp)
            counts = range(samples + 3)
            assert list(map(theirs, counts)) == list(map(ramp.batch_size_at, counts)), ramp


@st.composite
def ramps(draw: st.DrawFn, *, samples: st.SearchStrategy[int], most: int) -> LinearRampup:
    """Ramp-ups that Megatron's calculator can build, with up to *most* increments, start at or above the divisor."""
    start, increment, divisor = draw(st.integers(1, 60)), draw(st.integers(1, 12)), draw(st.integers(1, 16))
    end = start + increment * draw(st.integers(1, most))
    return LinearRampup(
        max(start, divisor), end - start + max(start, divisor), increment, draw(samples), divisor=divisor
    )


@given(ramp=ramps(samples=st.integers(1, 4000), most=40), skipped=st.integers(0, 3000))
def test_ramps_are_megatrons_step_by_step(calculators: ModuleType, ramp: LinearRampup, skipped: int) -> None:
    """Stepping the calculator, with its running size counted as consumed, gives samples_after and steps_between."""
    steps = list(islice(walk(their_sizes(calculators, ramp), skipped), 400))
    for step in [*range(0, 40, 3), *range(40, 400, 40), 399]:
        assert (steps[step], step) == (ramp.samples_after(step, skipped), ramp.steps_between(skipped, steps[step]))


long = st.integers(1, 60).flatmap(lambda bits: st.integers(2**bits - 1, 2**bits + 2)) | st.integers(1, 10**18)


@given(ramps(samples=long | st.integers(1, 2**400), most=60), st.integers(1, 2**400))
@example(LinearRampup(16, 16 + 18 * 8, 8, 300_000), 1)
@example(LinearRampup(1, 10**6, 1, 7), 1)
def test_boundaries_of_long_ramps_are_megatrons(calculators: ModuleType, ramp: LinearRampup, place: int) -> None:
    """Each threshold of the step schedule has the calculator's size, and so has the sample before it."""
    theirs, before, steps = their_sizes(calculators, ramp), 0, ramp.to_steps()
    for begin, size in steps.steps:
        assert (size, before) == (theirs(begin), theirs(begin - 1) if begin else 0), begin
        before = size
    for consumed in (place, place % (ramp.rampup_samples + 1)):
        assert theirs(consumed) == ramp.batch_size_at(consumed) == steps.batch_size_at(consumed)


def test_constant_sizes_are_megatrons(calculators: ModuleType) -> None:
    """A constant schedule stays where the calculator stays."""
    calculator = calculators.ConstantNumMicroBatchesCalculator(24, 2, 3, False, 1)
    schedule, consumed = ConstantBatchSize(24), 5
    for step in range(20):
        assert (consumed, step) == (schedule.samples_after(step, 5), schedule.steps_between(5, consumed))
        calculator.update(consumed, consistency_check=True)
        consumed += calculator.current_running_global_batch_size


# Ramp-ups that the calculator does not reach.


@pytest.mark.parametrize("samples", [0, 1, 1000])
def test_a_ramp_from_a_size_to_itself_is_constant(samples: int) -> None:
    """Megatron's calculator divides by zero there."""
    ramp = LinearRampup(8, 8, 4, samples)
    assert (8, 8, 80) == (ramp.batch_size_at(0), ramp.batch_size_at(2000), ramp.samples_after(10))


def test_a_ramp_over_no_samples_has_ended() -> None:
    """The end size holds from the first sample on; Megatron's calculator divides by zero there."""
    assert StepSchedule(((0, 32),)) == LinearRampup(8, 32, 4, 0).to_steps()


@settings(max_examples=20)
@given(st.integers(1, 20), st.integers(2**1023, 2**1100))
def test_ramps_too_long_for_doubles_are_exact(increments: int, samples: int) -> None:
    """Where the calculator's doubles overflow, its rule holds in whole numbers."""
    ramp = LinearRampup(1, 1 + increments, 1, samples)
    exact = [(-(-k * samples // increments), 1 + k) for k in range(increments + 1)]
    assert tuple(exact) == ramp.to_steps().steps


def test_rounding_leads_to_no_size_above_the_end() -> None:
    """With more than 2**51 increments the calculator's quotient passes their number, and it fails an assertion."""
    ramp = LinearRampup(1, 2 + 10**17, 1, rampup_samples=1)
    assert int(1 / (1 / (1 + 10**17))) > 1 + 10**17
    assert (ramp.end, ramp.end) == (ramp.batch_size_at(1), ramp.batch_size_at(2))


def test_a_running_size_of_0_is_refused_where_it_would_run() -> None:
    """With more ranks than the first sizes feed, a run that is past them goes on."""
    ramp = LinearRampup(4, 16, 4, 30, divisor=8)
    assert (8, 16, 96) == (ramp.batch_size_at(10), ramp.batch_size_at(31), ramp.samples_after(5, 40 - 16))
    with pytest.raises(ConfigurationError, match=r"empty\.\n  global batch size: +4\n  micro_batch_size .*: 8\nUse"):
        ramp.batch_size_at(9)
    with pytest.raises(ConfigurationError, match=r"  global batch size: +16\n  micro_batch_size .*: 17\n"):
        LinearRampup(4, 16, 4, 30, divisor=17)


@pytest.mark.parametrize("samples", [10**18, 10**27])
@pytest.mark.parametrize("consumed", [0, 10**6, 10**15])
def test_a_ramp_without_an_end_is_leapt_through(samples: int, consumed: int) -> None:
    """A step that leaps over stages costs as much as one; a ramp with too many of them is refused where steps are counted."""
    ramp = LinearRampup(1, 1 + 10**18, 1, samples)
    after = ramp.samples_after(20, consumed)
    assert (20, after) == (
        ramp.steps_between(consumed, after),
        next(islice(walk(ramp.batch_size_at, consumed), 20, None)),
    )
    for refused in (ramp.check_increments, ramp.to_steps, lambda: ledger_schedule(ramp)):
        with pytest.raises(ConfigurationError, match=r"grows too often(?s:.*)increments: 1000000000000000000\n"):
            refused()
    with pytest.raises(StateError, match="grows too often"):
        parse_schedule(["LinearRampup", 1, 1 + 10**18, 1, samples])
    LinearRampup(1, 1 + 10**18, 1, 7).check_increments()


def test_a_stage_costs_the_same_among_any_number_of_stages() -> None:
    """To find one takes a search, not a copy of the later ones, in memory as in time."""
    schedule = StepSchedule(tuple((8 * number, 4 + number % 2) for number in range(1 << 14)))
    tracemalloc.start()
    try:
        assert 5 == next(schedule.stages_from(8)).size
        assert tracemalloc.get_traced_memory()[1] < 1 << 14
    finally:
        tracemalloc.stop()


@given(step_schedules(longest=300), st.integers(1, 20), st.integers(0, 400))
def test_whole_rounds_of_any_schedule(schedule: StepSchedule, per_round: int, consumed: int) -> None:
    """Sizes that divide stay as they are, and so does the schedule; others are what their whole micro batches hold."""
    size = max(per_round, schedule.batch_size_at(consumed))
    for each in (schedule, LinearRampup(1 + size // 2, 1 + size // 2 + 3 * size, size, 50), ConstantBatchSize(size)):
        sizes = {each.batch_size_at(place) for place in range(0, 400, 7)}
        found = in_whole_rounds(each, per_round)
        if not any(one % per_round for one in sizes) or isinstance(each, ConstantBatchSize):
            continue
        for place in range(0, 400, 7):
            expected = each.batch_size_at(place) // per_round * per_round
            if expected:
                assert expected == found.batch_size_at(place)
            else:
                with pytest.raises(ConfigurationError, match="is empty"):
                    found.batch_size_at(place)


def test_megatrons_list_may_come_from_a_command_line() -> None:
    """Numbers may be strings, in the order start, increment, samples."""
    expected = LinearRampup(start=16, end=1024, increment=8, rampup_samples=300_000, divisor=4)
    assert expected == LinearRampup.from_megatron(["16", "8", "300000"], 1024, 4)
    assert expected == LinearRampup.from_megatron((16, 8, 300_000), 1024, divisor=4)


@pytest.mark.parametrize("wrong", [None, [], [16, 8], [16, 8, 1, 1], ["16", "8", "3e5"], "168", 16])
def test_what_is_no_list_of_three_numbers_is_refused(wrong: Any) -> None:
    """The message shows what came and what is expected."""
    with pytest.raises(ConfigurationError, match=r"rampup_batch_size: .*\n  expected: .*\[start, increment, samples\]"):
        LinearRampup.from_megatron(wrong, 1024)


@given(step_schedules(longest=300), st.integers(0, 400))
def test_steps_are_those_of_a_walk(schedule: StepSchedule, start: int) -> None:
    """Each step takes the size of the last threshold at or below its beginning, and overshoots what follows."""

    def size_at(consumed: int) -> int:
        return [size for threshold, size in schedule.steps if threshold <= consumed][-1]

    places = list(islice(walk(size_at, start), 60))
    assert places == [schedule.samples_after(step, start) for step in range(60)]
    assert list(map(size_at, places)) == list(map(schedule.batch_size_at, places))
    for later in range(start, min(places[-1], start + 120)):
        completed = max(step for step, place in enumerate(places) if place <= later)
        assert completed == schedule.steps_between(start, later)


far = st.integers(0, 10**18) | st.integers(0, 1000)
schedules: st.SearchStrategy[BatchSchedule] = (
    st.builds(ConstantBatchSize, st.integers(1, 10**6))
    | ramps(samples=long, most=30)
    | step_schedules(longest=10**18)
    | step_schedules(longest=100)
)


@given(schedules, far, st.integers(0, 10**12), st.integers(0, 10**6), far)
def test_steps_and_samples_are_each_others_inverse(
    schedule: BatchSchedule, consumed: int, steps: int, more: int, extra: int
) -> None:
    """Steps add up, one step takes the size where it begins, and a step that is not completed does not count."""
    after = schedule.samples_after(steps, consumed)
    assert steps == schedule.steps_between(consumed, after)
    assert schedule.samples_after(more, after) == schedule.samples_after(steps + more, consumed)
    assert after + schedule.batch_size_at(after) == schedule.samples_after(1, after)
    completed = schedule.steps_between(consumed, consumed + extra)
    assert schedule.samples_after(completed, consumed) <= consumed + extra
    assert schedule.samples_after(completed + 1, consumed) > consumed + extra


@given(schedules)
def test_schedules_are_values(schedule: BatchSchedule) -> None:
    """They can be pickled, compared and used as keys."""
    again = pickle.loads(pickle.dumps(schedule))
    assert (schedule, {schedule}) == (again, {again})


# Bad arguments.


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ConstantBatchSize(0), r"batch_size is too small.\n  batch_size: 0\n  least:      1"),
        (lambda: ConstantBatchSize(1.5), r"batch_size must be a whole number"),  # type: ignore[arg-type]  # the point
        (lambda: ConstantBatchSize(True), r"batch_size must be a whole number.\n  batch_size: True"),
        (lambda: LinearRampup(0, 8, 2, 10), r"start is too small"),
        (lambda: LinearRampup(2, 8, 0, 10), r"increment is too small"),
        (lambda: LinearRampup(2, 8, 2, -1), r"rampup_samples is too small"),
        (lambda: LinearRampup(2, 8, 2, 10, divisor=0), r"divisor is too small"),
        (lambda: LinearRampup(8, 2, 2, 10), r"does not lead from start to end.\n  start:     8\n  end:       2"),
        (lambda: LinearRampup(2, 9, 2, 10), r"does not lead from start to end"),
        (lambda: StepSchedule(()), r"at least one step"),
        (lambda: StepSchedule(((5, 8),)), r"first threshold .*\n  first step: .*\(5, 8\)"),
        (
            lambda: StepSchedule(((0, 8), (9, 9), (4, 9))),
            r"must increase.\n  step: .*\(9, 9\)\n  next step: .*\(4, 9\)",
        ),
        (lambda: StepSchedule(((0, 8), (4, 0))), r"at least one sample.\n  step: .*\(4, 0\)"),
        (lambda: StepSchedule(5), r"must be pairs.\n  steps: .*5"),  # type: ignore[arg-type]  # the point
        (lambda: StepSchedule((0, 8)), r"must be pairs.\n  steps: .*\(0, 8\)"),  # type: ignore[arg-type]  # the point
        (lambda: StepSchedule(((0, 8.0),)), r"a batch size must be a whole number"),  # type: ignore[arg-type]  # the point
        (lambda: StepSchedule.parse("0:8", seq_length=0), r"seq_length is too small"),
        (lambda: ConstantBatchSize(8).batch_size_at(-1), r"consumed_samples is too small"),
        (lambda: ConstantBatchSize(8).samples_after(-1), r"steps is too small"),
        (lambda: ConstantBatchSize(8).samples_after(1, -1), r"consumed is too small"),
        (lambda: ConstantBatchSize(8).steps_between(9, 8), r"forward only.\n  consumed: 9\n  later:    8"),
    ],
)
def test_bad_arguments_are_refused_with_their_values(make: Callable[[], object], named: str) -> None:
    """Numbers that no run can have are named, never rounded or taken for 0."""
    with pytest.raises(ConfigurationError, match=named):
        make()
