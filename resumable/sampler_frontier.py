"""Counting with a sampler of NeMo's shape and a trainer: the mixin's arithmetic, without the mixin."""

from __future__ import annotations

import operator
from typing import Any

from resumable.errors import StateError, explain
from resumable.ledger import Stretch
from resumable.position import Position
from resumable.protocols import DataSampler, Trainer
from resumable.saved import Place, Saved
from resumable.verdict import Identity, Verdict

__all__ = ["SamplerFrontier"]


class SamplerFrontier:
    """The frontier that a sampler counts from the trainer's steps since the last rebase.

    The rule is that of BioNeMo's `MegatronDataModule`: consumed samples are
    `sampler.compute_consumed_samples(trainer.global_step - init_global_step)`; a load writes `init_consumed_samples`
    and `prev_consumed_samples` and sets `if_first_step` to 1.
    """

    order: Identity | None = None
    stretch: Stretch | None = None
    commits: bool = False
    is_running: bool = False
    knows_epochs: bool = False

    def __init__(self, sampler: DataSampler, trainer: Trainer | None) -> None:
        self._sampler = sampler
        self._trainer = trainer
        self._known = 0
        self._loaded_at: int | None = None
        self.init_global_step = 0

    @property
    def position(self) -> Position:
        """The sampler's count; the last known one where there is no trainer, or no step since the load."""
        if self._trainer is not None and self._trainer.global_step != self._loaded_at:
            steps = self._trainer.global_step - self.init_global_step
            self._known = _whole(self._sampler.compute_consumed_samples(steps), "compute_consumed_samples()")
        return Position(self._known)

    def places(self) -> tuple[Place, ...]:
        """A sampler has one place: its count."""
        return ()

    def load(self, saved: Saved, /) -> Verdict:
        """Write the saved count into the sampler, in the attributes and the order in which the mixin writes them."""
        self._known = saved.consumed_samples
        if saved.consumed_samples or self._trainer is not None:
            self._sampler.init_consumed_samples = saved.consumed_samples
            self._sampler.prev_consumed_samples = saved.consumed_samples
            self._sampler.if_first_step = 1
        self._set_base()
        return Verdict()

    def commit(self) -> None:
        """The trainer's steps are the commits."""

    def note_saved(self) -> None:
        """Saving moves nothing."""

    def settle(self) -> None:
        """The count does not depend on a loader's passes."""

    def rebase(self) -> None:
        """Move the step baseline and the count together, so that calling this at any time changes nothing."""
        consumed = self.position.consumed_samples
        self._sampler.init_consumed_samples = consumed
        self._set_base()

    def _set_base(self) -> None:
        self.init_global_step = 0 if self._trainer is None else self._trainer.global_step
        self._sampler.init_global_step = self.init_global_step
        self._loaded_at = None if self._trainer is None else self.init_global_step


def _whole(value: Any, what: str) -> int:
    """A count as an int, from an int, a NumPy integer or a 0-d integer tensor on any device."""
    try:
        number: int = operator.index(value)
    except TypeError:
        raise StateError(
            explain(f"{what} gave no whole number.", [("got", value)], "Return an integer number of samples.")
        ) from None
    if number < 0:
        raise StateError(explain(f"{what} gave a negative number.", [("got", number)], "Return 0 or more samples."))
    return number
