"""torchtitan: its `ParallelAwareDataloader`, whose state is the same on every rank and loads at any data-parallel degree.

a map-style dataset                               shared out here, shuffled here; goes on with any number of ranks
an iterable one that yields all samples           each rank reads them, and takes its batch of each round; as above
an iterable one that yields this rank's alone     as in torchtitan; goes on with the same number of ranks

Source: torchtitan/components/dataloader.py of torchtitan 0.2.2, the same on its main branch until August 2026 (before
commit 1b04fc1c3). Since then torchtitan builds its loader from `config.dataloader`, by default over Grain, and any
`BaseDataLoader` may take that place:

    class Data(ParallelAwareDataloader, BaseDataLoader):
        @dataclass(kw_only=True, slots=True)
        class Config(BaseDataLoader.Config):
            batch_size: int = 8

        def __init__(self, config, *, dp_rank, dp_world_size, **context):
            super().__init__(MyDataset(), dp_rank, dp_world_size, batch_size=config.batch_size, shuffle=True, repeat=True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from torch.utils.data import DataLoader, IterableDataset

from resumable.adapters.torchdata import stateful
from resumable.errors import ConfigurationError, warn
from resumable.loader import ResumableLoader
from resumable.loading.arguments import rank_of
from resumable.loading.loop_stream import LoopStream

__all__ = ["ParallelAwareDataloader"]

_OF_WORKERS: Final = ("persistent_workers", "prefetch_factor")


class ParallelAwareDataloader:
    """A loader for torchtitan's trainer, and loops of its kind: `iter(loader)` once, `next()` for each micro batch.

    What it has yielded counts as trained when torchtitan saves, after a step. Each `iter()` goes on where the last one
    stopped: it is meant for training, not for validation.

    Args:
        dataset: map-style, and then whole on every rank; or iterable, and then with a state_dict and load_state_dict of its
            own, or read again from its start on a resume.
        dp_rank: the data-parallel rank of this process.
        dp_world_size: the data-parallel degree.
        batch_size: samples of one batch on this rank.
        collate_fn: makes a batch of a list of samples.
        repeat: go on with the next epoch, without an end. Without it each `iter()` ends with its epoch, and torchtitan's
            trainer with it.
        already_sharded: of an iterable dataset, whether it yields this rank's samples alone, as torchtitan's own do. If
            not, it must yield all of them on every rank, and each rank takes its share.
        streams: how an iterable dataset goes on: "by_state", by what it saves of itself, or "read_again", from its start, where
            that leaves something out, such as a shuffle buffer.
        options: those of a `ResumableLoader` for a map-style dataset: shuffle, seed, drop_last, num_workers and so on; of
            torch's DataLoader for an iterable one. As in torchtitan, what is meant for workers is ignored without them.

    Raises:
        ConfigurationError: for a rank out of range, and what a `ResumableLoader` refuses.

    >>> loader = ParallelAwareDataloader(range(5), dp_rank=0, dp_world_size=1, batch_size=2, repeat=True)
    >>> batches = iter(loader)
    >>> [next(batches).tolist() for _ in range(4)]
    [[0, 1], [2, 3], [4], [0, 1]]
    """

    def __init__(
        self,
        dataset: Any,
        dp_rank: int,
        dp_world_size: int,
        batch_size: int | None = 1,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        *,
        repeat: bool = False,
        already_sharded: bool = True,
        streams: str = "by_state",
        **options: Any,
    ) -> None:
        self.dp_rank: int
        self.dp_world_size: int
        self.dp_rank, self.dp_world_size = rank_of(dp_rank, dp_world_size, None)
        self.dataset = dataset
        self.batch_size = batch_size
        self.repeat = repeat
        if streams not in ("by_state", "read_again"):
            raise ConfigurationError(
                "A stream goes on by its own state, or by reading it again.",
                [("streams", streams)],
                'Pass streams="by_state" or "read_again".',
            )
        left_out = {"snapshot_every_n_steps", *(() if options.get("num_workers") else _OF_WORKERS)}
        options = {name: value for name, value in options.items() if name not in left_out}
        self.loader: ResumableLoader[Any] | LoopStream
        """What is iterated: its `state` and `commit()` are there for map-style datasets."""
        if not _is_iterable(dataset):
            self.loader = ResumableLoader(
                dataset,
                batch_size,
                collate_fn=collate_fn,
                data_parallel_rank=self.dp_rank,
                data_parallel_size=self.dp_world_size,
                **options,
            )
            return
        if options.pop("shuffle", False) or "seed" in options:
            raise ConfigurationError(
                "An iterable dataset decides itself how it shuffles.",
                [("dataset", type(dataset).__name__)],
                "Leave out shuffle= and seed=.",
            )
        plain: DataLoader[Any] = DataLoader(dataset, batch_size=batch_size, collate_fn=collate_fn, **options)
        self.loader = LoopStream(
            plain,
            self.dp_rank,
            self.dp_world_size,
            stateful,
            is_shared=not already_sharded,
            repeats=repeat,
            reads_again=streams == "read_again",
        )

    def __iter__(self) -> Iterator[Any]:
        loader = self.loader
        return loader.forever() if self.repeat and isinstance(loader, ResumableLoader) else iter(loader)

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        if not isinstance(self.loader, ResumableLoader):
            raise TypeError(f"{type(self.dataset).__name__} has no length")
        return len(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """The position: of a map-style dataset, and of an iterable one that all ranks share, the same on every rank."""
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved position; an empty one, which torchtitan allows, moves nothing.

        Raises:
            StateError: if it cannot be read.
            MismatchError: if it cannot go on exactly.
        """
        if not state_dict:
            warn("The checkpoint has an empty state of the data: the loader stays where it is.")
            return
        self.loader.load_state_dict(state_dict)

    def close(self) -> None:
        """Called by torchtitan at the end of a run; iterators are ended by those who hold them."""


def _is_iterable(dataset: Any) -> bool:
    return isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")
