"""Random numbers that follow the position under Lightning: dropout and augmentation leave the same weights, to the bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from resumable import MismatchError, ResumableLoader, StepSchedule, resumable
from resumable.errors import DecorationError
from tests.support.random_fits import SAMPLES, Data, Net, PlainData, checkpoint_after, checkpoints, fit, weights
from tests.support.random_samples import Augmented, AugmentedBatches, disturb, drawn_now

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")


def check_all_cuts(
    make: Any, folder: Path, *, resumed: Any = None, every: int = 1, net: type[Net] = Net, **options: Any
) -> None:
    """A run that is resumed after each of its batches, or some of them, ends with the weights of the whole run."""
    whole = weights(fit(make(), folder, net=net(), **options))
    saved = checkpoints(folder)
    assert len(saved) > 6
    for checkpoint in saved[::every]:
        again = fit((resumed or make)(), net=net(), resume=checkpoint, **options)
        assert whole == weights(again), checkpoint.name


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_every_cut_point_of_two_epochs(tmp_path: Path, accumulation: int) -> None:
    """Also inside an accumulation window, with a sanity check and validations that draw."""
    check_all_cuts(Data, tmp_path, accumulate_grad_batches=accumulation)


@resumable(reseed=True, seed=5, schedule=StepSchedule.parse("0:4 8:6"))
class Scheduled(PlainData):
    """Its steps take 2, then 3 batches."""


def test_a_schedule(tmp_path: Path) -> None:
    """A resume goes on at a step's beginning, and each batch of the step draws what it drew."""
    check_all_cuts(Scheduled, tmp_path, every=2)


class Noting(Net):
    """Notes the samples of each batch, what its transform drew, and what its step draws."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        samples, noise = batch
        self.seen.append((samples.tolist(), noise.item(), drawn_now()))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("grouping", ["accumulated", "scheduled"])
def test_a_batch_draws_alike_in_whatever_step(grouping: str) -> None:
    """Its numbers are its own, other ones than those of each batch in the same step."""
    alone, grouped = Noting(), Noting()
    fit(Data(), net=alone)
    if grouping == "scheduled":
        fit(Scheduled(), net=grouped)
    else:
        fit(Data(), net=grouped, accumulate_grad_batches=3)
    assert 14 == len({drawn for _, _, drawn in alone.seen}) == len({noise for _, noise, _ in alone.seen})
    assert alone.seen == grouped.seen


def test_without_it_the_weights_differ(tmp_path: Path) -> None:
    """The samples come back exactly, and this is what the tests here would see."""

    @resumable(seed=5)
    class Plain(PlainData):
        pass

    assert weights(fit(Plain(), tmp_path)) != weights(fit(Plain(), resume=checkpoint_after(3, tmp_path)))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("persistent", [True, False])
def test_workers_change_nothing(tmp_path: Path, workers: int, persistent: bool) -> None:
    """With workers or without, and another number after the resume."""
    own: dict[str, Any] = {"num_workers": workers, "persistent_workers": persistent}
    assert weights(fit(Data())) == weights(fit(Data(**own), tmp_path))
    for step in (3, 9):
        assert weights(fit(Data())) == weights(fit(Data(), resume=checkpoint_after(step, tmp_path)))


@pytest.mark.parametrize(
    "options",
    [
        {"num_sanity_val_steps": 0},
        {"val_check_interval": 1},
        {"limit_val_batches": 0},
        {"gradient_clip_val": 0.1},
    ],
    ids=str,
)
def test_what_lies_between_changes_nothing(options: dict[str, Any]) -> None:
    """Validation, sanity checks and their absence leave the training's random numbers alone."""
    expected = weights(fit(Data(), gradient_clip_val=options.get("gradient_clip_val")))
    assert expected == weights(fit(Data(), **options))


class Draws(L.Callback):
    """A callback that draws wherever it may, but from the step's own beginning on."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        disturb()

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        disturb()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        disturb()


def test_callbacks_change_nothing() -> None:
    """What they leave of the generators is not what the next step begins with."""
    assert weights(fit(Data())) == weights(fit(Data(), callbacks=[Draws()]))


class FindsInMidRun(LearningRateFinder):
    """Tries learning rates out as the second epoch begins, and leaves the trainer another fetcher."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        pass

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


