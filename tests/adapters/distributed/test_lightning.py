"""Lightning on several processes: a run that is cut and resumed on any number of ranks trains the order of one process.

22 samples by fours are six batches on one rank, three rounds on two (the last one of three samples each) and two on
three (the last one of four each, two of them samples of the epoch's beginning).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch.distributed as dist

from resumable import Position, ResumableLoader, resumption_of
from resumable.adapters.distributed import Ranks
from tests.support.cuts import Cut, raised_after, saved_after_step, saved_at_epoch_end, saved_in, sigkill, stopped
from tests.support.lightning_runs import Numbers, PlainNumbers, Run, Scenario
from tests.support.rank_modules import BudgetedRanks, Gathering, TwoOptimizersOnRanks
from tests.support.rank_runs import Part, Session, after, orders_of, refusal, rounds_of, rule, run, trained, uncut
from tests.support.resizes import ACCUMULATING, NOT_SYNCED, RESIZES, SCENARIO, WAYS, check, resize


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_run_that_is_never_cut(ranks: int) -> None:
    """Every number of ranks trains the order of one process, and nothing of Lightning's re-orders it."""
    check((Session(ranks, SCENARIO), None))


@pytest.mark.parametrize("cut", [saved_after_step(2), saved_after_step(3), saved_at_epoch_end(0)], ids=str)
def test_as_many_ranks_again_go_on_exactly(cut: Cut) -> None:
    """The run is the same to the bit, weights included."""
    assert uncut(SCENARIO, 2) == run(Session(2, SCENARIO, cut), Session(2, SCENARIO))


@pytest.mark.parametrize("ranks", RESIZES, ids=str)
def test_resized_in_mid_epoch_the_rest_is_trained_in_other_rounds(ranks: tuple[int, int]) -> None:
    """The epoch's rest is trained in other rounds, and the epochs behind it have the length that they should have."""
    resize(SCENARIO, saved_after_step(1), 1, ranks)


@pytest.mark.parametrize("ranks", RESIZES, ids=str)
def test_on_an_epochs_last_batch(ranks: tuple[int, int]) -> None:
    """A checkpoint behind the last round, before its epoch's end, goes on in the next epoch."""
    rounds = rounds_of(range(22), Part(ranks[0]), drop_last=False)
    resize(SCENARIO, saved_after_step(rounds), rounds, ranks)


@pytest.mark.parametrize("ranks", RESIZES, ids=str)
def test_resized_at_an_epochs_end_the_next_epoch_is_whole(ranks: tuple[int, int]) -> None:
    """So does one that is saved there."""
    resize(SCENARIO, saved_at_epoch_end(0), rounds_of(range(22), Part(ranks[0]), drop_last=False), ranks)


@pytest.mark.parametrize("ranks", RESIZES, ids=str)
def test_resized_inside_a_window_its_batches_are_trained_again(ranks: tuple[int, int]) -> None:
    """The batches of the window that is open are trained again: their gradients are gone."""
    resize(ACCUMULATING, raised_after(3), 3, ranks)


@pytest.mark.parametrize("way", WAYS)
def test_every_strategy_goes_on_exactly(way: str) -> None:
    """Where the module is sharded too, Lightning restores a checkpoint later and builds loaders before it."""
    check(
        (Session(2, SCENARIO, saved_after_step(2), way), 2),
        (Session(3, SCENARIO, saved_in("on_train_batch_end", (1, 0)), way), 2),
        (Session(1, SCENARIO, None, way), None),
    )


def test_tensor_parallel_ranks_get_the_same_samples() -> None:
    """Two ranks that split a model are one data-parallel rank, and may become three of those."""
    way = "fsdp2_with_two_tensor_parallel_ranks"
    sessions = (Session(2, SCENARIO, saved_after_step(2), way), Session(3, SCENARIO, None, "fsdp2"))
    one, *rest = (rule(orders_of(SCENARIO), *parts).steps for parts in ([Part(1, 2)], [Part(1, 2), Part(3)]))
    expected = [(epoch, tuple(batch * 2 for batch in rounds)) for epoch, rounds in one] + rest[0][2:]
    assert expected == trained(run(*sessions))


def test_a_single_process_then_ranks_and_back() -> None:
    """A run without a strategy goes on with one, and the other way round."""
    check(
        (Session(1, SCENARIO, saved_after_step(2), "auto"), 2),
        (Session(2, SCENARIO, saved_after_step(4), "ddp"), 2),
        (Session(1, SCENARIO, None, "auto"), None),
    )


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_order_is_the_users_on_every_rank(shuffle: bool, drop_last: bool) -> None:
    """Lightning's own DistributedSampler would shuffle what is not to be shuffled."""
    resize(replace(SCENARIO, shuffle=shuffle, drop_last=drop_last), saved_after_step(1), 1, (3, 2))


