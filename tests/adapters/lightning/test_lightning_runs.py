"""The harness sees what it is there to see: on plain loaders it finds the samples that they repeat and lose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.support.cuts import Cut, interrupted, raised_in, saved_after_step, saved_at_epoch_end
from tests.support.lightning_runs import PlainNumbers, Scenario, check, repeated_and_lost, resumed, uninterrupted
from tests.support.recording import Recording

# 64 samples by fours, one epoch, in order: what a plain DataLoader does to them has been counted elsewhere as well
PLAIN = Scenario(samples=64, shuffle=False, data=PlainNumbers, trainer={"max_epochs": 1})


def counts(scenario: Scenario, *cuts: Cut) -> tuple[int, int]:
    """How many samples are repeated, and how many lost."""
    repeated, lost = repeated_and_lost(uninterrupted(scenario), resumed(scenario, *cuts))
    return len(repeated), len(lost)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (saved_after_step(6), (24, 24)),
        (raised_in("training_step", (0, 7)), (28, 28)),
        (interrupted("training_step", (0, 7)), (28, 28)),
    ],
    ids=str,
)
def test_a_plain_loader_is_seen_to_repeat_and_lose(cut: Cut, expected: tuple[int, int]) -> None:
    """Lightning alone begins the epoch again, and ends it when the old number of batches is reached."""
    assert expected == counts(PLAIN, cut)


def test_lightnings_warning_of_a_loader_that_is_not_resumable_is_an_error_here() -> None:
    """A decorated datamodule must bring no such warning, so it must not pass unseen."""
    with pytest.warns(UserWarning, match="your dataloader is not resumable"):
        resumed(PLAIN, saved_after_step(6))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 under torch 2.13
def test_a_stateful_loader_is_seen_to_lose_an_epoch() -> None:
    """With torchdata 0.11, saved on the last batch of an epoch: the loader's position stays at the end, and an epoch is lost."""

    def loaders(scenario: Scenario) -> Any:
        return scenario.loader(cls=StatefulDataLoader)

    scenario = replace(PLAIN, loaders=loaders, trainer={"max_epochs": 2})
    assert (0, 64) == counts(scenario, saved_after_step(16))


def test_what_a_dead_session_trained_behind_its_checkpoint_is_not_counted() -> None:
    """At an epoch's end a plain loader without shuffling is exact, though the dead session went on for two batches."""
    check(replace(PLAIN, trainer={"max_epochs": 2}), saved_at_epoch_end(0))


def test_weights_tell_another_order() -> None:
    """The same samples in another order end in other weights."""

    def loaders(scenario: Scenario) -> Any:
        return scenario.loader(sampler=list(range(63, -1, -1)))

    backwards = replace(PLAIN, loaders=loaders)
    there, back = uninterrupted(PLAIN), uninterrupted(backwards)
    assert ([], []) == repeated_and_lost(there, back)
    assert there.weights != back.weights


def test_ids_in_an_unfinished_accumulation_window_are_not_counted() -> None:
    """Gradients are not saved: what was only accumulated has not been trained."""

    class Stops(Recording):
        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            self.trainer.should_stop = self.trainer.global_step == 1 and self.trainer.fit_loop.batch_idx == 2

    run = uninterrupted(replace(PLAIN, module=Stops, trainer={"max_epochs": 1, "accumulate_grad_batches": 2}))
    assert list(range(8)) == run.ids(0)
