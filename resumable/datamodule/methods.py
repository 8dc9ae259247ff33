"""What the decorated methods do around the user's own."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, Final

from resumable.data_sampler.progress import unchanged_on_error
from resumable.data_sampler.stand_ins import run
from resumable.datamodule.instance import resumption_of, sampler_of
from resumable.datamodule.options import Options
from resumable.datamodule.trainer import adapter_of
from resumable.errors import ResumptionError
from resumable.saved.snapshot import KEYS
from resumable.state import tracker_of

__all__ = ["AROUND"]


def _train_dataloader(self: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # torch comes with the first loader, not with the decorator
    from resumable.datamodule.attach import attach, attach_sampled

    options: Options = self.__resumable_options__
    tracker, trainer, sampler = tracker_of(resumption_of(self)), adapter_of(self), sampler_of(self)
    build = functools.partial(method, *args, **kwargs)
    trainer.before_build(tracker)
    if sampler is not None:
        return attach_sampled(build, sampler, trainer, tracker, options)
    return attach(build(), trainer, tracker, options)


def _state_dict(self: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    state = resumption_of(self)
    theirs: dict[str, Any] = _run(self, functools.partial(method, *args, **kwargs)) or {}
    taken = [key for key in KEYS if key in theirs and key != "consumed_samples"]
    if taken:
        raise ResumptionError(
            f"{type(self).__qualname__}.state_dict() saves keys that the position needs.",
            [("keys", taken)],
            "Give them other names.",
        )
    return {**theirs, **state.state_dict()}


class _Theirs(dict[str, Any]):
    """The class's own part of a saved state. Code that counts by itself still finds `consumed_samples` in it."""

    def __init__(self, state_dict: Any) -> None:
        super().__init__({key: state_dict[key] for key in state_dict if key not in KEYS})
        self._whole = state_dict

    def __missing__(self, key: str) -> Any:
        if key != "consumed_samples":
            raise KeyError(key)
        return operator.index(self._whole[key])


def _load_state_dict(self: Any, method: Callable[..., Any], state_dict: Any) -> None:
    tracker, trainer, sampler = tracker_of(resumption_of(self)), adapter_of(self), sampler_of(self)
    before = tracker.snapshot()
    with unchanged_on_error(sampler):
        if trainer.before_load(tracker):
            if sampler is not None:
                trainer.follow_sampler(tracker, sampler, self.__resumable_options__.sampling)
            tracker.load(state_dict)
        try:
            _run(self, functools.partial(method, _Theirs(state_dict)))
        except BaseException:
            tracker.load_snapshot(before)
            raise


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
