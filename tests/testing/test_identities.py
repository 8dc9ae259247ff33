"""Which samples a batch holds, by what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from torch.utils import data

from resumable import ConfigurationError
from resumable.testing.identities import identities_of


class Pair(NamedTuple):
    """A batch as torch's transforms return it."""

    x: Any
    y: Any


@dataclass
class Batch:
    """A batch as a class of the user's."""

    x: Any
    y: Any


default_collate = cast("Any", data).default_collate
IDS = torch.tensor([7, 3])


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        pytest.param(IDS, (7, 3), id="numbers"),
        pytest.param(np.array([0.5, 2.0]), (0.5, 2.0), id="floats"),
        pytest.param(IDS.bfloat16(), (7.0, 3.0), id="bfloat16"),
        pytest.param(IDS[:, None], (7, 3), id="a column"),
        pytest.param(["a", "b"], ("a", "b"), id="strings"),
        pytest.param([7, 3], (7, 3), id="ints"),
        pytest.param(7, (7,), id="one number"),
        pytest.param(torch.tensor(7), (7,), id="a scalar"),
        pytest.param("seven", ("seven",), id="one string"),
        pytest.param({"id": 7, "text": "seven"}, ("7 seven",), id="one sample in columns"),
        pytest.param({"id": IDS, "text": ["a", "b"], "step": 1}, ("7 a 1", "3 b 1"), id="columns"),
        pytest.param([IDS, torch.tensor([0, 1])], ("7 0", "3 1"), id="collated tuples"),
        pytest.param(Pair(IDS, ["a", "b"]), ("7 a", "3 b"), id="a named tuple"),
        pytest.param(Batch(IDS, ["a", "b"]), ("7 a", "3 b"), id="a dataclass"),
        pytest.param(default_collate([{"x": 7, "y": (1, 2)}, {"x": 3, "y": (4, 5)}]), ("7 1 2", "3 4 5"), id="nested"),
        pytest.param({"a": IDS, "b": torch.tensor([1, 2, 3])}, (7, 3, 1, 2, 3), id="of two loaders"),
        pytest.param(np.array(["a", None], dtype=object), ("a", "None"), id="objects"),
        pytest.param(IDS.to_sparse(), (7, 3), id="sparse"),
        pytest.param([True, None], ("True", "None"), id="no numbers"),
    ],
)
def test_samples_are_told_apart_by_what_they_hold(batch: Any, expected: tuple[Any, ...]) -> None:
    """Numbers and strings are themselves; columns are read by rows."""
    assert expected == identities_of(batch)


def test_rows_of_numbers_are_digests() -> None:
    """Equal rows have one identity, whatever batch they come in; another type or shape has another."""
    rows = torch.arange(12.0).reshape(4, 3)
    whole = identities_of(rows)
    assert (4, True) == (len(set(whole)), all(isinstance(each, str) and len(each) == 8 for each in whole))
    assert whole[2:] == identities_of(rows[2:].numpy())
    assert not set(whole) & set(identities_of(rows.double()))


def test_identify_is_the_users_word() -> None:
    """One identity for each thing that it returns."""
    assert (7, 3) == identities_of({"deep": [object(), IDS]}, lambda batch: batch["deep"][1])


def test_what_has_no_identity_is_refused() -> None:
    """An object of which nothing is known could be any other."""
    with pytest.raises(ConfigurationError) as caught:
        identities_of([object()])
    assert str(caught.value) == (
        "A batch holds something by which its samples cannot be told apart.\n"
        "  type: 'object'\n"
        "Pass identify=, a function that returns a number or a string for each sample of a batch."
    )
