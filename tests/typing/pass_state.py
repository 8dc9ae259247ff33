"""ResumptionState takes samplers and trainers of any make, and is torch's Stateful."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor
from typing_extensions import assert_type

from resumable import (
    BatchSchedule,
    ConfigurationError,
    DataSampler,
    Ledger,
    MismatchError,
    ResumableLoader,
    ResumptionError,
    ResumptionState,
    StateError,
    Trainer,
)

if TYPE_CHECKING:
    from torch.distributed.checkpoint.stateful import Stateful


class Counter:
    global_step = 7


class ReadOnlyCounter:
    @property
    def global_step(self) -> int:
        return 7


class NeMoLike:
    """The shape of NeMo's MegatronDataSampler, which annotates none of its attributes."""

    def __init__(self) -> None:
        self.init_global_step = 0
        self.init_consumed_samples = 0
        self.prev_consumed_samples = 0
        self.if_first_step = 0

    def compute_consumed_samples(self, steps_since_resume: int = 0) -> int:
        return self.init_consumed_samples + steps_since_resume


class OnADevice:
    """A sampler whose counts may become tensors."""

    init_global_step: int = 0
    init_consumed_samples: int | Tensor = 0
    prev_consumed_samples: int | Tensor = 0
    if_first_step: int = 0

    def compute_consumed_samples(self, steps_since_resume: int = 0) -> int | Tensor:
        return self.prev_consumed_samples + torch.ones((), dtype=torch.int64)


class WithProperties:
    """A sampler that takes ints and gives tensors."""

    init_global_step: int = 0
    init_consumed_samples: int = 0
    if_first_step: int = 0
    _previous: Tensor = torch.zeros((), dtype=torch.int64)

    @property
    def prev_consumed_samples(self) -> Tensor:
        return self._previous

    @prev_consumed_samples.setter
    def prev_consumed_samples(self, value: int) -> None:
        self._previous = torch.tensor(value)

    def compute_consumed_samples(self, steps_since_resume: int, /) -> Tensor:
        return self._previous + steps_since_resume


class Constant:
    def batch_size_at(self, consumed_samples: int) -> int:
        return 8

    def samples_after(self, steps: int, consumed: int = 0) -> int:
        return consumed + 8 * steps

    def steps_between(self, consumed: int, later: int) -> int:
        return (later - consumed) // 8


samplers: list[DataSampler] = [NeMoLike(), OnADevice(), WithProperties()]
trainers: list[Trainer | None] = [Counter(), ReadOnlyCounter(), L.Trainer(), None]
schedule: BatchSchedule = Constant()
for sampler in samplers:
    for trainer in trainers:
        ResumptionState(sampler, trainer)
ResumptionState(NeMoLike(), L.Trainer())
ResumptionState(sampler=OnADevice(), trainer=Counter())

state = ResumptionState()
stateful: Stateful = state
also_stateful: Stateful = ResumableLoader(range(3))
assert_type(state.state_dict(), dict[str, Any])
assert_type(state.ledger, Ledger)
assert_type(state.init_global_step, int)
state.load_state_dict({"consumed_samples": 640})
state.load_state_dict(json.loads("{}"))
state.load_state_dict(state.state_dict())
state.update_init_global_step()

try:
    state.load_state_dict({})
except (StateError, MismatchError) as error:
    expected: ResumptionError = error
except ConfigurationError as error:
    also_a_value_error: ValueError = error
