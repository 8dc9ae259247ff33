"""Saved against current: can the run go on exactly, and if not, why?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["Difference", "OnMismatch", "Verdict"]

OnMismatch = Literal["error", "warn", "adopt"]
"""What to do where a resume cannot be exact: raise MismatchError, go on with a warning, or take over the saved order."""

_IN_WORDS: Final = {"regrouped": "the same samples in another grouping", "inexact": "not exact"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing whose saved and current values differ."""

    what: str
    """The difference as a sentence: "The order has another seed." and the like."""
    saved: object
    """The value in the saved state."""
    current: object
    """The value in the current configuration."""
    advice: str
    """What follows from the difference, and what to do about it."""

    def __str__(self) -> str:
        return f"{self.what}\n  saved:   {self.saved!r}\n  current: {self.current!r}\n  {self.advice}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How exactly a run can go on from a saved state in the current configuration.

    >>> verdict = Verdict("regrouped", (Difference("Another batch size.", 32, 64, "The samples are the same."),))
    >>> print(verdict)
    the same samples in another grouping
    Another batch size.
      saved:   32
      current: 64
      The samples are the same.
    >>> verdict.is_exact
    True
    """

    outcome: Literal["exact", "regrouped", "inexact", "refused"] = "exact"
    """`exact`: the same samples in the same batches. `regrouped`: the same samples in the same order, in other batches.
    `inexact`: other samples or another order. `refused`: there is no position to go on from."""
    differences: tuple[Difference, ...] = ()
    """What differs between saved and current; empty where nothing does."""

    @property
    def is_exact(self) -> bool:
        """Whether the same samples follow in the same order; their grouping may differ."""
        return self.outcome in ("exact", "regrouped")

    def __str__(self) -> str:
        return "\n".join([_IN_WORDS.get(self.outcome, self.outcome), *map(str, self.differences)])
