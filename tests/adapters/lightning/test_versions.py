"""Older releases of Lightning go on as the newest does; what is older than they is refused by name."""

from __future__ import annotations

import pickle
from typing import Any

import lightning
import pytest

from resumable import MissingExtraError
from resumable.adapters import adapter_for
from resumable.adapters.lightning import Adapter
from tests.support.cuts import saved_after_step
from tests.support.lightning_runs import Scenario, check, trainer_of


def test_a_release_that_is_too_old_is_refused_with_the_one_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names both releases and the extra that brings the needed one."""
    monkeypatch.setattr(lightning, "__version__", "2.3.3")
    trainer = type("Trainer", (), {"__module__": "lightning.pytorch.trainer.trainer", "fit_loop": object()})()
    with pytest.raises(MissingExtraError) as error:
        adapter_for(trainer)
    assert (
        "This release of lightning is too old.\n"
        "  installed: '2.3.3'\n"
        "  needed:    '2.4 or newer'\n"
        "  extra:     'lightning'\n"
        'Run: pip install --upgrade "resumable-training[lightning]"' == str(error.value)
    )


def test_a_loop_says_whether_the_fit_goes_on_in_every_release() -> None:
    """From the load of its counters on; also in a copy that a spawned process is sent, and where it is asked again."""
    trainer: Any = trainer_of(Scenario())
    Adapter(trainer)
    fit = trainer.fit_loop
    assert not fit.is_resuming
    fit.load_state_dict(fit.state_dict())
    Adapter(trainer)
    assert fit.is_resuming
    fit.trainer = fit.epoch_loop.trainer = None
    assert pickle.loads(pickle.dumps(fit)).is_resuming


def test_a_validation_that_a_checkpoint_came_before_is_not_repeated() -> None:
    """Nor is it left out where the checkpoint is of the batch before."""
    options = {"limit_val_batches": 2, "val_check_interval": 2}
    for step in (1, 2, 3):
        check(Scenario(trainer=options), saved_after_step(step))
