"""A stream in a loop without Lightning: its passes go on at a position that is saved as a few values.

of each rank's own     the stream yields this rank's samples alone; the position is this rank's
shared                 the stream is the same on all ranks: each reads all of its batches, and yields its one of each round

    batches of a shared stream    0 1 | 2 3 | 4 5 | 6        2 ranks: the position is always the end of a round, the same
    rank 1 yields                   1     3     5 | 6        on both, and a round of any other number of ranks begins there

Where passes repeat, the next pass fills a round up; otherwise batches of the last round come twice in it.
"""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from resumable.errors import ConfigurationError, MismatchError, ResumptionError, StateError
from resumable.feeds.feed import Shard
from resumable.loading.endless import EndlessBatches
from resumable.loading.stream_loader import StreamLoader
from resumable.saved.fields import START_AGAIN
from resumable.saved.snapshot import Check, LoaderPosition

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["LoopStream"]

_FORMAT: Final = 1


class LoopStream:
    """The passes of *loader*, over an iterable dataset, as *rank* of *size* yields them; what was yielded is trained.

    *stateful* and *reads_again* are those of a `StreamLoader`. With *repeats*, an iterator goes on with the next pass, without an end.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        rank: int,
        size: int,
        stateful: Callable[[DataLoader[Any]], DataLoader[Any] | None],
        *,
        is_shared: bool,
        repeats: bool,
        reads_again: bool = False,
    ) -> None:
        self._stream = StreamLoader(loader, Shard(), stateful, reads_again=reads_again)
        self._stream.trains_in_loops = True
        self._stream.follow(lambda: self._read, lambda: None)
        self._rank, self._size = rank, size
        self._is_shared, self._repeats = is_shared, repeats
        self._read: LoaderPosition = LoaderPosition()
        self._yielded: LoaderPosition = self._read
        self._running: Callable[[], object] = _nothing

    @property
    def batches_done(self) -> int:
        """Batches of the present pass that are trained, those of all ranks of a shared stream."""
        return self._yielded.offset // self._batch_size

    @property
    def _batch_size(self) -> int:
        return self._stream.feed.plan.batch_size

    @property
    def _key(self) -> str:
        """The name of what this rank saves; of a stream of its own, no other rank saves the same."""
        return "stream" if self._is_shared else f"dp_rank_{self._rank}"

    def __iter__(self) -> Iterator[Any]:
        if self._running() is not None:
            raise ConfigurationError(
                "A stream is iterated once at a time: a second iterator would move the first one.",
                [("batches of its pass", self.batches_done)],
                "Let go of the first iterator (`del iterator`), or end it by `close()`.",
            )
        batches = self._rounds()
        self._running = weakref.ref(batches)
        return batches

    def _rounds(self) -> Iterator[Any]:
        self._read = self._yielded
        batches = EndlessBatches(lambda _: self._pass()) if self._repeats else self._pass()
        try:
            while of_round := list(islice(batches, self._size if self._is_shared else 1)):
                self._yielded = self._read
                yield of_round[self._rank % len(of_round) if self._is_shared else 0]
            self._yielded = self._read
        finally:
            self._running = _nothing

    def _pass(self) -> Iterator[Any]:
        """The rest of the pass that `_read` lies in."""
        for number, batch in enumerate(self._stream.loader, start=self._read.offset // self._batch_size + 1):
            self._read = self._stream.place_at(number) or self._read
            yield batch
        at = self._read
        self._read = LoaderPosition(at.epoch + 1, 0, None, at.state, at.check)

    def state_dict(self) -> dict[str, Any]:
        """The position; of a shared stream the same on every rank. What the stream saves is bytes, which DCP leaves whole."""
        at = self._yielded
        check = None if at.check is None else (at.check.digest, at.check.before)
        sizes = {"format": _FORMAT, "world_size": self._size, "batch_size": self._batch_size}
        return {**sizes, self._key: pickle.dumps((at.epoch, at.offset, at.state, check))}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved position, from the next `iter()` on.

        Raises:
            ResumptionError: while it is iterated.
            StateError: if it cannot be read.
            MismatchError: where no position leads on: a stream of each rank's own on another number of ranks, or another
                batch size in the middle of a pass.
        """
        if self._running() is not None:
            raise ResumptionError(
                "A state cannot be loaded while the stream is being iterated: other batches are under way.",
                [("batches of its pass", self.batches_done)],
                "Load it before the loop, or leave the loop first. Nothing was loaded.",
            )
        at, sizes = self._read_state(state_dict)
        if not self._is_shared and sizes["world_size"] != self._size:
            raise MismatchError(
                "Each rank has a stream of its own, so what it is given depends on the number of ranks.",
                [("ranks of the saved run", sizes["world_size"]), ("ranks now", self._size)],
                "Go on with as many ranks. A dataset that yields all samples on every rank goes on with any number of "
                "them: ParallelAwareDataloader(..., already_sharded=False). Nothing was loaded.",
            )
        if at.offset and sizes["batch_size"] != self._batch_size:
            raise MismatchError(
                "In the middle of its pass, a stream goes on in batches of the same size.",
                [("saved batch_size", sizes["batch_size"]), ("current", self._batch_size)],
                "Go on with the saved batch_size. Nothing was loaded.",
            )
        self._yielded = at

    def _read_state(self, state: Mapping[str, Any]) -> tuple[LoaderPosition, dict[str, int]]:
        names = ("format", "world_size", "batch_size", self._key)
        missing = [name for name in names if name not in state]
        if missing:
            raise StateError(
                "The state is none of this stream.",
                [("missing", missing), ("got", sorted(map(str, state)))],
                START_AGAIN,
            )
        if state["format"] != _FORMAT:
            raise StateError("An unknown format.", [("saved", state["format"]), ("known", _FORMAT)], START_AGAIN)
        try:
            epoch, offset, own, check = pickle.loads(state[self._key])
            at = LoaderPosition(int(epoch), int(offset), None, own, None if check is None else Check(*check))
        except Exception as error:  # pickles that are damaged raise errors of any kind
            raise StateError("The state of the stream cannot be read.", [("error", error)], START_AGAIN) from error
        return at, {name: int(state[name]) for name in names[:-1]}


def _nothing() -> None:
    return None
