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

from __future__ import annotations

from typing import TYPE_CHECKING, Final

# As in the package's own __init__: each name is imported on its first use, so that pytest starts without them.
if TYPE_CHECKING:
    from resumable.errors import ConformanceError as ConformanceError
    from resumable.testing.comparison import Outcome as Outcome
    from resumable.testing.grid import check_resume as check_resume
    from resumable.testing.matrix import Cell as Cell
    from resumable.testing.matrix import Matrix as Matrix
    from resumable.testing.matrix import Row as Row
    from resumable.testing.protocol_checks import check_order as check_order
    from resumable.testing.protocol_checks import check_ranks as check_ranks
    from resumable.testing.protocol_checks import check_schedule as check_schedule
    from resumable.testing.protocol_checks import check_state as check_state
    from resumable.testing.sessions import Loop as Loop
    from resumable.testing.sessions import Sizes as Sizes

else:
    from importlib import import_module

    _HOME: Final = {
        name: module
        for module, names in {
            "resumable.errors": "ConformanceError",
            "resumable.testing.comparison": "Outcome",
            "resumable.testing.grid": "check_resume",
            "resumable.testing.matrix": "Cell Matrix Row",
            "resumable.testing.protocol_checks": "check_order check_ranks check_schedule check_state",
            "resumable.testing.sessions": "Loop Sizes",
        }.items()
        for name in names.split()
    }
    __all__ = list(_HOME)

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        globals()[name] = value = getattr(import_module(_HOME[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
