"""`ResumableLoader`: a torch DataLoader for loops without Lightning that goes on where the training stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, cast

from typing_extensions import Self, TypedDict, TypeVar, Unpack

from resumable.checks import flag_of, seed_of, whole_number
from resumable.errors import ConfigurationError
from resumable.feeds.feed import RebuiltSampler, ResumableSampler, Shard
from resumable.feeds.order_feed import OrderFeed
from resumable.feeds.rank_sampler import RankSampler, SequentialRankSampler
from resumable.loading.arguments import (
    check_in_order,
    check_options,
    length_of,
    order_of,
    rank_of,
    schedule_of,
    tail_of,
)
from resumable.loading.contents import contents_of
from resumable.loading.dataloader import SeekableLoader, install
from resumable.loading.endless import WINDOW, EndlessBatches, Windows
from resumable.loading.loop_passes import LoopPasses
from resumable.loading.loop_progress import LoopProgress
from resumable.loading.trainers import hand_over
from resumable.protocols import AllGather, BatchSchedule, Order, Ranks
from resumable.saved.audit_log import AuditLog
from resumable.saved.file import read
from resumable.saved.ledger import Stretch
from resumable.saved.resolve import Policy
from resumable.state import ResumptionState, tracker_of
from resumable.steps.batch_plan import BatchPlan, DropLast
from resumable.verdict import OnMismatch

if TYPE_CHECKING:
    from torch.utils.data import Dataset

__all__ = ["LoaderOptions", "ResumableLoader"]

T = TypeVar("T", default=Any)


class LoaderOptions(TypedDict, total=False):
    """The options of torch's DataLoader that set how to load, not what."""

    num_workers: int
    collate_fn: Callable[[list[Any]], Any] | None
    pin_memory: bool
    timeout: float
    worker_init_fn: Callable[[int], None] | None
    multiprocessing_context: Any
    generator: Any
    prefetch_factor: int | None
    persistent_workers: bool
    in_order: bool


