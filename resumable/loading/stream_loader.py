"""Train loaders over streams: iterable datasets and any other iterable, where no position can be computed.

the dataset saves its own state, no workers   the state after the last trained batch is saved and given back
the same, with workers                        torchdata's StatefulDataLoader carries it, where it is installed
it saves nothing                              the batches before the position are read again and dropped
several ranks, whatever it saves              the same: only rank 0's state is saved, and the other ranks' differ

On several ranks the dataset must yield each rank's own samples, as it does without this package. How it does that is
unknown here, so with another number of ranks there is no position in mid-epoch to go on from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from resumable.errors import warn
from resumable.extras import naming_the_extra
from resumable.feeds.feed import Shard, StreamGrouping
from resumable.loading.dataloader import Iterate, is_dataloader, seekable
from resumable.loading.map_loader import TrainLoader
from resumable.loading.trainer_loops import evaluation
from resumable.saved.snapshot import LoaderPosition, save_nothing
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["StreamLoader"]

_KEPT = 256
"""Batches whose state is kept: an accumulation window and what the trainer reads ahead must fit into it."""

_LOST = (
    "The dataset's own state is not carried over: only rank 0's is saved, and those of the other ranks differ.\n"
    "The trained part of the epoch is read again. Let the stream follow from what each rank can compute, or use a "
    "map-style dataset."
)


class StreamLoader(TrainLoader):
    """A loader whose passes the dataset's own state carries on, or reading again.

    *stateful* turns a DataLoader into one that saves its dataset's state in workers; it gives None where it cannot.
    """

    def __init__(
        self, loader: Any, shard: Shard, stateful: Callable[[DataLoader[Any]], DataLoader[Any] | None]
    ) -> None:
        shard = replace(shard, already_sharded=shard.size > 1)
        self.num_workers: int = getattr(loader, "num_workers", 0)
        if is_dataloader(loader):
            loader, self._keeper = _with_state(loader, shard, stateful)
            self.loader: Any = seekable(loader)
        else:
            self._keeper = _keeper(loader)
            self.loader = (_SizedStream if _is_sized(loader) else _Stream)(loader)
        self._loses_state = shard.size > 1 and self._keeper is not None
        if self._loses_state:
            self._keeper = None
        self._feed = StreamGrouping(_plan_of(loader, shard.size), shard)
        # workers that end with their epoch take their states with them: the next ones get the dataset as it was
        self._begins_afresh = self.num_workers > 0 and not getattr(loader, "persistent_workers", False)
        self._states: deque[tuple[int, object]] = deque(maxlen=_KEPT)
        self._has_begun = False

    @property
    @override
    def feed(self) -> StreamGrouping:
        return self._feed

    @override
    def follow(self, start: Callable[[], LoaderPosition], count: Callable[[], int | None], /) -> None:
        # a stream's passes end where it does, and Lightning limits them by itself
        vars(self.loader)["_resumable_pass"] = _Passes(self._pass, start)

    @override
    def state_at(self, batches: int, /) -> object:
        return next((state for number, state in self._states if number == batches), None)

    def _pass(self, start: Callable[[], LoaderPosition], iterate: Iterate[Any]) -> Iterator[Any]:
        """One pass; *iterate* begins torch's own."""
        if evaluation() is not None:
            yield from iterate()
            return
        at = start()
        trained = at.offset // self.feed.plan.batch_size
        self._states.clear()
        if self._loses_state and (at.epoch or at.offset) and not self._has_begun:
            warn(_LOST)
        self._has_begun = True
        if self._keeper is not None and at.state is not None and (trained or not self._begins_afresh):
            self._keeper.load(at.state)
            batches = _not_empty(iterate)
        else:
            batches = iter(iterate())
            if trained:
                _read_again(batches, trained)
        self._note(trained)
        for number, batch in enumerate(batches, start=trained + 1):
            self._note(number)
            yield batch

    def _note(self, number: int) -> None:
        if self._keeper is not None:
            self._states.append((number, self._keeper.save()))


class _Passes(partial[Iterator[Any]]):
    """The passes of a trainer's; those of a copy of the loader are torch's own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (_Passes, "unfollowed")

    @staticmethod
    def unfollowed(iterate: Iterate[Any]) -> Iterator[Any]:
        return iterate()


class _Stream:
    """An iterable that is no DataLoader, with passes that start where they are told."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable
        save_nothing(self)

    def __getattr__(self, name: str) -> Any:
        if name == "_iterable":
            raise AttributeError(name)
        return getattr(self._iterable, name)

    def __iter__(self) -> Iterator[Any]:
        begin = vars(self).get("_resumable_pass")
        return iter(self._iterable) if begin is None else begin(lambda: iter(self._iterable))


class _SizedStream(_Stream):
    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]  # only sized ones become one


_END = object()


def _plan_of(loader: Any, ranks: int) -> BatchPlan:
    """Samples where the dataset has a length, otherwise whole batches; without an end where the loader has no length."""
    size, drop_last = getattr(loader, "batch_size", None) or 1, bool(getattr(loader, "drop_last", False))
    if not _is_sized(loader):
        return BatchPlan(UNBOUNDED, size * ranks)
    dataset: Any = getattr(loader, "dataset", None)
    if _is_sized(dataset):
        exact = BatchPlan(len(dataset), size, drop_last)
        if exact.batches == len(loader):
            return BatchPlan(exact.length * ranks, size * ranks, drop_last)
    return BatchPlan(len(loader) * size * ranks, size * ranks)


def _with_state(
    loader: DataLoader[Any], shard: Shard, stateful: Callable[[DataLoader[Any]], DataLoader[Any] | None]
) -> tuple[DataLoader[Any], _Keeper | None]:
    """*loader*, or the one that takes its place, and the object that saves the stream's state."""
    dataset = _keeper(loader.dataset)
    is_torchdatas = type(loader).__module__.startswith("torchdata.")
    if not is_torchdatas and (own := _keeper(loader)) is not None:
        return loader, own
    if dataset is None or not loader.num_workers or shard.size > 1:
        # torchdata's loader too: at an epoch's end, or without a state to save, it would lose its position
        return loader, dataset
    made = loader if is_torchdatas else stateful(loader)
    if made is None:
        _warn_of_reading_again("the dataset saves its state in its workers, where only torchdata reaches it")
        return loader, None
    return made, _keeper(made)


@dataclass(frozen=True, slots=True)
class _Keeper:
    """The two methods of the object that saves a stream's state."""

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
    """A pass of *iterate*, or the next one where the loaded state is the end of its pass."""
    batches = iter(iterate())
    first = next(batches, _END)
    if first is _END:
        yield from iterate()
    else:
        yield first
        yield from batches


def _read_again(batches: Iterator[Any], trained: int) -> None:
    _warn_of_reading_again("it neither saves its state nor can a position in it be computed")
    with naming_the_extra():
        from tqdm.auto import tqdm  # comes with Lightning, under which streams are read
    for _ in tqdm(range(trained), desc="reading again", unit="batch", leave=False):
        if next(batches, _END) is _END:
            break


def _warn_of_reading_again(why: str) -> None:
    warn(
        f"This resume reads the stream again up to its position: {why}.\n"
        "Give the dataset state_dict and load_state_dict, or use a map-style dataset, and it takes milliseconds."
    )
