"""Random numbers that follow a data sampler's count: dropout and augmentation leave the same weights, to the bit."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from resumable import MismatchError, ResumptionWarning, resumable, resumption_of
from tests.support import nemo_shape
from tests.support.megatron_shapes import DealtBatches, InOrder, InOrderModulo, ShuffledBatches
from tests.support.random_samples import Augmented, drawn_now

if not nemo_shape.has_megatron_core():
    pytest.skip("megatron-core is not installed", allow_module_level=True)

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:Found `dataloader_iter`:UserWarning"),
    pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor:UserWarning"),
]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained, and how."""

    samples: int = 26
    micro: int = 4
    whole: int = 4
    ramp: tuple[int, int, int] | None = None
    kind: nemo_shape.DataloaderType = "single"
    steps: bool = False
    trainer: dict[str, Any] = field(default_factory=dict[str, Any])


def datamodule(run: Run, workers: int = 0, **options: Any) -> Any:
    """A datamodule of *run*; its random numbers follow the position, unless *options* say otherwise."""
    chosen: dict[str, Any] = {"reseed": True, "seed": 5} | options

    @resumable(sampler="data_sampler", **chosen)
    class Data(L.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.data_sampler = nemo_shape.MegatronDataSampler(
                seq_len=1,
                micro_batch_size=run.micro,
                global_batch_size=run.whole,
                rampup_batch_size=list(run.ramp) if run.ramp else None,
                dataloader_type=run.kind,
                output_log=False,
            )

        def train_dataloader(self) -> Any:
            return self.loader("train", run.samples)

        def val_dataloader(self) -> Any:
            return self.loader("validation", 2 * run.whole)

        def loader(self, mode: str, samples: int) -> Any:
            return nemo_shape.WrappedDataLoader(
                mode, dataset=Augmented(samples), batch_size=run.micro, num_workers=workers
            )

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch if self.trainer is None or not self.trainer.training else batch + torch.rand(())

    return Data()


class Net(L.LightningModule):
    """A net with dropout, whose steps draw from all three libraries; it tells the sampler of its steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.announced(self.loss(batch))

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        """Of the samples, and of what the step draws."""
        drawn = drawn_now()
        self.seen.append((batch.tolist(), drawn))
        loss: torch.Tensor = self.net(batch.float()).mean() * sum(drawn)
        return loss

    def announced(self, loss: torch.Tensor) -> torch.Tensor:
        """As NeMo's step tells its listeners."""
        step = nemo_shape.MegatronStep(
            trainer=self.trainer, pl_module=self, forward_only=False, step_i=self.trainer.global_step
        )
        nemo_shape.announce(self.sampler, "on_megatron_step_end", step=step)
        return loss

    @property
    def sampler(self) -> Any:
        """The data sampler."""
        trainer: Any = self.trainer
        return trainer.datamodule.data_sampler

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        drawn_now()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-2)


class Steps(Net):
    """Each step draws its micro batches, as many as the sampler says."""

    def training_step(self, dataloader_iter: Iterator[Any]) -> torch.Tensor:  # type: ignore[override]
        losses = [self.loss(next(dataloader_iter)[0]) for _ in range(self.sampler.num_microbatches)]
        return self.announced(torch.stack(losses).mean())


def disturb() -> None:
    """Leave the global generators anywhere, as a new process does."""
    torch.seed()
    random.seed()
    np.random.seed()  # noqa: NPY002


def fit(run: Run, data: Any = None, folder: Path | None = None, resume: Path | None = None) -> Net:
    """A net trained with *data*; with a *folder*, each step leaves its checkpoint there."""
    nemo_shape.calculators().unset_num_microbatches_calculator()
    net = Steps() if run.steps else Net()
    data = datamodule(run) if data is None else data
    disturb()
    saving: list[L.Callback] = (
        [] if folder is None else [ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)]
    )
    chosen: dict[str, Any] = {"max_epochs": 2, "num_sanity_val_steps": 1, "limit_val_batches": 1} | run.trainer
    trainer = L.Trainer(
        strategy=nemo_shape.MegatronStrategy(),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(saving),
        callbacks=saving,
        **chosen,
    )
    trainer.fit(net, data, ckpt_path=None if resume is None else str(resume))
    return net


