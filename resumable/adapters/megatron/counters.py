"""The counters that Megatron-Bridge and Megatron-LM save, as a value.

    Bridge        TrainState     step, consumed_train_samples, skipped_train_samples, consumed_valid_samples
    Megatron-LM   args           iteration, and the other three

Source: `TrainState` of Megatron-Bridge at 067f987 (src/megatron/bridge/training/state.py), which saves them as 0-d tensors;
`args` of Megatron-LM at d98e8a6 (megatron/training/checkpointing.py, `load_checkpoint`).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import torch

from resumable.checks import as_int, whole_number
from resumable.errors import ConfigurationError, StateError
from resumable.state import ResumptionState

__all__ = ["Counters", "HasState"]


class HasState(Protocol):
    """A loader of this package."""

    @property
    def state(self) -> ResumptionState:
        """Its position."""
        ...


@dataclass(frozen=True, slots=True)
class Counters:
    """How far a run is: of Bridge's `TrainState`, of Megatron-LM's `args`, or of loaders.

    Args:
        step: completed steps, skipped ones included: Bridge's `step`, Megatron-LM's `iteration`.
        consumed_train_samples: samples of these steps, over all ranks: the position.
        skipped_train_samples: those of them that were passed over, by `iterations_to_skip` or by rounding down.
        consumed_valid_samples: samples of all validations: the position of a validation loader.
    """

    step: int = 0
    consumed_train_samples: int = 0
    skipped_train_samples: int = 0
    consumed_valid_samples: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            object.__setattr__(self, name, whole_number(name, value))

    @classmethod
    def of(cls, owner: Any, /) -> Counters:
        """The counters of *owner*: a TrainState, the dict that it saves, Megatron-LM's args, or its checkpoint's dict.

        Raises:
            StateError: if *owner* has no such counters, or others than whole numbers from 0 on, or if it has steps and no
                samples: a checkpoint of Megatron-LM from before samples were counted.
        """
        if _is_checkpoint(owner):
            args = _value(owner, "args")
            return cls.of(_With(args, _value(owner, "iteration")))
        step = _value(owner, "step" if _value(owner, "iteration") is None else "iteration")
        values = {"step": step, **{name: _value(owner, name) for name in _SAMPLES}}
        if values["consumed_train_samples"] is None:
            raise StateError(
                "There are no counters of Megatron's here.",
                [("needed", "consumed_train_samples"), ("got", type(owner).__name__)],
                "Pass Megatron-Bridge's TrainState or the dict that it saves, or Megatron-LM's args.",
            )
        numbers = {name: 0 if value is None else as_int(value) for name, value in values.items()}
        for name, number in numbers.items():
            if number is None or number < 0:
                raise StateError(
                    "A counter of Megatron's must be a whole number from 0 on.",
                    [(name, values[name])],
                    "Load an earlier checkpoint.",
                )
        counters = cls(**cast("dict[str, int]", numbers))
        if counters.step and not counters.consumed_train_samples:
            raise StateError(
                "These counters have steps, and no samples: nothing says how many samples the steps took.",
                [("step", counters.step), ("consumed_train_samples", 0)],
                "Set consumed_train_samples: with one batch size it is step * global_batch_size.",
            )
        return counters

    @classmethod
    def of_loaders(
        cls, train: HasState, valid: HasState | None = None, *, step: int | None = None, skipped_train_samples: int = 0
    ) -> Counters:
        """The counters that lead to the positions of *train* and *valid*.

        Without *step*, it is that of the train loader's ledger, which counts a round as a step where no schedule says more.

        Raises:
            ConfigurationError: if the ledger does not know the run from its beginning; pass *step* then.
        """
        consumed, ledger = train.state.consumed_samples, train.state.ledger
        if step is None:
            first = next(iter(ledger), None)
            if consumed and (first is None or first.sample != first.step):  # both are 0 where the run is known
                raise ConfigurationError(
                    "The loader knows its samples, but not all steps before them.",
                    [
                        ("consumed samples", consumed),
                        ("steps are known from sample", None if first is None else first.sample),
                    ],
                    "Pass step=, the loop's own count.",
                )
            step = ledger.global_step_at(consumed) if consumed else 0
        return cls(step, consumed, skipped_train_samples, 0 if valid is None else valid.state.consumed_samples)

    def write(self, owner: Any, /) -> None:
        """Set the counters of *owner*, a TrainState or args; a dict that a TrainState saved gets 0-d tensors, as it has."""
        if _is_checkpoint(owner):
            raise ConfigurationError(
                "Write to the args in this checkpoint, and set its iteration.", [("got", "a checkpoint")]
            )
        of_args = _value(owner, "iteration") is not None or _value(owner, "step") is None
        values = asdict(self)
        if isinstance(owner, MutableMapping):
            saved = cast("MutableMapping[str, Any]", owner)
            saved.update({name: torch.tensor(value, dtype=torch.int64) for name, value in values.items()})
            return
        values["iteration" if of_args else "step"] = values.pop("step")
        for name, value in values.items():
            setattr(owner, name, value)


_SAMPLES = ("consumed_train_samples", "skipped_train_samples", "consumed_valid_samples")


class _With:
    """Megatron-LM's saved *args*, with the *iteration* that the checkpoint has beside them: that of args is of the last load."""

    def __init__(self, args: object, iteration: object) -> None:
        self.iteration = _value(args, "iteration") if iteration is None else iteration
        for name in _SAMPLES:
            setattr(self, name, _value(args, name))


def _is_checkpoint(owner: Any) -> bool:
    return isinstance(owner, Mapping) and "args" in cast("Mapping[str, Any]", owner)


def _value(owner: Any, name: str) -> Any:
    if isinstance(owner, Mapping):
        return cast("Mapping[str, Any]", owner).get(name)
    return getattr(owner, name, None)
