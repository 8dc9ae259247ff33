"""`ResumableLoader`: a torch DataLoader that goes on where the training stopped, in a loop of one's own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, SupportsIndex, cast

from torch.utils.data import Dataset, IterableDataset
from typing_extensions import TypedDict, TypeVar, Unpack

from resumable.batching import Batching
from resumable.errors import ConfigurationError, explain
from resumable.ledger import Stretch
from resumable.order import Sequential, Shuffled
from resumable.policy import check_policy
from resumable.protocols import Order
from resumable.resuming import LoaderFrontier, Resuming, install
from resumable.sampler import OrderFeed, ResumableSampler
from resumable.state import ResumptionState
from resumable.verdict import OnMismatch

__all__ = ["LoaderOptions", "ResumableLoader"]

T = TypeVar("T", default=Any)


class LoaderOptions(TypedDict, total=False):
    """The options of torch's DataLoader that say how to load, not what."""

    num_workers: int
    collate_fn: Callable[[list[Any]], Any] | None
    pin_memory: bool
    timeout: float
    worker_init_fn: Callable[[int], None] | None
    multiprocessing_context: Any
    generator: Any
    prefetch_factor: int | None
    persistent_workers: bool
    in_order: bool


class ResumableLoader(Resuming[T]):
    """A torch DataLoader over a map-style dataset that goes on with the exact next sample.

    Iterating it yields the rest of the epoch; the next iteration is the next epoch. `len()` is that of a whole epoch.

    Args:
        dataset: map-style: `len(dataset)` and `dataset[index]`.
        batch_size: samples that one iteration yields on this rank, its micro batch; None yields single samples,
            uncollated.
        shuffle: a new permutation in each epoch; else the dataset's own order.
        seed: of the permutations, 0 to 2**64 - 1. Without one it is 0, and a loaded state's seed is taken over.
        order: an order of one's own, in the place of *shuffle* and *seed*.
        drop_last: leave out an epoch's last batch where it would be short.
        on_mismatch: what to do where a loaded state cannot go on exactly: "error", "warn" or "adopt".
        options: DataLoader's own: workers, collate_fn, pinning, and so on.

    Raises:
        ConfigurationError: for an empty dataset, a batch size below 1, an iterable dataset, or an epoch without a batch.

    >>> loader = ResumableLoader(range(10), batch_size=4, shuffle=True)
    >>> first = next(iter(loader))
    >>> [len(batch) for batch in loader], loader.epoch
    ([4, 4, 2], 1)
    """

    def __init__(
        self,
        dataset: Dataset[Any] | Any,
        batch_size: SupportsIndex | None = 1,
        shuffle: bool = False,
        *,
        seed: int | None = None,
        order: Order | None = None,
        drop_last: bool = False,
        on_mismatch: OnMismatch = "error",
        **options: Unpack[LoaderOptions],
    ) -> None:
        check_policy(on_mismatch)
        _check_order_of_batches(options)
        length = _length(dataset)
        feed = OrderFeed(
            _order(length, shuffle, seed, order),
            Batching(length, _whole_batch_size(batch_size), drop_last),
        )
        if not feed.batching.batches:
            feed.batching.position_at(0)
        size = None if batch_size is None else feed.batching.batch_size
        super().__init__(dataset, batch_size=size, drop_last=drop_last, **options)
        stretch = Stretch(
            length=length,
            micro_batch_size=feed.batching.batch_size,
            num_workers=self.num_workers,
            drop_last=drop_last,
        )
        self._frontier = LoaderFrontier(
            feed, stretch, seed_is_given=seed is not None or order is not None, on_mismatch=on_mismatch
        )
        sampler = ResumableSampler(feed, single=batch_size is None)
        install(self, sampler, partial(self._frontier.passes, sampler))
        self._state = ResumptionState()
        self._state.connect(self._frontier)

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self._state.connect(self._frontier)

    @property
    def state(self) -> ResumptionState:
        """The position, to be saved, loaded and committed."""
        return self._state

    @property
    def epoch(self) -> int:
        """The epoch that the next pass belongs to."""
        return self._frontier.cursor.next_start.epoch

    def state_dict(self) -> dict[str, Any]:
        """The position as a dict of JSON types; see `ResumptionState.state_dict`."""
        return self._state.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved position; see `ResumptionState.load_state_dict`."""
        self._state.load_state_dict(state_dict)


def _length(dataset: Any) -> int:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ConfigurationError(
            explain(
                "A ResumableLoader needs a map-style dataset, since a place in a stream cannot be computed.",
                [("needed", "__getitem__ and __len__"), ("got", type(cast("object", dataset)).__name__)],
                "Use a map-style dataset; in a LightningDataModule, @resumable carries iterable datasets along.",
            )
        )
    return len(dataset)


def _order(length: int, shuffle: bool, seed: int | None, order: Order | None) -> Order:
    if order is None:
        shuffled = Shuffled(length, 0 if seed is None else seed)  # checks the seed, also where nobody shuffles
        return shuffled if shuffle else Sequential(length)
    if not callable(getattr(order, "indices", None)):
        raise ConfigurationError(
            explain(
                "An order says which indices come at which places.",
                [("needed", "len(order) and order.indices(epoch, start, stop)"), ("order", type(order).__name__)],
                "Pass an order, such as Sequential(n) or Shuffled(n, seed).",
            )
        )
    if shuffle or seed is not None:
        raise ConfigurationError(
            explain(
                "An order of one's own says itself how it shuffles.",
                [("order", order), ("shuffle", shuffle), ("seed", seed)],
                "Pass either order=, or shuffle= and seed=.",
            )
        )
    if len(order) != length:
        raise ConfigurationError(
            explain(
                "The order and the dataset have different lengths.",
                [("len(order)", len(order)), ("len(dataset)", length)],
                "Make the order as long as the dataset.",
            )
        )
    return order


def _whole_batch_size(batch_size: SupportsIndex | None) -> int:
    if batch_size is None:
        return 1
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__"):
        raise ConfigurationError(
            explain("A batch size is a whole number.", [("batch_size", batch_size)], "Pass batch_size >= 1.")
        )
    return operator.index(batch_size)


def _check_order_of_batches(options: LoaderOptions) -> None:
    if options.get("num_workers", 0) and not options.get("in_order", True):
        raise ConfigurationError(
            explain(
                "With in_order=False batches come as workers finish, so no count tells which ones were trained.",
                [("in_order", False), ("num_workers", options.get("num_workers", 0))],
                "Leave in_order=True.",
            )
        )
