"""Checks that users run on their own code: prove that it resumes exactly before it trains for a month.

    check_resume      a datamodule, a loader or a loop, stopped and resumed at every place     (grid)
    check_order, check_schedule, check_ranks, check_state     what fits the Protocols          (protocol_checks)
    the pytest plugin: the fixture `check_resume`, the option `--resumable-json`               (plugin)

What `check_resume` is made of, from above:

    grid              which sizes, and where a run is stopped
    bench             the sessions of a run, and what a stopped run comes to
    with_lightning    a session under Lightning's Trainer
    loops             a session in a plain loop, or in the user's own
    sessions          what a session is told, and what it notes
    processes, seeds  a process for each session, with its own random numbers and a time limit
    identities        which samples are in a batch
    comparison        exact, repeated, lost, ...
    matrix            the outcome of each run, as a table and as JSON

The checks of Protocols raise a `ConformanceError`, which pytest shows as a failed assertion, with both values.
The package's own proofs are in its repository: `python -m tests.proofs simulate` and `python -m tests.proofs kill`.
"""

from resumable.errors import ConformanceError
from resumable.testing.comparison import Outcome
from resumable.testing.grid import check_resume
from resumable.testing.matrix import Cell, Matrix, Row
from resumable.testing.protocol_checks import check_order, check_ranks, check_schedule, check_state
from resumable.testing.sessions import Loop, Sizes

__all__ = [
    "Cell",
    "ConformanceError",
    "Loop",
    "Matrix",
    "Outcome",
    "Row",
    "Sizes",
    "check_order",
    "check_ranks",
    "check_resume",
    "check_schedule",
    "check_state",
]
