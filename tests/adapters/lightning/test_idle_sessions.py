"""Sessions that are resumed, train nothing and are saved again: they leave the run where it was.

Such a checkpoint holds the loop counters as they were placed on the load, and must be read as what they were placed for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from resumable import resumption_of
from tests.support.cuts import Cut, checkpoint_in, on_any_exception, raised_in, saved_after_step, saved_at_epoch_end
from tests.support.lightning_runs import Scenario, check, run_of, train, uninterrupted

if TYPE_CHECKING:
    import lightning as L

LIMITS = {"max_epochs": {"max_epochs": 3}, "max_steps": {"max_epochs": 3, "max_steps": 1000}}
VALIDATED = {"limit_val_batches": 2}


def raised_before_the_first_batch(hook: str) -> Cut:
    """Saved on the way out of an exception in *hook*, the first time that it is called in a session."""
    return replace(raised_in(hook, (0, 0), on_any_exception), name=f"first_{hook}", when=_always)


def _always(trainer: L.Trainer) -> bool:
    return True


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("accumulates", [1, 2])
@pytest.mark.parametrize("hook", ["on_train_start", "on_train_batch_start"])
@pytest.mark.parametrize(
    "cut", [saved_after_step(1), saved_after_step(3), saved_at_epoch_end(0), saved_at_epoch_end(1)], ids=str
)
def test_an_exception_before_the_first_batch(cut: Cut, hook: str, accumulates: int, limit: str) -> None:
    """In mid-epoch and at an epoch's end the resume of a resume that trained nothing is the resume itself."""
    scenario = Scenario(trainer={**LIMITS[limit], **VALIDATED, "accumulate_grad_batches": accumulates})
    idle = raised_before_the_first_batch(hook)
    check(scenario, cut, idle, idle)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("sessions", [1, 2])
def test_a_run_that_has_ended(sessions: int, limit: str, tmp_path: Path) -> None:
    """Resumed, it trains nothing however often; given another epoch, it trains that one alone."""
    scenario = Scenario(trainer=LIMITS[limit])
    trainer = train(scenario)
    trainer.save_checkpoint(checkpoint_in(tmp_path))
    for session in range(sessions):
        trainer = train(scenario, checkpoint_in(tmp_path), session=session + 1)
        assert uninterrupted(scenario) == run_of(trainer)
        assert 66 == resumption_of(trainer.datamodule).consumed_samples  # type: ignore[attr-defined]
        trainer.save_checkpoint(checkpoint_in(tmp_path))
    longer = replace(scenario, trainer={**scenario.trainer, "max_epochs": 4})
    assert uninterrupted(longer) == run_of(train(longer, checkpoint_in(tmp_path), session=9))
