"""A mixin's own code, where what it asks for is not there yet: something stands in for it while the code runs.

    state_dict        asks the trainer for its step        a trainer at the last known step
    load_state_dict   writes into the data sampler         an object to write into
                      updates the framework's calculator   a calculator that ignores it

What is told to a stand-in is in the resumption state already: BioNeMo's `MegatronDataModule` and NeMo's copies of it
fail there, on None. Everything else of the class's own code runs, so that nothing of it is lost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, Final, TypeVar

from resumable.data_sampler.calculators import FRAMEWORKS, GLOBAL
from resumable.data_sampler.written import ATTRIBUTES

__all__ = ["run"]

T = TypeVar("T")
_ASKED = ("compute_consumed_samples", *ATTRIBUTES)
_TRAINER: Final = "trainer"


def run(method: Callable[[], T], owner: Any, sampler: str, /) -> T:
    """What *method* of *owner* returns, begun again with a stand-in for each thing that it finds to be None.

    *sampler* names the attribute that holds the data sampler. Any other error is raised as it is.

    >>> class Mixin:
    ...     trainer = data_sampler = None
    ...
    ...     def state_dict(self):
    ...         return {"consumed_samples": self.trainer.global_step, "mine": 1}
    >>> mixin = Mixin()
    >>> run(mixin.state_dict, mixin, "data_sampler"), mixin.trainer
    ({'consumed_samples': 0, 'mine': 1}, None)
    """
    stood_in: set[str] = set()
    with ExitStack() as stack:
        while True:
            try:
                return method()
            except AttributeError as error:  # noqa: PERF203  # a few times at most
                lacking = _lacking(error, owner, sampler)
                if lacking is None or lacking in stood_in or not _stand_in(stack, owner, lacking):
                    raise
                stood_in.add(lacking)


def _lacking(error: AttributeError, owner: Any, sampler: str) -> str | None:
    """What was None when *error* came: the trainer, the data sampler in its attribute, or the calculator."""
    if error.obj is owner and error.name == _TRAINER:
        return _TRAINER
    if error.obj is not None:
        return None
    # where an attribute of None is set, older Pythons name it in the text alone
    name = error.name or str(error).rpartition(" ")[2].strip("'")
    if name == "update":
        return GLOBAL
    lacking = {"global_step": _TRAINER, **dict.fromkeys(_ASKED, sampler)}.get(name)
    return lacking if lacking is None or getattr(owner, lacking, None) is None else None


def _stand_in(stack: ExitStack, owner: Any, name: str) -> bool:
    """Let something stand in for *name* until *stack* is closed; False where nothing can."""
    holders = [owner]
    if name == GLOBAL:
        modules = [sys.modules[module] for module in FRAMEWORKS if module in sys.modules]
        holders = [module for module in modules if getattr(module, GLOBAL, module) is None]
        stand_in = SimpleNamespace(update=_ignore)
    elif name == _TRAINER:
        stand_in = SimpleNamespace(global_step=getattr(owner, "init_global_step", 0))
    else:
        stand_in = SimpleNamespace(compute_consumed_samples=lambda _=0: 0, **dict.fromkeys(ATTRIBUTES, 0))
    for holder in holders:
        had = name in vars(holder)
        try:
            setattr(holder, name, stand_in)
        except AttributeError:  # a property
            return False
        undo: tuple[Any, ...] = (setattr, holder, name, None) if had else (delattr, holder, name)
        stack.callback(*undo)
    return bool(holders)


def _ignore(*_: object, **__: object) -> None:
    """The count is in the resumption state already."""
