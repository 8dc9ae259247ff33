"""A run cut anywhere and resumed is the run that was never cut: every place a checkpoint is written from.

22 samples by fours are six batches an epoch, the last one short. With `max_steps` Lightning restores an epoch's end
by another path than with `max_epochs`, so both are taken throughout.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.cuts import (
    Cut,
    interrupted,
    raised_in,
    raised_with_on_exception_checkpoint,
    saved_after_step,
    saved_at_epoch_end,
    saved_at_validation,
    saved_in,
    stopped,
)
from tests.support.lightning_runs import Scenario, check, uninterrupted

EPOCHS = Scenario(trainer={"max_epochs": 3})
STEPS = Scenario(trainer={"max_epochs": -1, "max_steps": 16})
BOTH = {"max_epochs": EPOCHS, "max_steps": STEPS}
VALIDATED = {
    name: replace(scenario, trainer={**scenario.trainer, "limit_val_batches": 1.0}) for name, scenario in BOTH.items()
}

# the first batch, mid-epoch, the last batch but one, the last of an epoch, and the same in the second epoch
SAVES = [saved_after_step(step) for step in (1, 3, 5, 6, 7, 9, 11, 12, 13)]
EPOCH_ENDS = [saved_at_epoch_end(0), saved_at_epoch_end(1)]
HOOKS = ["on_train_batch_start", "training_step", "on_before_optimizer_step", "on_train_batch_end"]
PLACES = [(0, 1), (0, 5), (1, 0), (1, 3), (1, 5)]
RAISES = [raised_in(hook, place) for hook in HOOKS for place in PLACES]


@pytest.mark.parametrize("limit", BOTH)
@pytest.mark.parametrize("cut", [*SAVES, *EPOCH_ENDS], ids=str)
def test_saved_by_steps_or_at_an_epochs_end(limit: str, cut: Cut) -> None:
    """Mid-epoch, last batch and epoch end are three different places in Lightning, and one rule here."""
    check(BOTH[limit], cut)


@pytest.mark.parametrize("limit", BOTH)
@pytest.mark.parametrize("cut", RAISES, ids=str)
def test_saved_on_the_way_out_of_an_exception(limit: str, cut: Cut) -> None:
    """What an unfinished batch had begun is trained again; what a finished one has done is not."""
    check(BOTH[limit], cut)


@pytest.mark.parametrize(
    "cut", [interrupted(hook, (1, 2)) for hook in ("training_step", "on_train_batch_end")], ids=str
)
def test_saved_on_ctrl_c(cut: Cut) -> None:
    """A KeyboardInterrupt is an exception like others."""
    check(EPOCHS, cut)


@pytest.mark.filterwarnings("ignore:.* was called without a model", "ignore:.* there is no last checkpoint available")
@pytest.mark.parametrize("place", [(0, 2), (0, 5), (1, 0)], ids=str)
def test_saved_by_on_exception_checkpoint(place: tuple[int, int]) -> None:
    """Lightning's second way to save on exceptions."""
    check(EPOCHS, raised_with_on_exception_checkpoint("training_step", place))


@pytest.mark.parametrize("limit", VALIDATED)
@pytest.mark.parametrize("place", [(0, 5), (1, 5)], ids=str)
@pytest.mark.parametrize("hook", ["on_validation_start", "validation_step", "on_validation_end"])
def test_exception_during_the_validation_behind_an_epoch(limit: str, hook: str, place: tuple[int, int]) -> None:
    """All of the epoch is trained when its validation fails."""
    check(VALIDATED[limit], raised_in(hook, place))


@pytest.mark.parametrize("limit", BOTH)
@pytest.mark.parametrize(
    "cut",
    [
        saved_in(hook, place)
        for hook in ("on_train_batch_start", "on_before_zero_grad", "on_train_batch_end")
        for place in ((0, 2), (0, 5), (1, 0))
    ],
    ids=str,
)
def test_saved_by_hand_in_a_hook(limit: str, cut: Cut) -> None:
    """`trainer.save_checkpoint()` may be called in any hook, also in mid-batch."""
    check(BOTH[limit], cut)


@pytest.mark.parametrize("limit", BOTH)
@pytest.mark.parametrize(
    "cut", [raised_in("on_train_epoch_start", (1, 5)), raised_in("on_train_epoch_end", (1, 5))], ids=str
)
def test_exception_between_two_epochs(limit: str, cut: Cut) -> None:
    """Between the last batch of an epoch and the first of the next, all of the epoch is trained and none of the next.

    When the next one starts, Lightning's batch_idx is still that of the last batch.
    """
    check(BOTH[limit], cut)


@pytest.mark.parametrize("limit", BOTH)
@pytest.mark.parametrize("place", [(0, 2), (0, 5), (1, 0), (1, 5)], ids=str)
def test_stopped_by_the_trainer_and_saved_afterwards(limit: str, place: tuple[int, int]) -> None:
    """`max_time` and early stopping end a session in mid-epoch; the rest of that epoch is still to be trained."""
    check(BOTH[limit], stopped(place))


