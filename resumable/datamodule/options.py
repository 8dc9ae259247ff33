"""What `@resumable` is given: its options and the class, both checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

from resumable.adapters import framework_of
from resumable.checks import check_members, check_schedule, flag_of
from resumable.data_sampler.options import SamplerOptions
from resumable.errors import ConfigurationError, DecorationError
from resumable.protocols import AllGather, BatchSchedule, MicrobatchCalculator, Ranks
from resumable.saved.audit_log import AuditLog
from resumable.saved.resolve import Policy

__all__ = ["MARK", "Options", "Streams", "check_class"]

Streams: TypeAlias = Literal["by_state", "read_again"]
"""How a stream goes on: see `resumable.resumable`."""

MARK: Final = "__resumable_options__"
"""The class attribute that `@resumable` leaves: its options."""


@dataclass(frozen=True, slots=True)
class Options:
    """The decorator's options. *seed* is None where `seed_everything` gives it; without that it is 0.

    *sampler* names the attribute that holds the data sampler; None means `data_sampler`, if the instance has one.

    Raises:
        ConfigurationError: for an option that is not what its name says.

    >>> Options(sampler="data_sampler").attribute
    'data_sampler'
    """

    seed: int | None = None
    policy: Policy = Policy()
    sampler: str | None = None
    schedule: BatchSchedule | None = None
    calculator: MicrobatchCalculator | None = None
    ranks: Ranks | None = None
    agreement: AllGather | None = None
    decrease_batch_size_if_needed: bool = False
    streams: Streams = "by_state"
    reseed: bool = False
    pass_epoch: bool = False
    audit: AuditLog | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.sampler), str | None):
            raise ConfigurationError(
                "sampler= names the attribute that holds the data sampler.",
                [("sampler", self.sampler)],
                'Pass sampler="data_sampler".',
            )
        if self.streams not in ("by_state", "read_again"):
            raise ConfigurationError(
                "A stream goes on by its own state, or by reading it again.",
                [("streams", self.streams)],
                'Pass streams="by_state" or "read_again".',
            )
        flag_of("reseed", self.reseed)
        flag_of("pass_epoch", self.pass_epoch)
        flag_of("log", self.log)
        if self.schedule is not None:
            check_schedule(self.schedule)
        if self.calculator is not None:
            check_members(
                "calculator",
                self.calculator,
                ("is_initialized", "current_global_batch_size", "update"),
                "calculator= lacks the members of a MicrobatchCalculator.",
                "Pass one, such as resumable.adapters.megatron.Calculator().",
            )

    @property
    def attribute(self) -> str:
        """The attribute in which a data sampler is looked for."""
        return self.sampler or "data_sampler"

    @property
    def sampling(self) -> SamplerOptions:
        """The options that a data sampler counts with."""
        seed = self.seed_in_use if self.reseed else None
        return SamplerOptions(self.schedule, self.calculator, self.policy, seed, self.pass_epoch)

    @property
    def seed_in_use(self) -> int:
        """The seed that was given, or that of `seed_everything`."""
        return int(os.environ.get("PL_GLOBAL_SEED") or 0) if self.seed is None else self.seed


def check_class(cls: object, /) -> None:
    """Raise `DecorationError` unless *cls* is a class with a train loader of its own and room for a state."""
    if not isinstance(cls, type):
        raise DecorationError(
            "@resumable decorates a class.",
            [("got", cls)],
            "Put it above a class; give its options by name: @resumable(seed=1).",
        )
    name = cls.__qualname__
    if not cls.__dictoffset__:
        raise DecorationError(
            f"{name} has __slots__ and no __dict__, so its instances cannot hold a state.",
            [("__slots__", getattr(cls, "__slots__", ()))],
            "Add '__dict__' to its __slots__.",
        )
    if any(base.__module__ == "torch.nn.modules.module" for base in cls.__mro__):
        raise DecorationError(
            f"{name} is a torch module: its state_dict holds weights.",
            [("class", name)],
            "Move train_dataloader into a LightningDataModule and decorate that.",
        )
    loader = getattr(cls, "train_dataloader", None)
    if loader is None or framework_of(loader) is not None:
        raise DecorationError(
            f"{name} has no train_dataloader of its own.",
            [("class", name), ("train_dataloader", loader)],
            "Define it (an abstract method will do), or decorate the subclass that defines it.",
        )
