"""What became of a run that was stopped and resumed, against the one that was not: one word, and the first difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeAlias

from resumable.testing.identities import Identity
from resumable.testing.sessions import Step

__all__ = ["Difference", "Outcome", "compare", "compare_resized"]

Outcome: TypeAlias = Literal["exact", "regrouped", "reordered", "repeated", "lost", "changed", "crash", "hang"]
"""One word for a run that was stopped and resumed.

    exact       every optimizer step trained the same samples, in the same order
    regrouped   the same samples in the same order, in other steps or micro batches
    reordered   each epoch trained the same samples, in another order
    repeated    more samples were trained twice than were left out
    lost        more samples were left out than were trained twice
    changed     samples came that the uninterrupted run does not have at all: other contents
    crash       an error, or the process died
    hang        it did not end within the time limit
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two runs differ first, counted in steps from 1, with what that step trained in each; and how many samples."""

    outcome: Outcome
    step: int
    expected: tuple[Identity, ...]
    actual: tuple[Identity, ...]
    repeated: int = 0
    lost: int = 0


def compare(expected: Sequence[Step], actual: Sequence[Step]) -> Difference | None:
    """The difference between two runs of the same sizes; None where every step trained the same.

    >>> compare([Step(0, ((1, 2),)), Step(0, ((3, 4),))], [Step(0, ((1, 2),)), Step(0, ((2, 4),))])
    Difference(outcome='repeated', step=2, expected=(3, 4), actual=(2, 4), repeated=1, lost=1)
    """
    if [step.batches for step in expected] == [step.batches for step in actual]:
        return None
    first = next(
        (at for at, (left, right) in enumerate(zip(expected, actual, strict=False)) if left.batches != right.batches),
        min(len(expected), len(actual)),
    )
    return _difference(expected, actual, first, _samples(expected, first), _samples(actual, first))


def compare_resized(
    before: Sequence[Step], after: Sequence[Step], actual: Sequence[Step], cut: int, *, ranks: int
) -> Difference | None:
    """The difference between *actual*, resumed in other sizes after *cut* steps, and the runs in either sizes throughout.

    *before* has the first sizes, *after* the others. Steps then hold other samples; their order must be equal: sample by
    sample on one rank, and on several in what was trained wherever both come to the same count. Each epoch may end as it
    does in either sizes, whose tails are padded or dropped differently. That a tail is dropped is seen where the two have
    different numbers of samples; so take a number that no batch size divides.

    >>> one, two = [Step(0, ((1, 2, 3),)), Step(0, ((4,),))], [Step(0, ((1, 2),)), Step(0, ((3, 4),))]
    >>> compare_resized(one, two, [Step(0, ((1, 2, 3),)), Step(0, ((4,),))], 1, ranks=1) is None
    True
    """
    if ranks > 1:
        before, after, actual = _without_padding(before), _without_padding(after), _without_padding(actual)
    begun = before[cut].epoch if cut < len(before) else before[-1].epoch + 1
    is_cut = 0 < cut < len(before) and before[cut - 1].epoch == begun  # both sizes train a part of it
    expected: list[Step] = []
    for epoch in sorted({step.epoch for step in (*before, *after, *actual)}):
        either = [[step for step in run if step.epoch == epoch] for run in (before, after)]
        longer = max(either, key=lambda steps: len(_flat(steps)))
        is_turn = is_cut and epoch == begun
        wanted = longer if is_turn else either[epoch >= begun]
        got = [step for step in actual if step.epoch == epoch]
        if is_turn and _shortest(*either) <= len(_flat(got)):
            wanted = _cut_to(wanted, len(_flat(got)))
        expected += got if _agree(wanted, got, ranks) else wanted
    wanted_flat, got_flat = _flat(expected), _flat(actual)
    if wanted_flat == got_flat:
        return None
    place = next(
        (at for at, (left, right) in enumerate(zip(wanted_flat, got_flat, strict=False)) if left != right),
        min(len(wanted_flat), len(got_flat)),
    )
    ends = [0, *accumulate(len(step.samples) for step in actual)]
    first = max(at for at, end in enumerate(ends) if end <= place)
    size = max(1, len(_samples(actual, first)))
    return _difference(
        expected, actual, first, tuple(wanted_flat[ends[first] : ends[first] + size]), _samples(actual, first)
    )


def _shortest(before: Sequence[Step], after: Sequence[Step]) -> int:
    """The samples that an epoch of both sizes has at least: where one drops a tail, this one may drop its own."""
    lengths = [len(_flat(steps)) for steps in (before, after)]
    tail = max((len(step.samples) for step in after), default=1) - 1 if lengths[0] != lengths[1] else 0
    return min(lengths) - tail


def _agree(wanted: Sequence[Step], got: Sequence[Step], ranks: int) -> bool:
    left, right = _flat(wanted), _flat(got)
    if ranks == 1 or left == right:
        return left == right
    counts = {*accumulate(len(step.samples) for step in wanted)} & {*accumulate(len(step.samples) for step in got)}
    return len(left) == len(right) and all(Counter(left[:count]) == Counter(right[:count]) for count in counts)


def _cut_to(steps: Sequence[Step], count: int) -> list[Step]:
    """The first *count* samples of *steps*."""
    kept: list[Step] = []
    for step in steps:
        kept.append(Step(step.epoch, (step.samples[:count],)))
        count -= len(kept[-1].samples)
    return [step for step in kept if step.samples]


def _without_padding(steps: Sequence[Step]) -> list[Step]:
    """*steps* without what the last step of an epoch trains a second time, for ranks that would have too little."""
    kept: list[Step] = []
    for at, step in enumerate(steps):
        is_last = at + 1 == len(steps) or steps[at + 1].epoch != step.epoch
        seen = {sample for each in kept if is_last and each.epoch == step.epoch for sample in each.samples}
        once = tuple(sample for sample in dict.fromkeys(step.samples) if sample not in seen)
        kept.append(Step(step.epoch, (once,)) if is_last else step)
    return kept


def _difference(
    expected: Sequence[Step],
    actual: Sequence[Step],
    first: int,
    wanted_there: tuple[Identity, ...],
    got_there: tuple[Identity, ...],
) -> Difference:
    wanted, got = _by_epoch(expected), _by_epoch(actual)
    repeated, lost = got - wanted, wanted - got
    known = {sample for _, sample in wanted}
    outcome = _outcome(expected, actual, repeated, lost, known)
    return Difference(outcome, first + 1, wanted_there, got_there, repeated.total(), lost.total())


def _outcome(
    expected: Sequence[Step],
    actual: Sequence[Step],
    repeated: Counter[tuple[int, Identity]],
    lost: Counter[tuple[int, Identity]],
    known: set[Identity],
) -> Outcome:
    if any(sample not in known for _, sample in repeated):
        return "changed"
    if repeated.total() or lost.total():
        return "repeated" if repeated.total() >= lost.total() else "lost"
    return "regrouped" if _flat(expected) == _flat(actual) else "reordered"


def _samples(steps: Sequence[Step], at: int) -> tuple[Identity, ...]:
    return steps[at].samples if at < len(steps) else ()


def _flat(steps: Sequence[Step]) -> list[Identity]:
    return [sample for step in steps for sample in step.samples]


def _by_epoch(steps: Sequence[Step]) -> Counter[tuple[int, Identity]]:
    return Counter((step.epoch, sample) for step in steps for sample in step.samples)
