"""Runs of a Hugging Face Trainer go on with the exact next sample, at every stop."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from hypothesis import given, settings
from hypothesis import strategies as st

from resumable import ResumptionWarning
from resumable.adapters.transformers import prepare
from resumable.errors import ConfigurationError
from resumable.loader import ResumableLoader
from resumable.steps.schedules import ConstantBatchSize
from tests.support.transformers_runs import EPOCHS, Numbers, Run, Trained


def _is_continued(whole: Trained, *parts: Trained) -> None:
    assert whole.steps == [step for part in parts for step in part.steps]
    assert whole.epochs == [epoch for part in parts for epoch in part.epochs]
    assert whole.gradients == [each for part in parts for each in part.gradients]
    assert whole.weights == parts[-1].weights
    assert whole.trainer.state.max_steps == parts[-1].trainer.state.max_steps


def _stops(run: Run, folder: Path, stops: Iterable[int]) -> None:
    whole = run.session(str(folder / "whole"))
    assert sorted([*range(run.samples)] * EPOCHS) == sorted(index for step in whole.steps for index in step)
    for stop in stops or range(1, len(whole.steps) + 1):
        first = run.session(str(folder / str(stop)), stop=stop)
        second = run.session(str(folder / str(stop)), resumes=True)
        _is_continued(whole, first, second)
        assert run.arguments["ignore_data_skip"] == second.trainer.args.ignore_data_skip


def test_a_run_that_is_stopped_goes_on_bit_equal(tmp_path: Path) -> None:
    """Ids, gradients, `state.epoch` and weights are the uninterrupted run's, with dropout, at and within epochs' ends."""
    for accumulation, ignores, stops in ((1, True, (6, 8)), (2, False, (1, 3))):
        options, arguments = {"reseed": True}, {"ignore_data_skip": ignores}
        run = Run(accumulation=accumulation, dropout=0.5, options=options, arguments=arguments)
        _stops(run, tmp_path / str(accumulation), stops)


@pytest.mark.slow
@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_a_run_that_is_stopped_after_any_step_goes_on_bit_equal(
    tmp_path: Path, accumulation: int, ignores: bool
) -> None:
    """The same at every stop, whatever `ignore_data_skip` says."""
    options, arguments = {"reseed": True}, {"ignore_data_skip": ignores}
    _stops(Run(accumulation=accumulation, dropout=0.5, options=options, arguments=arguments), tmp_path, ())


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_drawn_runs_go_on_at_two_stops(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Second resumes are exact too, also with max_steps, workers' absence, and tails that are left out."""
    run = Run(
        samples=data.draw(st.integers(4, 15), "samples"),
        batch_size=data.draw(st.integers(1, 4), "batch_size"),
        accumulation=data.draw(st.integers(1, 4), "accumulation"),
        options={"drop_last": data.draw(st.booleans(), "drop_last")},
        arguments=data.draw(st.sampled_from([{}, {"max_steps": 7}, {"num_train_epochs": 1.5}]), "arguments"),
    )
    folder = tmp_path_factory.mktemp("run")
    whole = run.session(str(folder / "whole"))
    steps = len(whole.steps)
    stops = sorted({data.draw(st.integers(1, steps), "first"), data.draw(st.integers(1, steps), "second")})
    parts = [run.session(str(folder / "a"), stop=stop, resumes=bool(number)) for number, stop in enumerate(stops)]
    _is_continued(whole, *parts, run.session(str(folder / "a"), resumes=True))


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_each_checkpoint_of_a_strategy_leads_on(tmp_path: Path, strategy: str) -> None:
    """Every `checkpoint-N` that rotation has kept is resumed by its path, or as the last one."""
    arguments = {"save_strategy": strategy, "save_steps": 2, "save_total_limit": 2}
    run = Run(accumulation=2, arguments=arguments)
    whole = run.session(str(tmp_path / "whole"))
    kept = sorted((tmp_path / "whole").glob("checkpoint-*"))
    assert len(kept) == 2
    for checkpoint in kept:
        steps = int(checkpoint.name.rpartition("-")[2])
        second = replace(run, arguments={}).session(str(tmp_path / "b"), resumes=str(checkpoint))
        assert whole.steps[steps:] == second.steps
    last = run.session(str(tmp_path / "whole"), resumes=True)
    assert last.steps == []


