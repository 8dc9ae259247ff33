"""A DataLoader whose iteration is started by a callback, which is given torch's own `__iter__`."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

from torch.utils.data import DataLoader
from typing_extensions import TypeIs, TypeVar

from resumable.feeds.feed import ResumableSampler
from resumable.stopping.workers import ShieldLoader

__all__ = ["Iterate", "SeekableLoader", "install", "is_dataloader", "resuming"]


def is_dataloader(thing: object) -> TypeIs[DataLoader[Any]]:
    """Whether *thing* is torch's DataLoader or one of its subclasses.

    >>> is_dataloader(DataLoader([1, 2]))
    True
    """
    return isinstance(thing, DataLoader)


def resuming(loader: DataLoader[Any]) -> SeekableLoader[Any]:
    """The same object, of a class that starts its passes where it is told and tells Lightning that it resumes."""
    if not isinstance(loader, SeekableLoader):
        object.__setattr__(loader, "__class__", _resuming_class(type(loader)))
    # Lightning warns of loaders without these two; the position is saved with the datamodule, so they carry nothing
    vars(loader).update(state_dict=_nothing, load_state_dict=_ignore)
    return cast("SeekableLoader[Any]", loader)


def _resuming_class(cls: type[DataLoader[Any]]) -> type[Any]:
    """A subclass of *cls* with the same name, whose passes start where they are told; made once for each class."""
    if cls not in _MADE:
        made = types.new_class(cls.__name__, (SeekableLoader, cls))
        made.__module__, made.__qualname__, made.__doc__ = cls.__module__, cls.__qualname__, cls.__doc__
        _MADE[cls] = made
    return _MADE[cls]


_MADE: dict[type[Any], type[Any]] = {}


def _nothing() -> dict[str, Any]:
    return {}


def _ignore(state_dict: object) -> None:
    """What an older checkpoint holds of the loader's own place is superseded by the datamodule's position."""


T = TypeVar("T", default=Any)
_SCHEDULE = "_resumable_schedule"
Iterate = Callable[[], Iterator[T]]
"""Torch's own `DataLoader.__iter__`, bound to its loader."""


class StepGroups(Protocol):
    """Who groups a loader's batches into optimizer steps."""

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
        follows: Any = getattr(loader, _SCHEDULE)
        return 1 if follows is None else follows.num_microbatches


class SeekableLoader(ShieldLoader[T]):
    """A DataLoader whose passes somebody else begins, given torch's own way to iterate."""

    _resumable_pass: Callable[[Iterate[T]], Iterator[T]]
    _resumable_schedule: StepGroups | None = None
    num_microbatches: Any = _Microbatches()

    def __len__(self) -> int:
        return super().__len__() if self._resumable_schedule is None else self._resumable_schedule.batches_in_epoch

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]  # torch names its private iterator class
        return self._resumable_pass(super().__iter__)


def install(
    loader: SeekableLoader[T], sampler: ResumableSampler | None, passes: Callable[[Iterate[T]], Iterator[T]]
) -> None:
    """Let *passes* begin the loader's passes, and *sampler* take the place of its own, unless it streams.

    torch refuses to set these attributes after `__init__`, for fear of a loader that is half old and half new; here
    the one attribute that is iterated is exchanged, between two passes.
    """
    own = vars(loader)
    if sampler is not None:
        own["sampler" if loader.batch_sampler is None else "batch_sampler"] = sampler
    own["_resumable_pass"] = passes
