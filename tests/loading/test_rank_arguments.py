"""Ranks, tails and schedules that a loader refuses when it is built."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest

from resumable import ConfigurationError, ConstantBatchSize, LinearRampup, StepSchedule
from tests.support.reference import Loader
from tests.support.users_own import Squares

# What is refused.


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a rank that is none": (
        {"data_parallel_rank": 4, "data_parallel_size": 4},
        "data_parallel_rank is too large.\n  data_parallel_rank: 4\n  data_parallel_size: 4\nPass a rank from 0 to 3",
    ),
    "a rank without the number of ranks": ({"data_parallel_rank": 1}, "data_parallel_rank: 1\n  data_parallel_size: 1"),
    "a negative rank": ({"data_parallel_rank": -1}, "data_parallel_rank is too small.\n  data_parallel_rank: -1"),
    "a fractional rank": ({"data_parallel_rank": 0.0}, "data_parallel_rank must be a whole number."),
    "a rank that is a truth value": (
        {"data_parallel_rank": True, "data_parallel_size": 2},
        "data_parallel_rank must be a whole number.",
    ),
    "a size without a rank": (
        {"data_parallel_rank": None, "data_parallel_size": 2},
        "data_parallel_rank is missing: several processes share the data.\n"
        "  data_parallel_rank: None\n  data_parallel_size: 2\nPass data_parallel_rank= too, or ranks=",
    ),
    "ranks that say nothing": (
        {"data_parallel_rank": None, "ranks": 3},
        "ranks= must have data_parallel_rank and data_parallel_size.\n"
        "  needed: 'data_parallel_rank, data_parallel_size'\n  ranks:  3\nPass an object that has both",
    ),
    "no ranks": ({"data_parallel_size": 0}, "data_parallel_size is too small.\n  data_parallel_size: 0"),
    "half a rank": ({"data_parallel_size": 1.5}, "data_parallel_size must be a whole number."),
    "an unknown tail": (
        {"drop_last": "drop"},
        "An epoch's tail can be trained, left out, or carried into the next epoch.\n  drop_last: 'drop'\n",
    ),
    "more ranks than samples": (
        {"data_parallel_size": 6, "drop_last": True},
        "An epoch has no batch, so the run could never end.\n  dataset length: 22\n  batch size:     24\n",
    ),
    "a schedule that is a number": (
        {"schedule": 64},
        "schedule= lacks the methods of a BatchSchedule.\n"
        "  needed:   'batch_size_at, samples_after, steps_between'\n  schedule: 64\nPass a schedule, such as Con",
    ),
    "a global batch that is no whole number of rounds": (
        {"schedule": ConstantBatchSize(20), "data_parallel_size": 2},
        "A global batch does not fall into whole micro batches on each rank.\n"
        "  global batch size:     20\n  from consumed_samples: 0\n  micro_batch_size:      4\n"
        "  data_parallel_size:    2\n  sizes that would do:   '16 or 24'\nPass a schedule with such a size, or another "
        "batch_size or data_parallel_size, or decrease_batch_size_if_needed=True.",
    ),
    "a global batch smaller than a round": (
        {"schedule": ConstantBatchSize(2)},
        "sizes that would do:   '4'\nPass a schedule with such a size, or another batch_size or data_parallel_size.",
    ),
    "a ramp-up to such a size": (
        {"schedule": LinearRampup(4, 14, 5, 100)},
        "global batch size:     9\n  from consumed_samples: 52\n",
    ),
    "a global batch larger than the dataset": (
        {"schedule": StepSchedule(((0, 8), (100, 24))), "drop_last": True},
        "An epoch has no batch, so the run could never end.\n  dataset length: 22\n  batch size:     24\n",
    ),
    "rounding down to nothing": (
        {"schedule": ConstantBatchSize(3), "decrease_batch_size_if_needed": True},
        "A global batch that is rounded down to whole micro batches is empty.\n"
        "  global batch size:                     3\n  micro_batch_size * data_parallel_size: 4\n",
    ),
    "a ramp-up rounded down to nothing": (
        {"schedule": LinearRampup(1, 3, 1, 9), "decrease_batch_size_if_needed": True},
        "A global batch that is rounded down to whole micro batches is empty.\n  global batch size:                     3\n",
    ),
    "rounding what nobody knows": (
        {"schedule": Squares(), "decrease_batch_size_if_needed": True},
        "A user-defined schedule cannot be rounded down: its stages are unknown.\n  schedule:                      'Squares'\n",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_ranks_and_schedules_that_do_not_fit_are_refused_when_the_loader_is_built(what: str) -> None:
    """Each is said when the loader is built, with its value and what to pass instead, and survives pickling."""
    arguments, message = BAD[what]
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        Loader(**{"dataset": range(22), "batch_size": 4, "data_parallel_rank": 0, **arguments})
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))
