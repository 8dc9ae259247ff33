"""`ResumableLoader`: a torch DataLoader that goes on where the training stopped, in a loop of one's own."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

from torch.utils.data import DataLoader, Dataset, IterableDataset
from typing_extensions import TypedDict, Unpack

from resumable.batching import Batching
from resumable.cursor import Cursor, Pass
from resumable.errors import ConfigurationError, ResumptionError, explain
from resumable.ledger import Stretch
from resumable.order import Sequential, Shuffled
from resumable.policy import check_policy, resolve
from resumable.position import Position
from resumable.protocols import Order
from resumable.sampler import Feed, OrderFeed, ResumableSampler
from resumable.saved import Place, Saved
from resumable.state import ResumptionState
from resumable.verdict import Identity, OnMismatch, Verdict

__all__ = ["LoaderFrontier", "LoaderOptions", "ResumableLoader", "Resuming", "install"]

T = TypeVar("T")
Iterate = Callable[[], Iterator[T]]
"""Torch's own `DataLoader.__iter__`, bound to its loader."""


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


class LoaderFrontier:
    """The frontier of a loop: what its loader yielded, or what the loop committed."""

    init_global_step = 0

    def __init__(self, feed: Feed, stretch: Stretch, *, seed_is_given: bool, on_mismatch: OnMismatch) -> None:
        self.feed = feed
        self.stretch = stretch
        self.cursor = Cursor(feed.batching)
        self._seed_is_given = seed_is_given
        self._on_mismatch: OnMismatch = on_mismatch

    @property
    def position(self) -> Position:
        """The trained frontier."""
        return self.cursor.position

    @property
    def order(self) -> Identity:
        """What the loader's order depends on."""
        return self.feed.identity

    @property
    def commits(self) -> bool:
        """Whether the loop has called `commit()`, in this session or before."""
        return self.cursor.commits

    def places(self) -> tuple[Place, ...]:
        """One loader has one place: the position."""
        return ()

    def check_can_load(self) -> None:
        """Refuse a load while a pass is alive."""
        if self.cursor.current.is_running():
            raise ResumptionError(
                explain(
                    "A state cannot be loaded while the loader is being iterated: the batches on their way are others.",
                    [("position", self.cursor.position)],
                    "Load it before the loop, or leave the loop first. Nothing was loaded.",
                )
            )

    def load(self, saved: Saved, /) -> Verdict:
        """Go on from *saved*, from the next `iter()` on."""
        found = resolve(
            saved,
            self.feed.identity,
            self.stretch,
            seed_is_given=self._seed_is_given,
            on_mismatch=self._on_mismatch,
        )
        self.feed.adopt(found.order)
        self.cursor.seek(found.position, commits=saved.commits or self.commits)
        at = found.position
        self.stretch = replace(self.stretch, sample=at.consumed_samples, epoch=at.epoch, offset=at.offset)
        return found.verdict

    def commit(self) -> None:
        """What was yielded so far is trained."""
        self.cursor.commit()

    def rebase(self) -> None:
        """A loop counts no steps that could be rebased."""

    def note_saved(self) -> None:
        """What the saved position counts as trained stays counted."""
        self.cursor.note_saved()

    def settle(self) -> None:
        """Open the next pass, whose beginning tells a look at the data from training."""
        self.cursor.begin()

    def passes(self, sampler: ResumableSampler, iterate: Iterate[T]) -> Iterator[T]:
        """A pass from the frontier on, counted as it is yielded."""
        this = self.cursor.begin()
        sampler.start = (this.begun_at.epoch, this.begun_at.offset)
        counting = _count(iterate(), this)
        this.is_running = partial(_is_alive, weakref.ref(counting))
        return counting


def _count(batches: Iterator[T], this: Pass) -> Generator[T, None, None]:
    for batch in batches:
        this.taken += 1
        yield batch
    this.ended = True


def _is_alive(iterator: weakref.ref[Generator[Any, None, None]]) -> bool:
    generator = iterator()
    return generator is not None and inspect.getgeneratorstate(generator) != inspect.GEN_CLOSED


class Resuming(DataLoader[T]):
    """A DataLoader whose passes somebody else begins, given torch's own way to iterate."""

    _resumable_pass: Callable[[Iterate[T]], Iterator[T]]

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]  # torch names its private iterator class
        return self._resumable_pass(super().__iter__)


def install(loader: Resuming[T], sampler: ResumableSampler | None, passes: Callable[[Iterate[T]], Iterator[T]]) -> None:
    """Let *passes* begin the loader's passes, and *sampler* take the place of its own, unless it streams.

    torch refuses to set these attributes after `__init__`, for fear of a loader that is half old and half new; here
    the one attribute that is iterated is exchanged, between two passes.
    """
    own = vars(loader)
    if sampler is not None:
        own["sampler" if loader.batch_sampler is None else "batch_sampler"] = sampler
    own["_resumable_pass"] = passes


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
        batch_size: int | None = 1,
        shuffle: bool = False,
        *,
        seed: int | None = None,
        order: Order | None = None,
        drop_last: bool = False,
        on_mismatch: OnMismatch = "error",
        **options: Unpack[LoaderOptions],
    ) -> None:
        check_policy(on_mismatch)
        length = _length(dataset)
        feed = OrderFeed(
            _order(length, shuffle, seed, order),
            Batching(length, _whole_batch_size(batch_size), drop_last),
        )
        if not feed.batching.batches:
            feed.batching.position_at(0)
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last, **options)
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
        return Shuffled(length, 0 if seed is None else seed) if shuffle else Sequential(length)
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


def _whole_batch_size(batch_size: object) -> int:
    if batch_size is None:
        return 1
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise ConfigurationError(
            explain("A batch size is a whole number.", [("batch_size", batch_size)], "Pass batch_size >= 1.")
        )
    return batch_size
