"""Run every benchmark and print its table: `python -m tests.benchmarks [TABLE ...]`, the names of `TABLES`."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from rich.console import Console

from . import bench_import, bench_lightning, bench_reseed, bench_resume, bench_shards, bench_state
from .bench_epoch import epoch_figures, order_figures
from .figures import Figure, as_table

TABLES: dict[str, tuple[str, Callable[[], list[Figure]]]] = {
    "import": ("Import", bench_import.figures),
    "state": ("State", bench_state.figures),
    "order": ("Order", order_figures),
    "epoch": ("A whole epoch, set-up included", epoch_figures),
    "lightning": ("A step of Lightning's", bench_lightning.figures),
    "reseed": ("Random numbers that follow the position", bench_reseed.figures),
    "shards": ("A batch of one of many ranks", bench_shards.figures),
    "resume": ("First batch after a resume", bench_resume.figures),
}


def main(names: Sequence[str]) -> int:
    """Print the tables of *names*, else all; 1 where a target is not met."""
    console = Console(width=max(100, Console().width))
    console.print(f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}")
    warnings.filterwarnings("ignore", "'set_vital' is deprecated", UserWarning)  # torchdata, of torch
    console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    missed: list[Figure] = []
    for name in names or TABLES:
        title, measure = TABLES[name]
        found = measure()
        console.print(as_table(title, found))
        missed += [figure for figure in found if not figure.is_met]
    console.print(f"{len(missed)} of the targets not met" if missed else "every target met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
