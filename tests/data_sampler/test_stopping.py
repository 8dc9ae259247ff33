"""A run whose data sampler counts, asked to stop."""

from __future__ import annotations

import pytest
from lightning.pytorch.utilities import CombinedLoader

from resumable.stopping.workers import ShieldLoader
from tests.support import nemo_shape
from tests.support.stops import TERM, USR1, asked

if not nemo_shape.has_megatron_core():
    pytest.skip("megatron-core is not installed", allow_module_level=True)

from tests.support.sampler_modules import MicroBatches
from tests.support.sampler_runs import Scenario, check, train


@pytest.mark.parametrize(
    "scenario", [Scenario(), Scenario(micro_batch_size=2, module=MicroBatches)], ids=["whole", "micro"]
)
def test_the_fit_ends_at_a_step(scenario: Scenario) -> None:
    """It is saved and goes on with the exact next sample, twice."""
    check(scenario, asked("on_train_batch_start", (0, 2), TERM), asked("on_train_batch_end", (0, 5), USR1))


@pytest.mark.parametrize("transforms", [("strategy",), ("datamodule",), ("strategy", "datamodule")], ids=str)
def test_train_loaders_are_shielded(transforms: tuple[str, ...]) -> None:
    """Whoever puts Megatron's batch sampler into them, and when."""
    trainer = train(Scenario(transforms=frozenset(transforms), trainer={"max_steps": 2}))
    loaders = CombinedLoader(trainer.train_dataloader).flattened
    assert [True] == [isinstance(loader, ShieldLoader) for loader in loaders]
