"""What the steps of a Megatron-style run really take, seen where NeMo announces their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

__all__ = ["StepObserver", "watch"]

_HOOK = "on_megatron_step_end"


class StepObserver(Protocol):
    """Who wants to know what the steps take."""

    def step_starts(self, step: int, /) -> None:
        """The step behind *step* others is about to be trained, or has been and the calculator still stands as then."""
        ...

    def set_calculator(self, step: int, /) -> None:
        """The step behind *step* others is the next."""
        ...


Notes = TypeVar("Notes", bound=StepObserver)


class _StepEndHook:
    """A sampler's `on_megatron_step_end`, noted before it moves the calculator. A copy or pickle notes nothing."""

    def __init__(self, method: Callable[..., Any], notes: StepObserver | None) -> None:
        self.method = self.__wrapped__ = method  # NeMo looks at the signature to see what it takes
        self.notes = notes

    def __call__(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        if self.notes is None or not hasattr(step, "step_i"):
            return self.method(step, *args, **kwargs)
        number, trains = int(step.step_i), _trains(step)
        if trains:
            self.notes.step_starts(number)
        returned = self.method(step, *args, **kwargs)
        self.notes.set_calculator(number + trains)
        return returned

    def __reduce__(self) -> tuple[Any, ...]:
        return _StepEndHook, (self.method, None)


def watch(sampler: object, notes: Notes, /) -> Notes:
    """Let *notes*, which it gives back, know of each training step that *sampler* is told of, before it moves the calculator.

    NeMo calls `sampler.on_megatron_step_end(step)` behind validation steps too, and before the trainer's step count
    moves: `step.step_i` is the number of steps before this one (NeMo 2, lightning/megatron_parallel.py).
    """
    method = getattr(sampler, _HOOK, None)
    if method is not None and hasattr(sampler, "__dict__"):
        vars(sampler)[_HOOK] = _StepEndHook(method.method if isinstance(method, _StepEndHook) else method, notes)
    return notes


def _trains(step: Any) -> bool:
    if getattr(step, "forward_only", False):
        return False
    return bool(getattr(getattr(step, "trainer", None), "training", True))
