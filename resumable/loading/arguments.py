"""What a `ResumableLoader` is given, checked before anything is built from it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from inspect import signature
from typing import Any, Final, cast

from torch import distributed
from torch.utils.data import DataLoader, IterableDataset

from resumable.checks import check_members, check_schedule, whole_number
from resumable.errors import ConfigurationError, ResumptionError
from resumable.feeds.order_feed import check_length
from resumable.orders.orders import Sequential, Shuffled
from resumable.protocols import BatchSchedule, Order, Ranks
from resumable.saved.schedule_format import LedgerSchedule, ledger_schedule
from resumable.steps.batch_plan import DropLast
from resumable.steps.schedules import LinearRampup
from resumable.steps.stages import DivisibleSchedule, PiecewiseSchedule

__all__ = [
    "check_in_order",
    "check_length",
    "check_options",
    "length_of",
    "order_of",
    "rank_of",
    "schedule_of",
    "tail_of",
]

_DATALOADER_OPTIONS: Final = tuple(signature(cast("Any", DataLoader.__init__)).parameters)[1:]


def length_of(dataset: Any, /) -> int:
    """The samples of a map-style dataset.

    Raises:
        ConfigurationError: for an argument that will not do, as in all functions here.

    >>> length_of([1, 2, 3])
    3
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ConfigurationError(
            "A ResumableLoader needs a map-style dataset: only there can a position be computed.",
            [("needed", "__getitem__ and __len__"), ("got", type(cast("object", dataset)).__name__)],
            "Pass a map-style dataset. In a LightningDataModule, @resumable resumes iterable datasets too.",
        )
    return len(dataset)


def order_of(length: int, shuffle: bool, seed: int | None, order: Order | None, /) -> Order:
    """The user's own *order*, or the one that *shuffle* and *seed* mean.

    >>> order_of(10, True, None, None)
    Shuffled(n=10, seed=0)
    """
    if order is None:
        shuffled = Shuffled(length, 0 if seed is None else seed)  # checks the seed, also where nothing is shuffled
        return shuffled if shuffle else Sequential(length)
    check_members(
        "order",
        order,
        ("__len__", "indices"),
        "order= lacks the methods of an Order.",
        "Pass an order, such as Sequential(n) or Shuffled(n, seed).",
    )
    if shuffle or seed is not None:
        raise ConfigurationError(
            "A user-defined order decides itself how it shuffles.",
            [("order", order), ("shuffle", shuffle), ("seed", seed)],
            "Pass either order=, or shuffle= and seed=.",
        )
    check_length(order, length)
    return order


def rank_of(rank: int | None, size: int | None, ranks: Ranks | None, /) -> tuple[int, int]:
    """This process's data-parallel rank, and the number of ranks; (0, 1) where a single process gives neither.

    >>> rank_of(3, 4, None)
    (3, 4)
    """
    if ranks is not None:
        rank, size = _asked(rank, size, ranks)
    elif size is None or (rank is None and size != 1):
        _check_single_process(rank, size)
    size = 1 if size is None else whole_number("data_parallel_size", size, least=1)
    if rank is None and size > 1:
        raise ConfigurationError(
            "data_parallel_rank is missing: several processes share the data.",
            [("data_parallel_rank", None), ("data_parallel_size", size)],
            "Pass data_parallel_rank= too, or ranks= in place of both.",
        )
    rank = 0 if rank is None else whole_number("data_parallel_rank", rank)
    if rank >= size:
        raise ConfigurationError(
            "data_parallel_rank is too large.",
            [("data_parallel_rank", rank), ("data_parallel_size", size)],
            f"Pass a rank from 0 to {size - 1}, or the number of all processes that share the data.",
        )
    return rank, size


def _asked(rank: object, size: object, ranks: Ranks) -> tuple[int, int]:
    check_members(
        "ranks",
        ranks,
        ("data_parallel_rank", "data_parallel_size"),
        "ranks= must have data_parallel_rank and data_parallel_size.",
        "Pass an object that has both, such as resumable.adapters.distributed.Ranks().",
    )
    if rank is not None or size is not None:
        raise ConfigurationError(
            "The rank is given twice.",
            [("ranks", ranks), ("data_parallel_rank", rank), ("data_parallel_size", size)],
            "Pass ranks=, or the two numbers.",
        )
    return ranks.data_parallel_rank, ranks.data_parallel_size


