"""`@resumable`: wires a state into any datamodule, in place, without a base class and without a call to remember.

    train_dataloader    what it returns is attached: it starts where the training stands
    state_dict          the position joins what the class itself saves
    load_state_dict     the position is taken over first, the rest goes to the class itself

The class stays the same object, since Lightning keys saved states by its name, and undecorated subclasses follow.
Nothing else is wrapped and no hook is added: Lightning asks classes which hooks they override.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Literal, TypeVar, overload

from resumable.checks import seed_of
from resumable.datamodule.instance import is_resumable, resumption_of
from resumable.datamodule.methods import _AROUND
from resumable.datamodule.options import MARK, Options, check_class, check_sampling
from resumable.errors import DecorationError, explain
from resumable.protocols import (
    AllGather,
    BatchSchedule,
    MicrobatchCalculator,
    Ranks,
    SupportsSampling,
    SupportsTraining,
)
from resumable.saved.resolve import Policy
from resumable.verdict import OnMismatch

__all__ = ["Options", "is_resumable", "resumable", "resumption_of"]

_WRAPPED = "__resumable_wrapped__"

# mypy prints the name of this variable, and only that, where a class does not fit
ClassWithTrainDataloaderAndTrainer = TypeVar("ClassWithTrainDataloaderAndTrainer", bound=SupportsTraining)
ClassWithDataSamplerOfNeMosShape = TypeVar("ClassWithDataSamplerOfNeMosShape", bound=SupportsSampling)


@overload
def resumable(cls: type[ClassWithTrainDataloaderAndTrainer], /) -> type[ClassWithTrainDataloaderAndTrainer]: ...


@overload
def resumable(  # type: ignore[overload-overlap]  # under this name the class is asked for more
    *,
    sampler: Literal["data_sampler"],
    schedule: BatchSchedule | None = ...,
    calculator: MicrobatchCalculator | None = ...,
    seed: int | None = ...,
    on_mismatch: OnMismatch = ...,
    agreement: AllGather | None = ...,
) -> Callable[[type[ClassWithDataSamplerOfNeMosShape]], type[ClassWithDataSamplerOfNeMosShape]]: ...


@overload
def resumable(
    *,
    sampler: str | None = ...,
    schedule: BatchSchedule | None = ...,
    calculator: MicrobatchCalculator | None = ...,
    seed: int | None = ...,
    on_mismatch: OnMismatch = ...,
    ranks: Ranks | None = ...,
    agreement: AllGather | None = ...,
    decrease_batch_size_if_needed: bool = ...,
) -> Callable[[type[ClassWithTrainDataloaderAndTrainer]], type[ClassWithTrainDataloaderAndTrainer]]: ...


def resumable(
    cls: type[Any] | None = None,
    /,
    *,
    sampler: str | None = None,
    schedule: BatchSchedule | None = None,
    calculator: MicrobatchCalculator | None = None,
    seed: int | None = None,
    on_mismatch: OnMismatch = "error",
    ranks: Ranks | None = None,
    agreement: AllGather | None = None,
    decrease_batch_size_if_needed: bool = False,
) -> Any:
    """Make a datamodule go on with the exact next sample.

    Args:
        cls: a class with `train_dataloader` and `trainer`; a LightningDataModule has both.
        sampler: the attribute that holds a data sampler of NeMo's shape, which then counts and places the samples.
            Without it an attribute `data_sampler` is found by itself.
        schedule: the global batch sizes, where they vary and neither the calculator nor the sampler's `rampup_batch_size`
            says them. Without a sampler each optimizer step takes so many batches of the train loader: Lightning
            accumulates them, and a loop is told by the loader's `num_microbatches`.
        decrease_batch_size_if_needed: round the schedule's sizes down to whole batches on each rank instead of refusing
            others; a data sampler has its own way to.
        calculator: who is told of a loaded count; without one megatron-core's or Apex's, where they are installed.
        seed: of the shuffled orders, 0 to 2**64 - 1. Without one it is that of `seed_everything`, else 0, and a loaded
            state's seed is taken over.
        on_mismatch: what to do where a loaded state cannot go on exactly: "error", "warn" or "adopt".
        ranks: which part of the data this process loads, such as `resumable.adapters.distributed.Ranks()`. In Lightning the
            trainer's strategy says it by itself. A data sampler has ranks of its own.
        agreement: how all ranks are asked, when a state is saved, loaded or met with the train loaders, whether they stand
            at the same place of the same data: `resumable.adapters.distributed.AllGather()`.

    Raises:
        DecorationError: if the class cannot be decorated (it has no `train_dataloader`, or no `__dict__`).
        ConfigurationError: for an option that is not what its name says.

    >>> @resumable
    ... class Data:
    ...     trainer = None
    ...
    ...     def train_dataloader(self): ...
    >>> is_resumable(Data())
    True
    """
    policy = Policy(seed is not None, on_mismatch)
    check_sampling(sampler, schedule, calculator)
    seed = None if seed is None else seed_of(seed)
    options = Options(seed, policy, sampler, schedule, calculator, ranks, agreement, decrease_batch_size_if_needed)

    def decorate(decorated: type[Any]) -> type[Any]:
        check_class(decorated)
        _wrap_methods(decorated)
        _add_rebase(decorated)
        setattr(decorated, MARK, options)
        _follow_subclasses(decorated)
        return decorated

    return decorate if cls is None else decorate(cls)


def _wrap_methods(cls: type[Any]) -> None:
    """Wrap what the class defines, and what it inherits unwrapped: from a base, or a mixin before a decorated one."""
    for name, around in _AROUND.items():
        own = cls.__dict__.get(name)
        if own is not None:
            setattr(cls, name, _wrap(cls, name, own, around))
        elif not hasattr(getattr(cls, name, None), _WRAPPED):
            setattr(cls, name, _wrap(cls, name, _forward(cls, name), around))


def _wrap(cls: type[Any], name: str, method: Any, around: Callable[..., Any]) -> Any:
    if type(method) in (staticmethod, classmethod, property):
        raise DecorationError(
            explain(
                f"{cls.__qualname__}.{name} belongs to no instance, so no position could belong to it.",
                [("it is a", type(method).__name__)],
                "Make it a method.",
            )
        )
    if hasattr(method, _WRAPPED):
        return method

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        key = (threading.get_ident(), id(self), name)
        if key in _inside:  # an override has called super(): the outermost one does the work
            return method(self, *args, **kwargs)
        _inside.add(key)
        try:
            return around(self, functools.partial(method, self), *args, **kwargs)
        finally:
            _inside.discard(key)

    setattr(wrapper, _WRAPPED, True)
    return wrapper


_inside: set[tuple[int, int, str]] = set()


class _InitGlobalStep:
    """The state's `init_global_step`, read from the instance; old code that sets its own goes on doing so."""

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        return self if instance is None else resumption_of(instance).init_global_step


