"""Train loaders over streams: iterable datasets and any other iterable, where no position can be computed.

the dataset saves its own state, no workers   the state before the last trained batch is given back, and that batch read again
the same, with workers                        torchdata's StatefulDataLoader carries it, where it is installed
it saves nothing                              the batches before the position are read again and dropped
several ranks, whatever it saves              the same: only rank 0's state is saved, and the other ranks' differ

The last trained batch is compared with the one that is read again, by a digest: a state that leaves something out, such
as a shuffle buffer, gives another. A state is where one pass goes on; the passes that follow are whole, also where the
stream would begin each of them at the state that it has loaded.

On several ranks the dataset must yield each rank's own samples, as it does without this package. How it does that is
unknown here, so with another number of ranks there is no position in mid-epoch to go on from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from resumable.errors import DecorationError, MismatchError, warn
from resumable.extras import naming_the_extra
from resumable.feeds.feed import Shard, StreamGrouping
from resumable.loading.arguments import check_in_order
from resumable.loading.batch_digest import batch_digest
from resumable.loading.dataloader import Iterate, is_dataloader, seekable
from resumable.loading.epochs import tell_epoch
from resumable.loading.map_loader import TrainLoader
from resumable.loading.stream_numbers import number_batches, seeded
from resumable.loading.stream_state import END, StreamState, state_of, state_of_dataloader
from resumable.loading.trainer_loops import trainer_loop
from resumable.saved.snapshot import Check, LoaderPosition, save_nothing
from resumable.steps.batch_plan import UNBOUNDED, BatchPlan
from resumable.stopping.workers import keep_apart

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["StreamLoader"]

_KEPT = 256
"""Batches whose state is kept: an accumulation window and what the trainer reads ahead must fit into it."""

_LOOKED_AT = (
    "The train loader was iterated outside of the fit's own loop, and its stream keeps a state that all of its iterators "
    "move: the fit may lose or repeat what is read here.\nLook at the batches of another instance of the dataset."
)

_LOST = (
    "The dataset's own state is not carried over: only rank 0's is saved, and those of the other ranks differ.\n"
    "The trained part of the epoch is read again. Let the stream follow from what each rank can compute, or use a "
    "map-style dataset."
)
_READ_AGAIN = (
    "This resume reads the stream again up to its position: {why}.\n"
    "Give the dataset state_dict and load_state_dict, or use a map-style dataset, and it takes milliseconds."
)
_NOT_COMPARED = "\nOn several ranks nothing compares what is read with what was trained: each rank's stream must give the same again."
_IN_WORKERS = "the dataset saves its state in its workers, where only torchdata reaches it"
_STATELESS = "it neither saves its state nor can a position in it be computed"
_LIES = "The stream does not go on where its state was saved: the last trained batch, read again, is another one."
_LIES_ADVICE = (
    'Samples may be lost or repeated. Its state leaves something out, such as a shuffle buffer: streams="read_again" '
    "reads the stream again from its start, which is exact. If samples are only changed at random, all is well."
)
_DIFFERS = "The stream is not the one that was trained: its last trained batch, read again, is another one."
_DIFFERS_BY_PASS = (
    "The stream has another order in each pass, and nothing tells it which pass goes on: it begins with its first one.\n"
    "The first batch:"
)
_DIFFERS_ADVICE = (
    "Let its order follow from a seed and from the epoch that set_epoch(epoch) gives it, or save its state. If samples "
    "are only changed at random, all is well."
)


class StreamLoader(TrainLoader):
    """A loader whose passes the dataset's own state carries on, or reading again.

    *stateful* turns a DataLoader into one that saves its dataset's state in workers; it gives None where it cannot.
    With *reads_again* no state is used.
    """

    trains_in_loops: bool = False
    """Whether a pass outside of a trainer is one that trains."""

    def __init__(
        self,
        loader: Any,
        shard: Shard,
        stateful: Callable[[DataLoader[Any]], DataLoader[Any] | None],
        *,
        reads_again: bool = False,
    ) -> None:
        shard = replace(shard, already_sharded=shard.size > 1)
        self.num_workers: int = getattr(loader, "num_workers", 0)
        self._reads_again = reads_again
        self._why = _STATELESS
        if is_dataloader(loader):
            check_in_order(self.num_workers, getattr(loader, "in_order", True), DecorationError)
            state = None
            if not reads_again:
                # torchdata's loader on several ranks too: its state would be lost
                loader, state = state_of_dataloader(loader, stateful if shard.size == 1 else lambda given: given)
                if state is None and state_of(loader.dataset) is not None:
                    self._why = _IN_WORKERS
            self.loader: Any = keep_apart(seekable(loader))
        else:
            state = None if reads_again else state_of(loader)
            self.loader = (_SizedStream if _is_sized(loader) else _Stream)(loader)
        self._loses_state = shard.size > 1 and state is not None
        self._state: StreamState | None = None if self._loses_state else state
        self._feed = StreamGrouping(_plan_of(loader, shard.size), shard)
        stays = not self.num_workers or getattr(loader, "persistent_workers", False)
        # workers that end with their epoch take their states with them: the next ones get the dataset as it was
        is_in_workers = state is not None and state.is_in_workers
        self._begins_afresh = not stays and (state is None or is_in_workers)
        # torchdata 0.11 saves of a worker that stays, and has not given a batch of its pass yet, the end of the last pass
        self._first_states: int = self.num_workers if stays and is_in_workers else 0
        self._noted: deque[tuple[int, LoaderPosition]] = deque()
        self._has_begun = False
        self._begins_epoch = True
        self._at = LoaderPosition()
        # where all passes may be the first one's after a resume: the first batch of the last pass, and whether that matters
        self._remembers = state is None and not (self._begins_afresh or reads_again)
        self._first_digest: object = None
        self._is_unsure = False

    @property
    @override
    def feed(self) -> StreamGrouping:
        return self._feed

    @override
    def follow(self, start: Callable[[], LoaderPosition], count: Callable[[], int | None], /) -> None:
        # a stream's passes end where it does, and Lightning limits them by itself
        vars(self.loader)["_resumable_pass"] = _Passes(self._pass, start)

    @override
    def mark(self) -> None:
        self._begins_epoch = True

    @override
    def place_at(self, batches: int, /) -> LoaderPosition | None:
        return next((place for number, place in self._noted if number == batches), None)

    def _pass(self, start: Callable[[], LoaderPosition], iterate: Iterate[Any]) -> Iterator[Any]:
        """One pass; *iterate* begins torch's own."""
        loop = trainer_loop()
        if not self.trains_in_loops if loop is None else not loop.trains:
            if loop is None and self._state is not None:
                warn(_LOOKED_AT)
            yield from iterate()
            return
        at, given = start(), 0
        if self.is_cycled and not self._begins_epoch:  # the trainer begins it again while its epoch lasts
            at, given = LoaderPosition(self._at.epoch + 1), self._noted[-1][0] if self._noted else 0
        else:
            self._noted = deque(maxlen=_KEPT)
        self._at, self._begins_epoch = at, False
        yield from self._pass_from(at, given, iterate)

    def _pass_from(self, at: LoaderPosition, given: int, iterate: Iterate[Any]) -> Iterator[Any]:
        """The pass that goes on at *at*, where *given* batches of the epoch came from passes before it."""
        size, noted = self.feed.plan.batch_size, self._noted
        trained = at.offset // size
        if self._loses_state and (at.epoch or at.offset) and not self._has_begun:
            warn(_LOST)
        is_first, self._has_begun = not self._has_begun, True
        state, before, first_states = self._state, None, 0 if is_first else self._first_states
        can_check = self.shard.size == 1
        if self._remembers and at.check is not None:
            before = self._first_digest = at.check.before
            self._is_unsure = at.epoch > 0 and not trained
        if state is not None and at.state is not None and (trained or not self._begins_afresh):
            batches = self._restore(state, at, trained, iterate)
            before, first_states = (at.state, 0) if trained else (self._between(lambda: at.state), self._first_states)
        elif trained:
            batches, can_check = self._read_again(at, trained, iterate), can_check and state is None
        else:
            if is_first and self._reads_again:
                self._read_former_passes(at.epoch, iterate)
            before = None if state is None or is_first else self._between(state.save)
            batches = self._next_pass(at.epoch, iterate)
        for number, batch in enumerate(batches, start=trained + 1):
            digest = batch_digest(batch) if can_check and number != first_states else None
            now = None if state is None or number < first_states else state.save()
            if self._remembers and number == 1:
                before = self._compare_passes(digest)
            check = None if digest is None else Check(digest, before)
            noted.append((given + number, LoaderPosition(at.epoch, number * size, None, now, check)))
            before, can_check = before if self._remembers else now, self.shard.size == 1
            yield batch

    def _begin(self, iterate: Iterate[Any], epoch: int, number: int = 0) -> Iterator[Any]:
        """A pass whose first batch is the *number*-th of *epoch*; workers count by themselves, from the pass's first."""
        seed = self.samples_seed
        if seed is None:
            return iterate()
        if not self.num_workers:
            return seeded(iterate, seed, epoch, number)
        number_batches(self.loader, seed, epoch)
        return iterate()

    def _restore(self, state: StreamState, at: LoaderPosition, trained: int, iterate: Iterate[Any]) -> Iterator[Any]:
        """The rest of the pass that *at* lies in; at an epoch's start, the whole pass that follows it."""
        has_ended, check = not trained, at.check
        epoch = at.epoch - has_ended if check is not None else at.epoch
        follows_epoch = self.loader.begin_epoch(epoch)  # and not in mid-pass: litData would shuffle the rest anew
        if check is None:  # from before there was one
            return state.pass_from(at.state, partial(self._begin, iterate, epoch, trained), epoch)
        read_last = partial(self._begin, iterate, epoch, (trained or self.feed.plan.batches) - 1)
        last, batches = state.go_back(check.before, read_last)
        if last is END and trained == 1:  # it was the end of the pass before
            batches = self._next_pass(at.epoch, iterate)
            last = next(batches, END)
        if trained == 1 and check.before is not None and _digest(last) != check.digest:
            last, batches = state.go_back(None, read_last)  # a pass that begins alike each time
        found = [("saved", check.digest), ("read again", _digest(last))]
        may_follow = epoch > 0 and not self._begins_afresh and (check.before is None or trained == 1)
        if may_follow and _digest(last) != check.digest:
            if check.before is not None:
                warn(_LIES, found, _LIES_ADVICE)
            begin = partial(self._begin, iterate, at.epoch, trained)
            return state.pass_from(at.state, begin, at.epoch)  # a pass that follows from those before it
        if last is END and trained:
            raise _ended(trained, trained - 1)
        return self._go_on(state, at, iterate, batches, found, follows_epoch=follows_epoch)

    def _go_on(
        self,
        state: StreamState,
        at: LoaderPosition,
        iterate: Iterate[Any],
        batches: Iterator[Any],
        found: Sequence[tuple[str, object]],
        *,
        follows_epoch: bool,
    ) -> Iterator[Any]:
        """What follows the last trained batch, whose digests are *found*: *batches*, or the next pass at an epoch's start."""
        plan, trained = self.feed.plan, at.offset // self.feed.plan.batch_size
        (_, saved), (_, read) = found
        if saved != read and (trained or not follows_epoch):
            if not trained and plan.limit is None:
                return self._pass_after(state, at, iterate, found)
            warn(_LIES, found, _LIES_ADVICE)
        if trained:
            return batches
        if plan.length >= UNBOUNDED and plan.limit is None:
            next(batches, END)  # the trainer asked for more, which is how it learned of the end
        return self._next_pass(at.epoch, iterate)

    def _pass_after(
        self, state: StreamState, at: LoaderPosition, iterate: Iterate[Any], found: Sequence[tuple[str, object]]
    ) -> Iterator[Any]:
        """The whole pass that follows from the end of the one before, whose last batch cannot be read again.

        What a state leaves out within a pass, such as a shuffle buffer, is empty between two. The pass is begun twice from
        the same state: where its beginning differs, or a generator does, that state leaves out what leads from pass to pass.
        """

        def begun() -> tuple[Any, Iterator[Any], list[object]]:
            state.disturb()
            batches = state.pass_from(at.state, partial(self._begin, iterate, at.epoch), at.epoch)
            first = next(batches, END)
            return first, batches, [_digest(first), state.generators()]

        *_, once = begun()
        first, batches, again = begun()
        if once != again:
            warn(_LIES, found, _LIES_ADVICE)
        return batches if first is END else chain([first], batches)

    def _between(self, saved: Callable[[], object]) -> object:
        """What the stream has *saved* at the end of a pass, which leads to the first batch of the next one; None elsewhere."""
        is_led = self._state is not None and not self._state.is_in_workers and self.feed.plan.limit is None
        return saved() if is_led else None

    def _next_pass(self, epoch: int, iterate: Iterate[Any]) -> Iterator[Any]:
        """The whole pass of *epoch*."""

        def begin() -> Iterator[Any]:
            if self.loader.begin_epoch(epoch):
                self._is_unsure = False
            return self._begin(iterate, epoch)

        return begin() if self._state is None else self._state.next_pass(begin, epoch)

    def _compare_passes(self, digest: str | None) -> object:
        """Warn, once, where passes differ of a stream that was resumed at an epoch's start and knows of no epochs."""
        last, self._first_digest = self._first_digest, digest
        if self._is_unsure and None not in (last, digest) and last != digest:
            self._is_unsure = False
            warn(_DIFFERS_BY_PASS, [("of the last pass", last), ("of this pass", digest)], _DIFFERS_ADVICE)
        return digest

    def _read_again(self, at: LoaderPosition, trained: int, iterate: Iterate[Any]) -> Iterator[Any]:
        """The pass of *at* without its *trained* batches, which are read and dropped."""
        if self._reads_again:
            self._read_former_passes(at.epoch, iterate)
        else:
            warn(_READ_AGAIN.format(why=self._why) + ("" if self.shard.size == 1 else _NOT_COMPARED))
        with naming_the_extra():
            from tqdm.auto import tqdm  # comes with Lightning, under which streams are read
        self.loader.begin_epoch(at.epoch)
        batches, last = self._begin(iterate, at.epoch), None
        for number in tqdm(range(trained), desc="reading again", unit="batch", leave=False):
            last = next(batches, END)
            if last is END:
                raise _ended(trained, number)
        if at.check is not None and batch_digest(last) != at.check.digest:
            warn(_DIFFERS, [("saved", at.check.digest), ("read again", batch_digest(last))], _DIFFERS_ADVICE)
        return batches

    def _read_former_passes(self, epochs: int, iterate: Iterate[Any]) -> None:
        """Bring a stream, which may remember its passes, to where *epochs* of them have led it."""
        if self._begins_afresh or self.loader.begin_epoch(epochs):
            return
        for epoch in range(epochs):
            deque(islice(self._begin(iterate, epoch), self.feed.plan.limit), maxlen=0)