class Tunable(Net):
    """A net whose learning rate can be found."""

    def __init__(self) -> None:
        super().__init__()
        self.lr = 1e-2


@pytest.mark.filterwarnings("ignore:Failed to compute suggestion")
def test_a_finder_in_mid_run(tmp_path: Path) -> None:
    """The epoch that goes on after it draws what a resumed one draws."""
    whole = weights(fit(Data(), tmp_path, net=Tunable(), callbacks=[FindsInMidRun(num_training_steps=3)]))
    for batches in (3, 9, 12):
        again = fit(
            Data(),
            net=Tunable(),
            resume=checkpoint_after(batches, tmp_path),
            callbacks=[FindsInMidRun(num_training_steps=3)],
        )
        assert whole == weights(again)


def test_several_train_loaders(tmp_path: Path) -> None:
    """Equal indices of two loaders draw other numbers; a shorter one is cycled."""

    def loaders() -> dict[str, Any]:
        return {
            "long": DataLoader(Augmented(SAMPLES), batch_size=2, shuffle=True),
            "short": DataLoader(Augmented(6), batch_size=2, shuffle=True),
        }

    check_all_cuts(lambda: Data(loaders), tmp_path, every=2)


def test_equal_indices_of_several_loaders_draw_apart() -> None:
    """Or two augmentations of one step would be the same."""
    seen: list[Any] = []

    class Seeing(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.append([part.tolist() for part in batch[0]])
            return super().training_step(batch, batch_idx)

    fit(
        Data(lambda: [DataLoader(Augmented(4), batch_size=2) for _ in range(2)]),
        net=Seeing(),
        max_epochs=1,
        val_check_interval=1.0,
    )
    for one, other in seen:
        assert [sample[0] for sample in one] == [sample[0] for sample in other]
        assert all(mine[1:] != theirs[1:] for mine, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize("mode", ["min_size", "max_size"])
def test_loaders_that_are_combined(tmp_path: Path, mode: Any) -> None:
    """In Lightning's other modes too."""

    def combined() -> CombinedLoader:
        return CombinedLoader(
            [DataLoader(Augmented(SAMPLES), batch_size=2), DataLoader(Augmented(8), batch_size=2)], mode
        )

    class Lenient(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            parts, noise = batch
            return super().training_step(([part for part in parts if part is not None], noise), batch_idx)

    check_all_cuts(lambda: Data(combined), tmp_path, every=3, net=Lenient, limit_val_batches=0, val_check_interval=1.0)


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(AugmentedBatches(SAMPLES), batch_size=2, shuffle=True),
        lambda: DataLoader(Augmented(5), batch_size=2, sampler=WeightedRandomSampler([5.0, 1, 1, 1, 1], SAMPLES)),
        lambda: DataLoader(
            Augmented(5), batch_size=2, sampler=WeightedRandomSampler([5.0, 1, 1, 1, 1], SAMPLES), num_workers=1
        ),
    ],
    ids=["whole batches", "repeated indices", "repeated indices in a worker"],
)
def test_datasets_and_samplers_of_other_kinds(tmp_path: Path, loader: Any) -> None:
    """A dataset that fetches whole batches, and indices that come again."""
    check_all_cuts(lambda: Data(loader), tmp_path, every=2)


class Stream(IterableDataset[Any]):
    """A stream whose samples draw; each worker has its part."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for number in range(first, SAMPLES, step):
            yield torch.tensor([number, *drawn_now()], dtype=torch.float64)


class StatefulStream(Stream):
    """One that saves its place."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        first, self.at = self.at, 0
        for number in range(first, SAMPLES):
            self.at = number + 1
            yield torch.tensor([number, *drawn_now()], dtype=torch.float64)
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class DrawnStream(IterableDataset[Any]):
    """One that draws its order as its pass begins, and leaves some of it out."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        numbers = list(range(SAMPLES))
        random.shuffle(numbers)
        for number in numbers:
            if random.random() < 0.8:
                yield torch.tensor([number, *drawn_now()], dtype=torch.float64)


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(Stream(), batch_size=2),
        lambda: DataLoader(Stream(), batch_size=2, num_workers=2),
        lambda: DataLoader(Stream(), batch_size=2, num_workers=1, persistent_workers=True),
        lambda: DataLoader(StatefulStream(), batch_size=2),
        lambda: DataLoader(StatefulStream(), batch_size=2, num_workers=1),
        lambda: DataLoader(DrawnStream(), batch_size=2, num_workers=1),
        lambda: StatefulDataLoader(DrawnStream(), batch_size=2, num_workers=2, persistent_workers=True),
    ],
    ids=["plain", "2 workers", "a worker that stays", "stateful", "stateful in a worker", "drawn", "torchdata's"],
)
@pytest.mark.filterwarnings("ignore:This resume reads the stream again:resumable.ResumptionWarning")
@pytest.mark.filterwarnings("ignore:The stream has another order in each pass:resumable.ResumptionWarning")  # it draws
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 under torch 2.13
def test_streams(tmp_path: Path, loader: Any) -> None:
    """They are seeded before each batch, by its number."""
    check_all_cuts(lambda: Data(loader), tmp_path, every=2)


def test_a_loader_that_is_handed_to_the_fit(tmp_path: Path) -> None:
    """Without a datamodule; and in a loop it draws the same samples."""

    class OneLoader(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.loss(batch.float())

        validation_step = None  # type: ignore[assignment]

    def loader() -> ResumableLoader[Any]:
        return ResumableLoader(Augmented(SAMPLES), batch_size=2, shuffle=True, seed=5, reseed=True)

    check_all_cuts(loader, tmp_path, every=2, net=OneLoader, val_check_interval=1.0)


def test_a_resumable_loader_in_a_decorated_datamodule(tmp_path: Path) -> None:
    """Its own option holds where the decorator has none."""

    @resumable
    class Returning(PlainData):
        def train_dataloader(self) -> Any:
            return ResumableLoader(Augmented(SAMPLES), batch_size=2, shuffle=True, seed=5, reseed=True)

    check_all_cuts(Returning, tmp_path, every=2)


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`:UserWarning")
def test_a_step_that_draws_its_batches_by_itself(tmp_path: Path) -> None:
    """`training_step(dataloader_iter)` is seeded with each of them."""

    class Iterating(Net):
        def training_step(self, dataloader_iter: Any) -> torch.Tensor:  # type: ignore[override]
            batch, _, _ = next(dataloader_iter)
            return self.loss(batch.float())

    check_all_cuts(Data, tmp_path, every=2, net=Iterating, limit_val_batches=0, val_check_interval=1.0)


def test_indices_that_know_their_epoch(tmp_path: Path) -> None:
    """pass_epoch=True, without any seeding: a generator of the dataset's own follows the position."""

    class Knowing(Augmented):
        def __getitem__(self, index: Any) -> torch.Tensor:
            generator = np.random.default_rng((int(index), index.epoch, index.draw))
            return torch.tensor([int(index), *generator.random(3)], dtype=torch.float64)

    @resumable(pass_epoch=True, seed=5)
    class Telling(PlainData):
        def train_dataloader(self) -> Any:
            return DataLoader(Knowing(SAMPLES), batch_size=2, shuffle=True)

    seen: dict[int, list[Any]] = {}

    class Seeing(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.setdefault(self.global_step, []).append(batch[0].tolist())
            return super().training_step(batch, batch_idx)

    fit(Telling(), tmp_path, net=Seeing())
    fit(Telling(), net=Seeing(), resume=checkpoint_after(4, tmp_path))
    assert [2] * 10 == [len(seen[step]) for step in range(4, 14)]
    assert all(first == again for first, again in (seen[step] for step in range(4, 14)))


def test_a_resume_without_it_gets_a_verdict(tmp_path: Path) -> None:
    """As in loops; and a saved seed is taken over."""
    whole = weights(fit(Data(), tmp_path))

    @resumable(seed=5)
    class Without(PlainData):
        __qualname__ = "Data"  # by which a checkpoint knows it

    with pytest.raises(MismatchError, match="no longer follow the position"):
        fit(Without(), resume=checkpoint_after(3, tmp_path))

    @resumable(reseed=True)
    class Seedless(PlainData):
        __qualname__ = "Data"

    assert whole == weights(fit(Seedless(), resume=checkpoint_after(3, tmp_path)))


def test_a_stream_has_no_index_to_pass() -> None:
    """It is said before the first step."""

    @resumable(pass_epoch=True)
    class Telling(PlainData):
        pass

    with pytest.raises(DecorationError, match="A stream has no indices"):
        fit(Telling(lambda: DataLoader(Stream(), batch_size=2)))
