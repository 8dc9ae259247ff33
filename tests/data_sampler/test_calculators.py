"""Which calculator is found, what is asked of it and what it is told, and that finding it makes no noise.

The real megatron-core is imported whole in a process of its own, since that takes seconds. Elsewhere its module of
calculators is loaded from its file and put where it belongs.
"""

# pyright: reportPrivateUsage=false
# (the global of the stand-in has Apex's private name)

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import Mock, call

import pytest

from resumable import LinearRampup, MicrobatchCalculator, ResumptionError, ResumptionWarning, StepSchedule
from resumable.adapters import MissingExtraError
from resumable.data_sampler.calculators import find_calculator, schedule_in
from tests.support import apex_stand_in

MEGATRON = "megatron.core.num_microbatches_calculator"
APEX = "apex.transformer.pipeline_parallel.utils"
FRAMEWORKS = ("megatron", "apex", "resumable.adapters.megatron", "resumable.adapters.apex")
GLOBAL = "_GLOBAL_NUM_MICROBATCHES_CALCULATOR"


def megatron_core() -> Path:
    """The folder of the installed megatron-core; where there is none the test is skipped."""
    pytest.importorskip("megatron")
    package = PathFinder.find_spec("megatron.core", sys.modules["megatron"].__path__)
    if package is None or not package.submodule_search_locations:
        pytest.skip("megatron.core is not installed")
    return Path(package.submodule_search_locations[0])


