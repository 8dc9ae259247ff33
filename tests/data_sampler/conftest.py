"""What every test here relies on: no calculator that the test before has left, and none left for other tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest

from resumable.data_sampler.calculators import find_calculator
from tests.support import apex_stand_in, nemo_shape
from tests.support.calculators import APEX, FRAMEWORKS, GLOBAL, MEGATRON, megatron_core


@pytest.fixture(autouse=True)
def _no_calculator_from_elsewhere() -> Iterator[None]:
    nemo_shape.calculators().unset_num_microbatches_calculator()
    yield
    nemo_shape.calculators().unset_num_microbatches_calculator()


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
def nothing_stays() -> Iterator[None]:
    """Neither a decision nor a module of a framework: other tests look for the real one."""
    before = {name: module for name, module in sys.modules.items() if name.startswith(FRAMEWORKS)}
    yield
    for name in [name for name in sys.modules if name.startswith(FRAMEWORKS)]:
        del sys.modules[name]
    sys.modules.update(before)
    find_calculator.cache_clear()


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Apex's stand-in, not initialized, in its place."""
    monkeypatch.setattr(apex_stand_in, GLOBAL, None)
    monkeypatch.setitem(sys.modules, APEX, apex_stand_in)
    return apex_stand_in