def _check_single_process(rank: object, size: object) -> None:
    """Refuse to guess this process's part of the data: every process would train all of it, or the same part."""
    processes = 1
    if distributed.is_available() and distributed.is_initialized():
        processes = distributed.get_world_size()
    elif "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun, before the process group is initialized
        processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigurationError(
            "Several processes run, and nothing says which part of the data this one loads.",
            [("processes", processes), ("data_parallel_rank", rank), ("data_parallel_size", size)],
            "Pass ranks=resumable.adapters.distributed.Ranks(), or data_parallel_rank= and data_parallel_size=. If each "
            "process is to load all samples, pass data_parallel_size=1.",
        )


def tail_of(drop_last: object, /) -> DropLast:
    """What happens to an epoch's tail: a bool, or "carry".

    >>> tail_of("carry")
    'carry'
    """
    if isinstance(drop_last, str) and drop_last == "carry":
        return "carry"
    if drop_last not in (False, True):
        raise ConfigurationError(
            "An epoch's tail can be trained, left out, or carried into the next epoch.",
            [("drop_last", drop_last)],
            'Pass drop_last=False, True or "carry".',
        )
    return bool(drop_last)


def schedule_of(schedule: BatchSchedule | None, per_round: int, /, *, rounds_down: bool) -> LedgerSchedule | None:
    """The schedule that runs; with *rounds_down*, its sizes are multiples of *per_round* samples.

    >>> from resumable.steps.schedules import ConstantBatchSize
    >>> schedule_of(ConstantBatchSize(20), 8, rounds_down=True)
    DivisibleSchedule(schedule=ConstantBatchSize(batch_size=20), divisor=8)
    """
    if schedule is None:
        return None
    check_schedule(schedule)
    if not rounds_down:
        return ledger_schedule(schedule)
    if isinstance(schedule, LinearRampup) and schedule.divisor in (1, per_round):
        return replace(schedule, divisor=per_round)
    if not isinstance(schedule, PiecewiseSchedule):
        raise ConfigurationError(
            "A user-defined schedule cannot be rounded down: its stages are unknown.",
            [("schedule", type(schedule).__qualname__), ("decrease_batch_size_if_needed", True)],
            "Let it return multiples of batch_size * data_parallel_size itself, or pass a StepSchedule.",
        )
    return ledger_schedule(DivisibleSchedule(schedule, per_round))


def check_options(options: Mapping[str, Any], own: Collection[str], /) -> None:
    """Refuse a sampler, since the batches come from an order, and what is neither an option of *own* nor of DataLoader's.

    >>> check_options({"num_worker": 2}, ["seed"])
    Traceback (most recent call last):
    resumable.errors.ConfigurationError: A ResumableLoader has no option 'num_worker'.
      num_worker: 2
      nearest:    'num_workers'
    Pass num_workers=, or leave the option out.
    """
    known = {*own, *_DATALOADER_OPTIONS}
    for name in options.keys() - known:
        nearest = next(iter(get_close_matches(name, known, 1, 0.0)))
        raise ConfigurationError(
            f"A ResumableLoader has no option {name!r}.",
            [(name, options[name]), ("nearest", nearest)],
            f"Pass {nearest}=, or leave the option out.",
        )
    for name in ("sampler", "batch_sampler"):
        if options.get(name) is not None:
            raise ConfigurationError(
                f"A ResumableLoader takes no {name}: a sampler always begins at its first index.",
                [(name, options[name])],
                "Pass order=, a pure function from places to indices. In a LightningDataModule, @resumable resumes "
                "samplers too.",
            )


def check_in_order(num_workers: int, in_order: bool, /, error: type[ResumptionError] = ConfigurationError) -> None:
    """Raise *error* where batches come as workers finish.

    >>> check_in_order(2, True)
    """
    if num_workers and not in_order:
        raise error(
            "With in_order=False batches come as workers finish, so a count cannot say which ones were trained.",
            [("in_order", False), ("num_workers", num_workers)],
            "Leave in_order=True in the train loader.",
        )
