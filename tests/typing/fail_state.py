"""Samplers, trainers and states that do not fit; an `expect` comment speaks of the lines down to the next empty one."""

from __future__ import annotations

from resumable import ResumableLoader, ResumptionState


class Counter:
    global_step = 7


class NoSteps:
    epoch = 7


class TextSteps:
    global_step = "7"


class Texts:
    init_global_step: int = 0
    init_consumed_samples: str = "0"
    prev_consumed_samples: int = 0
    if_first_step: int = 0

    def compute_consumed_samples(self, steps_since_resume: int) -> int:
        raise NotImplementedError


class Nones:
    init_global_step: int = 0
    init_consumed_samples: int = 0
    prev_consumed_samples: int | None = None
    if_first_step: int = 0

    def compute_consumed_samples(self, steps_since_resume: int) -> int:
        raise NotImplementedError


class ReadOnly:
    init_global_step: int = 0
    init_consumed_samples: int = 0
    if_first_step: int = 0

    @property
    def prev_consumed_samples(self) -> int:
        raise NotImplementedError

    def compute_consumed_samples(self, steps_since_resume: int) -> int:
        raise NotImplementedError


class CountsNothing:
    init_global_step: int = 0
    init_consumed_samples: int = 0
    prev_consumed_samples: int = 0
    if_first_step: int = 0


# expect mypy: incompatible type "Texts"; expected "DataSampler \| None"
# expect mypy: init_consumed_samples: expected "SupportsInt", got "str"
# expect pyright: (?s)"Texts".*"DataSampler".*"init_consumed_samples" is an incompatible type
ResumptionState(Texts(), Counter())

# expect mypy: incompatible type "Nones"; expected "DataSampler \| None"
# expect mypy: prev_consumed_samples: expected "SupportsInt", got "int \| None"
# expect pyright: (?s)"Nones".*"DataSampler".*"prev_consumed_samples" is an incompatible type
ResumptionState(Nones(), Counter())

# expect mypy: incompatible type "ReadOnly"; expected "DataSampler \| None"
# expect pyright: (?s)"ReadOnly".*"DataSampler".*"prev_consumed_samples"
ResumptionState(ReadOnly(), Counter())

# expect mypy: incompatible type "CountsNothing"; expected "DataSampler \| None"
# expect pyright: (?s)"CountsNothing".*"DataSampler".*"compute_consumed_samples" is not present
ResumptionState(CountsNothing(), Counter())

# expect mypy: Argument "trainer" to "ResumptionState" has incompatible type "NoSteps"; expected "Trainer \| None"
# expect pyright: (?s)"NoSteps".*"Trainer".*"global_step" is not present
ResumptionState(trainer=NoSteps())

# expect mypy: incompatible type "TextSteps"; expected "Trainer \| None"
# expect pyright: (?s)"TextSteps".*"Trainer".*"global_step" is an incompatible type
ResumptionState(None, TextSteps())

# expect mypy: incompatible type "int"; expected "Mapping\[str, Any\]"
# expect pyright: (?s)"Literal\[640\]".*"Mapping\[str, Any\]"
ResumptionState().load_state_dict(640)

# expect mypy: Property "consumed_samples" defined in "ResumptionState" is read-only
# expect pyright: (?s)"consumed_samples".*"ResumptionState"
ResumptionState().consumed_samples = 3

# expect mypy: incompatible type "list\[int\]"; expected "Mapping\[str, Any\]"
# expect pyright: (?s)"list\[int\]".*"Mapping\[str, Any\]"
ResumableLoader([1]).load_state_dict([1])
