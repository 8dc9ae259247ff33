"""What `@resumable` can decorate, and what to do about the rest."""

from __future__ import annotations

from dataclasses import dataclass

from resumable.adapters import framework_of
from resumable.checks import check_members, check_schedule
from resumable.errors import ConfigurationError, DecorationError, explain
from resumable.protocols import AllGather, BatchSchedule, MicrobatchCalculator, Ranks
from resumable.saved.resolve import Policy

__all__ = ["MARK", "Options", "check_class", "check_sampling"]

_CALCULATOR = ("is_initialized", "current_global_batch_size", "update")


def check_sampling(sampler: object, schedule: object, calculator: object, /) -> None:
    """Raise `ConfigurationError` unless each of the three is None or what its name says.

    >>> check_sampling("data_sampler", None, None)
    """
    if sampler is not None and not isinstance(sampler, str):
        raise ConfigurationError(
            explain(
                "sampler= names the attribute that holds the data sampler.",
                [("sampler", sampler)],
                'Pass sampler="data_sampler".',
            )
        )
    if schedule is not None:
        check_schedule(schedule)
    if calculator is not None:
        check_members(
            "calculator",
            calculator,
            _CALCULATOR,
            "calculator= lacks the members of a MicrobatchCalculator.",
            "Pass one, such as resumable.adapters.megatron.Calculator().",
        )


def check_class(cls: object, /) -> None:
    """Raise `DecorationError` unless *cls* is a class with a train loader of its own and room for a state."""
    if not isinstance(cls, type):
        raise DecorationError(
            explain(
                "@resumable decorates a class.",
                [("got", cls)],
                "Put it above a class; give its options by name: @resumable(seed=1).",
            )
        )
    name = cls.__qualname__
    if not cls.__dictoffset__:
        raise DecorationError(
            explain(
                f"{name} has __slots__ and no __dict__, so its instances cannot hold a state.",
                [("__slots__", getattr(cls, "__slots__", ()))],
                "Add '__dict__' to its __slots__.",
            )
        )
    if any(base.__module__ == "torch.nn.modules.module" for base in cls.__mro__):
        raise DecorationError(
            explain(
                f"{name} is a torch module: its state_dict holds weights.",
                [("class", name)],
                "Move train_dataloader into a LightningDataModule and decorate that.",
            )
        )
    loader = getattr(cls, "train_dataloader", None)
    if loader is None or framework_of(loader) is not None:
        raise DecorationError(
            explain(
                f"{name} has no train_dataloader of its own.",
                [("class", name), ("train_dataloader", loader)],
                "Define it (an abstract method will do), or decorate the subclass that defines it.",
            )
        )


MARK = "__resumable_options__"
"""The class attribute that `@resumable` leaves: its options."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the decorator was given. *seed* is None where it follows from `seed_everything`, else 0.

    *sampler* names the attribute that holds the data sampler; None means `data_sampler`, where there is one.
    """

    seed: int | None = None
    policy: Policy = Policy()
    sampler: str | None = None
    schedule: BatchSchedule | None = None
    calculator: MicrobatchCalculator | None = None
    ranks: Ranks | None = None
    agreement: AllGather | None = None
    decrease_batch_size_if_needed: bool = False
