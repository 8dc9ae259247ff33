"""Which samples each step of a run trained or will train, and which steps train a sample: read off a saved state.

    step n     ──► its stretch of the ledger ──► where it begins and ends ──► the order's indices there, rank by rank
    sample i   ──► its place in each epoch   ──► the step that reaches it, by bisection over the same steps

Steps are counted from 1: step n is the one after which `global_step` is n. Nothing is read from the dataset.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, zip_longest
from typing import Final

import numpy as np

from resumable.checks import whole_number
from resumable.data_sampler.cyclic_order import CyclicOrder
from resumable.errors import ConfigurationError, StateError
from resumable.feeds.feed import Shard
from resumable.feeds.order_feed import OrderFeed
from resumable.orders.identity import Identity
from resumable.orders.orders import Sequential, Shuffled
from resumable.position import Position
from resumable.protocols import Order
from resumable.saved.ledger import Stretch
from resumable.saved.snapshot import Snapshot
from resumable.steps.batch_plan import UNBOUNDED

__all__ = ["History", "TrainedStep", "known_order"]

_MOST_PASSES: Final = 1_000
"""Epochs in a row that may leave a sample out, before no later one is looked for."""

_AT_ONCE: Final = 1 << 20
"""Indices of a user's order that are searched at once."""


@dataclass(frozen=True, slots=True)
class TrainedStep:
    """One optimizer step: from where to where it leads, and its dataset indices.

    *ranks* has the micro batches of each data-parallel rank, as lists of indices. Where an epoch's end is filled so that
    all ranks get equally many, *padded* has the fillers, which lie at the end of their ranks' last micro batches.
    """

    number: int
    begins: Position
    samples: int
    is_past: bool
    ranks: tuple[list[list[int]], ...]
    padded: tuple[int, ...] = ()

    def indices(self, rank: int | None = None) -> list[int]:
        """The indices of *rank*, or of all ranks, round by round.

        Raises:
            ConfigurationError: if the step had no such rank.
        """
        if rank is not None:
            if not 0 <= rank < len(self.ranks):
                raise ConfigurationError(
                    "The step has no such data-parallel rank.",
                    [("rank", rank), ("ranks that are known apart", len(self.ranks))],
                    "Ask for one of them, counted from 0, or for all.",
                )
            return list(chain.from_iterable(self.ranks[rank]))
        return list(chain.from_iterable(chain.from_iterable(zip(*self.ranks, strict=True))))


@dataclass(frozen=True, slots=True)
class _Span:
    """A stretch, and what follows it; nothing follows where the run goes on in it."""

    stretch: Stretch
    following: Stretch | None

    def begin_of(self, step: int) -> Position:
        """Where the step after *step* completed ones begins."""
        stretch = self.stretch
        return stretch.position_after(step - stretch.step) if step > stretch.step else stretch.begins

    def end_of(self, step: int) -> int:
        """The samples that are consumed after *step* steps; a stretch that follows has cut its last one."""
        consumed = self.begin_of(step).consumed_samples
        return consumed if self.following is None else min(consumed, self.following.sample)

    def step_at(self, epoch: int, place: int) -> int | None:
        """The step that trains *place* of *epoch*, counted from 1; None where none does."""
        first, after = self.stretch.step, self._steps_after(epoch, place)
        while after - first > 1:
            middle = (first + after) // 2
            first, after = (middle, after) if self._is_before(middle, epoch, place) else (first, middle)
        begins, plan = self.begin_of(first), self.stretch.batching
        at = place - begins.offset + plan.reach * (epoch - begins.epoch)
        is_in_epoch = plan.carries or epoch == begins.epoch
        return first + 1 if is_in_epoch and 0 <= at < self.end_of(first + 1) - begins.consumed_samples else None

    def _steps_after(self, epoch: int, place: int) -> int:
        """More steps than lead to *place* of *epoch*."""
        if self.following is not None:
            return self.following.step
        more = 1
        while self._is_before(self.stretch.step + more, epoch, place):
            more *= 2
        return self.stretch.step + more

    def _is_before(self, step: int, epoch: int, place: int) -> bool:
        at = self.begin_of(step)
        return (at.epoch, at.offset) <= (epoch, place)

    def steps_at(self, epoch: int, place: int) -> Iterator[int]:
        """The step that reaches *place* of *epoch*, and the last one of it, where that is filled with the sample again."""
        reached = self.step_at(epoch, place)
        if reached is not None:
            yield reached
        plan, ranks = self.stretch.batching, self.stretch.data_parallel_size
        last = None if plan.drop_last or plan.reach < plan.length else self.step_at(epoch, plan.length - 1)
        if last is not None:
            begins = self.begin_of(last - 1)
            fillers = range(plan.length, plan.length + -(self.end_of(last) - begins.consumed_samples) % ranks)
            if last != reached and any(each % plan.length == place for each in fillers):
                yield last


