"""The digest of a batch: equal batches have one, others have another."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resumable.loading.batch_digest import batch_digest

numbers = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40)
trees = st.recursive(
    numbers | st.text() | st.binary() | st.floats(allow_nan=False) | numbers.map(torch.tensor) | numbers.map(np.array),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts, max_size=3),
    max_leaves=6,
)


@given(trees)
def test_equal_batches_have_equal_digests(batch: Any) -> None:
    """The digest depends on the batch's contents alone."""
    assert batch_digest(batch) == batch_digest(deepcopy(batch))


@given(numbers, st.data())
def test_one_other_number_is_another_digest(batch: list[int], data: st.DataObject) -> None:
    """A short batch with one other number, as a list, a tensor or an array, has another digest."""
    place = data.draw(st.integers(0, len(batch) - 1))
    other = [*batch[:place], batch[place] + 1, *batch[place + 1 :]]
    makers: list[Any] = [list, torch.tensor, np.array]
    for made in makers:
        assert batch_digest(made(batch)) != batch_digest(made(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        ({"a": 1}, {"b": 1}),
        (torch.arange(6).reshape(2, 3), torch.arange(6).reshape(3, 2).t()),
        (torch.arange(10**6), torch.arange(1, 10**6 + 1)),
    ],
)
def test_shapes_types_names_and_orders_count(one: object, other: object) -> None:
    """What a batch is made of counts as well as its numbers."""
    assert batch_digest(one) != batch_digest(other)


@pytest.mark.parametrize(
    "batch",
    [None, object(), [], {}, np.array([object()]), torch.zeros(2, device="meta")],
    ids=["None", "object", "list", "dict", "array of objects", "meta tensor"],
)
def test_batches_without_a_digest(batch: object) -> None:
    """Where nothing can be read cheaply, there is no digest, and nothing is compared."""
    expected = None
    assert expected == batch_digest(batch)


def test_what_cannot_be_read_is_left_out() -> None:
    """An object of the user's does not keep the rest of its batch from being compared."""
    assert batch_digest([object(), 1]) == batch_digest([object(), 1]) != batch_digest([object(), 2])
