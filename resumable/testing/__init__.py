"""Checks that users run on their own code: prove that it resumes exactly before it trains for a month.

    check_order, check_schedule, check_ranks, check_state     what fits the Protocols        (protocol_checks)
    the random numbers of a session                           other ones in each          (seeds)

They raise a `ConformanceError`, which pytest shows as a failed assertion, with both values.
The package's own proofs are in its repository: `python -m tests.proofs simulate` and `python -m tests.proofs kill`.
"""

from resumable.errors import ConformanceError
from resumable.testing.protocol_checks import check_order, check_ranks, check_schedule, check_state

__all__ = ["ConformanceError", "check_order", "check_ranks", "check_schedule", "check_state"]