@pytest.mark.parametrize(
    "cuts",
    [
        (saved_after_step(1), saved_after_step(2), saved_after_step(4)),
        (raised_in("training_step", (1, 1)), raised_in("training_step", (1, 2)), raised_in("training_step", (1, 4))),
        (saved_after_step(8), raised_in("on_train_batch_start", (1, 3)), raised_in("on_train_batch_end", (1, 3))),
        (
            raised_in("training_step", (1, 3)),
            raised_in("on_train_batch_start", (1, 3)),
            raised_in("training_step", (1, 3)),
        ),
        (saved_after_step(6), saved_after_step(12)),
        (saved_at_epoch_end(0), saved_at_epoch_end(1)),
        (saved_after_step(6), saved_at_epoch_end(1)),
        (saved_at_epoch_end(0), saved_after_step(12)),
        (saved_after_step(6), raised_in("on_train_batch_start", (1, 0)), raised_in("training_step", (1, 0))),
        (saved_after_step(6), raised_in("on_train_batch_end", (1, 5)), saved_after_step(13)),
        (stopped((0, 2)), stopped((0, 4)), stopped((1, 1))),
        (stopped((0, 5)), saved_after_step(8)),
    ],
    ids=lambda cuts: "+".join(map(str, cuts)),
)
@pytest.mark.parametrize("limit", BOTH)
def test_cut_several_times(limit: str, cuts: tuple[Cut, ...]) -> None:
    """The second and third resume are as exact as the first: in one epoch, at one boundary, and at one place."""
    check(BOTH[limit], *cuts)


@pytest.mark.parametrize(
    "cuts",
    [
        (saved_after_step(3),),
        (saved_after_step(6),),
        (saved_at_epoch_end(0),),
        (raised_in("training_step", (1, 3)),),
        (raised_in("on_train_batch_end", (0, 5)),),
        (saved_after_step(3), raised_in("training_step", (0, 4)), saved_after_step(12)),
    ],
    ids=lambda cuts: "+".join(map(str, cuts)),
)
@pytest.mark.parametrize("limit", BOTH)
def test_what_workers_read_ahead_counts_for_nothing(limit: str, cuts: tuple[Cut, ...]) -> None:
    """Two workers read ahead of the training; what they have read counts for nothing."""
    scenario = replace(BOTH[limit], num_workers=2)
    assert uninterrupted(BOTH[limit]).steps == uninterrupted(scenario).steps
    check(scenario, *cuts)


@pytest.mark.parametrize("limit", BOTH)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    "cut", [saved_after_step(5), saved_at_epoch_end(0), raised_in("training_step", (1, 1))], ids=str
)
def test_other_orders_are_cut_exactly(limit: str, shuffle: bool, drop_last: bool, cut: Cut) -> None:
    """With drop_last an epoch is five batches: a checkpoint after the fifth is one on its last batch."""
    check(replace(BOTH[limit], shuffle=shuffle, drop_last=drop_last), cut)


@pytest.mark.parametrize("samples", [1, 4, 5])
@pytest.mark.parametrize("cut", [saved_after_step(1), saved_after_step(2), raised_in("training_step", (1, 0))], ids=str)
def test_epochs_of_one_or_two_batches(samples: int, cut: Cut) -> None:
    """Where every batch, or every other one, is the last of its epoch."""
    check(Scenario(samples=samples), cut)


@pytest.mark.parametrize("limit", BOTH)
def test_the_run_that_all_others_are_compared_with(limit: str) -> None:
    """Uninterrupted, each epoch trains every sample once, in an order of its own, and Lightning counts it so."""
    run = uninterrupted(BOTH[limit])
    orders = [run.ids(epoch) for epoch in run.epochs]
    assert [list(range(22))] * 2 == [sorted(order) for order in orders[:2]]
    assert orders[0] != orders[1] != list(range(22))
    assert dict.fromkeys(run.epochs, (6, 6)) == run.lengths
    assert (18 if limit == "max_epochs" else 16) == run.global_step


@pytest.mark.parametrize("limit", VALIDATED)
@pytest.mark.parametrize("interval", [2, 3, 0.5])
@pytest.mark.parametrize("place", [(0, 4), (0, 5), (1, 1), (1, 5)], ids=str)
def test_saved_at_the_end_of_a_validation(limit: str, interval: float, place: tuple[int, int]) -> None:
    """`val_check_interval` in batches or as a part of the epoch: validations in mid-epoch and at its end."""
    scenario = VALIDATED[limit]
    check(
        replace(scenario, trainer={**scenario.trainer, "val_check_interval": interval}),
        saved_at_validation(before=place),
    )


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("limit", BOTH)
@pytest.mark.parametrize("hook", [*HOOKS, "on_before_backward", "on_before_zero_grad"])
@pytest.mark.parametrize("place", [(epoch, batch) for epoch in (0, 1) for batch in range(6)][1:], ids=str)
def test_exception_in_every_hook_of_every_batch(
    hook: str, place: tuple[int, int], limit: str, num_workers: int
) -> None:
    """The whole grid."""
    check(replace(BOTH[limit], num_workers=num_workers), raised_in(hook, place))
