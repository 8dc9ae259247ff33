"""Saved states of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resumable.saved.ledger import STRETCH_FIELDS

FILES = Path(__file__).parents[1] / "golden"
GOLDEN: dict[int, dict[str, Any]] = {
    version: json.loads((FILES / f"state_format_{version}.json").read_text()) for version in (1, 2, 3)
}
GOOD: dict[str, Any] = GOLDEN[3]["two stretches"]


def last(**changes: Any) -> list[Any]:
    """The last stretch, with some values changed."""
    return list((dict(zip(STRETCH_FIELDS, GOOD["ledger"][-1], strict=False)) | changes).values())


def order(**changes: Any) -> dict[str, Any]:
    """The order, with some values changed."""
    return {"order": list((dict(zip(("kind", "length", "seed"), GOOD["order"], strict=True)) | changes).values())}
