"""The second session is configured otherwise: what is trained stays the same, and what cannot is said.

Another batch size has no run that it could equal to the bit. Its rule is: every epoch trains the order that it had
before, each sample once, in that order; what was trained in batches of the old size stays, and the rest is cut into
batches of the new size. Only `drop_last` drops samples, and only what does not fill the last batch of its epoch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resumable import MismatchError
from tests.support.cuts import Cut, also_with_workers, raised_in, saved_after_step, saved_at_epoch_end
from tests.support.lightning_runs import Run, Scenario, repeated_and_lost, resumed, uninterrupted


def regrouped(order: list[int], old: list[list[int]], size: int, *, drop_last: bool) -> list[list[int]]:
    """The batches of an epoch whose *old* batches are trained and whose rest is cut into batches of *size*."""
    rest = order[sum(map(len, old)) :]
    new = [rest[start : start + size] for start in range(0, len(rest), size)]
    return old + [batch for batch in new if len(batch) == size or not drop_last]


def batches_of(run: Run, epoch: int) -> list[list[int]]:
    """The ids of each batch that *epoch* trained."""
    return [list(ids) for step in run.steps if step.epoch == epoch for _, ids in step.batches]


def check_regrouped(scenario: Scenario, cut: Cut, then: Scenario, *, behind: int) -> None:
    """*behind* batches are trained when *cut* saves; *then* cuts what follows into batches of its own size."""
    before, actual = uninterrupted(scenario), resumed(scenario, cut, then=then)
    orders = uninterrupted(replace(scenario, drop_last=False))
    expected: list[list[list[int]]] = []
    for epoch in before.epochs:
        whole = batches_of(before, epoch)
        old, behind = whole[:behind], max(0, behind - len(whole))
        is_complete = len(old) == len(whole)
        expected.append(
            old if is_complete else regrouped(orders.ids(epoch), old, then.batch_size, drop_last=scenario.drop_last)
        )
    assert expected == [batches_of(actual, epoch) for epoch in before.epochs]
    assert sum(map(len, expected)) == actual.global_step
    assert before.current_epoch == actual.current_epoch
    assert {epoch: last_batch_idx(actual, epoch) + 1 for epoch in actual.epochs} == {
        epoch: batches for epoch, (batches, _) in actual.lengths.items()
    }


def last_batch_idx(run: Run, epoch: int) -> int:
    """The number that Lightning gave the last batch of *epoch*."""
    return [batch_idx for step in run.steps if step.epoch == epoch for batch_idx, _ in step.batches][-1]


EPOCHS = Scenario(trainer={"max_epochs": 3})
STEPS = Scenario(trainer={"max_epochs": 3, "max_steps": 1000})  # Lightning's other way to restore an epoch's end
BOTH = {"max_epochs": EPOCHS, "max_steps": STEPS}


@pytest.mark.parametrize("limit", BOTH)
@pytest.mark.parametrize(("old", "new"), [(4, 3), (4, 8), (4, 64)])
@pytest.mark.parametrize("behind", [1, 3, 6, 8])
def test_another_batch_size_takes_the_same_samples(behind: int, old: int, new: int, limit: str) -> None:
    """Larger and smaller, in mid-epoch and on an epoch's last batch, the following epochs included."""
    scenario = replace(BOTH[limit], batch_size=old)
    check_regrouped(scenario, saved_after_step(behind), replace(scenario, batch_size=new), behind=behind)


@pytest.mark.parametrize("limit", BOTH)
@pytest.mark.parametrize(("old", "new"), [(4, 3), (4, 8), (4, 2)])
@pytest.mark.parametrize("behind", [3, 5, 7])
def test_another_batch_size_without_the_short_last_batch(behind: int, old: int, new: int, limit: str) -> None:
    """With drop_last, the rest of the epoch drops what does not fill its own last batch, and nothing else."""
    scenario = replace(BOTH[limit], batch_size=old, drop_last=True)
    check_regrouped(scenario, saved_after_step(behind), replace(scenario, batch_size=new), behind=behind)


@pytest.mark.parametrize("limit", BOTH)
@pytest.mark.parametrize("trainer", [{}, {"limit_val_batches": 2}], ids=["", "validated"])
def test_an_epoch_without_a_batch_of_the_new_size_is_over(limit: str, trainer: dict[str, Any]) -> None:
    """What is left of it is dropped; the next epoch begins, and there is no epoch more."""
    scenario = replace(BOTH[limit], batch_size=4, drop_last=True)
    scenario = replace(scenario, trainer={**scenario.trainer, **trainer})
    orders = uninterrupted(replace(scenario, drop_last=False))
    run = resumed(scenario, saved_after_step(4), then=replace(scenario, batch_size=8))
    assert [orders.ids(epoch)[:16] for epoch in range(3)] == [run.ids(epoch) for epoch in range(3)]
    assert (4 + 2 + 2, 3) == (run.global_step, run.current_epoch)


