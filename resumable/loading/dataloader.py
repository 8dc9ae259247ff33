"""A DataLoader whose iteration is started by a callback, which is given torch's own `__iter__`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, Protocol, cast
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader
from typing_extensions import TypeIs, TypeVar

from resumable.errors import ConfigurationError
from resumable.feeds.draws import DrawsSampler
from resumable.feeds.feed import ResumableSampler, shown
from resumable.feeds.rank_sampler import RankSampler
from resumable.loading.epochs import FollowEpoch, tell_epoch
from resumable.loading.own_batches import OwnBatches, has_own_batches, note_given
from resumable.loading.rebuilds import RebuildNotice
from resumable.loading.reseeding import Reseeded, take_draws
from resumable.loading.trainer_loops import evaluation
from resumable.saved.snapshot import save_nothing
from resumable.stopping.workers import ShieldLoader, mix_in

__all__ = ["DrawnLoader", "Iterate", "PlacedLoader", "SeekableLoader", "drawn", "install", "is_dataloader", "seekable"]

T = TypeVar("T", default=Any)
_SCHEDULE = "_resumable_schedule"
T_co = TypeVar("T_co", covariant=True, default=Any)


class Iterate(Protocol[T_co]):
    """Torch's own `DataLoader.__iter__`, bound to its loader."""

    def __call__(self, *, beside: bool = False) -> Iterator[T_co]:
        """Begin a pass; *beside* another one that is under way, and keeps its workers."""
        ...


class StepGroups(Protocol):
    """How a loader's batches are grouped into optimizer steps."""

    @property
    def num_microbatches(self) -> int:
        """Batches of the optimizer step that is being trained, or of the next one."""
        ...

    @property
    def batches_in_epoch(self) -> int:
        """Batches of the whole present epoch."""
        ...


class _Microbatches:
    """Batches that the present optimizer step takes: see `ResumableLoader`. A user's own attribute goes before it."""

    def __get__(self, loader: Any, owner: type[Any] | None = None) -> Any:
        if loader is None:
            return self
        groups: Any = getattr(loader, _SCHEDULE)
        return 1 if groups is None else groups.num_microbatches


class DrawnLoader(ShieldLoader[T]):
    """A DataLoader whose sampler may yield `Draws`: random numbers and indices then follow the position."""

    worker_init_fn: Callable[[int], None] | None
    _resumable_epoch: torch.Tensor | None = None

    @property
    def _draws(self) -> Any:
        """The sampler, where it yields `Draws`."""
        loader: Any = self
        sampler: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        return sampler if isinstance(sampler, DrawsSampler) and sampler.yields_draws else None

    def _get_iterator(self) -> Any:
        own, epoch = self.worker_init_fn, self._resumable_epoch
        takes = None if self._draws is None else take_draws
        if epoch is not None or takes is not None:
            self.worker_init_fn = FollowEpoch(epoch, own, takes)
        try:
            iterator = super()._get_iterator()
        finally:
            self.worker_init_fn = own
        if takes is not None and not self.num_workers:
            iterator._dataset_fetcher = takes(iterator._dataset_fetcher)  # noqa: SLF001  # it has no public name
        return iterator


class PlacedLoader(DrawnLoader[T]):
    """A loader whose batch sampler begins at a data sampler's count."""

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]  # torch names its private iterator class
        sampler, batches = self._draws, super().__iter__()
        if sampler is None or sampler.reseed is None:
            return batches
        epoch, offset = sampler.begun
        return Reseeded(batches, sampler.reseed, epoch, offset + sampler.rank_offset, sampler.samples_per_batch)