@pytest.mark.parametrize("cut", [saved_after_step(2), saved_at_epoch_end(0)], ids=str)
def test_what_each_ranks_workers_read_ahead_counts_for_nothing(cut: Cut) -> None:
    """What two workers on each rank have read ahead counts for nothing."""
    resize(replace(SCENARIO, num_workers=2), cut, 2 if cut.name == "after_step_2" else 3, (2, 3))


def test_every_rank_is_killed() -> None:
    """SIGKILL on all ranks at once: the run goes on from the last step that was saved."""
    resize(SCENARIO, sigkill((1, 1), every_n_steps=2), 4, (2, 3))


def test_stopped_by_the_trainer_and_saved_afterwards() -> None:
    """`trainer.should_stop` on every rank, and saved when `fit` has returned."""
    resize(SCENARIO, stopped((1, 0)), 4, (2, 1))


def test_several_resizes_in_one_epoch() -> None:
    """The second and third are as exact as the first, and so is what follows."""
    check(
        (Session(1, SCENARIO, raised_after(1)), 1),
        (Session(2, SCENARIO, raised_after(1)), 1),
        (Session(3, SCENARIO, raised_after(1)), 1),
        (Session(2, SCENARIO), None),
    )


def test_one_global_batch_on_any_number_of_ranks() -> None:
    """As many samples in each step give the same steps: weights differ by the order of sums at most."""
    one = replace(SCENARIO, samples=24, batch_size=4, trainer={"max_epochs": 3, "accumulate_grad_batches": 2})
    two = replace(one, trainer={"max_epochs": 3})
    resized = run(Session(1, one, saved_after_step(2)), Session(2, two, saved_after_step(4)), Session(1, one))
    assert _samples(uncut(one, 1)) == _samples(uncut(two, 2)) == _samples(resized)
    expected = uncut(one, 1).weights["weight"]
    assert pytest.approx(expected, abs=1e-12) == uncut(two, 2).weights["weight"]
    assert pytest.approx(expected, abs=1e-12) == resized.weights["weight"]


def _samples(actual: Run) -> list[list[int]]:
    """The samples of each step, in the order of the data."""
    return [[number for batch in rounds for ids in batch for number in ids] for _, rounds in trained(actual)]


class Watching(L.Callback):
    """Looks at the state and the loaders on every rank, while they train."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        states: list[Any] = [None] * trainer.world_size
        dist.all_gather_object(states, resumption_of(trainer.datamodule).state_dict())
        assert states[:1] * trainer.world_size == states

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        loader, verdict = trainer.train_dataloader, resumption_of(trainer.datamodule).verdict
        self.seen = [type(loader.sampler).__name__, len(loader), len(loader.sampler), str(verdict)]


def test_every_rank_has_the_state_that_is_saved() -> None:
    """It is the same on each, after every batch, and asking for it needs no other rank."""
    scenario = replace(SCENARIO, callbacks=lambda: [Watching(), AskingAlone()])
    resize(scenario, raised_after(2), 2, (2, 3))


class AskingAlone(L.Callback):
    """Asks for the state on rank 0, where a collective would wait for ever."""

    def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.is_global_zero:
            assert resumption_of(trainer.datamodule).state_dict()["consumed_samples"] > 0


def test_the_verdict_names_the_ranks() -> None:
    """The same samples in another grouping, and what the loader shows of itself on a rank."""
    session = Session(3, SCENARIO)

    def look(checkpoint: Path | None) -> list[Any]:
        watching = Watching()
        session.train(checkpoint, watching)
        return watching.seen

    assert [
        "RankSampler",
        2,
        8,
        """\
