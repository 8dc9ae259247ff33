"""What a calculator is asked and told, in either framework.

The real megatron-core is imported whole in a process of its own, since that takes seconds. Elsewhere its module of
calculators is loaded from its file and put where it belongs.
"""

# pyright: reportPrivateUsage=false
# (the global of the stand-in has Apex's private name)

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest

from resumable import LinearRampup, MicrobatchCalculator, ResumptionError, StepSchedule
from resumable.data_sampler.calculators import schedule_in
from tests.support.calculators import APEX, GLOBAL, MEGATRON

pytestmark = pytest.mark.usefixtures("nothing_stays")


class Twin(NamedTuple):
    """A framework's calculator as this package sees it, how the framework sets it up, and its names."""

    calculator: MicrobatchCalculator
    set_up: Callable[[int, list[int] | None, int, int, int], None]
    module: ModuleType
    named: tuple[str, str, str]


@pytest.fixture(params=["megatron", "apex"])
def twin(request: pytest.FixtureRequest) -> Twin:
    """Either adapter over its framework."""
    module: Any = request.getfixturevalue(request.param)
    if request.param == "megatron":
        from resumable.adapters.megatron import Calculator

        named = ("megatron-core", MEGATRON, "init_num_microbatches_calculator")
        return Twin(Calculator(), module.init_num_microbatches_calculator, module, named)
    from resumable.adapters.apex import Calculator as ApexCalculator

    named = ("Apex", APEX, "setup_microbatch_calculator")
    return Twin(ApexCalculator(), module.setup_microbatch_calculator, module, named)


def test_a_calculator_says_whether_it_is_initialized(twin: Twin) -> None:
    """The process global is None until the framework sets it up, and again when it takes it away."""
    found = [twin.calculator.is_initialized]
    twin.set_up(0, None, 12, 3, 2)
    found.append(twin.calculator.is_initialized)
    setattr(twin.module, GLOBAL, None)
    found.append(twin.calculator.is_initialized)
    assert found == [False, True, False]


def test_a_calculator_tells_its_schedule(twin: Twin) -> None:
    """None before it is set up and where nothing varies; else that of its ramp."""
    found = [getattr(twin.calculator, "schedule", "absent")]
    for ramp in (None, [6, 6, 100]):
        setattr(twin.module, GLOBAL, None)
        twin.set_up(0, ramp, 24, 3, 2)
        found.append(getattr(twin.calculator, "schedule", "absent"))
    assert [None, None, LinearRampup(6, 24, 6, 100)] == found


@pytest.mark.parametrize(
    ("calculator", "expected"),
    [
        ({"schedule": [(0, 8), (20, 16)]}, StepSchedule(((0, 8), (20, 16)))),
        ({"schedule": [(5, 8)]}, None),
        ({"schedule": "0:8"}, None),
        ({"ramup_samples": 100}, None),
        ({}, None),
    ],
)
def test_a_schedule_is_read_off_a_calculator(calculator: dict[str, Any], expected: object) -> None:
    """Newer Megatron-LM's holds pairs; what nobody knows is none."""
    assert expected == schedule_in(SimpleNamespace(**calculator))


def test_a_rounded_ramp_is_read_off_with_its_divisor(megatron: Any) -> None:
    """`decrease_batch_size_if_needed` rounds each size down."""
    own = megatron.RampupBatchsizeNumMicroBatchesCalculator(20, 3, 2, True, 1, 8, 4, 100)
    assert LinearRampup(8, 20, 4, 100, divisor=6) == schedule_in(own)


def test_before_that_it_refuses_in_words(twin: Twin) -> None:
    """To ask and to tell too early is an error that says what to call, not an AttributeError on None."""
    name, module, function = twin.named
    expected = (
        f"The microbatch calculator of {name} is not initialized in this process.\n"
        f"  module: '{module}'\n"
        f"Call {function} first, or ask is_initialized."
    )
    for too_early in (lambda: twin.calculator.current_global_batch_size, lambda: twin.calculator.update(8)):
        with pytest.raises(ResumptionError) as caught:
            too_early()
        assert str(caught.value) == expected


def test_a_constant_size_stays(twin: Twin) -> None:
    """Without a ramp-up the position has no bearing."""
    twin.set_up(0, None, 12, 3, 2)
    twin.calculator.update(1000)
    assert twin.calculator.current_global_batch_size == 12


def test_a_ramp_follows_what_it_is_told(twin: Twin) -> None:
    """Told of each step's first sample, forward and back, it gives the ramp-up's sizes."""
    ramp = LinearRampup(start=4, end=16, increment=4, rampup_samples=30)
    twin.set_up(0, [ramp.start, ramp.increment, ramp.rampup_samples], ramp.end, 2, 2)
    for consumed in [*range(40), *range(0, 40, 7), 1 << 60]:
        twin.calculator.update(consumed)
        assert ramp.batch_size_at(consumed) == twin.calculator.current_global_batch_size


def test_sizes_that_do_not_divide_are_let_pass(twin: Twin) -> None:
    """The framework's consistency check is off, as where NeMo loads a position: told one, it raises nothing.

    A step takes whole micro batches, so they are what counts.
    """
    twin.set_up(0, [4, 2, 40], 8, 4, 1)
    twin.calculator.update(20)
    assert twin.calculator.current_global_batch_size == 4


def test_a_rounded_size_is_the_one_that_runs(megatron: ModuleType) -> None:
    """Under `decrease_batch_size_if_needed` a step takes fewer samples than the nominal size says."""
    from resumable.adapters.megatron import Calculator

    calculator = Calculator()
    megatron.init_num_microbatches_calculator(0, [8, 6, 30], 20, 4, 2, decrease_batch_size_if_needed=True)
    found: list[tuple[int, int]] = []
    for consumed in (0, 15, 31):
        calculator.update(consumed)
        found.append((megatron.get_current_global_batch_size(), calculator.current_global_batch_size))
    assert found == [(8, 8), (14, 8), (20, 16)]
    megatron.reconfigure_num_microbatches_calculator(0, None, 30, 4, 2, decrease_batch_size_if_needed=True)
    assert (megatron.get_current_global_batch_size(), calculator.current_global_batch_size) == (30, 24)


def test_a_release_that_does_not_round_gives_its_size(megatron: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older megatron-core has no running size: the nominal one is what a step takes."""
    from resumable.adapters.megatron import Calculator

    monkeypatch.delattr(megatron, "get_current_running_global_batch_size")
    megatron.init_num_microbatches_calculator(0, None, 24, 4, 2)
    assert Calculator().current_global_batch_size == 24
