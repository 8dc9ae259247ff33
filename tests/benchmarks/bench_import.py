"""`import resumable`: milliseconds beyond Python's own start, and what it brings along."""

from __future__ import annotations

from functools import partial

from .figures import Figure, fresh_process, interleaved

__all__ = ["figures"]

REPETITIONS = 11
HEAVY = ("apex", "lightning", "megatron", "numpy", "pytorch_lightning", "torch")
TIMED = """
import json, sys
from time import perf_counter
start = perf_counter()
{statement}
took = (perf_counter() - start) * 1e3
print(json.dumps([took, len(sys.modules), sorted(set(sys.modules) & {heavy})]))
"""


def figures() -> list[Figure]:
    """Measure by the clock, in fresh processes."""
    names = {
        "resumable": "import resumable",
        "words": "from resumable import ResumptionError, Trainer",
        "torch": "import torch",
    }
    took = interleaved({name: partial(_clock, statement) for name, statement in names.items()}, REPETITIONS)
    modules = len(_report("import resumable")[2])
    return [
        Figure("import resumable", "ms", took["resumable"], at_most=60),
        Figure("  and its Protocols and errors", "ms", took["words"]),
        Figure("  of torch, lightning, megatron, numpy ...", "loaded", [modules], at_most=0),
        Figure("  other modules", "loaded", [_report("import resumable")[1] - _report("pass")[1]]),
        Figure("import torch", "ms", took["torch"]),
    ]


def _clock(statement: str) -> float:
    took: float = _report(statement)[0]
    return took


def _report(statement: str) -> tuple[float, int, list[str]]:
    took, modules, heavy = fresh_process("-c", TIMED.format(statement=statement, heavy=set(HEAVY)))
    return took, modules, heavy