def _resizes(run: Run, other: Run, folder: Path, stops: Iterable[int]) -> None:
    """Each epoch is trained to its end, once, in whole windows; max_steps given by number stays."""
    longer = replace(run, arguments={"num_train_epochs": 12})
    whole = [index for step in longer.session(str(folder / "whole")).steps for index in step]
    for stop in stops:
        first = run.session(str(folder / str(stop)), stop=stop)
        second = other.session(str(folder / str(stop)), resumes=True)
        trained = [index for step in first.steps + second.steps for index in step]
        assert whole[: len(trained)] == trained
        total = len(first.steps) + len(second.steps)
        assert total == second.trainer.state.max_steps
        assert total == 20 if run.arguments else len(trained) == run.samples * EPOCHS
        size = other.batch_size * other.accumulation
        assert all(len(step) <= size for step in second.steps)


def test_another_batch_size_or_accumulation_trains_the_same_samples(tmp_path: Path) -> None:
    """The steps are those that are left of the epochs, and the rate follows their number."""
    run = Run(samples=13, batch_size=2, accumulation=2)
    _resizes(run, replace(run, batch_size=5, accumulation=1), tmp_path, (1, 4))


@pytest.mark.slow
@pytest.mark.parametrize(("then", "now"), [((2, 1), (4, 1)), ((4, 1), (2, 1)), ((2, 2), (3, 1)), ((2, 1), (2, 3))])
@pytest.mark.parametrize("arguments", [{}, {"max_steps": 20}])
def test_any_other_batch_size_or_accumulation_trains_the_same_samples(
    tmp_path: Path, then: tuple[int, int], now: tuple[int, int], arguments: dict[str, Any]
) -> None:
    """The same at many stops, by epochs and by max_steps."""
    run = Run(samples=13, batch_size=then[0], accumulation=then[1], arguments=arguments)
    _resizes(run, replace(run, batch_size=now[0], accumulation=now[1]), tmp_path, range(1, 10, 3))


def test_a_callback_that_stops_an_epoch_begins_the_next(tmp_path: Path) -> None:
    """The rest of a stopped epoch is left out, as with the Trainer's own loader, and in each resume."""
    run = Run(stop_epoch=2)
    whole = run.session(str(tmp_path / "whole"))
    assert len(whole.steps) == 2 + 2 * 6
    for stop in (1, 2, 9):
        folder = str(tmp_path / str(stop))
        first = run.session(folder, stop=stop)
        second = run.session(folder, resumes=True)
        assert whole.steps == first.steps + second.steps


