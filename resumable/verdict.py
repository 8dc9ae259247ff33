"""Saved against current: can the run go on exactly, and if not, why?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Difference", "OnMismatch", "Verdict"]

OnMismatch = Literal["error", "warn", "adopt"]
"""What to do where a resume cannot be exact: refuse, go on with a warning, or take over what was saved."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that was saved with one value and has another now."""

    what: str
    saved: object
    current: object
    advice: str

    def __str__(self) -> str:
        return f"{self.what}\n  saved:   {self.saved!r}\n  current: {self.current!r}\n  {self.advice}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How exactly a saved state can go on in the present configuration.

    `exact`: the same samples in the same batches. `regrouped`: the same samples in the same order, in other batches.
    `inexact`: other samples or another order. `refused`: there is no place to go on from.

    >>> print(Verdict("regrouped", (Difference("Another batch size.", 32, 64, "The samples are the same."),)))
    the same samples in another grouping
    Another batch size.
      saved:   32
      current: 64
      The samples are the same.
    """

    outcome: Literal["exact", "regrouped", "inexact", "refused"] = "exact"
    differences: tuple[Difference, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether the same samples come in the same order; their grouping may differ."""
        return self.outcome in ("exact", "regrouped")

    def __str__(self) -> str:
        text = {
            "exact": "exact",
            "regrouped": "the same samples in another grouping",
            "inexact": "not exact",
            "refused": "refused",
        }[self.outcome]
        return "\n".join([text, *map(str, self.differences)])
