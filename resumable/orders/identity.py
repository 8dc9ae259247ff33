"""What a saved state says of an order: enough to tell it from another one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CYCLIC", "Identity"]

CYCLIC = "cyclic"
"""How the kind of Megatron's shuffled order begins; what it depends on follows."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What an order depends on, beside epoch and offset."""

    kind: str
    length: int
    seed: int | None = None