@pytest.mark.parametrize(
    ("cut", "behind"),
    [
        (saved_at_epoch_end(0), 6),
        (raised_in("training_step", (0, 3)), 3),
        (raised_in("on_train_batch_end", (0, 5)), 6),
        (raised_in("on_train_batch_start", (1, 0)), 6),
        (raised_in("training_step", (1, 2)), 8),
    ],
    ids=str,
)
@also_with_workers
@pytest.mark.parametrize("new", [3, 8])
def test_another_batch_size_after_other_cuts(cut: Cut, behind: int, new: int, num_workers: int) -> None:
    """Exceptions and epoch ends."""
    scenario = replace(EPOCHS, num_workers=num_workers)
    check_regrouped(scenario, cut, replace(scenario, batch_size=new), behind=behind)


@pytest.mark.parametrize("new", [3, 8])
def test_another_batch_size_with_workers(new: int) -> None:
    """Two workers fetch the batches of the new size."""
    scenario = replace(EPOCHS, num_workers=2)
    check_regrouped(scenario, raised_in("training_step", (1, 2)), replace(scenario, batch_size=new), behind=8)


def test_a_batch_size_that_is_changed_and_changed_back() -> None:
    """Three sizes within one epoch, and the first one again for the rest of the run."""
    order = uninterrupted(EPOCHS).ids(0)
    first, second = saved_after_step(1), saved_after_step(3)
    wide = replace(EPOCHS, batch_size=6)
    once = resumed(EPOCHS, first, then=wide)
    assert [order[:4], order[4:10], order[10:16], order[16:]] == batches_of(once, 0)
    twice = resumed(wide, first, second, then=EPOCHS)
    assert [order[:6], order[6:10], order[10:14], order[14:18], order[18:]] == batches_of(twice, 0)
    assert uninterrupted(EPOCHS).ids(2) == twice.ids(2)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
@pytest.mark.parametrize(
    "cuts",
    [
        (saved_after_step(3), saved_after_step(6)),
        (saved_at_epoch_end(0), raised_in("training_step", (1, 2))),
    ],
    ids=lambda cuts: "+".join(map(str, cuts)),
)
def test_another_number_of_workers(before: int, after: int, cuts: tuple[Cut, ...]) -> None:
    """Workers are no part of the position: the run stays the same to the bit."""
    scenario = replace(EPOCHS, num_workers=before)
    assert uninterrupted(EPOCHS) == resumed(scenario, *cuts, then=replace(scenario, num_workers=after))


@pytest.mark.parametrize("cut", [saved_after_step(2), raised_in("training_step", (0, 3))], ids=str)
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_another_accumulation_groups_the_same_samples(before: int, after: int, cut: Cut) -> None:
    """The same samples once each, in the same order, in windows of the new length from the resume on."""
    scenario = replace(EPOCHS, trainer={"accumulate_grad_batches": before})
    then = replace(EPOCHS, trainer={"accumulate_grad_batches": after})
    whole, actual = uninterrupted(scenario), resumed(scenario, cut, then=then)
    assert ([], []) == repeated_and_lost(whole, actual)
    assert [whole.ids(epoch) for epoch in range(3)] == [actual.ids(epoch) for epoch in range(3)]


@pytest.mark.parametrize("cut", [saved_after_step(3), saved_after_step(6), saved_at_epoch_end(0)], ids=str)
def test_from_max_steps_to_max_epochs(cut: Cut) -> None:
    """A run that was begun under one limit goes on under the other."""
    steps = replace(EPOCHS, trainer={"max_epochs": -1, "max_steps": 18})
    assert uninterrupted(EPOCHS).steps == resumed(steps, cut, then=EPOCHS).steps
    assert uninterrupted(steps).steps == resumed(EPOCHS, cut, then=steps).steps


def test_more_epochs_than_at_first() -> None:
    """A later limit changes nothing of what lies before it."""
    assert uninterrupted(EPOCHS) == resumed(
        replace(EPOCHS, trainer={"max_epochs": 2}), saved_after_step(7), then=EPOCHS
    )


@pytest.mark.parametrize("change", [{"samples": 23}, {"shuffle": False}])
def test_another_order_is_refused(change: dict[str, Any]) -> None:
    """Another dataset or order cannot go on exactly: an error says so, instead of samples that come twice."""
    with pytest.raises(MismatchError, match="cannot go on exactly"):
        resumed(EPOCHS, saved_after_step(3), then=replace(EPOCHS, **change))
