"""What a `ResumableLoader` is given, looked at before anything is built of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, SupportsIndex, cast

from torch import distributed
from torch.utils.data import IterableDataset

from resumable.checks import check_members, check_schedule, whole_number
from resumable.errors import ConfigurationError, explain
from resumable.orders.orders import Sequential, Shuffled
from resumable.protocols import BatchSchedule, Order, Ranks
from resumable.saved.schedule_format import LedgerSchedule, recorded
from resumable.steps.batch_plan import DropLast
from resumable.steps.schedules import LinearRampup
from resumable.steps.stages import DivisibleSchedule, PiecewiseSchedule

__all__ = [
    "check_batches_come_in_order",
    "check_no_sampler",
    "length_of",
    "micro_batch_size_of",
    "order_of",
    "rank_of",
    "schedule_of",
    "tail_of",
]


def length_of(dataset: Any, /) -> int:
    """The samples of a map-style dataset.

    Raises:
        ConfigurationError: if it is none, as do all functions here for an argument that will not do.

    >>> length_of([1, 2, 3])
    3
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ConfigurationError(
            explain(
                "A ResumableLoader needs a map-style dataset, since a place in a stream cannot be computed.",
                [("needed", "__getitem__ and __len__"), ("got", type(cast("object", dataset)).__name__)],
                "Use a map-style dataset; in a LightningDataModule, @resumable carries iterable datasets along.",
            )
        )
    return len(dataset)


def order_of(length: int, shuffle: bool, seed: int | None, order: Order | None, /) -> Order:
    """The order that *shuffle* and *seed* mean, or the user's own.

    >>> order_of(10, True, None, None)
    Shuffled(n=10, seed=0)
    """
    if order is None:
        shuffled = Shuffled(length, 0 if seed is None else seed)  # checks the seed, also where nobody shuffles
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
            explain(
                "An order of one's own says itself how it shuffles.",
                [("order", order), ("shuffle", shuffle), ("seed", seed)],
                "Pass either order=, or shuffle= and seed=.",
            )
        )
    if len(order) != length:
        raise ConfigurationError(
            explain(
                "The order and the dataset have different lengths.",
                [("len(order)", len(order)), ("len(dataset)", length)],
                "Make the order as long as the dataset.",
            )
        )
    return order


def micro_batch_size_of(batch_size: SupportsIndex | None, /) -> int:
    """Samples of one rank's batch; single samples are batches of one.

    >>> micro_batch_size_of(None)
    1
    """
    return 1 if batch_size is None else whole_number("batch_size", batch_size, least=1)


def rank_of(data_parallel_rank: int | None, data_parallel_size: int | None, ranks: Ranks | None) -> tuple[int, int]:
    """Who this process is among those that share the data: (rank, size), as ints. Alone, if nobody says.

    >>> rank_of(3, 4, None)
    (3, 4)
    """
    if ranks is not None:
        _check_ranks(data_parallel_rank, data_parallel_size, ranks)
        data_parallel_rank, data_parallel_size = ranks.data_parallel_rank, ranks.data_parallel_size
    elif data_parallel_size is None or (data_parallel_rank is None and data_parallel_size != 1):
        _check_alone(data_parallel_rank, data_parallel_size)
    size = 1 if data_parallel_size is None else whole_number("data_parallel_size", data_parallel_size, least=1)
    if data_parallel_rank is None and size > 1:
        raise ConfigurationError(
            explain(
                "The loader is told how many processes share the data, and not which of them this one is.",
                [("data_parallel_rank", None), ("data_parallel_size", size)],
                "Pass data_parallel_rank= too, or ranks= in the place of both.",
            )
        )
    rank = 0 if data_parallel_rank is None else whole_number("data_parallel_rank", data_parallel_rank)
    if rank >= size:
        raise ConfigurationError(
            explain(
                "There is no such rank.",
                [("data_parallel_rank", rank), ("data_parallel_size", size)],
                f"Pass a rank from 0 to {size - 1}, or the number of all processes that share the data.",
            )
        )
    return rank, size


def _check_ranks(rank: object, size: object, ranks: Ranks) -> None:
    check_members(
        "ranks",
        ranks,
        ("data_parallel_rank", "data_parallel_size"),
        "ranks= must have data_parallel_rank and data_parallel_size.",
        "Pass an object that has both, such as resumable.adapters.distributed.Ranks().",
    )
    if rank is not None or size is not None:
        raise ConfigurationError(
            explain(
                "The ranks are told twice.",
                [("ranks", ranks), ("data_parallel_rank", rank), ("data_parallel_size", size)],
                "Pass ranks=, or the two numbers.",
            )
        )


def _check_alone(rank: object, size: object) -> None:
    """Refuse to guess which part of the data is this process's: each would train all of it, or the same part."""
    processes = 1
    if distributed.is_available() and distributed.is_initialized():
        processes = distributed.get_world_size()
    elif "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun, and the process group is still to be initialized
        processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigurationError(
            explain(
                "Several processes run, and the loader is not told which part of the data is this one's.",
                [("processes", processes), ("data_parallel_rank", rank), ("data_parallel_size", size)],
                "Pass ranks=resumable.adapters.distributed.Ranks(), or data_parallel_rank= and data_parallel_size=. If each "
                "process is to load all samples, pass data_parallel_size=1.",
            )
        )


def tail_of(drop_last: object, /) -> DropLast:
    """What becomes of an epoch's tail: a bool, or "carry".

    >>> tail_of("carry")
    'carry'
    """
    if isinstance(drop_last, str) and drop_last == "carry":
        return "carry"
    if drop_last not in (False, True):
        raise ConfigurationError(
            explain(
                "An epoch's tail can be trained, left out, or carried into the next epoch.",
                [("drop_last", drop_last)],
                'Pass drop_last=False, True or "carry".',
            )
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
        return recorded(schedule)
    if isinstance(schedule, LinearRampup) and schedule.divisor in (1, per_round):
        return replace(schedule, divisor=per_round)
    if not isinstance(schedule, PiecewiseSchedule):
        raise ConfigurationError(
            explain(
                "Only a schedule whose stages are known can be rounded down.",
                [("schedule", type(schedule).__qualname__), ("decrease_batch_size_if_needed", True)],
                "Let it give multiples of batch_size * data_parallel_size itself, or pass a StepSchedule.",
            )
        )
    return recorded(DivisibleSchedule(schedule, per_round))


def check_no_sampler(options: Mapping[str, Any], /) -> None:
    """Raise where the batches are to come from elsewhere than from an order: they would not.

    >>> check_no_sampler({"num_workers": 2})
    """
    for name in ("sampler", "batch_sampler"):
        if options.get(name) is not None:
            raise ConfigurationError(
                explain(
                    f"A ResumableLoader takes no {name}: it goes on from any place, and a sampler begins at its first.",
                    [(name, options[name])],
                    "Pass order=, a pure function from places to indices; in a LightningDataModule, @resumable carries "
                    "samplers along.",
                )
            )


def check_batches_come_in_order(options: Mapping[str, Any], /) -> None:
    """Raise where batches come as workers finish.

    >>> check_batches_come_in_order({"num_workers": 2})
    """
    if options.get("num_workers", 0) and not options.get("in_order", True):
        raise ConfigurationError(
            explain(
                "With in_order=False batches come as workers finish, so no count tells which ones were trained.",
                [("in_order", False), ("num_workers", options.get("num_workers", 0))],
                "Leave in_order=True.",
            )
        )
