"""What the decorated methods do around the user's own."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from typing_extensions import override

from resumable.data_sampler.stand_ins import run
from resumable.data_sampler.written import unchanged_on_error
from resumable.datamodule.instance import resumption_of, sampler_of
from resumable.datamodule.options import Options
from resumable.datamodule.trainer import adapter_of
from resumable.saved.snapshot import KEYS
from resumable.state import tracker_of

__all__ = ["AROUND"]

_COUNT: Final = "consumed_samples"
_TAKEN: Final = "kept_for_the_class"
"""The key of what a class saves under keys that the position needs: pairs of a key and its value."""


def _train_dataloader(self: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # torch comes with the first loader, not with the decorator
    from resumable.datamodule.attach import attach, attach_sampled

    options: Options = self.__resumable_options__
    tracker, trainer, sampler = tracker_of(resumption_of(self)), adapter_of(self), sampler_of(self)
    building = trainer.before_build(tracker)

    def build() -> Any:
        with building:
            return method(*args, **kwargs)

    if sampler is not None:
        return attach_sampled(build, sampler, trainer, tracker, options)
    return attach(build(), trainer, tracker, options)


def _state_dict(self: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    state = resumption_of(self)
    theirs: dict[str, Any] = _run(self, functools.partial(method, *args, **kwargs)) or {}
    taken = [[key, theirs[key]] for key in KEYS if key in theirs and key != _COUNT]
    return {**theirs, **state.state_dict(), **({_TAKEN: taken} if taken else {})}


class _Theirs(dict[str, Any]):
    """The class's own part of a saved state. Code that counts by itself finds `consumed_samples` in it.

    A class that saved the count has it among its items. Any other class finds it by its name alone, so that one which
    is strict about its keys gets those that it saved.
    """

    def __init__(self, saved: Mapping[str, Any]) -> None:
        self._count: Any = operator.index(saved[_COUNT]) if _COUNT in saved else None
        if "format" not in saved:  # saved without the decorator
            super().__init__(saved)
            return
        keys = list(saved)
        super().__init__({key: saved[key] for key in keys if key not in (*KEYS, _TAKEN)})
        self.update(saved.get(_TAKEN, ()))
        # what a class saves comes before the position
        if self._count is not None and (not self or keys.index(_COUNT) < keys.index("format")):
            self[_COUNT] = self._count

    def __missing__(self, key: str) -> Any:
        if key != _COUNT or self._count is None:
            raise KeyError(key)
        return self._count

    @override
    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (key == _COUNT and self._count is not None)

    @override
    def get(self, key: str, default: Any = None, /) -> Any:
        try:
            return self[key]
        except KeyError:
            return default


def _load_state_dict(self: Any, method: Callable[..., Any], state_dict: Any) -> None:
    tracker, trainer, sampler = tracker_of(resumption_of(self)), adapter_of(self), sampler_of(self)
    position, undo = _position_in(state_dict), tracker.restore_point()
    with unchanged_on_error(sampler):
        # without a position, a trainer's own counters say where the run goes on
        if (position is not None or trainer.follows_at_once) and trainer.before_load(tracker):
            if sampler is not None:
                trainer.follow_sampler(tracker, sampler, self.__resumable_options__.sampling)
            undo = tracker.restore_point()
            tracker.load(state_dict if position is None else position)
        try:
            _run(self, functools.partial(method, _Theirs(state_dict)))
        except BaseException:
            undo()
            raise


def _position_in(state_dict: Any) -> dict[str, Any] | None:
    """The position in a saved state; of one that was saved without the decorator, the count, or None without one."""
    is_ours = not isinstance(state_dict, Mapping) or not state_dict or "format" in state_dict or "commits" in state_dict
    if is_ours:
        return cast("dict[str, Any]", state_dict)  # or nothing that anybody saves, which is refused
    return {_COUNT: state_dict[_COUNT]} if _COUNT in state_dict else None


def _run(self: Any, method: Callable[[], Any]) -> Any:
    """Run the class's own method, which may use a trainer, a sampler or a calculator that does not exist yet."""
    attribute = self.__resumable_options__.attribute
    return run(method, self, attribute) if hasattr(self, attribute) else method()


AROUND: Final[dict[str, Callable[..., Any]]] = {
    "train_dataloader": _train_dataloader,
    "state_dict": _state_dict,
    "load_state_dict": _load_state_dict,
}
"""What runs in place of each method: given the instance, the class's own method and its arguments."""
