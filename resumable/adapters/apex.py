"""Apex: the process global that says how many micro batches a step takes.

Apex dropped `apex.transformer` in 2025/26; older installs have it, and `apex` on PyPI is another project.
"""

from __future__ import annotations

from importlib import import_module

from resumable.data_sampler.calculators import ApexCalculator as Calculator
from resumable.extras import quietly

__all__ = ["Calculator"]

# By name: Apex has no types, and a module that stands in for this one is found without the packages around it.
with quietly("apex"):
    import_module("apex.transformer.pipeline_parallel.utils")
