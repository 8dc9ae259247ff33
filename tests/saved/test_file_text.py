"""The text of a state file: read again as it was written, or rejected."""

from __future__ import annotations

from typing import Any

import pytest

from resumable import StateError
from resumable.saved.file_text import parse, render
from tests.support.killed_writers import TRICKY, state


@pytest.mark.parametrize("held", [{}, state(3), TRICKY])
def test_every_flipped_bit_is_refused(held: dict[str, Any]) -> None:
    """Also one that leaves the values as they are, as in 1e+22 and 1E+22: the text is not what was written."""
    text = render(held)
    whole = parse(text)
    assert held == whole
    for place in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[place // 8] ^= 1 << place % 8
        assert not isinstance(parse(bytes(flipped)), dict), place


def test_what_is_nested_too_deeply() -> None:
    """It is refused when it is written, so that what was written can be read wherever the reader's stack stands."""
    for levels, is_written in ((150, True), (250, False), (100_000, False)):
        value: Any = 1
        for _ in range(levels):
            value = [value]
        if is_written:
            assert {"state": value} == parse(render({"state": value}))
        else:
            with pytest.raises(StateError, match="nested more than 200 deep"):
                render({"state": value})
    with pytest.raises(StateError, match="JSON cannot return unchanged"):
        render({"state": 10**5000})
