"""Apex: the number of micro batches of a step, a global of the process.

Apex removed `apex.transformer` in 2025/26; older installs have it. The package `apex` on PyPI is another project.
"""

from __future__ import annotations

from importlib import import_module

from resumable.data_sampler.calculators import ApexCalculator as Calculator
from resumable.extras import quietly

__all__ = ["Calculator"]

# By name: Apex has no types, and a module that stands in for this one is found without the packages around it.
with quietly("apex"):
    import_module("apex.transformer.pipeline_parallel.utils")