class _Passes(partial[Iterator[Any]]):
    """The passes of a trainer's; those of a copy of the loader are torch's own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (_Passes, "unfollowed")

    @staticmethod
    def unfollowed(iterate: Iterate[Any]) -> Iterator[Any]:
        return iterate()


class _Stream:
    """An iterable that is no DataLoader, with passes that start where they are told."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable
        save_nothing(self)

    def __getattr__(self, name: str) -> Any:
        if name == "_iterable":
            raise AttributeError(name)
        return getattr(self._iterable, name)

    def __iter__(self) -> Iterator[Any]:
        begin = vars(self).get("_resumable_pass")
        return iter(self._iterable) if begin is None else begin(lambda: iter(self._iterable))

    def begin_epoch(self, epoch: int) -> bool:
        """Tell the stream that its next pass is that of *epoch*; False where it cannot be told."""
        return tell_epoch(self._iterable, epoch)


class _SizedStream(_Stream):
    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]  # only sized ones become one


def _plan_of(loader: Any, ranks: int) -> BatchPlan:
    """Samples where the dataset has a length, otherwise whole batches; without an end where the loader has no length."""
    size, drop_last = getattr(loader, "batch_size", None) or 1, bool(getattr(loader, "drop_last", False))
    if not _is_sized(loader):
        return BatchPlan(UNBOUNDED, size * ranks)
    dataset: Any = getattr(loader, "dataset", None)
    if _is_sized(dataset):
        exact = BatchPlan(len(dataset), size, drop_last)
        if exact.batches == len(loader):
            return BatchPlan(exact.length * ranks, size * ranks, drop_last)
    return BatchPlan(len(loader) * size * ranks, size * ranks)


def _digest(batch: object) -> str | None:
    return None if batch is END else batch_digest(batch)


def _is_sized(thing: Any) -> bool:
    try:
        len(thing)
    except (TypeError, NotImplementedError):
        return False
    return True


def _ended(trained: int, found: int) -> MismatchError:
    return MismatchError(
        "The stream ends before the position that was saved.",
        [("batches trained of its epoch", trained), ("batches that it gave", found)],
        "Give the run the stream that it began with. If it is the same one, its state leaves something out: "
        'streams="read_again" reads it again from its start. Beside a longer loader, in the mode "max_size", '
        'a stream without a length that has ended is refused too: give it a length, or use the mode "min_size".',
    )