class History:
    """The steps of the run that saved *saved*, past and to come.

    *order* is the user's, where it is at hand; orders of this package, and Megatron's, are known by their saved names.

    Raises:
        StateError: if the state does not tell which samples its steps trained.

    >>> from resumable.saved.ledger import Ledger
    >>> stretch = Stretch(length=10, micro_batch_size=4)
    >>> run = History(Snapshot(4, 0, 4, Identity("sequential", 10), ledger=Ledger((stretch,))))
    >>> run.step(3).indices(), run.step(3).is_past, run.steps_of(9)
    ([8, 9], False, [3])
    """

    def __init__(self, saved: Snapshot, order: Order | None = None) -> None:
        if saved.loaders:
            raise _untold("its samples come from several loaders, or from a stream")
        if saved.order is None or not saved.ledger.stretches:
            raise _untold("it was saved by another program, or before the first step")
        self._identity: Identity = saved.order
        self._given = order
        self._saved = saved
        self._known_to: int | None = None
        """The samples up to which steps are known, while a data sampler's run has not ended its first epoch."""
        stretches = [self._in_epochs(each) for each in saved.ledger]
        self._spans = [_Span(*each) for each in zip_longest(stretches, stretches[1:])]

    def step(self, number: int) -> TrainedStep:
        """What step *number* trained, or will train if the run goes on as it is.

        Raises:
            ConfigurationError: for a number below 1.
            StateError: for a step that the ledger does not know, or indices that only the user's code knows.
        """
        number = whole_number("step", number, least=1)
        at = bisect_right(self._spans, number - 1, key=lambda span: span.stretch.step) - 1
        if at < 0:
            raise _untold(f"its ledger begins after step {self._spans[0].stretch.step}", ("step", number))
        span = self._spans[at]
        begins, ends, stretch = span.begin_of(number - 1), span.end_of(number), span.stretch
        order = self._order_of(stretch)
        if self._known_to is not None and ends > self._known_to:
            raise _untold("only its data sampler knows where its first epoch ends", ("step", number))
        rounds = -(-(ends - begins.consumed_samples) // stretch.batching.batch_size)
        ranks = range(stretch.data_parallel_size)
        feeds = [OrderFeed(order, stretch.batching, Shard(rank, len(ranks))) for rank in ranks]
        taken = tuple(list(feed.batches(begins.epoch, begins.offset, rounds)) for feed in feeds)
        made = TrainedStep(number, begins, ends - begins.consumed_samples, self._is_past(ends), taken)
        return replace(made, padded=tuple(made.indices()[made.samples :]))

    def steps_of(self, sample: int) -> list[int]:
        """Each step that has trained *sample*, a dataset index, and the next one that will.

        Raises:
            ConfigurationError: if the dataset has no such index.
            StateError: as `step`.
        """
        sample = whole_number("sample", sample, least=0)
        longest = max(self._length_of(span.stretch) for span in self._spans)
        if sample >= longest:
            raise ConfigurationError(
                "The dataset has no such sample.",
                [("sample", sample), ("length", longest)],
                f"Ask for one from 0 to {longest - 1}.",
            )
        found = list[int]()
        for span in self._spans:
            for number in self._steps_in(span, sample):
                ends = span.end_of(number)
                if number not in found[-1:] and (self._known_to is None or ends <= self._known_to):
                    found.append(number)
                if not self._is_past(ends):
                    return found
        return found

    def _steps_in(self, span: _Span, sample: int) -> Iterator[int]:
        """The steps of *span* that train *sample*, one epoch after the other."""
        stretch, following = span.stretch, span.following
        order, passes_without = self._order_of(stretch), 0
        last = None if following is None else following.epoch + 1
        for epoch in count(stretch.epoch) if last is None else range(stretch.epoch, last):
            place = _place_of(order, epoch, sample)
            steps = [] if place is None else list(span.steps_at(epoch, place))
            yield from steps
            passes_without = 0 if steps else passes_without + 1
            if place is None or passes_without == (2 if isinstance(order, Sequential) else _MOST_PASSES):
                return

    def _is_past(self, consumed_samples: int) -> bool:
        return consumed_samples <= self._saved.consumed_samples

    def _length_of(self, stretch: Stretch) -> int:
        return (stretch.order or self._identity).length if stretch.length >= UNBOUNDED else stretch.length

    def _order_of(self, stretch: Stretch) -> Order:
        identity = replace(stretch.order or self._identity, length=self._length_of(stretch))
        order = known_order(identity, stretch)
        if order is not None:
            return order
        if self._given is not None and stretch.order is None and len(self._given) == identity.length:
            return self._given
        raise _untold(f"only {identity.kind!r}, which is the user's, knows its order", ("order", identity))

    def _in_epochs(self, stretch: Stretch) -> Stretch:
        """*stretch*; of a data sampler's, which counts on across the ends of epochs, with the epochs that it ran through.

        Without a shuffle its ranks are taken together: how a batch was dealt out to them is not saved.
        """
        saved, identity = self._saved, stretch.order or self._identity
        if stretch.length < UNBOUNDED:
            return stretch
        is_cyclic = CyclicOrder.knows(identity)
        if stretch.drop_last != "carry" or not (is_cyclic or identity.kind == Sequential.kind):
            raise _untold(f"only {identity.kind!r}, which is the user's, knows its batches", ("order", identity))
        micro, ranks, length = stretch.micro_batch_size, stretch.data_parallel_size, identity.length
        if is_cyclic:
            length -= length % (micro * ranks)
        else:
            micro, ranks = micro * ranks, 1
            if saved.epoch and saved.offset is not None:
                length = (saved.consumed_samples - saved.offset) // saved.epoch
            else:
                self._known_to = length
        epoch, offset = divmod(stretch.sample, length)
        return replace(
            stretch, epoch=epoch, offset=offset, length=length, micro_batch_size=micro, data_parallel_size=ranks
        )


def known_order(identity: Identity, stretch: Stretch, /) -> Order | None:
    """The order that *identity* names, in the sizes of *stretch*; None where only the user's code knows it.

    >>> known_order(Identity("sequential", 3), Stretch()).indices(0, 1, 3).tolist()
    [1, 2]
    """
    if identity.kind == Sequential.kind:
        return Sequential(identity.length)
    if identity.kind == Shuffled.kind:
        return Shuffled(identity.length, identity.seed or 0)
    if CyclicOrder.knows(identity):
        return CyclicOrder(identity, stretch.micro_batch_size, stretch.data_parallel_size)
    return None


def _place_of(order: Order, epoch: int, sample: int) -> int | None:
    """Where *sample* comes in *epoch*; None where it does not."""
    if sample >= len(order):
        return None
    if isinstance(order, (Sequential, Shuffled)):
        return order.place_of(epoch, sample)
    for start in range(0, len(order), _AT_ONCE):
        found = np.flatnonzero(np.asarray(order.indices(epoch, start, min(len(order), start + _AT_ONCE))) == sample)
        if found.size:
            return start + int(found[0])
    return None


def _untold(why: str, *rows: tuple[str, object]) -> StateError:
    return StateError(
        f"This state does not tell which samples its steps train: {why}.",
        rows,
        "Ask a state that a ResumableLoader or a decorated datamodule has saved, or ask in Python, where your order is at hand.",
    )
