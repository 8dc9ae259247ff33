"""What the decorated methods do around the user's own."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from resumable.data_sampler.progress import unchanged_on_error
from resumable.data_sampler.stand_ins import run
from resumable.datamodule.instance import follow_sampler, resumption_of, sampler_of
from resumable.datamodule.options import MARK, Options
from resumable.datamodule.trainer import adapter_of
from resumable.errors import ResumptionError, explain
from resumable.saved.snapshot import KEYS
from resumable.state import tracker_of


def _train_dataloader(self: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # torch comes with the first loader, not with the decorator
    from resumable.datamodule.attach import attach, attach_sampled

    state, trainer, sampler = resumption_of(self), adapter_of(self), sampler_of(self)
    build = functools.partial(method, *args, **kwargs)
    trainer.before_build(tracker_of(state))
    if sampler is not None:
        return attach_sampled(build, self, sampler, trainer, state)
    return attach(build(), trainer, state, getattr(self, MARK))


def _state_dict(self: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    state = resumption_of(self)
    theirs: dict[str, Any] = _run(self, functools.partial(method, *args, **kwargs)) or {}
    taken = [key for key in KEYS if key in theirs and key != "consumed_samples"]
    if taken:
        raise ResumptionError(
            explain(
                f"{type(self).__qualname__}.state_dict() saves keys that the position needs.",
                [("keys", taken)],
                "Give them other names.",
            )
        )
    return {**theirs, **state.state_dict()}


class _Theirs(dict[str, Any]):
    """The part of a saved state that is the class's own. Old code that counts by itself still finds its count."""

    def __init__(self, state_dict: Any) -> None:
        super().__init__({key: state_dict[key] for key in state_dict if key not in KEYS})
        self._whole = state_dict

    def __missing__(self, key: str) -> Any:
        if key != "consumed_samples":
            raise KeyError(key)
        return operator.index(self._whole[key])


def _load_state_dict(self: Any, method: Callable[..., Any], state_dict: Any) -> None:
    state, trainer, sampler = resumption_of(self), adapter_of(self), sampler_of(self)
    tracker = tracker_of(state)
    before = tracker.snapshot()
    with nullcontext() if sampler is None else unchanged_on_error(sampler):
        if trainer.before_load(tracker):
            if sampler is not None:
                follow_sampler(self, trainer, state, sampler)
            state.load_state_dict(state_dict)
        try:
            _run(self, functools.partial(method, _Theirs(state_dict)))
        except BaseException:
            tracker.load_snapshot(before)
            raise


def _run(self: Any, method: Callable[[], Any]) -> Any:
    """The class's own part, which may ask for a trainer, a sampler or a calculator that is not there yet."""
    options: Options = getattr(self, MARK)
    name = options.sampler or "data_sampler"
    return run(method, self, name) if hasattr(self, name) else method()


_AROUND: dict[str, Callable[..., Any]] = {
    "train_dataloader": _train_dataloader,
    "state_dict": _state_dict,
    "load_state_dict": _load_state_dict,
}