def weights(net: Net) -> list[float]:
    """All weights, to be compared bit by bit."""
    return [float(value) for parameter in net.parameters() for value in parameter.detach().flatten()]


RUNS = {
    "single": Run(),
    "cyclic": Run(kind="cyclic"),
    "batch": Run(kind="batch", micro=2),
    "accumulated": Run(micro=2, whole=2, samples=16, trainer={"accumulate_grad_batches": 3}),
    "validated": Run(trainer={"val_check_interval": 2}),
    "limited": Run(trainer={"limit_train_batches": 4}),
    "micro batches": Run(steps=True, micro=2, whole=6),
    "micro batches, cyclic": Run(steps=True, micro=2, whole=6, kind="cyclic"),
    "a ramp": Run(steps=True, micro=2, whole=8, ramp=(2, 2, 20), samples=40),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=[name.replace(" ", "_") for name in RUNS])
def test_every_cut_point_of_two_epochs(tmp_path: Path, run: Run) -> None:
    """With and without workers, the weights are those of the whole run."""
    whole = weights(fit(run, folder=tmp_path))
    steps = len(list(tmp_path.iterdir()))
    assert steps > 3
    for step in range(1, steps):
        data = datamodule(run, workers=step % 3 == 0)
        assert whole == weights(fit(run, data, resume=tmp_path / f"step={step}.ckpt")), step


def test_without_it_the_weights_differ(tmp_path: Path) -> None:
    """Which is what the tests above would see."""
    run = Run()
    whole = weights(fit(run, datamodule(run, reseed=False), tmp_path))
    assert whole != weights(fit(run, datamodule(run, reseed=False), resume=tmp_path / "step=3.ckpt"))


@pytest.mark.parametrize("steps", [False, True])
def test_each_micro_batch_draws_anew(steps: bool) -> None:
    """In its samples and in its step, in all epochs."""
    seen = fit(Run(steps=steps, micro=2, whole=6 if steps else 2)).seen
    samples = [tuple(sample[1:]) for batch, _ in seen for sample in batch]
    assert len(samples) == len(set(samples)) >= 48
    assert len(seen) == len({drawn for _, drawn in seen})


def test_a_micro_batch_draws_the_same_in_any_grouping() -> None:
    """Whether a step is a batch of the loader or draws several: its samples and its first draws follow from its place."""
    one, other = (fit(Run(samples=24, steps=True, micro=2, whole=whole)).seen for whole in (2, 6))
    assert [batch for batch, _ in one] == [batch for batch, _ in other]
    assert [drawn for _, drawn in one] == [drawn for _, drawn in other]


def test_a_resume_without_it_gets_a_verdict(tmp_path: Path) -> None:
    """Under "error" nothing is trained; under "warn" the run goes on, with other numbers."""
    run = Run()
    whole = fit(run, folder=tmp_path)
    saved = tmp_path / "step=3.ckpt"
    with pytest.raises(MismatchError, match="no longer follow the position"):
        fit(run, datamodule(run, reseed=False), resume=saved)
    with pytest.raises(MismatchError, match="random numbers have another seed"):
        fit(run, datamodule(run, seed=6), resume=saved)
    for options in ({"reseed": False}, {"seed": 6}):
        with pytest.warns(ResumptionWarning, match="random numbers"):
            again = fit(run, datamodule(run, on_mismatch="warn", **options), resume=saved)
        assert weights(whole) != weights(again)


@pytest.mark.parametrize("options", [{"seed": None}, {"seed": 6, "on_mismatch": "adopt"}], ids=str)
def test_the_saved_seed_is_taken_over(tmp_path: Path, options: dict[str, Any]) -> None:
    """Where none is given, and where the policy says so."""
    run = Run()
    whole = weights(fit(run, folder=tmp_path))
    assert whole == weights(fit(run, datamodule(run, **options), resume=tmp_path / "step=3.ckpt"))


# -- loops, on any number of ranks

SHAPES = {
    "in order": InOrder,
    "modulo": InOrderModulo,
    "shuffled": ShuffledBatches,
    "dealt": DealtBatches,
}


