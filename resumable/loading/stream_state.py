"""The state that a stream saves of itself: the start of one pass, and not of those that follow.

a new pass, behind one that began at a loaded state
  begins at its first batch          most streams, and those whose load raises a flag that only their pass's end lowers:
                                     it is lowered here, since the pass may have been left before its end
  is empty, and the next is whole    the stream ends its restore where a pass asks past its end
  begins at the loaded state again   the stream keeps what it loaded: it is given the state that it had before
"""

from __future__ import annotations

import random
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from typing_extensions import TypeIs

from resumable.checks import accepts
from resumable.errors import StateError, warn
from resumable.saved.snapshot import saves_nothing

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["END", "StreamState", "state_of", "state_of_dataloader"]

END = object()
"""What a pass gives past its last batch."""

_KEEPS_ITS_START: Final = (
    "The stream begins each pass at the state that it has loaded, and saves no state before its first pass to be set back "
    "to: the epochs behind this resume are not whole.\n"
    'Let its loaded state be the start of one pass, or pass streams="read_again".'
)
_AT_FIRST: WeakKeyDictionary[Any, object] = WeakKeyDictionary()
"""What streams saved before their first pass here, since a later fit may be given the same ones."""

_METHODS: Final = ("state_dict", "load_state_dict")


class StreamState:
    """The two methods of the *owner* that saves a stream's state.

    *at_first* is what it saved before its first pass. With *is_in_workers* the owner is torchdata's loader, which asks the
    copies of the dataset in its workers.
    """

    def __init__(self, owner: Any, at_first: object = None, *, is_in_workers: bool = False) -> None:
        self._owner = owner
        self._save, self._load = (_method(owner, name) for name in _METHODS)
        self.is_in_workers = is_in_workers
        self._at_first: object = {} if is_in_workers else at_first
        self._raised: set[str] = set()
        self._loaded: dict[str, object] = {}
        self._after_first: dict[str, object] = {}

    def save(self) -> object:
        """What the stream saves now, as a copy: some give the same object each time."""
        state = _copy(self._save())
        if self._loaded:
            self._note(state)
        return state

    def pass_from(self, state: object, begin: Callable[[], Iterator[Any]], epoch: int, /) -> Iterator[Any]:
        """The pass that goes on at *state*, or the next one where *state* is the end of its pass."""
        first, batches = self.go_back(state, begin)
        return self.next_pass(begin, epoch) if first is END else chain([first], batches)

    def go_back(self, state: object, begin: Callable[[], Iterator[Any]], /) -> tuple[Any, Iterator[Any]]:
        """The first batch from *state* on, or `END`, and those that follow it; None is the state of a new stream."""
        if state is None and self._loaded:
            state = self._at_first
        try:
            if state is not None:
                before = self._lowered_flags()
                self._load(_copy(state))
                self._raised = before - self._lowered_flags() - _keys(state)
                self._loaded, self._after_first = self._places(state), {}
            batches = begin()
            first = next(batches, END)
        except Exception as error:
            raise StateError(
                "The stream does not go on at the state that it saved of itself.",
                [("error", error)],
                'See the error above. streams="read_again" reads the stream again from its start.',
            ) from error
        if first is not END and self._loaded:
            self._note(self._save())
        return first, batches

    def next_pass(self, begin: Callable[[], Iterator[Any]], epoch: int, /) -> Iterator[Any]:
        """The whole pass of *epoch*, whatever was loaded for the one before it."""
        for name in self._raised - self._lowered_flags():
            setattr(self._owner, name, False)
        self._raised = set()
        batches = begin()
        if not self._loaded:
            return batches
        self._loaded = {}
        first = next(batches, END)
        if first is END:
            batches = begin()
            first = next(batches, END)
        if first is END or self._begins_at_what_was_loaded(epoch):
            if self._at_first is not None:
                self._load(_copy(self._at_first))
                return begin()
            warn(_KEEPS_ITS_START)
            return batches if first is END else chain([first], batches)
        return chain([first], batches)

    def generators(self) -> list[object]:
        """The states of the generators that the stream keeps among its attributes, in the main process."""
        return [_state_of_generator(each) for each in self._generators()]

    def disturb(self) -> None:
        """Draw from these generators, so that only those that a load or a new pass sets are again where they were."""
        for each in self._generators():
            _draw(each)

    def _generators(self) -> list[Any]:
        kept: Any = (
            {} if self.is_in_workers or hasattr(self._owner, "dataset") else getattr(self._owner, "__dict__", {})
        )
        return [each for each in kept.values() if isinstance(each, _GENERATORS)]

    def _lowered_flags(self) -> set[str]:
        """The owner's attributes that are False: a load may raise one, to be lowered at the end of the restored pass."""
        of_classes: list[Any] = [vars(cls) for cls in self._owner.__class__.__mro__]
        attributes = ChainMap(getattr(self._owner, "__dict__", {}), *of_classes)
        return {name for name, value in attributes.items() if value is False}

    def _begins_at_what_was_loaded(self, epoch: int) -> bool:
        """Whether a pass's first batch has led to where the first one after the load did, but for the *epoch*'s number."""
        now, then = self._places(self._save()), self._after_first
        return any(name in now and _same(place, now[name], epoch) for name, place in then.items())

    def _note(self, state: object) -> None:
        """Keep where each worker stood after its first batch since the load."""
        for name, place in self._places(state).items():
            if not _same(place, self._loaded.get(name)):
                self._after_first.setdefault(name, _copy(place))

    def _places(self, state: object) -> dict[str, object]:
        """What *state* says of the stream itself, by worker; torchdata's counts batches too (torchdata 0.11)."""
        if not self.is_in_workers:
            return {"": state}
        workers = cast("dict[str, Any]", state)["_snapshot"]["_worker_snapshots"]
        return {name: [each["dataset_state"], each["fetcher_state"]] for name, each in workers.items()}


