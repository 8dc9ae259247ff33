"""Arguments that a loader refuses when it is built."""

from __future__ import annotations

import json
import pickle
import re
from itertools import islice
from typing import Any

import numpy as np
import pytest

from resumable import ConfigurationError, LinearRampup, Sequential
from tests.support.loader_runs import N
from tests.support.reference import Loader
from tests.support.users_own import Stream

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "batch size 0": (
        {"batch_size": 0},
        "batch_size is too small.\n  batch_size: 0\n  least:      1\nPass batch_size >= 1.",
    ),
    "batch size -1": ({"batch_size": -1}, "batch_size is too small.\n  batch_size: -1\n"),
    "batch size 1.5": (
        {"batch_size": 1.5},
        "batch_size must be a whole number.\n  batch_size: 1.5\n  type:       'float'\nPass batch_size as an int.",
    ),
    "batch size True": ({"batch_size": True}, "batch_size must be a whole number.\n  batch_size: True\n"),
    "batch size as text": ({"batch_size": "4"}, "batch_size must be a whole number.\n  batch_size: '4'\n"),
    "no samples": ({"dataset": []}, "An order needs at least one sample.\n  n: 0\nPass a dataset that is not empty."),
    "too many samples": ({"dataset": range(2**61)}, "An order this long is not supported."),
    "a stream": ({"dataset": Stream()}, "A ResumableLoader needs a map-style dataset"),
    "a generator": ({"dataset": (i for i in range(3))}, "needed: '__getitem__ and __len__'\n  got:    'generator'\n"),
    "no whole batch": (
        {"batch_size": N + 1, "drop_last": True},
        "An epoch has no batch, so the run could never end.\n  dataset length: 11\n  batch size:     12\n",
    ),
    "a negative seed": ({"shuffle": True, "seed": -1}, "A seed must fit into 64 bits."),
    "a negative seed that nobody uses": ({"seed": -1}, "A seed must fit into 64 bits."),
    "a fractional seed": (
        {"shuffle": True, "seed": 1.5},
        "seed must be a whole number.\n  seed: 1.5\n  type: 'float'\n",
    ),
    "order and shuffle": ({"order": Sequential(N), "shuffle": True}, "A user-defined order decides itself how it shuf"),
    "order and seed": ({"order": Sequential(N), "seed": 1}, "Pass either order=, or shuffle= and seed=."),
    "another order's length": (
        {"order": Sequential(9)},
        "  len(order):   9\n  len(dataset): 11\nMake the order as long",
    ),
    "an order that is none": ({"order": [0] * N}, "order"),
    "a sampler": (
        {"sampler": [3, 1]},
        "A ResumableLoader takes no sampler: a sampler always begins at its first index.\n"
        "  sampler: [3, 1]\nPass order=, a pure function",
    ),
    "a batch sampler": ({"batch_sampler": [[3, 1]]}, "  batch_sampler: [[3, 1]]\nPass order="),
    "a schedule's class": ({"schedule": LinearRampup}, "schedule= lacks the methods of a BatchSchedule."),
    "an unknown policy": (
        {"on_mismatch": "skip"},
        "An unknown policy.\n  on_mismatch: 'skip'\nPass 'error', 'warn' or",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_are_refused_when_the_loader_is_built(what: str) -> None:
    """Each is said when the loader is built, with its value and what to pass instead, and survives pickling."""
    arguments, message = BAD[what]
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        Loader(**{"dataset": range(N), **arguments})
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


def test_a_numpy_batch_size_is_a_batch_size() -> None:
    """A whole number of NumPy's is taken, as orders take it."""
    loader = Loader(range(N), batch_size=np.int64(4))
    assert int is type(loader.state_dict()["consumed_samples"])
    for _ in islice(loader, 2):
        pass
    assert 4 == json.loads(json.dumps(loader.state_dict()))["ledger"][0][5]
