"""Train loaders over streams: iterable datasets and any other iterable, where no place can be computed.

the dataset saves its own state, no workers   the state after the last trained batch is saved and given back
the same, with workers                        torchdata's StatefulDataLoader carries it, where it is installed
it saves nothing                              the batches behind the position are read again and dropped
several ranks, whatever it saves              the same: only rank 0's state is saved, and theirs stand elsewhere

On several ranks it is for the dataset to yield each rank's own samples, as it is without this package. How it does is
its own affair, so with another number of ranks there is no place in the middle of an epoch to go on from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from resumable.errors import MismatchError, explain, warn
from resumable.feeds.feed import Shard
from resumable.loading.dataloader import Iterate, is_dataloader, resuming
from resumable.loading.map_loader import LoaderStarts, TrainLoader
from resumable.orders.identity import Identity
from resumable.saved.snapshot import LoaderPosition
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["StreamLoader"]

_KEPT = 256
"""Batches whose state is kept: an accumulation window and what the trainer reads ahead must fit into it."""


_LOST = (
    "The dataset's own state is not carried over: only rank 0's is saved, and those of the other ranks are others.\n"
    "What lies behind in the epoch is read again. Let the stream follow from what each rank can compute, or use a "
    "map-style dataset."
)


class StreamLoader:
    """A loader whose passes are carried on by the dataset's own state, or by reading again."""

    identity: Identity | None = None

    def __init__(self, loader: Any, shard: Shard) -> None:
        self.shard: Shard = replace(shard, is_drawn=shard.size > 1)
        self.num_workers: int = getattr(loader, "num_workers", 0)
        self._keeper: _Keeper | None = None
        if is_dataloader(loader):
            loader = self._with_state(loader)
            self.loader: Any = resuming(loader)
        else:
            self._keeper = _keeper(loader)
            self.loader = (_SizedStream if _is_sized(loader) else _Stream)(loader)
        self._loses_state = self.shard.size > 1 and self._keeper is not None
        if self._loses_state:
            self._keeper = None
        own = _batching_of(loader)
        self.micro_batch_size: int = own.batch_size
        length = own.length if own.length >= UNBOUNDED else own.length * shard.size
        self.batching: BatchPlan = replace(own, length=length, batch_size=own.batch_size * shard.size)
        # workers that end with their epoch take their states with them: the next ones get the dataset as it was
        self._begins_afresh = self.num_workers > 0 and not getattr(loader, "persistent_workers", False)
        self._source: LoaderStarts | None = None
        self._states: deque[tuple[int, object]] = deque(maxlen=_KEPT)
        self._has_begun = False

    def limit(self, batches: int, /) -> None:
        """Let an epoch have at most so many batches."""
        self.batching = replace(self.batching, limit=batches)

    def adopt(self, identity: Identity, /) -> None:
        """A stream has no order that could be taken over."""
        raise MismatchError(
            explain(
                "The state was saved with a map-style dataset, and the loader streams.",
                [("saved order", identity), ("current", type(self.loader).__name__)],
                "Give the run the loader that it began with. Nothing was loaded.",
            )
        )

    def padded_samples(self, offset: int, /) -> int:
        """None: each rank's stream is its own."""
        return 0

    def canary(self, order: Identity | None, at: LoaderPosition, /, *, looks: bool = False) -> str | None:
        """None: what a stream yields next is not known before."""
        return None

    def follow(self, source: LoaderStarts, /, *, endless: bool) -> None:
        """Start each pass where *source* says."""
        del endless  # a stream that ends is cycled by Lightning itself
        self._source = source
        vars(self.loader)["_resumable_pass"] = self._pass

    def state_at(self, batches: int, /) -> object:
        """What the dataset saved of itself when *batches* batches of the present pass were yielded."""
        return next((state for number, state in self._states if number == batches), None)

    def _with_state(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        dataset = _keeper(loader.dataset)
        is_torchdatas = type(loader).__module__.startswith("torchdata.")
        if not is_torchdatas and (own := _keeper(loader)) is not None:
            self._keeper = own
        elif dataset is None or not loader.num_workers or self.shard.size > 1:
            # torchdata's loader too: at an epoch's end, or without a state to save, it would lose its place
            self._keeper = dataset
        elif is_torchdatas or find_spec("torchdata") is not None:
            loader = loader if is_torchdatas else _stateful(loader)
            self._keeper = _keeper(loader)
        else:
            _warn_of_reading_again("the dataset saves its state in its workers, where only torchdata reaches it")
        return loader

    def _pass(self, iterate: Iterate[Any]) -> Iterator[Any]:
        """One pass: *iterate* begins torch's own."""
        at = LoaderPosition() if self._source is None else self._source.start_of(self)
        behind = at.offset // self.batching.batch_size
        self._states.clear()
        if self._loses_state and (at.epoch or at.offset) and not self._has_begun:
            warn(_LOST)
        self._has_begun = True
        if self._keeper is not None and at.state is not None and (behind or not self._begins_afresh):
            self._keeper.load(at.state)
            batches = _not_empty(iterate)
        else:
            batches = iter(iterate())
            if behind:
                batches = self._read_again(batches, behind)
        self._note(behind)
        for number, batch in enumerate(batches, start=behind + 1):
            self._note(number)
            yield batch

    def _note(self, number: int) -> None:
        if self._keeper is not None:
            self._states.append((number, self._keeper.save()))

    def _read_again(self, batches: Iterator[Any], behind: int) -> Iterator[Any]:
        _warn_of_reading_again("it neither saves its state nor can a place in it be computed")
        for _ in tqdm(range(behind), desc="reading again", unit="batch", leave=False):
            if next(batches, _END) is _END:
                break
        return batches


class _Stream:
    """An iterable that is no DataLoader, with passes that start where they are told."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable

    def __getattr__(self, name: str) -> Any:
        if name == "_iterable":
            raise AttributeError(name)
        return getattr(self._iterable, name)

    def __iter__(self) -> Iterator[Any]:
        begin = vars(self).get("_resumable_pass")
        return iter(self._iterable) if begin is None else begin(lambda: iter(self._iterable))

    def state_dict(self) -> dict[str, Any]:
        """Empty: the position is saved with the datamodule."""
        return {}

    def load_state_dict(self, state_dict: object) -> None:
        """Nothing: the position is loaded with the datamodule."""


class _SizedStream(_Stream):
    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]  # only sized ones become one


_END = object()


def _batching_of(loader: Any) -> BatchPlan:
    """Samples where the dataset tells how many it has, else whole batches; without an end where nobody knows it."""
    size, drop_last = getattr(loader, "batch_size", None) or 1, bool(getattr(loader, "drop_last", False))
    if not _is_sized(loader):
        return BatchPlan(UNBOUNDED, size)
    exact = BatchPlan(len(loader.dataset), size, drop_last) if _is_sized(getattr(loader, "dataset", None)) else None
    return exact if exact is not None and exact.batches == len(loader) else BatchPlan(len(loader) * size, size)


@dataclass(frozen=True, slots=True)
class _Keeper:
    """The two methods of whoever carries a stream's state."""

    save: Callable[[], object]
    load: Callable[[object], None]


def _keeper(thing: Any) -> _Keeper | None:
    save: Any = getattr(thing, "state_dict", None)
    load: Any = getattr(thing, "load_state_dict", None)
    return _Keeper(save, load) if save is not None and load is not None else None


def _is_sized(thing: Any) -> bool:
    try:
        len(thing)
    except (TypeError, NotImplementedError):
        return False
    return True


def _not_empty(iterate: Iterate[Any]) -> Iterator[Any]:
    """A pass of *iterate*, or the next one where the loaded state stands at the end of its pass."""
    batches = iter(iterate())
    first = next(batches, _END)
    if first is _END:
        yield from iterate()
    else:
        yield first
        yield from batches


def _stateful(loader: DataLoader[Any]) -> DataLoader[Any]:
    from torchdata.stateful_dataloader import StatefulDataLoader  # optional: only where it is installed

    made: DataLoader[Any] = StatefulDataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )
    return made


def _warn_of_reading_again(why: str) -> None:
    warn(
        f"This resume reads the stream again up to its position: {why}.\n"
        "Give the dataset state_dict and load_state_dict, or use a map-style dataset, and it takes milliseconds."
    )


_: type[TrainLoader] = StreamLoader
