"""`@resumable` wires a state into any datamodule, in place, without a base class and without a call to remember.

    train_dataloader    its loaders start where the training is
    state_dict          the position joins what the class itself saves
    load_state_dict     the position is loaded first, then the class itself loads the rest

The class stays the same object, since Lightning saves states under its name, and undecorated subclasses follow.
No other method is wrapped and no hook is added: Lightning looks at which hooks a class overrides.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, Literal, TypeVar, overload

from resumable.checks import seed_of
from resumable.datamodule.instance import is_resumable, resumption_of
from resumable.datamodule.methods import AROUND
from resumable.datamodule.options import MARK, Options, Streams, check_class
from resumable.errors import DecorationError
from resumable.protocols import (
    AllGather,
    BatchSchedule,
    MicrobatchCalculator,
    Ranks,
    SupportsSampling,
    SupportsTraining,
)
from resumable.saved.audit_log import AuditLog
from resumable.saved.resolve import Policy
from resumable.verdict import OnMismatch

__all__ = ["is_resumable", "resumable", "resumption_of"]

_WRAPPED = "__resumable_wrapped__"

# mypy prints the name of this variable, and only that, where a class does not fit
ClassWithTrainDataloaderAndTrainer = TypeVar("ClassWithTrainDataloaderAndTrainer", bound=SupportsTraining)
ClassWithDataSamplerOfNeMosShape = TypeVar("ClassWithDataSamplerOfNeMosShape", bound=SupportsSampling)


@overload
def resumable(cls: type[ClassWithTrainDataloaderAndTrainer], /) -> type[ClassWithTrainDataloaderAndTrainer]: ...


@overload
def resumable(  # type: ignore[overload-overlap]  # with this name the class needs more
    *,
    sampler: Literal["data_sampler"],
    schedule: BatchSchedule | None = ...,
    calculator: MicrobatchCalculator | None = ...,
    seed: int | None = ...,
    on_mismatch: OnMismatch = ...,
    agreement: AllGather | None = ...,
    reseed: bool = ...,
    pass_epoch: bool = ...,
    audit: str | os.PathLike[str] | None = ...,
    log: bool = ...,
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
    reseed: bool = ...,
    pass_epoch: bool = ...,
    audit: str | os.PathLike[str] | None = ...,
    log: bool = ...,
    decrease_batch_size_if_needed: bool = ...,
    streams: Streams = ...,
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
    streams: Streams = "by_state",
    reseed: bool = False,
    pass_epoch: bool = False,
    audit: str | os.PathLike[str] | None = None,
    log: bool = False,
) -> Any:
    """Make a datamodule go on with the exact next sample.

    Args:
        cls: a class with `train_dataloader` and `trainer`; a LightningDataModule has both.
        sampler: the attribute that holds a data sampler of NeMo's shape, which then counts the samples of the training
            steps. A training step is a call of `training_step`, which takes a global batch. Without this option an
            attribute `data_sampler` is found by itself.
        schedule: the global batch sizes, where they vary and neither the calculator nor the sampler's `rampup_batch_size`
            gives them. Without a sampler they group the train loader's batches into optimizer steps: Lightning
            accumulates them, and a loop reads the loader's `num_microbatches`.
        decrease_batch_size_if_needed: round the schedule's sizes down to whole batches on each rank; otherwise other sizes
            are refused. A data sampler has an option of its own for this.
        calculator: what learns of a loaded count; without one, megatron-core's or Apex's, where they are installed.
        seed: of the shuffled orders, 0 to 2**64 - 1. Without one it is that of `seed_everything`, otherwise 0, and a loaded
            state's seed replaces it.
        on_mismatch: what to do where a loaded state cannot go on exactly: "error", "warn" or "adopt".
        ranks: which part of the data this process loads, such as `resumable.adapters.distributed.Ranks()`. Lightning's
            strategy and a data sampler know it by themselves.
        agreement: a collective, such as `resumable.adapters.distributed.AllGather()`. With it all ranks compare their
            positions whenever a state is saved, loaded or connected to train loaders.
        streams: how a stream goes on, an iterable dataset: "by_state", at the state that it saved of itself, or
            "read_again", which reads it from its start and drops what is trained. That takes as long as reading it took,
            and is exact for each stream that gives the same samples again, whatever its state leaves out.
        reseed: let random numbers follow the position, so that dropout and augmentation are the same after any resume.
            Before each `dataset[index]`, in workers too, and before each training step, Python's, NumPy's and torch's global
            generators are seeded from the seed and the position; the accelerator's as well, for a step.
        pass_epoch: give `dataset[index]` an int that knows its `.epoch`, and its `.draw`: how often this index came
            earlier in the epoch.
        audit: a folder to which each rank appends what it really trained, for `resumable audit` and `resumable report`; one
            folder for each run.
        log: write consumed samples, epoch and global batch size to Lightning's loggers with each step that Lightning logs, and
            where a resumed session begins.

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
    options = Options(
        seed=None if seed is None else seed_of(seed),
        policy=Policy(seed_is_given=seed is not None, on_mismatch=on_mismatch),
        sampler=sampler,
        schedule=schedule,
        calculator=calculator,
        ranks=ranks,
        agreement=agreement,
        decrease_batch_size_if_needed=decrease_batch_size_if_needed,
        streams=streams,
        reseed=reseed,
        pass_epoch=pass_epoch,
        audit=None if audit is None else AuditLog(audit),
        log=log,
    )

    def decorate(decorated: type[Any]) -> type[Any]:
        check_class(decorated)
        _wrap_methods(decorated)
        _add_rebase(decorated)
        setattr(decorated, MARK, options)
        _follow_subclasses(decorated)
        return decorated

    return decorate if cls is None else decorate(cls)


def _wrap_methods(cls: type[Any]) -> None:
    """Wrap the methods that the class defines, and those that it inherits from undecorated bases."""
    for name, around in AROUND.items():
        own = cls.__dict__.get(name)
        if own is not None:
            setattr(cls, name, _wrap(cls, name, own, around))
        elif not hasattr(getattr(cls, name, None), _WRAPPED):
            setattr(cls, name, _wrap(cls, name, _forward(cls, name), around))


def _wrap(cls: type[Any], name: str, method: Any, around: Callable[..., Any]) -> Any:
    if type(method) in (staticmethod, classmethod, property):
        raise DecorationError(
            f"{cls.__qualname__}.{name} must be a method, since each instance has its own position.",
            [("it is a", type(method).__name__)],
            "Define it as a plain method, with self.",
        )
    if hasattr(method, _WRAPPED):
        return method

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        key = (threading.get_ident(), id(self), name)
        if key in _inside:  # an override called super(): the outermost call does the work
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
    """The state's `init_global_step`, read from an instance. An instance may still set its own."""

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        return self if instance is None else resumption_of(instance).init_global_step


def _add_rebase(cls: type[Any]) -> None:
    """Give the class the two names of BioNeMo's mixin, so that loader methods written for it keep working."""

    def update_init_global_step(self: Any) -> None:
        """Count from the trainer's current step on. Never required; safe to call at any time."""
        resumption_of(self).update_init_global_step()

    if not hasattr(cls, "update_init_global_step"):
        cls.update_init_global_step = update_init_global_step
    if not hasattr(cls, "init_global_step"):
        cls.init_global_step = _InitGlobalStep()


def _forward(cls: type[object], name: str) -> Any:
    """A method for a class that inherits or lacks it: calls the next one in the order of the class's bases."""

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
    """Wrap what an undecorated subclass overrides, as soon as it is defined."""
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
