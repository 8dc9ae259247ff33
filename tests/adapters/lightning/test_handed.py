"""Loaders that were handed straight to `trainer.fit`, to its evaluations, or to a loop after it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, DistributedSampler

from resumable import ConstantBatchSize, MismatchError, ResumableLoader, resumable, resumption_of
from resumable.errors import ConfigurationError, DecorationError, ResumptionWarning
from tests.support.cuts import Cut, also_with_workers, raised_after, saved_after_step, saved_at_epoch_end
from tests.support.lightning_runs import PlainNumbers, Scenario, check, numbers, trainer_of, uninterrupted
from tests.support.recording import Budgeted, Recording, TwoOptimizers, flat

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling"),
    pytest.mark.filterwarnings("ignore:Your `.*_dataloader`'s sampler has shuffling enabled"),  # a train loader's has
]

N, SIZE = 22, 4


def loader_of(n: int = N, **options: Any) -> Any:
    """A ResumableLoader over *n* numbers."""
    own: dict[str, Any] = {"batch_size": SIZE, "shuffle": True, **options}
    return ResumableLoader(numbers(n), **own)


def handed(scenario: Scenario) -> Any:
    """The scenario's loader as a ResumableLoader."""
    return scenario.loader(cls=ResumableLoader)


def two(scenario: Scenario) -> list[Any]:
    """One that is as long as the epoch, and a shorter one."""
    return [loader_of(), loader_of(9, seed=4)]