def without(*frameworks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decided yet, and *frameworks* cannot be imported."""
    find_calculator.cache_clear()
    for name in ("resumable.adapters.megatron", "resumable.adapters.apex"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for framework in frameworks:
        monkeypatch.setitem(sys.modules, framework, None)


@pytest.fixture
def megatron(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """megatron-core's real module of calculators, not initialized, in its place and without the package around it."""
    spec = spec_from_file_location(MEGATRON, megatron_core() / "num_microbatches_calculator.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, MEGATRON, module)
    return module


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Apex's stand-in, not initialized, in its place."""
    monkeypatch.setattr(apex_stand_in, GLOBAL, None)
    monkeypatch.setitem(sys.modules, APEX, apex_stand_in)
    return apex_stand_in


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """Neither a decision nor a module of a framework: other tests look for the real one."""
    before = {name: module for name, module in sys.modules.items() if name.startswith(FRAMEWORKS)}
    yield
    for name in [name for name in sys.modules if name.startswith(FRAMEWORKS)]:
        del sys.modules[name]
    sys.modules.update(before)
    find_calculator.cache_clear()


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
    """The framework's consistency check is off, as where NeMo loads a position: told one, it raises nothing."""
    twin.set_up(0, [4, 2, 40], 8, 4, 1)
    twin.calculator.update(20)
    assert twin.calculator.current_global_batch_size == 6


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


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param("def get_num_microbatches(): return 3", True, id="an answer"),
        pytest.param("def get_num_microbatches(): return None", False, id="None for an answer"),
        pytest.param("def get_num_microbatches(): return nobody.get()", False, id="a method of None"),
        pytest.param("def get_num_microbatches(): return nobody()", False, id="a call on None"),
    ],
)
@pytest.mark.parametrize("name", [MEGATRON, APEX])
def test_a_global_of_another_name_is_asked_for(
    name: str, source: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the private name is gone the public function tells: it fails on None until there is a calculator."""
    module = ModuleType(name)
    exec(f"nobody = None\n{source}", vars(module))
    monkeypatch.setitem(sys.modules, name, module)
    calculator: MicrobatchCalculator = import_module(f"resumable.adapters.{name.partition('.')[0]}").Calculator()
    assert expected is calculator.is_initialized


def test_a_module_without_the_function_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of another shape is not taken for a calculator that is yet to be set up."""
    monkeypatch.setitem(sys.modules, MEGATRON, ModuleType(MEGATRON))
    from resumable.adapters.megatron import Calculator

    with pytest.raises(AttributeError, match="has no attribute 'get_num_microbatches'"):
        _ = Calculator().is_initialized


# The choice.


def test_megatron_core_comes_first(megatron: ModuleType, apex: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both there, megatron-core is told, Apex is not, and nobody warns."""
    without(monkeypatch=monkeypatch)
    calculator = find_calculator()
    assert calculator is not None
    megatron.init_num_microbatches_calculator(0, [4, 4, 30], 16, 2, 2)
    apex.setup_microbatch_calculator(0, [4, 4, 30], 16, 2, 2)
    calculator.update(20)
    assert (megatron.get_current_global_batch_size(), apex.get_current_global_batch_size()) == (12, 4)


def test_apex_comes_second_and_says_so_once(apex: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where megatron-core is missing Apex is told, with one warning for the process, at the line that led to it."""
    without("megatron", MEGATRON, monkeypatch=monkeypatch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calculator, again = find_calculator(), find_calculator()
    assert calculator is not None
    assert calculator is again
    apex.setup_microbatch_calculator(0, [4, 4, 30], 16, 2, 2)
    calculator.update(20)
    assert apex.get_current_global_batch_size() == 12
    (warning,) = caught
    assert (warning.category, warning.filename, str(warning.message)) == (
        ResumptionWarning,
        __file__,
        "megatron-core cannot be imported: falling back to Apex for the number of micro batches.\n"
        f"  missing: '{MEGATRON}'\n"
        f"  found:   '{APEX}'\n"
        'Run: pip install "resumable-training[megatron]", or go on if the run sets up Apex\'s calculator.',
    )


@pytest.mark.parametrize("megatron_part", ["megatron", "megatron.core", MEGATRON])
@pytest.mark.parametrize("apex_part", ["apex", "apex.transformer", "apex.transformer.pipeline_parallel", APEX])
def test_with_neither_there_is_none(megatron_part: str, apex_part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework of which any part on the way is missing is not there, and that is no error and no warning."""
    without(monkeypatch=monkeypatch)
    for missing, module in ((megatron_part, MEGATRON), (apex_part, APEX)):
        names = module.split(".")
        for stop in range(1, len(names) + 1):
            part = ".".join(names[:stop])
            monkeypatch.delitem(sys.modules, part, raising=False)
            if len(part) < len(missing):
                monkeypatch.setitem(sys.modules, part, ModuleType(part))  # no package: it holds nothing further
                monkeypatch.setattr(sys.modules[part], "__path__", [], raising=False)
        monkeypatch.setitem(sys.modules, missing, None)
    assert find_calculator() is None


def test_what_is_no_package_is_not_the_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another project's `megatron` or `apex`, a plain module, is passed over."""
    without(monkeypatch=monkeypatch)
    for name in (MEGATRON, "megatron.core", APEX, "apex.transformer.pipeline_parallel", "apex.transformer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("megatron", "apex"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert find_calculator() is None


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import an_engine_that_is_missing", ModuleNotFoundError("No module named 'an_engine_that_is_missing'")),
        ("import megatron.core.missing", ModuleNotFoundError("No module named 'megatron.core.missing'")),
        ("raise ImportError('undefined symbol')", ImportError("undefined symbol")),
        ("raise RuntimeError('driver too old')", RuntimeError("driver too old")),
    ],
)
@pytest.mark.usefixtures("apex")
def test_a_framework_that_is_broken_is_not_passed_over(
    source: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails inside the framework is the user's to see, each time, even where Apex would be there."""
    without(monkeypatch=monkeypatch)
    folder = tmp_path / "megatron" / "core"
    folder.mkdir(parents=True)
    (folder / "num_microbatches_calculator.py").write_text(source)
    for name in [name for name in sys.modules if name.partition(".")[0] == "megatron"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "megatron", ModuleType("megatron"))
    monkeypatch.setattr(sys.modules["megatron"], "__path__", [str(folder.parent)], raising=False)
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            find_calculator()
        assert (type(caught.value), str(caught.value)) == (type(error), str(error))


def test_a_module_that_stands_in_is_found_and_may_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module put there by hand, without a spec and without its packages, is as good as a file; so is the next one."""
    without("megatron", monkeypatch=monkeypatch)
    modules: list[Any] = [ModuleType(MEGATRON), ModuleType(MEGATRON)]
    for module in modules:
        del module.__spec__
        setattr(module, GLOBAL, "set up")
        module.update_num_microbatches = Mock()
        monkeypatch.setitem(sys.modules, MEGATRON, module)
        calculator = find_calculator()
        assert calculator is not None
        calculator.update(7)
    once = [call(consumed_samples=7, consistency_check=False)]
    assert [once, once] == [module.update_num_microbatches.mock_calls for module in modules]


def test_a_missing_megatron_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from resumable.adapters import megatron` without megatron-core says what to install."""
    without("megatron", MEGATRON, monkeypatch=monkeypatch)
    from resumable import adapters

    monkeypatch.delitem(vars(adapters), "megatron", raising=False)  # not delattr: it would import it
    with pytest.raises(MissingExtraError) as caught:
        getattr(adapters, "megatron")  # noqa: B009  # what `from resumable.adapters import megatron` does first
    assert str(caught.value) == (
        f"megatron is not installed.\n  needed: '{MEGATRON}'\n  extra:  'megatron'\n"
        'Run: pip install "resumable-training[megatron]"'
    )


# The price: a process of its own for each.

DECORATED = """
import resumable.data_sampler.calculators, sys
from resumable import MicrobatchCalculator, resumable
@resumable
class Plain:
    trainer = None
    def train_dataloader(self):
        return []
Plain()
print(sorted({"apex", "megatron", "numpy", "torch"} & sys.modules.keys()))
"""

# Every warning and every record is wanted, but for those that are not this package's noise: torch's, and the set-up's.
FOUND = f"""
import logging, sys, warnings, torch
warnings.simplefilter("always")
logging.basicConfig(level=logging.DEBUG)
filters, level = list(warnings.filters), logging.getLogger("megatron").level
from resumable.data_sampler.calculators import find_calculator
calculator = find_calculator()
print(type(calculator).__name__, calculator.is_initialized, "megatron.core.parallel_state" in sys.modules)
print(warnings.filters == filters, logging.getLogger("megatron").level == level)
logging.disable()
sys.modules["{MEGATRON}"].init_num_microbatches_calculator(0, [4, 4, 30], 16, 2, 2)
calculator.update(20)
print(calculator.is_initialized, calculator.current_global_batch_size)
"""


def run(code: str) -> tuple[int, list[str], str]:
    """A fresh interpreter's exit code, its lines on stdout, and all of its stderr."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_nothing_is_imported_before_a_calculator_is_asked_for() -> None:
    """Not by the package, not by the module that chooses, not by decorating a class."""
    assert run(DECORATED) == (0, ["[]"], "")


def test_importing_megatron_core_makes_no_noise() -> None:
    """The real megatron-core misses Transformer Engine and Apex aloud; where this package imports it nobody hears it."""
    megatron_core()
    expected = ["MegatronCalculator False True", "True True", "True 12"]
    assert run(FOUND) == (0, expected, "")