def _add_rebase(cls: type[Any]) -> None:
    """Give the class what BioNeMo's mixin gave it, so that old loader methods that call it keep working."""

    def update_init_global_step(self: Any) -> None:
        """Count from the trainer's present step on. Needed never, harmless always."""
        resumption_of(self).update_init_global_step()

    if not hasattr(cls, "update_init_global_step"):
        cls.update_init_global_step = update_init_global_step
    if not hasattr(cls, "init_global_step"):
        cls.init_global_step = _InitGlobalStep()


def _forward(cls: type[object], name: str) -> Any:
    """A method that the class inherits, or lacks: it goes on to the next in the order of its bases."""

    def forward(self: object, *args: Any, **kwargs: Any) -> Any:
        following: Callable[..., Any] | None = getattr(super(cls, self), name, None)
        if following is None:
            return {} if name == "state_dict" else None
        return following(*args, **kwargs)

    inherited: Callable[..., Any] | None = getattr(cls, name, None)
    if inherited is not None:
        functools.update_wrapper(forward, inherited)
    forward.__name__, forward.__qualname__ = name, f"{cls.__qualname__}.{name}"
    return forward


def _follow_subclasses(cls: type[Any]) -> None:
    """Wrap what undecorated subclasses override, when they are made."""
    own = cls.__dict__.get("__init_subclass__")
    if hasattr(getattr(own, "__func__", None), _WRAPPED):
        return

    def __init_subclass__(sub: type[Any], /, **kwargs: Any) -> None:
        if own is not None:
            own.__get__(None, sub)(**kwargs)
        else:
            super(cls, sub).__init_subclass__(**kwargs)
        _wrap_methods(sub)

    setattr(__init_subclass__, _WRAPPED, True)
    vars_of: Any = cls
    vars_of.__init_subclass__ = classmethod(__init_subclass__)
