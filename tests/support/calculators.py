"""Both frameworks' calculators, ready to be asked."""

# pyright: reportPrivateUsage=false
# (the global of the stand-in has Apex's private name)

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

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