class Sampler:
    """A data sampler of one rank, in a loop that counts its steps."""

    def __init__(self, shape: Any, ranks: int, rank: int, samples: int, knows: str) -> None:
        self.knows = knows
        if knows == "data sampler":
            self.data_parallel_rank = rank
        self.shape, self.ranks, self.rank, self.samples = shape, ranks, rank, samples
        self.init_consumed_samples = self.prev_consumed_samples = self.init_global_step = self.if_first_step = 0
        self.micro_batch_size, self.data_parallel_size, self.global_batch_size = 2, ranks, 2 * ranks

    def setup(self, global_rank: int) -> None:
        """Nothing to set up."""

    def connect(self, trainer: Any) -> None:
        """Nothing to ask the trainer for."""

    def transform_dataloader(self, loader: Any) -> Any:
        """*loader* with the batches of this rank."""
        batches = self.shape(self.samples, self.init_consumed_samples, ranks=self.ranks, rank=self.rank)
        if self.knows == "batch sampler":
            batches.data_parallel_rank = self.rank
        return DataLoader(loader.dataset, batch_sampler=batches, num_workers=loader.num_workers)

    def compute_consumed_samples(self, steps: int = 0) -> int:
        """The count after so many steps."""
        return self.init_consumed_samples + steps * self.global_batch_size


class Steady:
    """A trainer that counts its steps."""

    global_step = 0


def loop(
    shape: Any,
    ranks: int,
    rank: int,
    samples: int,
    workers: int = 0,
    *,
    base: Any = object,
    knows: str = "batch sampler",
) -> Any:
    """A datamodule of one rank, in a loop unless its *base* is Lightning's; which sampler *knows* its rank."""

    @resumable(sampler="data_sampler", reseed=True, seed=5)
    class Data(base):  # type: ignore[misc]  # chosen when it runs
        def __init__(self) -> None:
            super().__init__()
            if base is object:
                self.trainer = Steady()
            self.data_sampler = Sampler(shape, ranks, rank, samples, knows)

        def train_dataloader(self) -> Any:
            return self.data_sampler.transform_dataloader(DataLoader(Augmented(samples), num_workers=workers))

    return Data()


def trained(data: Any, epochs: int = 2) -> Iterator[Any]:
    """Each batch, and what its step draws."""
    for _ in range(resumption_of(data).position.epoch, epochs):
        for batch in data.train_dataloader():
            drawn = drawn_now()
            data.trainer.global_step += 1
            yield batch.tolist(), drawn


@pytest.mark.parametrize("shape", SHAPES.values(), ids=[name.replace(" ", "_") for name in SHAPES])
def test_loops(shape: Any) -> None:
    """Every cut point of an epoch, with other workers after the resume."""
    samples = 12
    disturb()
    whole = list(itertools.islice(trained(loop(shape, 1, 0, samples), 1), 6))
    for after in range(1, 6):
        data = loop(shape, 1, 0, samples)
        passing = trained(data, 1)
        first = list(itertools.islice(passing, after))
        state = data.state_dict()
        del passing
        disturb()
        following = loop(shape, 1, 0, samples, workers=after % 2)
        following.load_state_dict(state)
        assert whole == first + list(trained(following, 1))


class Contiguous(InOrder):
    """Each rank's micro batch of a round is a run of it, as with Megatron's samplers."""

    def cut(self, order: list[int]) -> Iterator[list[int]]:
        for start in range(self.rank * 2, len(order) - 1, self.size):
            yield order[start : start + 2]


@pytest.mark.parametrize("knows", ["batch sampler", "data sampler"])
@pytest.mark.parametrize("in_fit", [False, True])
def test_other_ranks_draw_the_same(in_fit: bool, knows: str) -> None:
    """With the same micro batch size, each micro batch of an order that all ranks share draws alike, wherever it is."""

    def seen(ranks: int, rank: int) -> list[Any]:
        base: Any = L.LightningDataModule if in_fit else object
        data = loop(Contiguous, ranks, rank, 24, base=base, knows=knows)
        return fit(Run(), data).seen if in_fit else list(trained(data))

    one = seen(1, 0)
    for ranks in (2, 3):
        each = [seen(ranks, rank) for rank in range(ranks)]
        assert one == [micro for round_ in zip(*each, strict=True) for micro in round_]
