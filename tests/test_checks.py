"""One rule for whole numbers, whoever gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from resumable.checks import as_int, check_members, check_schedule
from resumable.errors import ConfigurationError
from resumable.steps.schedules import ConstantBatchSize

ACCELERATOR = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


@pytest.mark.parametrize(
    "value",
    [7, np.int64(7), np.uint8(7), np.array(7), torch.tensor(7), torch.tensor(7, dtype=torch.uint8)]
    + ([] if ACCELERATOR is None else [torch.tensor(7, device=ACCELERATOR)]),
    ids=repr,
)
def test_whole_numbers_become_ints(value: Any) -> None:
    """Ints, NumPy's integers and 0-d integer tensors on any device give an int."""
    number = as_int(value)
    assert (7, int) == (number, type(number))


@pytest.mark.parametrize(
    "value",
    [True, np.bool_(True), np.array(True), torch.tensor(True), 7.0, np.float64(7), torch.tensor(7.0), "7", None, [7]],
    ids=repr,
)
def test_truth_values_floats_and_texts_are_not_whole_numbers(value: Any) -> None:
    """They come from a mistake, also where Python could count with them."""
    assert as_int(value) is None


class NotYetInitialized:
    """Its properties raise until its framework is set up."""

    @property
    def data_parallel_rank(self) -> int:
        raise RuntimeError


class Proxy:
    """Hands every name on to a schedule."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ConstantBatchSize(8), name)


def test_members_are_looked_up_by_name_alone() -> None:
    """A check runs no property, and believes an object that makes its members when they are asked for."""
    check_members("ranks", NotYetInitialized(), ("data_parallel_rank",), "what", "advice")
    check_schedule(Proxy())


def test_a_class_in_place_of_its_object_is_refused() -> None:
    """A class has the methods too, but nothing to call them on."""
    with pytest.raises(ConfigurationError, match="lacks the methods of a BatchSchedule"):
        check_schedule(ConstantBatchSize)