the same samples in another grouping
Another number of data-parallel ranks.
  saved:   2
  current: 3
  The samples and their order stay the same.""",
    ] == after(Session(2, SCENARIO, saved_after_step(1)), ranks=3, work=look)


@lru_cache
def kept(scenario: Scenario) -> Any:
    """The same loader whenever it is asked for."""
    return scenario.loader()


def ranked(scenario: Scenario) -> Any:
    """A ResumableLoader, which counts by itself where no trainer does."""
    return scenario.loader(cls=ResumableLoader, ranks=Ranks())


OPTIONS: dict[str, Scenario] = {
    "limit_train_batches=2": Scenario(trainer={"max_epochs": 3, "limit_train_batches": 2}),
    "limit_train_batches=0.7": Scenario(trainer={"max_epochs": 3, "limit_train_batches": 0.7}),
    "overfit_batches=2": Scenario(trainer={"max_epochs": 3, "overfit_batches": 2}),
    "max_steps": Scenario(trainer={"max_epochs": -1, "max_steps": 7}),
    "reload_dataloaders_every_n_epochs": Scenario(trainer={"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}),
    "val_check_interval": Scenario(trainer={"max_epochs": 3, "val_check_interval": 1, "limit_val_batches": 1.0}),
    "use_distributed_sampler": Scenario(trainer={"max_epochs": 3, "use_distributed_sampler": False}),
    "estimated_stepping_batches": Scenario(module=BudgetedRanks),
    "two optimizers": Scenario(module=TwoOptimizersOnRanks),
    "one loader for ever": Scenario(loaders=kept),
    "handed to the fit": Scenario(data=PlainNumbers, loaders=ranked),
}


@pytest.mark.filterwarnings(NOT_SYNCED, "ignore:You requested to overfit but enabled train dataloader shuffling")
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("cut", [saved_after_step(2), raised_after(4)], ids=str)
def test_what_moves_lightnings_loops(option: str, cut: Cut) -> None:
    """With as many ranks, a run is the same to the bit under every option that has to do with batches."""
    scenario = OPTIONS[option]
    assert uncut(scenario, 2) == run(Session(2, scenario, cut), Session(2, scenario))


class Validating(L.Callback):
    """Remembers what the validation loader gave this rank."""

    ids: list[int]

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.ids = []

    def on_validation_batch_end(  # noqa: PLR0917  # Lightning's own
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.ids += batch.tolist()


@pytest.mark.filterwarnings(
    NOT_SYNCED,
    "ignore:Be aware that when using `ckpt_path`:UserWarning",
    "ignore:Using `DistributedSampler` with the dataloaders:UserWarning",
)
def test_validation_is_left_to_lightning() -> None:
    """Its loader is re-made with Lightning's DistributedSampler, and a validation from a checkpoint moves nothing."""
    scenario = replace(SCENARIO, trainer={"max_epochs": 3, "limit_val_batches": 1.0})
    session = Session(2, scenario)

    def validate(checkpoint: Path | None) -> tuple[str, list[list[int]], object]:
        watching = Validating()
        trainer: Any = session.trainer(watching)
        data = scenario.data(scenario)
        trainer.validate(Gathering(), data, ckpt_path=checkpoint, verbose=False)
        every: list[Any] = [None, None]
        dist.all_gather_object(every, watching.ids)
        return type(trainer.val_dataloaders.sampler).__name__, every, resumption_of(data).position

    assert ("DistributedSampler", [[100, 102, 104], [101, 103, 105]], Position()) == after(
        Session(2, scenario, saved_after_step(1)), ranks=2, work=validate
    )


class CountingValidations(L.Callback):
    """Remembers the batches of the epoch behind which there was a validation."""

    def __init__(self) -> None:
        self.behind: list[tuple[int, int]] = []

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.behind.append((trainer.current_epoch, trainer.fit_loop.batch_idx + 1))


@pytest.mark.filterwarnings(NOT_SYNCED)
@pytest.mark.parametrize(("interval", "expected"), [(1.0, [(0, 4), (1, 5), (2, 5)]), (0.5, [(0, 2), (0, 4)])])
def test_validations_of_an_epoch_that_has_become_shorter(interval: float, expected: list[tuple[int, int]]) -> None:
    """Two of ten batches are trained by one rank; the other 32 samples are four rounds, and a whole epoch is five.

    One round would be half a window, so the four are counted from 0, and validated when they are over.
    """
    options = {"limit_val_batches": 1.0, "val_check_interval": interval}
    scenario = replace(ACCUMULATING, trainer={**ACCUMULATING.trainer, **options})
    session = Session(2, scenario)

    def count(checkpoint: Path | None) -> list[tuple[int, int]]:
        counting = CountingValidations()
        session.train(checkpoint, counting)
        return counting.behind

    assert expected == after(Session(1, scenario, saved_after_step(1)), ranks=2, work=count)[: len(expected)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_checkpoint_of_a_class_that_was_not_decorated(shuffle: bool) -> None:
    """Lightning's own DistributedSampler shuffled its data in any case, so nobody knows the order that it had."""
    plain = replace(SCENARIO, data=PlainNumbers, shuffle=shuffle)
    said = refusal(Session(2, plain, saved_after_step(1)), Session(2, replace(plain, data=Numbers)))
    assert "so the order that it was trained in is unknown" in said