def state_of(thing: Any, /) -> StreamState | None:
    """What *thing* saves of itself; None where it saves nothing, or only what its caller has counted.

    >>> state_of([1, 2]) is None
    True
    """
    if thing is None:
        return None
    save, load = (_method(thing, name) for name in _METHODS)
    if not (accepts(save) and accepts(load, {})):
        return None
    at_first: object = None
    try:
        at_first = _copy(save())
    except NotImplementedError:
        return None
    except Exception:  # noqa: BLE001  # some streams have no state before their first pass
        at_first = None
    with suppress(TypeError):  # one that cannot be hashed, or referred to weakly
        at_first = _AT_FIRST.setdefault(thing, at_first)
    return StreamState(thing, at_first)


def state_of_dataloader(
    loader: DataLoader[Any], stateful: Callable[[DataLoader[Any]], DataLoader[Any] | None], /
) -> tuple[DataLoader[Any], StreamState | None]:
    """*loader*, or the one of *stateful* that takes its place, and what saves the stream's state."""
    dataset = state_of(loader.dataset)
    is_torchdatas = type(loader).__module__.startswith("torchdata.")
    if not is_torchdatas and (own := state_of(loader)) is not None:
        return loader, own
    if dataset is None or not loader.num_workers:
        # torchdata's loader too: at an epoch's end, or without a state to save, it would lose its position
        return loader, dataset
    is_plain = type(loader).__module__.startswith("torch.") and type(loader).__name__ == "DataLoader"
    made = loader if is_torchdatas else stateful(loader) if is_plain else None
    return (loader, None) if made is None else (made, StreamState(made, is_in_workers=True))


def _method(owner: Any, name: str) -> Any:
    """The method of *owner*'s class, which hides behind what tells Lightning that there is no state."""
    of_class: Any = getattr(owner.__class__, name, None)
    if of_class is not None:
        return of_class.__get__(owner)
    return None if saves_nothing(owner) else getattr(owner, name, None)


def _copy(value: Any) -> Any:
    """A copy; of JSON types in a tenth of the time that `deepcopy` takes."""
    if value is None or isinstance(value, (int, str, float)):
        return value
    if _is_dict(value) and type(value) is dict:
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if _is_row(value) and type(value) is list else deepcopy(value)


_GENERATORS: Final = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


def _state_of_generator(generator: Any) -> object:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return str(generator.bit_generator.state)
    return str(
        generator.get_state() if isinstance(generator, np.random.RandomState) else generator.get_state().tolist()
    )


def _draw(generator: Any) -> None:
    if isinstance(generator, torch.Generator):
        torch.rand(1, generator=generator, device=generator.device)
    else:
        generator.random()


def _keys(state: Any) -> set[str]:
    """The names that *state* has, as the attributes of a stream could be called."""
    names = [str(key) for key in state] if _is_dict(state) else []
    return {*names, *(f"_{name}" for name in names)}


def _same(one: Any, other: Any, epoch: int | None = None) -> bool:
    """Whether two states are equal; with *epoch*, *other* may have that number where *one* has the one before."""
    if type(one) is not type(other):
        return False
    if _is_dict(one):
        return one.keys() == other.keys() and all(_same(one[key], other[key], epoch) for key in one)
    if _is_row(one):
        return len(one) == len(other) and all(map(_same, one, other, repeat(epoch)))
    if epoch is not None and isinstance(one, int) and (one, other) == (epoch - 1, epoch):
        return True
    return bool(np.array_equal(one, other))  # numbers and strings, arrays and tensors


def _is_dict(value: Any) -> TypeIs[dict[Any, Any]]:
    return isinstance(value, dict)


def _is_row(value: Any) -> TypeIs[list[Any] | tuple[Any, ...]]:
    return isinstance(value, (list, tuple))