Handed = partial(Scenario, data=PlainNumbers, loaders=handed)
SCENARIOS: dict[str, Scenario] = {
    "one": Handed(),
    "drop_last": Handed(drop_last=True),
    "no batches": Handed(loaders=lambda _: loader_of(9, batch_size=None)),
    "limit": Handed(trainer={"max_epochs": 3, "limit_train_batches": 4}),
    "share": Handed(trainer={"max_epochs": 3, "limit_train_batches": 0.5}),
    "max_steps": Handed(trainer={"max_epochs": -1, "max_steps": 14}),
    "validation": Handed(trainer={"max_epochs": 3, "val_check_interval": 2, "limit_val_batches": 1.0}),
    "reload": Handed(trainer={"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}),
    "overfit": Handed(trainer={"max_epochs": 3, "overfit_batches": 4}),
    "estimated_stepping_batches": Handed(module=Budgeted),
    "two optimizers": Handed(module=TwoOptimizers, trainer={"max_epochs": 3}),
    "schedule": Handed(loaders=lambda _: loader_of(40, schedule=ConstantBatchSize(8))),
    "list": Handed(loaders=two),
    "the shorter first": Handed(loaders=lambda scenario: two(scenario)[::-1]),
    "dict": Handed(loaders=lambda scenario: dict(zip("ab", two(scenario), strict=True))),
    "min_size": Handed(loaders=lambda scenario: CombinedLoader(two(scenario), "min_size")),
    "max_size": Handed(loaders=lambda scenario: CombinedLoader(two(scenario), "max_size")),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_handed_loader_is_followed(name: str) -> None:
    """Saved on an exception, after a step and at an epoch's end, and resumed each time, it is the uncut run."""
    saves = [saved_after_step(4)] if name != "two optimizers" else []
    check(SCENARIOS[name], raised_after(2 if name == "schedule" else 1), *saves, saved_at_epoch_end(1))


CUTS: list[Callable[[int], Cut]] = [raised_after, lambda step: saved_after_step(step + 1)]


@also_with_workers
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.tuples(st.integers(6, 30), st.integers(1, 3)),
    accumulation=st.integers(1, 3),
    cut=st.sampled_from(CUTS),
    steps=st.sampled_from([{}, {"max_steps": 1000}]),
)
def test_any_accumulation_is_followed(
    num_workers: int, sizes: tuple[int, int], accumulation: int, cut: Any, steps: dict[str, int]
) -> None:
    """Only whole optimizer steps count, under both of Lightning's ways to end."""
    options = {"max_epochs": 2, "accumulate_grad_batches": accumulation, **steps}
    scenario = Handed(samples=sizes[0], batch_size=sizes[1], num_workers=num_workers, trainer=options)
    at = accumulation if cut is raised_after else 0
    check(scenario, cut(at))


class Model(Recording):
    """A model for all of Lightning's entry points, which remembers what it is evaluated on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(cast("list[int]", torch.as_tensor(batch).reshape(-1).tolist()))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        self.validation_step(batch, batch_idx)
        return batch


def fit(loader: Any, *callbacks: L.Callback, model: Recording | None = None, **options: Any) -> Recording:
    """One fit with *loader*, or with a datamodule."""
    module = model or Model()
    trainer_of(Handed(), *callbacks, **{"max_epochs": -1, **options}).fit(module, loader)
    return module


def trained(module: Recording) -> list[list[int]]:
    """The batches that *module* was trained on."""
    return [flat(ids) for step in module.history.steps for _, ids in step.batches]


def ids(loader: Any) -> list[list[int]]:
    """A pass of *loader*."""
    return [batch.reshape(-1).tolist() for batch in loader]


EPOCHS: list[list[int]] = [batch for loader in [loader_of()] for _ in range(3) for batch in ids(loader)]
PER_EPOCH = -(-N // SIZE)


@pytest.mark.parametrize("steps", [2, PER_EPOCH, PER_EPOCH + 1])
def test_a_loop_goes_on_after_a_fit_and_a_fit_after_a_loop(steps: int) -> None:
    """The position is one, whoever trains."""
    loader = loader_of()
    assert EPOCHS[:steps] == trained(fit(loader, max_steps=steps))
    assert divmod(steps, PER_EPOCH) == (loader.epoch, loader.batches_done)
    rest = PER_EPOCH - steps % PER_EPOCH
    assert EPOCHS[steps : steps + rest] == ids(loader)
    assert EPOCHS[steps + rest : steps + rest + 2] == trained(fit(loader, max_steps=2))
    assert [(steps + rest + 2) // PER_EPOCH, 2] == [loader.epoch, loader.batches_done]


@pytest.mark.parametrize("before", [0, 2, PER_EPOCH])
def test_a_fit_after_a_look_begins_where_the_loop_has_trained(before: int) -> None:
    """`next(iter(loader))`, to see the shape of a batch, moves nothing."""
    loader = loader_of()
    passing = iter(loader)
    assert EPOCHS[:before] == [next(passing).tolist() for _ in range(before)]
    del passing
    next(iter(loader))
    assert EPOCHS[before : before + 2] == trained(fit(loader, max_steps=2))
    assert divmod(before + 2, PER_EPOCH) == (loader.epoch, loader.batches_done)


def test_a_fit_that_fails_leaves_the_loader_where_it_was_trained() -> None:
    """The batch that was being trained comes again."""

    class Failing(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) if batch_idx < 3 else _fail()

    loader = loader_of()
    with pytest.raises(KeyError, match="failed"):
        fit(loader, model=Failing())
    assert EPOCHS[3:PER_EPOCH] == ids(loader)


def test_commits_of_a_loop_are_not_asked_of_a_trainer() -> None:
    """A state of a loop that commits goes on under a trainer, which knows its steps."""
    loop, loader = loader_of(), loader_of()
    next(iter(loop))
    loop.commit()
    loader.load_state_dict(loop.state_dict())
    assert EPOCHS[1:3] == trained(fit(loader, max_steps=2))
    assert 3 * SIZE == loader.state_dict()["consumed_samples"]


def _fail() -> Any:
    raise KeyError("failed")


@resumable
class Kept(L.LightningDataModule):
    """Has one loader, for whatever is asked of it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        own: dict[str, Any] = {"batch_size": SIZE, "shuffle": True, **options}
        self.loader: Any = DataLoader(numbers(N), **own)

    def train_dataloader(self) -> Any:
        return self.loader

    def val_dataloader(self) -> Any:
        return self.loader

    def test_dataloader(self) -> Any:
        return self.loader

    def predict_dataloader(self) -> Any:
        return self.loader


@pytest.mark.parametrize("entry", ["validate", "test", "predict"])
@pytest.mark.parametrize("steps", [2, PER_EPOCH])
def test_evaluations_see_all_and_move_nothing(entry: str, steps: int) -> None:
    """A train loader may be evaluated on: each sample once, from the epoch's beginning, and the training goes on after it."""
    loader, data = loader_of(), Kept()
    for given_data in (loader, data):
        module = Model()
        fit(given_data, max_steps=steps, limit_val_batches=0)
        getattr(trainer_of(Handed(), limit_val_batches=1.0), entry)(module, given_data)
        assert list(range(N)) == all_of(module.seen)
        assert PER_EPOCH == len(module.seen)
    assert EPOCHS[:PER_EPOCH] == ids_of_evaluation(entry, loader)
    assert min(N, steps * SIZE) == loader.state.consumed_samples == resumption_of(data).consumed_samples
    assert EPOCHS[steps : (steps // PER_EPOCH + 1) * PER_EPOCH] == ids(loader)


def all_of(batches: list[list[int]]) -> list[int]:
    """The samples of *batches*, in the dataset's order."""
    return sorted(number for batch in batches for number in batch)


def ids_of_evaluation(entry: str, loader: Any) -> list[list[int]]:
    """The batches that an entry point of a new trainer sees."""
    module = Model()
    getattr(trainer_of(Handed(), limit_val_batches=1.0), entry)(module, loader)
    return module.seen


@pytest.mark.parametrize("options", [{"batch_size": None}, {"drop_last": True}], ids=str)
def test_a_prediction_leaves_nothing_out(options: dict[str, Any]) -> None:
    """Lightning predicts an epoch's tail too, and single samples."""
    assert list(range(N)) == all_of(ids_of_evaluation("predict", loader_of(**options)))
    assert list(range(N)) == all_of(ids_of_evaluation("predict", decorated(**options)))


def decorated(**options: Any) -> Any:
    """The train loader of a decorated datamodule, after a fit."""
    data = Kept(**options)
    fit(data, max_steps=1, limit_val_batches=0)
    return data.loader


@pytest.mark.parametrize("options", [{}, {"num_workers": 1, "persistent_workers": True}], ids=["", "workers"])
@pytest.mark.parametrize("is_handed", [True, False], ids=["handed", "decorated"])
def test_a_validation_with_the_train_loader_in_mid_epoch(is_handed: bool, options: dict[str, Any]) -> None:
    """The validation sees all, and the training goes on where it was, also where workers are kept."""
    module = Model()
    given_data = loader_of(**options) if is_handed else Kept(**options)
    trainer = trainer_of(Handed(), val_check_interval=2, limit_val_batches=1.0, max_epochs=2)
    trainer.fit(module, given_data, given_data if is_handed else None)
    assert EPOCHS[: 2 * PER_EPOCH] == trained(module)
    assert sorted([*range(N)] * 6) == all_of(module.seen)


class Looking(L.Callback):
    """Iterates the loader beside the training, and copies it."""

    def __init__(self) -> None:
        self.copies: list[Any] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        loader: Any = trainer.train_dataloader
        next(iter(loader))
        ids(loader)
        if trainer.global_step == 3:
            self.copies = [copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))]


@pytest.mark.parametrize("make", [loader_of, Kept], ids=["handed", "decorated"])
def test_looks_and_copies_move_nothing(make: Callable[[], Any]) -> None:
    """A copy has its own position, from where the training stood, in a loop or under a trainer of its own."""
    data, looking = make(), Looking()
    assert EPOCHS[: PER_EPOCH + 1] == trained(fit(data, looking, max_steps=PER_EPOCH + 1, limit_val_batches=0))
    assert N + SIZE == (resumption_of(data) if isinstance(data, Kept) else data.state).consumed_samples
    one, other = looking.copies
    assert EPOCHS[3:PER_EPOCH] == ids(one)
    assert EPOCHS[3:8] == trained(fit(other, max_steps=5))
    assert [N, N + 2 * SIZE] == [each.state_dict()["consumed_samples"] for each in (one, other)]
    assert list(range(N)) == all_of(ids_of_evaluation("predict", one))


class Small(L.LightningModule):
    """A model that can be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        first: torch.Tensor = batch[0]
        return (self.weight * first).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.001)


@pytest.mark.parametrize("make", [loader_of, Kept, lambda: [loader_of(), loader_of(9)]])
def test_what_holds_a_train_loader_can_be_copied(make: Callable[[], Any]) -> None:
    """After a fit, `torch.save`'s pickle and a deep copy of the model, the data and the trainer work as without us."""
    trainer, module, data = trainer_of(Handed(), max_epochs=1), Small(), make()
    trainer.fit(module, data)
    for thing in (module, data, trainer, trainer.train_dataloader):
        copy.deepcopy(thing)
        pickle.loads(pickle.dumps(thing))


def test_the_loader_of_a_decorated_datamodule_is_followed_too() -> None:
    """It counts by itself, as long as its datamodule has no trainer."""
    check(Handed(loaders=lambda _: Kept().train_dataloader()), raised_after(2), saved_at_epoch_end(0))


def test_the_learning_rate_finder_moves_nothing() -> None:
    """Its trial is undone."""
    loader, module = loader_of(), Tried()
    trainer = trainer_of(Handed(), max_epochs=1)
    Tuner(trainer).lr_find(module, loader, num_training=4, update_attr=False)
    trainer.fit(module, loader)
    assert EPOCHS[:PER_EPOCH] == trained(module)[-PER_EPOCH:]
    assert loader.state.consumed_samples == N


class Tried(Model):
    """Has no steps to remember that a checkpoint would bring back."""

    lr = 0.01


def test_only_some_can_be_resumed() -> None:
    """Beside a plain DataLoader nothing is followed, which is said."""
    with pytest.warns(ResumptionWarning, match="only some can be resumed"):
        fit([loader_of(), DataLoader(numbers(N), batch_size=SIZE)], max_steps=2)


def test_what_lightning_cannot_do_is_refused_in_front() -> None:
    """The error is ours, and comes before a step."""
    with pytest.raises(DecorationError, match="no batch can lead into the next"):
        fit(loader_of(drop_last="carry"), max_steps=1)
    rebuilt: Any = type(Kept().train_dataloader())(range(4), sampler=DistributedSampler([1], 2, 0))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="built this train loader anew"):
        next(iter(rebuilt))
    loader = decorated()
    with pytest.raises(ConfigurationError, match="follows another trainer"):
        fit(loader, max_steps=1)


def test_a_checkpoint_without_a_position(tmp_path: Path) -> None:
    """One of a plain loader goes on by the trainer's counters in the dataset's own order, and in no other."""
    trainer = trainer_of(Handed(), max_steps=2, max_epochs=-1)
    trainer.fit(Model(), DataLoader(numbers(N), batch_size=SIZE))
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    module, again = Model(), trainer_of(Handed(), max_steps=4, max_epochs=-1)
    again.fit(module, loader_of(shuffle=False), ckpt_path=tmp_path / "plain.ckpt")
    assert [list(range(8, 12)), list(range(12, 16))] == trained(module)[-2:]
    with pytest.raises(MismatchError, match="no position of the data"):
        trainer_of(Handed(), max_epochs=2).fit(Model(), loader_of(), ckpt_path=tmp_path / "plain.ckpt")


def test_lightnings_own_epochs_are_the_loaders(tmp_path: Path) -> None:
    """A handed loader trains what a decorated datamodule trains, with the same seed."""
    plain = Scenario()
    assert uninterrupted(plain).steps == uninterrupted(replace(plain, data=PlainNumbers, loaders=handed)).steps