def test_a_checkpoint_before_an_optimizer_step_repeats_its_window(tmp_path: Path) -> None:
    """What a signal saves in mid-step, as `enable_jit_checkpoint` does, has the step's batches yet to be trained."""
    run = Run(accumulation=2)
    whole = run.session(str(tmp_path / "whole"))

    def save_early(trainer: Any) -> None:
        note = next(each for each in trainer.callback_handler.callbacks if type(each).__name__ == "Note")

        def on_pre_optimizer_step(args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 4:
                trainer._save_checkpoint(trainer.model, trial=None)

        note.on_pre_optimizer_step = on_pre_optimizer_step

    run.session(str(tmp_path / "a"), stop=5, change=save_early)
    shutil.rmtree(tmp_path / "a" / "checkpoint-5")
    assert whole.steps[4:] == run.session(str(tmp_path / "a"), resumes=True).steps


def test_a_loader_that_is_kept_begins_anew_in_a_second_train(tmp_path: Path) -> None:
    """`train()` without a checkpoint is a new run, and says so where the loader stood elsewhere."""
    run, trained = Run(), Trained()
    trainer = run.trainer(str(tmp_path), trained)
    loader = trainer.get_train_dataloader()
    trainer.get_train_dataloader = lambda: prepare(trainer, loader)
    trainer.train()
    steps = len(trained.steps)
    with pytest.warns(ResumptionWarning, match="begins a new run"):
        trainer.train()
    assert trained.steps[:steps] == trained.steps[steps:]
    assert loader.state.position.epoch == EPOCHS


def test_a_checkpoint_of_an_unprepared_run_goes_on_by_its_steps(tmp_path: Path) -> None:
    """It has no position: the loader goes on with as many samples, and a warning says that the order may differ."""
    run = Run(accumulation=2)
    replace(run, prepares=False).session(str(tmp_path), stop=4)
    with pytest.warns(ResumptionWarning, match="no position"):
        second = run.session(str(tmp_path), resumes=True)
    assert run.session(str(tmp_path / "whole")).steps[4:] == second.steps


def test_the_state_goes_on_in_a_loop_of_its_own(tmp_path: Path) -> None:
    """What the checkpoint holds loads into a plain loop, where yielded batches count without a commit."""
    run = Run(batch_size=2)
    whole = run.session(str(tmp_path / "whole"))
    first = run.session(str(tmp_path / "a"), stop=2)
    loader = ResumableLoader(Numbers(run.samples), 2, shuffle=True, seed=3)
    loader.load_state_dict(first.trainer.state.stateful_callbacks["resumable"]["loader"])
    assert whole.steps[2:6] == [batch["ids"].tolist() for batch in loader]
    assert loader.state.position.epoch == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"schedule": ConstantBatchSize(4)}, "equally many"), ({"drop_last": "carry"}, "equally many")],
)
def test_a_loader_whose_steps_differ_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """The Trainer counts equal steps."""
    with pytest.raises(ConfigurationError, match=message):
        Run(options=options).session(str(tmp_path))


def test_what_cannot_be_prepared_is_refused(tmp_path: Path) -> None:
    """Another loader than ours, one of another trainer, one of another rank, and arguments in the wrong order."""
    one, other = (Run().trainer(str(tmp_path), Trained()) for _ in range(2))
    loader = one.get_train_dataloader()
    assert prepare(one, loader) is loader
    with pytest.raises(ConfigurationError, match="prepared already"):
        prepare(other, loader)
    with pytest.raises(ConfigurationError, match="Only a resumable loader"):
        prepare(one, object())
    with pytest.raises(ConfigurationError, match="which part of the data"):
        prepare(one, ResumableLoader(Numbers(9), data_parallel_rank=1, data_parallel_size=2))
    wrong: Any = loader
    with pytest.raises(ConfigurationError, match="takes the Trainer first"):
        prepare(wrong, one)


def test_a_look_before_the_run_moves_nothing(tmp_path: Path) -> None:
    """One batch of the loader, as people look at: the run has its first step, and nothing is said."""
    run, trained = Run(), Trained()
    trainer = run.trainer(str(tmp_path), trained)
    loader = trainer.get_train_dataloader()
    trainer.get_train_dataloader = lambda: prepare(trainer, loader)
    next(iter(loader))
    trainer.train()
    assert run.session(str(tmp_path / "whole")).steps == trained.steps


def test_a_loader_that_is_not_prepared_is_refused(tmp_path: Path) -> None:
    """The Trainer would let accelerate build it anew; the error names what to return in place of it."""
    run = Run()
    trainer = run.trainer(str(tmp_path), Trained())
    loader = ResumableLoader(Numbers(run.samples), 2, shuffle=True)
    trainer.get_train_dataloader = lambda: trainer.accelerator.prepare(loader)
    with pytest.raises(ConfigurationError, match=r"resumable\.adapters\.transformers\.prepare\(self, loader\)"):
        trainer.train()
