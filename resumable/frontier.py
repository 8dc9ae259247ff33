"""Who counts how far a training has come, as a `ResumptionState` asks for it."""

from __future__ import annotations

from typing import Protocol

from resumable.ledger import Stretch
from resumable.position import Position
from resumable.saved import Place, Saved
from resumable.verdict import Identity, Verdict

__all__ = ["Frontier"]


class Frontier(Protocol):
    """Whoever knows how far the training has come."""

    @property
    def position(self) -> Position:
        """The trained frontier."""
        ...

    @property
    def order(self) -> Identity | None:
        """What the order depends on; None where there is no order to speak of."""
        ...

    @property
    def stretch(self) -> Stretch | None:
        """The present configuration, from the place where it began; None where it is not known."""
        ...

    @property
    def commits(self) -> bool:
        """Whether the loop says itself what is trained."""
        ...

    @property
    def init_global_step(self) -> int:
        """The trainer's step count at the last rebase."""
        ...

    @property
    def global_step(self) -> int | None:
        """The trainer's step count at the position; None where no trainer counts steps."""
        ...

    @property
    def knows_epochs(self) -> bool:
        """Whether the position tells epoch and offset; else they follow from the consumed samples, once loaded."""
        ...

    @property
    def padded_samples(self) -> int:
        """Samples that the end of the present epoch trains again, so that all ranks get equally many."""
        ...

    def places(self) -> tuple[Place, ...]:
        """Where further loaders stand; empty where one position says it all."""
        ...

    def canary(self, at: Position, /) -> str | None:
        """The digest of the indices that follow *at*; None where there is none."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether batches are on their way, which a loaded position would not know of."""
        ...

    def load(self, saved: Saved, /) -> Verdict:
        """Go on from *saved*; raise and change nothing where that cannot be."""
        ...

    def commit(self) -> None:
        """Everything handed out so far is trained."""
        ...

    def rebase(self) -> None:
        """Begin to count anew from the present position; moves nothing."""
        ...

    def note_saved(self) -> None:
        """The position was handed out to be saved."""
        ...

    def settle(self) -> None:
        """Stand where the next pass would begin, since another loader takes over."""
        ...
