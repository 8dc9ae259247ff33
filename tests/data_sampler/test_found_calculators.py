"""Which calculator is found, in which framework, and that looking for it makes no noise."""

# pyright: reportPrivateUsage=false
# (the global of the stand-in has Apex's private name)

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock, call

import pytest

from resumable import MicrobatchCalculator, ResumptionWarning
from resumable.adapters import MissingExtraError
from resumable.data_sampler.calculators import find_calculator
from tests.support.calculators import APEX, GLOBAL, MEGATRON, megatron_core

pytestmark = pytest.mark.usefixtures("nothing_stays")


def without(*frameworks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decided yet, and *frameworks* cannot be imported."""
    find_calculator.cache_clear()
    for name in ("resumable.adapters.megatron", "resumable.adapters.apex"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for framework in frameworks:
        monkeypatch.setitem(sys.modules, framework, None)


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

LOADED = """
import sys
from types import SimpleNamespace
from resumable import ResumptionState
sampler = SimpleNamespace(compute_consumed_samples=lambda steps: 8 + 4 * steps, init_global_step=0)
sampler.init_consumed_samples = sampler.prev_consumed_samples = sampler.if_first_step = 0
trainer = SimpleNamespace(global_step=0)
state = ResumptionState(sampler, trainer)
state.load_state_dict({"consumed_samples": 8})
state.update_init_global_step()
trainer.global_step = 3
print(state.state_dict()["consumed_samples"], sorted({"apex", "megatron"} & sys.modules.keys()))
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


def test_a_load_imports_no_framework() -> None:
    """A calculator whose framework nobody imported is not set up, so a load and a save have none to tell or ask."""
    assert run(LOADED) == (0, ["20 []"], "")


def test_importing_megatron_core_makes_no_noise() -> None:
    """The real megatron-core misses Transformer Engine and Apex aloud; where this package imports it nobody hears it."""
    megatron_core()
    expected = ["MegatronCalculator False True", "True True", "True 12"]
    assert run(FOUND) == (0, expected, "")
