"""What a saved state holds of an order: enough to distinguish it from another one."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["CYCLIC", "Identity"]

CYCLIC = "cyclic"
"""The beginning of the kind of Megatron's shuffled order; the sizes that it depends on follow."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What an order depends on, besides epoch and offset; and *contents*, by which the data is told from other data.

    An order is equal to one of other contents: see `resumable.loading.contents`.
    """

    kind: str
    length: int
    seed: int | None = None
    contents: str | None = field(default=None, compare=False, repr=False)

    @property
    def rows_digest(self) -> str | None:
        """The part of the contents that follows from the data alone; None where that is unknown.

        >>> Identity("sequential", 4, contents="1dea-5eed0f1e").rows_digest
        '5eed0f1e'
        """
        return None if self.contents is None else self.contents.rpartition("-")[2]
