"""What the steps of a Megatron-style run really take, seen where NeMo announces their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

__all__ = ["StepObserver", "watch"]

_HOOK = "on_megatron_step_end"


class StepObserver(Protocol):
    """Is told of each training step."""

    def step_starts(self, step: int, /) -> None:
        """The step that follows *step* others begins, or has just ended with the calculator as it was in it."""
        ...

    def set_calculator(self, step: int, /) -> None:
        """The step that follows *step* others is the next."""
        ...


Observer = TypeVar("Observer", bound=StepObserver)


class _StepEndHook:
    """A sampler's `on_megatron_step_end`, observed before it moves the calculator. Copies and pickles lose the hook."""

    def __init__(self, method: Callable[..., Any], observer: StepObserver | None = None) -> None:
        self.method = self.__wrapped__ = method  # NeMo looks at the signature to see what it takes
        self.observer = observer

    def __call__(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        if self.observer is None or not hasattr(step, "step_i"):
            return self.method(step, *args, **kwargs)
        number, trains = int(step.step_i), _trains(step)
        if trains:
            self.observer.step_starts(number)
        returned = self.method(step, *args, **kwargs)
        self.observer.set_calculator(number + trains)
        return returned

    def __reduce__(self) -> tuple[Any, ...]:
        return _StepEndHook, (self.method,)


def watch(sampler: object, observer: Observer, /) -> Observer:
    """*observer*, told from now on of each training step that *sampler* is told of, before that moves the calculator.

    NeMo calls `sampler.on_megatron_step_end(step)` after validation steps too, and before the trainer's step count
    moves: `step.step_i` is the number of steps before this one (NeMo 2, lightning/megatron_parallel.py).
    """
    method = getattr(sampler, _HOOK, None)
    if method is not None and hasattr(sampler, "__dict__"):
        vars(sampler)[_HOOK] = _StepEndHook(method.method if isinstance(method, _StepEndHook) else method, observer)
    return observer


def _trains(step: Any) -> bool:
    if getattr(step, "forward_only", False):
        return False
    return bool(getattr(getattr(step, "trainer", None), "training", True))