class SeekableLoader(DrawnLoader[T]):
    """A DataLoader whose iteration is started by a callback, which is given torch's `__iter__`."""

    _resumable_sampler: ResumableSampler | None = None
    _resumable_schedule: StepGroups | None = None
    _resumable_own: Any = None
    num_microbatches: Any = _Microbatches()
    timeout: Any = RebuildNotice()

    def _resumable_pass(self, iterate: Iterate[T]) -> Iterator[T]:
        """The pass of a loader that a framework has built anew, with its own sampler: no position leads there."""
        shows = cast("object", self.sampler)
        if evaluation() is None:
            raise ConfigurationError(
                "A framework has built this train loader anew, with its own sampler, so its position would be lost.",
                [("loader", type(self).__qualname__), ("sampler", type(shows).__qualname__)],
                "On several ranks, give a ResumableLoader its ranks=, and pass use_distributed_sampler=False to Lightning "
                "or to Fabric's setup_dataloaders; or train a datamodule that is decorated with @resumable.",
            )
        if isinstance(shows, RankSampler):
            shows.check()
            shows = shows.batches
        if isinstance(shows, ResumableSampler):
            shows.begin(shows.feed, shows.start, evaluates=True)
            self._resumable_sampler = shows
        return iterate()

    def __len__(self) -> int:
        return super().__len__() if self._resumable_schedule is None else self._resumable_schedule.batches_in_epoch

    def __getstate__(self) -> dict[str, Any]:
        marks = getattr(self._resumable_pass, "marks", ())
        return {name: value for name, value in vars(self).items() if name not in marks}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        install_passes: Callable[[Any], None] | None = getattr(kept.get("_resumable_pass"), "install", None)
        if install_passes is not None:
            install_passes(self)

    def __init_subclass__(cls, **options: Any) -> None:
        """An `__iter__` of the class's own stays the one that a loop sees: what it yields is counted."""
        super().__init_subclass__(**options)
        own: Any = cls.__iter__
        if own is not SeekableLoader.__iter__ and own not in _OUTERMOST:
            cls._resumable_own = own
            cls.__iter__ = _outermost(own)  # type: ignore[method-assign]

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]  # torch names its private iterator class
        if self._resumable_own is not None:  # which asks for torch's batches
            return super().__iter__()
        return self._resumable_pass(partial(self._begin, super().__iter__))

    def _begin(self, iterate: Callable[[], Iterator[T]], /, *, beside: bool = False) -> Iterator[T]:
        """The pass of *iterate*, torch's or the class's own, which alone iterates the sampler."""
        if beside:  # torch has one iterator for all passes with persistent workers: the pass under way keeps it
            self._iterator = None
        sampler = self._resumable_sampler
        begin = partial(OwnBatches, self, sampler, iterate) if has_own_batches(type(self)) else iterate
        if sampler is None:
            return begin()
        self.begin_epoch(sampler.start[0])  # a stream's `StreamLoader` tells it by itself
        sampler.is_open = True
        try:
            return begin()
        finally:
            sampler.is_open = False

    @property
    def _draws(self) -> Any:
        own = self._resumable_sampler  # which may be shown as one of the ranks'
        return super()._draws if own is None else own if own.yields_draws else None

    def _get_iterator(self) -> Any:
        iterator = super()._get_iterator()
        note_given(self, iterator, self._resumable_sampler)
        return iterator

    def begin_epoch(self, epoch: int) -> bool:
        """Tell the dataset, and its copies in workers that stay, that its next pass is that of *epoch*; False if it cannot be told."""
        is_told = tell_epoch(self.dataset, epoch)
        if is_told and self.persistent_workers:
            if self._resumable_epoch is None:
                self._resumable_epoch = torch.zeros((), dtype=torch.int64)
            self._resumable_epoch.fill_(epoch)
        return is_told


def _outermost(own: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    """An `__iter__` whose batches are those of *own*, counted; as that of a base class, it is *own* itself."""

    @wraps(own)
    def counted(self: Any) -> Iterator[Any]:
        begin = partial(own, self)
        return self._resumable_pass(partial(self._begin, begin)) if type(self).__iter__ is counted else begin()

    _OUTERMOST.add(counted)
    return counted


_OUTERMOST: WeakSet[Callable[[Any], Iterator[Any]]] = WeakSet()


def is_dataloader(thing: object) -> TypeIs[DataLoader[Any]]:
    """Whether *thing* is torch's DataLoader or one of its subclasses.

    >>> is_dataloader(DataLoader([1, 2]))
    True
    """
    return isinstance(thing, DataLoader)


def drawn(loader: DataLoader[Any]) -> PlacedLoader[Any]:
    """The same object, whose batch sampler may yield `Draws`."""
    return mix_in(PlacedLoader, loader)


def seekable(loader: DataLoader[Any]) -> SeekableLoader[Any]:
    """The same object, turned into a `SeekableLoader` that tells Lightning that it can resume."""
    save_nothing(loader)
    return mix_in(SeekableLoader, loader)


def install(loader: SeekableLoader[T], sampler: ResumableSampler, passes: Callable[[Iterate[T]], Iterator[T]]) -> None:
    """Let *passes* start the loader's iterations, and *sampler* take the place of its own sampler.

    torch refuses to set these attributes after `__init__`, since a loader may then be half old and half new; here the
    one attribute that is iterated is exchanged, between two passes.
    """
    own = vars(loader)
    if loader.batch_sampler is None:
        own["sampler"] = sampler
    else:
        drawn, before = own.get("_resumable_samplers", (own["sampler"], loader.batch_sampler))
        own["batch_sampler"], own["sampler"] = sampler, shown(own["sampler"])
        if isinstance(before, ResumableSampler):
            sampler.own, sampler.sampler = before.own, before.sampler
        else:
            inner = getattr(before, "sampler", None)
            sampler.own, sampler.sampler = before, own["sampler"] if inner is drawn else shown(inner)
    own["_resumable_pass"], own["_resumable_sampler"] = passes, sampler
