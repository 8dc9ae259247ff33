"""What a saved state holds of an order: enough to distinguish it from another one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CYCLIC", "Identity"]

CYCLIC = "cyclic"
"""The beginning of the kind of Megatron's shuffled order; the sizes that it depends on follow."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What an order depends on, besides epoch and offset."""

    kind: str
    length: int
    seed: int | None = None
