"""What every test here relies on: no calculator that the test before has left, and none left for other tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import nemo_shape


@pytest.fixture(autouse=True)
def _no_calculator_from_elsewhere() -> Iterator[None]:
    nemo_shape.calculators().unset_num_microbatches_calculator()
    yield
    nemo_shape.calculators().unset_num_microbatches_calculator()
