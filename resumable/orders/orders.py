"""Orders: which dataset index comes at which place of an epoch, pure functions that start anywhere.

    Sequential(n)        0, 1, 2, ...                    the same in every epoch
    Shuffled(n, seed)    a permutation for each epoch    see `resumable.orders.permutation`

An order depends on its kind, length and seed, the epoch and the place: not on processes, workers, batch sizes, the
libraries' versions or the number of restarts. Golden files hold it for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from resumable.checks import seed_of, whole_number
from resumable.errors import ConfigurationError
from resumable.orders.identity import Identity
from resumable.orders.permutation import MAX_LENGTH, permuted, place_of
from resumable.protocols import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Sequential", "Shuffled", "identity_of"]


@dataclass(frozen=True, slots=True)
class Sequential:
    """The indices from 0 to *n* - 1, in this order in every epoch.

    *n* is a whole number from 1 to `2**60`. Anything else raises ConfigurationError.

    >>> Sequential(10).indices(epoch=0, start=3, stop=6)
    array([3, 4, 5])
    """

    kind: ClassVar[str] = "sequential"

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _length(self.n))

    def __len__(self) -> int:
        return self.n

    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Dataset indices at the places *start* to *stop* of *epoch*, int64 of shape (stop - start,).

        Raises ConfigurationError unless epoch >= 0 and 0 <= start <= stop <= n.

        >>> Sequential(10**12).indices(7, 10**11, 10**11 + 2).tolist()
        [100000000000, 100000000001]
        """
        _, start, stop = _places(self.n, epoch, start, stop)
        return np.arange(start, stop, dtype=np.int64)

    def place_of(self, epoch: int, index: int) -> int:
        """Where *index*, below *n*, comes in *epoch*.

        >>> Sequential(10).place_of(epoch=0, index=4)
        4
        """
        return _places(self.n, epoch, index, index + 1)[1]


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Every index below *n* once in an epoch, in another order in each epoch, the same on every machine.

    *n* is a whole number from 1 to `2**60`, *seed* one from 0 to `2**64 - 1`. Anything else raises ConfigurationError.
    Orders of neighbouring seeds or epochs are unrelated.

    >>> order = Shuffled(6, seed=1)
    >>> [order.indices(epoch, 0, 6).tolist() for epoch in range(2)]
    [[1, 5, 0, 3, 2, 4], [3, 2, 1, 5, 4, 0]]
    """

    kind: ClassVar[str] = "shuffled"

    n: int
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _length(self.n))
        object.__setattr__(self, "seed", seed_of(self.seed))

    def __len__(self) -> int:
        return self.n

    def indices(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Dataset indices at the places *start* to *stop* of *epoch*, int64 of shape (stop - start,).

        Time and memory grow with stop - start alone, after a constant of some tens of microseconds: take blocks of a
        thousand or more and slice them. Raises ConfigurationError unless epoch >= 0 and 0 <= start <= stop <= n.

        >>> Shuffled(10**12, seed=1).indices(0, 10**11, 10**11 + 1).shape
        (1,)
        """
        epoch, start, stop = _places(self.n, epoch, start, stop)
        return permuted(self.n, self.seed, epoch, start, stop)

    def place_of(self, epoch: int, index: int) -> int:
        """Where *index*, below *n*, comes in *epoch*: the inverse of `indices`, in some tens of microseconds.

        >>> Shuffled(6, seed=1).place_of(epoch=0, index=5)
        1
        """
        epoch, index, _ = _places(self.n, epoch, index, index + 1)
        return place_of(self.n, self.seed, epoch, index)


def _length(value: object) -> int:
    n = whole_number("n", value, least=None)
    if n < 1:
        raise ConfigurationError("An order needs at least one sample.", [("n", n)], "Pass a dataset that is not empty.")
    if n > MAX_LENGTH:
        raise ConfigurationError(
            "An order this long is not supported.", [("n", n), ("largest", MAX_LENGTH)], "Pass n <= 2**60."
        )
    return n


def _places(n: int, epoch: object, start: object, stop: object) -> tuple[int, int, int]:
    names = (("epoch", epoch), ("start", start), ("stop", stop))
    epoch, start, stop = (whole_number(name, value, least=None) for name, value in names)
    if epoch < 0:
        raise ConfigurationError("Epochs are counted from 0.", [("epoch", epoch)], "Pass epoch >= 0.")
    if not 0 <= start <= stop <= n:
        raise ConfigurationError(
            "These places are not in the epoch.",
            [("start", start), ("stop", stop), ("n", n)],
            "Pass 0 <= start <= stop <= n; what follows an epoch's end is the start of the next.",
        )
    return epoch, start, stop


def identity_of(order: Order, /) -> Identity:
    """What *order* depends on: its `kind` (by default its class's name), its length and its `seed` (by default None).

    >>> identity_of(Shuffled(10, seed=3))
    Identity(kind='shuffled', length=10, seed=3)
    """
    kind, seed = getattr(order, "kind", type(order).__qualname__), getattr(order, "seed", None)
    return Identity(kind, len(order), None if seed is None else seed_of(seed))
