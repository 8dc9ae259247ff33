"""State files, and what a refusal of one says."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from resumable import StateError
from resumable.saved.file import read

ROOT = Path(__file__).parents[2]


def refused(path: Path) -> str:
    """The message with which a file is refused: the very text that lies there, not that it is missing."""
    with pytest.raises(StateError) as caught:
        read(path)
    assert StateError is type(caught.value)
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))
    return str(caught.value)
