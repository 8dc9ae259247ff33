"""Saved against current: can the run go on exactly, and if not, why?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CYCLIC", "Difference", "Identity", "OnMismatch", "Verdict", "compare"]

CYCLIC = "cyclic"
"""How the kind of Megatron's shuffled order begins; what it depends on follows."""
OnMismatch = Literal["error", "warn", "adopt"]
"""What to do where a resume cannot be exact: refuse, go on with a warning, or take over what was saved."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What an order depends on, beside epoch and offset."""

    kind: str
    length: int
    seed: int | None = None


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


def compare(saved: Identity, current: Identity, /, *, offset: int, regrouped: tuple[Difference, ...] = ()) -> Verdict:
    """The verdict on going on at *offset* of an epoch of *saved* in the order *current*.

    *regrouped* are differences in how the samples are grouped, which keep the resume exact in its order.

    >>> compare(Identity("shuffled", 100, 1), Identity("shuffled", 50, 1), offset=60).outcome
    'refused'
    """
    found: list[Difference] = []
    if saved.kind != current.kind:
        is_cyclic = saved.kind.startswith(CYCLIC) and current.kind.startswith(CYCLIC)
        found.append(
            Difference(
                "The order is of another kind.",
                saved.kind,
                current.kind,
                'Megatron shuffles "cyclic" data by data_parallel_size and micro_batch_size: go on with the saved ones.'
                if is_cyclic
                else "Pass the sampler, order or shuffle= that the run began with.",
            )
        )
    if saved.length != current.length:
        found.append(
            Difference(
                "The dataset has another length.",
                saved.length,
                current.length,
                "Give the run the dataset that it began with, or begin a new run.",
            )
        )
    if saved.seed != current.seed and saved.kind == current.kind:
        found.append(
            Difference(
                "The order has another seed.",
                saved.seed,
                current.seed,
                f"Pass seed={saved.seed}, or pass no seed: the saved one is taken over.",
            )
        )
    if offset > current.length:
        return Verdict(
            "refused",
            (
                *found,
                Difference(
                    "The saved offset lies behind the end.", offset, current.length, "Nothing is left to go on."
                ),
            ),
        )
    if found:
        return Verdict("inexact", (*found, *regrouped))
    return Verdict("regrouped" if regrouped else "exact", regrouped)