class ResumableLoader(SeekableLoader[T]):
    """A torch DataLoader over a map-style dataset that goes on with the exact next sample.

    Iterating it yields the rest of the epoch; the next iteration is the next epoch. `len()` is that of a whole epoch.
    A dataset that has become longer or shorter is trained whole from the next epoch on.

    While one iterator is alive, others move nothing. After an error of a sample the iterator goes on with the next batch, as
    torch's does; the failed batch then counts as passed over.

    On several ranks, a round is batch_size * data_parallel_size consecutive samples, and rank r takes its r-th micro
    batch. Every rank yields equally many batches and has the same position, state and ledger.

    With a *schedule*, each optimizer step takes the scheduled number of samples over all ranks: `num_microbatches` of
    the batches that the loader yields.

    Args:
        dataset: map-style: `len(dataset)` and `dataset[index]`.
        batch_size: samples of one batch on this rank, its micro batch; None yields single samples, uncollated.
        shuffle: draw a new permutation in each epoch; otherwise samples come in the dataset's order.
        seed: seeds the permutations, 0 to 2**64 - 1. Without one it is 0, and a loaded state's seed replaces it.
        order: the user's order, in place of *shuffle* and *seed*.
        schedule: how many samples an optimizer step takes over all ranks. Without one, each round counts as a step.
        data_parallel_rank: the number of this process among those that share the data, 0 to data_parallel_size - 1.
        data_parallel_size: how many processes share the data; 1 in a process that runs alone.
        ranks: gives these two numbers in their place: `resumable.adapters.distributed.Ranks()` for torch.distributed, and
            the same name in `device_mesh`, `megatron` and `lightning`.
        drop_last: what happens to the tail of an epoch, too short for a round or for a schedule's global batch. False
            trains it, shared out among the ranks (see `padded_samples`). True leaves it out. "carry" fills it up with the
            beginning of the next epoch: nothing is lost, and a pass ends with the step that reaches or crosses the end of
            the epoch. A step larger than the dataset crosses several.
        decrease_batch_size_if_needed: round the schedule's sizes down to whole rounds, as megatron-core's option of that
            name does, instead of refusing others.
        on_mismatch: what to do where a loaded state cannot go on exactly: "error", "warn" or "adopt".
        agreement: compares the positions of all ranks in each `state_dict()` and `load_state_dict()`:
            `resumable.adapters.distributed.AllGather()`. Both are then collectives, to be called on every rank.
        reseed: let random numbers follow the position, so that dropout and augmentation are the same after any resume.
            Before each `dataset[index]`, in workers too, and as each batch is yielded, Python's, NumPy's and torch's
            global generators are seeded from *seed* and the position; the accelerator's as well, for a batch.
        pass_epoch: give `dataset[index]` an int that knows its `.epoch`, and its `.draw`: how often this index came
            earlier in the epoch. It is the same after any resume.
        audit: a folder to which each rank appends what it really trained, for `resumable audit` and `resumable report`; one
            folder for each run.
        options: DataLoader's own: workers, collate_fn, pinning, and so on.

    Raises:
        ConfigurationError: for an empty or iterable dataset, a batch size below 1, a sampler, an epoch without a batch, a
            rank that is missing or out of range, or a schedule whose sizes do not fall into whole rounds. Its early sizes
            are checked at the first batch, because a loaded run may be past them.

    >>> loader = ResumableLoader(range(10), batch_size=4, shuffle=True)
    >>> first = next(iter(loader))
    >>> [len(batch) for batch in loader], loader.epoch
    ([4, 4, 2], 1)
    """

    def __init__(
        self,
        dataset: Dataset[Any] | Any,
        batch_size: SupportsIndex | None = 1,
        shuffle: bool = False,
        *,
        seed: int | None = None,
        order: Order | None = None,
        schedule: BatchSchedule | None = None,
        data_parallel_rank: int | None = None,
        data_parallel_size: int | None = None,
        ranks: Ranks | None = None,
        drop_last: DropLast = False,
        decrease_batch_size_if_needed: bool = False,
        on_mismatch: OnMismatch = "error",
        agreement: AllGather | None = None,
        reseed: bool = False,
        pass_epoch: bool = False,
        audit: str | os.PathLike[str] | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        reseeds, passes_epoch = flag_of("reseed", reseed), flag_of("pass_epoch", pass_epoch)
        policy = Policy(seed is not None or order is not None, on_mismatch)
        check_options(options, _OPTIONS)
        check_in_order(options.get("num_workers", 0), options.get("in_order", True))
        length, tail = length_of(dataset), tail_of(drop_last)
        followed = order_of(length, shuffle, None if order is not None and reseeds else seed, order)
        rank, size = rank_of(data_parallel_rank, data_parallel_size, ranks)
        micro = 1 if batch_size is None else whole_number("batch_size", batch_size, least=1)
        plan = BatchPlan(length, micro * size, tail)
        plan.position_at(0)  # raises where an epoch has no batch
        feed = OrderFeed(followed, plan, Shard(rank, size, is_own=ranks is None))
        feed.note_contents(contents_of(dataset))
        per_batch = None if batch_size is None else micro
        super().__init__(dataset, batch_size=per_batch, drop_last=tail is True, **options)
        stretch = Stretch(
            length=length,
            micro_batch_size=micro,
            data_parallel_size=size,
            num_workers=self.num_workers,
            drop_last=tail,
            schedule=schedule_of(schedule, micro * size, rounds_down=decrease_batch_size_if_needed),
            reseed=(0 if seed is None else seed_of(seed)) if reseeds else None,
        )
        self._progress = LoopProgress(feed, stretch, policy)
        self._progress.check()
        self._state = ResumptionState(agreement=agreement)
        self._is_alone = data_parallel_size is None and ranks is None
        self.passes_epoch = passes_epoch
        tracker = tracker_of(self._state)
        tracker.audit = None if audit is None else AuditLog(audit)
        tracker.follow(self._progress)
        self._install()

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """A loader; around the sampler of a framework that builds a loader anew, one without a position."""
        given: Any = options.get("sampler") if options.get("batch_sampler") is None else options["batch_sampler"]
        given = getattr(given, "_batch_sampler", given)  # Lightning's, which remembers the indices that it predicts
        if isinstance(given, (RebuiltSampler, RankSampler)):
            kept = {name: options[name] for name in _REBUILT_WITH if name in options}
            return cast("Self", SeekableLoader(*args[:1], **kept))
        return super().__new__(cls)

    def _install(self) -> None:
        sampler = ResumableSampler(self._progress.feed, single=self.batch_size is None)
        sampler.passes_epoch = self.passes_epoch
        check = partial(rank_of, None, None, None) if self._is_alone else None  # other processes may have come up
        install(
            self,
            sampler,
            LoopPasses(sampler, self._progress, tracker_of(self._state), hand_over, check, dataset=self.dataset),
        )
        vars(self).update(_resumable_schedule=self._progress, sampler=SequentialRankSampler(sampler, check))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in _INSTALLED}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        tracker_of(self._state).connect(self._progress)
        self._install()

    def __len__(self) -> int:
        self._follow_length()
        return super().__len__()

    def _follow_length(self) -> None:
        passes: object = self._resumable_pass
        if isinstance(passes, LoopPasses):
            passes.follow_length()

    def __repr__(self) -> str:
        order, stretch = self._progress.feed.identity, self._progress.stretch
        seed = "" if order.seed is None else f", seed={order.seed}"
        sizes = f"batch_size={stretch.micro_batch_size}"
        if stretch.data_parallel_size > 1:
            sizes += f", data_parallel_size={stretch.data_parallel_size}"
        return f"<{type(self).__name__} over {order.length} samples, {order.kind}{seed}, {sizes}: {self._state.describe()}>"

    @property
    def stretch(self) -> Stretch:
        """The loader's configuration, from the position where it began or was loaded."""
        return self._progress.stretch

    @property
    def state(self) -> ResumptionState:
        """The position, to be saved, loaded and committed."""
        self._follow_length()
        return self._state

    @property
    def num_microbatches(self) -> int:
        """Batches of this rank that the present optimizer step takes; 1 without a schedule.

        The present step is the one whose batches the loop is given, until its last one; after `commit()` it is the next
        step. The last step of an epoch may have fewer batches.

        Raises:
            ConfigurationError: if a step's size does not fall into whole rounds.
        """
        return 1 if self._resumable_schedule is None else self._resumable_schedule.num_microbatches

    @property
    def padded_samples(self) -> int:
        """Samples that the end of the present epoch trains a second time: see `ResumptionState.padded_samples`."""
        return self._state.padded_samples

    @property
    def epoch(self) -> int:
        """The epoch that the next pass belongs to."""
        tracker = tracker_of(self._state)
        asked = tracker.asked()
        return self._progress.next_start.epoch if tracker.progress is self._progress else asked.epoch

    @property
    def batches_done(self) -> int:
        """Batches of the present epoch that are trained, so the next pass leaves them out; 0 at an epoch's start.

        Pass it as `initial` to a progress bar over `len(loader)` batches, and as `start` to `enumerate`.

        >>> loader = ResumableLoader(range(10), batch_size=4)
        >>> loader.load_state_dict({"consumed_samples": 4})
        >>> [(number, batch.tolist()) for number, batch in enumerate(loader, start=loader.batches_done)]
        [(1, [4, 5, 6, 7]), (2, [8, 9])]
        """
        is_loops_own = tracker_of(self._state).progress is self._progress
        return self._progress.batches_done if is_loops_own else self._progress.batches_before(self._state.position)

    def forever(self) -> EndlessBatches[T]:
        """The batches from the position on, epoch after epoch, for loops that count steps: torchtitan's, and others.

        Each `next()` is the next batch. All of them count as trained, from the first on, or what is committed; nothing is
        read ahead, and the next epoch begins when its first batch is asked for. With a schedule, take `num_microbatches`
        of them and call `commit()`. `close()` ends the pass that is under way, and its workers.

        >>> loader = ResumableLoader(range(3), batch_size=2)
        >>> batches = loader.forever()
        >>> [next(batches).tolist() for _ in range(3)], loader.state.position
        ([[0, 1], [2], [0, 1]], Position(consumed_samples=5, epoch=1, offset=2))
        """
        return EndlessBatches(self._next_pass)

    def windows(self, batches: SupportsIndex) -> Windows[T]:
        """An iterable of *batches* batches that goes on where its last pass ended: for validations of a part of the data.

        Return it from Lightning's `val_dataloader`, or iterate it in a loop, and save its `state_dict()` with the rest. It
        goes over the ends of epochs. What a pass yields counts, also where the loop leaves it early. A pass that begins ends
        the one before it.

        Raises:
            ConfigurationError: for *batches* below 1, and with a schedule, whose steps a window could cut.

        >>> valid = ResumableLoader(range(5), batch_size=1).windows(3)
        >>> [[int(batch) for batch in valid] for _ in range(3)], valid.state.consumed_samples
        ([[0, 1, 2], [3, 4, 0], [1, 2, 3]], 9)
        """
        if self.stretch.schedule is not None:
            raise ConfigurationError(
                "A window of batches could end within a step of the schedule.",
                [("batches", batches), ("schedule", self.stretch.schedule)],
                "Validate with a loader that has no schedule.",
            )
        return Windows(self, whole_number("batches", batches, least=1), self._next_in_window)

    def _next_in_window(self, is_first: bool, /) -> Iterator[T]:
        passes: Any = self._resumable_pass
        passes.in_windows = True
        try:
            return self._next_pass(is_first)
        finally:
            passes.in_windows = False

    def _next_pass(self, is_first: bool, /) -> Iterator[T]:
        self.state.position  # noqa: B018  # the loop counts no epochs that it could be told of
        if is_first:
            self._progress.forget_uncommitted()
        batches = iter(self)
        self._progress.note_training()
        return batches

    def commit(self, *, batches: SupportsIndex | None = None) -> None:
        """Count everything yielded so far as trained, or *batches* batches more; see `ResumptionState.commit`."""
        self.state.commit(batches=batches)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the position to the file *path*; see `ResumptionState.save`."""
        self.state.save(path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from the position in a file of `save`.

        Raises:
            MissingStateError: if there is no such file: a first run.
            StateError, MismatchError: as `ResumptionState.load` and `load_state_dict`.
        """
        self.load_state_dict(read(path))

    def state_dict(self) -> dict[str, Any]:
        """The position as a dict of JSON types; see `ResumptionState.state_dict`."""
        return self.state.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved position; see `ResumptionState.load_state_dict`."""
        self.state.load_state_dict(state_dict)


_OPTIONS: Final = tuple(signature(ResumableLoader.__init__).parameters)[1:]
"""The loader's own options, read here because Lightning wraps `__init__` while a loader hook runs."""

_INSTALLED: Final = ("_resumable_pass", "_resumable_sampler", "_resumable_schedule", WINDOW)

_REBUILT_WITH: Final = ("dataset", "batch_size", "sampler", "batch_sampler", *LoaderOptions.__annotations__)
