"""What each test here may ask for."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from resumable.stopping.signals import watched


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    assert before == {number: signal.getsignal(number) for number in before}
    assert watched() == frozenset()
