"""The stand-in does what NeMo's own files were measured to do: without the decorator, these counts are wrong.

Each row gives the saved count and the samples that had been trained, as NeMo 2.4.0 and bionemo-llm 2.4.5 gave them with
megatron-core 0.16.1.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support import nemo_shape
from tests.support.cuts import Cut, saved_after_step, saved_in

if not nemo_shape.has_megatron_core():
    pytest.skip("megatron-core is not installed", allow_module_level=True)

from tests.support.sampler_modules import MicroBatches, TwoOptimizers
from tests.support.sampler_runs import AsksForLoaders, Saves, Scenario, counts

ALWAYS = {"train": 1, "validation": 1}
CONSTANT = Scenario(data="mixin", rebases=ALWAYS, samples=128)
RAMP = replace(CONSTANT, rampup=(2, 2, 40), micro_batch_size=2, module=MicroBatches)
AT_START = saved_in("on_train_start", (0, -1))


def rows(*rows: tuple[str, Scenario, tuple[Cut, ...], Saves]) -> pytest.MarkDecorator:
    """Parameters of a test, each with its name."""
    return pytest.mark.parametrize(
        ("scenario", "cuts", "expected"), [pytest.param(*row[1:], id=row[0].replace(" ", "_")) for row in rows]
    )


@rows(
    ("constant", CONSTANT, (saved_after_step(3), saved_after_step(5)), [(24, 24), (40, 40)]),
    ("ramp", RAMP, (saved_after_step(7),), [(14, 14)]),
    ("ramp that has moved", RAMP, (saved_after_step(8),), [(18, 16)]),
    ("ramp later", RAMP, (saved_after_step(12),), [(36, 32)]),
    ("ramp at its end", RAMP, (saved_after_step(20),), [(98, 92)]),
    ("ramp over resumes", RAMP, tuple(map(saved_after_step, (8, 12, 16))), [(18, 16), (42, 34), (82, 66)]),
    (
        "validation loader",
        replace(CONSTANT, callbacks=lambda: [AsksForLoaders("val")]),
        (saved_after_step(3),),
        [(0, 24)],
    ),
    (
        "check_val_every_n_epoch",
        replace(CONSTANT, samples=32, trainer={"max_epochs": 3, "check_val_every_n_epoch": 2, "limit_val_batches": 1}),
        (saved_after_step(9),),
        [(8, 72)],
    ),
    (
        "reload_dataloaders_every_n_epochs",
        replace(CONSTANT, samples=32, trainer={"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}),
        (saved_after_step(6),),
        [(16, 48)],
    ),
    ("forgotten", replace(CONSTANT, rebases={}), (saved_after_step(5), saved_after_step(9)), [(40, 40), (112, 72)]),
    (
        "accumulate_grad_batches",
        replace(CONSTANT, trainer={"accumulate_grad_batches": 2}),
        (saved_after_step(3),),
        [(24, 48)],
    ),
    ("two optimizers", replace(CONSTANT, module=TwoOptimizers), (saved_after_step(10),), [(80, 40)]),
)
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_the_mixin_counts_as_measured(scenario: Scenario, cuts: tuple[Cut, ...], expected: Saves) -> None:
    """Exact only for constant sizes, one batch a step, and a rebase with each train loader and no other."""
    assert expected == counts(scenario, *cuts)
