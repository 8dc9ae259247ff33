"""Whatever a train_dataloader may return on several ranks: samplers of one's own, several loaders, streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch.distributed as dist
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from resumable import ResumableLoader, ResumptionWarning, resumable, resumption_of
from tests.support.cuts import raised_after, saved_after_step, saved_at_epoch_end
from tests.support.lightning_runs import Run, Scenario, numbers, uninterrupted
from tests.support.rank_modules import Gathering
from tests.support.rank_runs import Part, Session, after, orders_of, refusal, rule, run, trained, uncut
from tests.support.samplers import EpochSampler, EvenAndOdd, GlobalRandomSampler, NamedLoader

UNSHARED = {"max_epochs": 3, "use_distributed_sampler": False}


def rank_and_size() -> tuple[int, int]:
    """Who this process is."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def torchs(scenario: Scenario, cls: Callable[..., DistributedSampler[int]] = DistributedSampler, **options: Any) -> Any:
    """A DistributedSampler that the user made."""
    rank, size = rank_and_size()
    return cls(numbers(scenario.samples), num_replicas=size, rank=rank, **options)


class Reversed(DistributedSampler[int]):
    """A subclass: what each rank gets is its own affair."""

    def __iter__(self) -> Iterator[int]:
        return iter([*super().__iter__()][::-1])


class EveryOther(Sampler[int]):
    """A sampler that knows of ranks and is no DistributedSampler."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.rank, self.num_replicas = rank_and_size()

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.samples, self.num_replicas))

    def __len__(self) -> int:
        return len(range(self.rank, self.samples, self.num_replicas))


SHARED: dict[str, Callable[[Scenario], Any]] = {
    "told the epoch": lambda s: s.loader(sampler=EpochSampler(s.samples)),
    "global random streams": lambda s: s.loader(sampler=GlobalRandomSampler(s.samples)),
    "weighted": lambda s: s.loader(sampler=WeightedRandomSampler([1.0, 2.0] * (s.samples // 2), 17)),
    "subset": lambda s: s.loader(sampler=SubsetRandomSampler(range(13))),
    "with replacement": lambda s: s.loader(sampler=RandomSampler(range(s.samples), replacement=True)),
    "torch's batch sampler": lambda s: s.loader(
        batch_sampler=BatchSampler(EpochSampler(s.samples), s.batch_size, False)
    ),
    "torch's DistributedSampler": lambda s: s.loader(sampler=torchs(s)),
    "torch's DistributedSampler, unshuffled": lambda s: s.loader(sampler=torchs(s, shuffle=False)),
    "torch's DistributedSampler, seeded": lambda s: s.loader(sampler=torchs(s, seed=5)),
    "loader of one's own": lambda s: s.loader("name", numbers(s.samples), cls=NamedLoader),
    "torchdata's loader": lambda s: s.loader(cls=StatefulDataLoader),
    "a ResumableLoader": lambda s: ResumableLoader(
        numbers(s.samples),
        s.batch_size,
        shuffle=True,
        data_parallel_rank=rank_and_size()[0],
        data_parallel_size=rank_and_size()[1],
    ),
}


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 under torch 2.13
@pytest.mark.parametrize("kind", SHARED)
def test_what_is_shared_out_is_in_the_order_of_one_process(kind: str) -> None:
    """A sampler of one's own is drawn whole on every rank, and each takes its part, on any number of ranks."""
    scenario = Scenario(loaders=SHARED[kind])
    parts = [Part(2, 1), Part(3, 2), Part(1, 1), Part(2)]
    cuts = [raised_after(1), raised_after(2), raised_after(1), None]
    expected = rule(orders_of(scenario), *parts).steps
    actual = run(*(Session(part.ranks, scenario, cut) for part, cut in zip(parts, cuts, strict=True)))
    assert expected == trained(actual)


def test_single_samples_are_shared_out_among_ranks() -> None:
    """With batch_size=None the loader's sampler is what is iterated, and Lightning looks at that very one."""
    scenario = Scenario(samples=7, batch_size=1, loaders=lambda s: s.loader(batch_size=None))
    expected = rule(orders_of(scenario), Part(2, 2, 1), Part(3, None, 1)).steps
    assert expected == trained(run(Session(2, scenario, raised_after(2)), Session(3, scenario)))


@pytest.mark.parametrize("kind", ["ragged", "torch's shape"])
def test_batches_of_a_batch_sampler_go_round(kind: str) -> None:
    """Rank r takes the r-th batch of each round; an epoch's last round is filled with its first batches."""
    samplers: dict[str, Callable[[Scenario], Any]] = {
        "ragged": lambda s: EvenAndOdd(s.samples),
        "torch's shape": lambda s: Fours(EpochSampler(s.samples), s.batch_size, False),
    }
    scenario = Scenario(loaders=lambda s: s.loader(batch_sampler=samplers[kind](s)))
    batches = [
        [tuple(ids) for step in uninterrupted(scenario).steps if step.epoch == epoch for _, ids in step.batches]
        for epoch in range(3)
    ]
    numbered = [list(range(len(epoch))) for epoch in batches]
    walk = rule(numbered, Part(2, 1, 1), Part(3, 1, 1), Part(2, None, 1))
    expected = [
        (epoch, tuple(tuple(batches[epoch][at] for (at,) in ranks) for ranks in rounds)) for epoch, rounds in walk.steps
    ]
    cuts = (Session(2, scenario, raised_after(1)), Session(3, scenario, raised_after(1)), Session(2, scenario))
    assert expected == trained(run(*cuts))


class Padded(L.Callback):
    """Notes how many samples the end of each epoch is said to repeat."""

    def __init__(self) -> None:
        self.said: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_last_batch:
            self.said.append(resumption_of(trainer.datamodule).padded_samples)


def padded_in(session: Session, checkpoint: Path | None) -> tuple[list[int], list[int]]:
    """The samples that each epoch repeats, as told and as trained."""
    padded = Padded()
    trainer = session.train(checkpoint, padded)
    module = trainer.lightning_module
    assert isinstance(module, Gathering)
    run = Run(tuple(module.history.steps), {}, 0, 0, {})
    trained = [run.ids(epoch) for epoch in run.epochs]
    return padded.said, [len(ids) - len(set(ids)) for ids in trained][-len(padded.said) :]


@pytest.mark.parametrize(
    ("scenario", "ranks", "expected"),
    [
        (Scenario(), (3, 3), [2, 2, 2]),
        (Scenario(), (2, 3), [1, 2, 2]),
        (Scenario(drop_last=True), (2, 3), [0, 0, 0]),
        (Scenario(loaders=lambda s: s.loader(sampler=EpochSampler(s.samples))), (2, 3), [1, 2, 2]),
        (Scenario(loaders=lambda s: s.loader(batch_sampler=Fours(EpochSampler(22), 4, False))), (2, 4), [0, 8, 8]),
    ],
    ids=["again", "resized", "dropped", "a sampler", "a batch sampler"],
)
def test_what_an_epochs_end_repeats_is_told(scenario: Scenario, ranks: tuple[int, int], expected: list[int]) -> None:
    """`padded_samples` of the resumed epoch and of those behind it is what the ranks then train twice."""
    last = Session(ranks[1], scenario)
    assert (expected, expected) == after(
        Session(ranks[0], scenario, raised_after(1)), ranks=ranks[1], work=partial(padded_in, last)
    )


class Fours(BatchSampler):
    """A subclass of torch's, which Lightning would build anew."""


OWN: dict[str, Scenario] = {
    "a DistributedSampler's subclass": Scenario(loaders=lambda s: s.loader(sampler=torchs(s, Reversed))),
    "a sampler that knows ranks": Scenario(loaders=lambda s: s.loader(sampler=EveryOther(s.samples))),
    "in a batch sampler": Scenario(loaders=lambda s: s.loader(batch_sampler=Fours(torchs(s), s.batch_size, False))),
    "a part of the data": Scenario(loaders=lambda s: s.loader(_part(s)), trainer=UNSHARED),
    "a part, unshuffled": Scenario(shuffle=False, loaders=lambda s: s.loader(_part(s)), trainer=UNSHARED),
}


def _part(scenario: Scenario) -> Any:
    rank, size = rank_and_size()
    return Subset(numbers(scenario.samples), range(rank, scenario.samples, size))


@pytest.mark.parametrize("kind", OWN)
def test_what_the_user_shares_out(kind: str) -> None:
    """Each rank goes on in what its own loader yields, if there are as many ranks, or at an epoch's end."""
    scenario = OWN[kind]
    once, again = uncut(scenario, 2), run(Session(2, scenario, raised_after(2)), Session(2, scenario))
    assert once == again
    ids = sorted(once.ids(0))
    assert list(range(22)) == sorted(set(ids))
    at_its_end = run(Session(2, scenario, saved_at_epoch_end(0)), Session(3, scenario))
    expected = [step for step in trained(once) if step[0] == 0]
    expected += [step for step in trained(uncut(scenario, 3)) if step[0] > 0]
    assert expected == trained(at_its_end)


def test_what_the_user_shares_out_is_refused_on_other_ranks() -> None:
    """In mid-epoch another number of ranks is another order: every rank says so, and nothing is loaded."""
    scenario = OWN["a DistributedSampler's subclass"]
    assert """\
This state cannot go on exactly: not exact
Its sampler, or the user, shares the data out, so what each rank is given depends on the number of ranks.
  saved:   '2 ranks'
  current: '3 ranks'
  Go on with as many ranks, or at an epoch's end; or give a plain loader, which is shared out by itself.
Nothing was loaded. To go on all the same, pass on_mismatch="warn", or "adopt" to take over what was saved.\
""" == refusal(Session(2, scenario, saved_after_step(1)), Session(3, scenario))


def test_ranks_that_shuffle_parts_of_their_own_do_not_shuffle_them_alike() -> None:
    """Equally long parts, or the same data on each rank, would else be trained side by side in one order."""
    scenario = Scenario(loaders=lambda s: s.loader(), trainer=UNSHARED)
    (micro_batches,) = trained(uncut(scenario, 3))[0][1]
    assert 3 == len(set(micro_batches))


MODES = ["max_size_cycle", "min_size", "max_size"]


@pytest.mark.parametrize("mode", MODES)
def test_each_of_several_loaders_has_its_place_on_every_rank(mode: Any) -> None:
    """Each loader has its own place, in its own rounds."""
    scenario = Scenario(
        loaders=lambda s: CombinedLoader(
            {"long": s.loader(numbers(24), batch_size=2), "short": s.loader(numbers(100, 108), batch_size=2)}, mode
        )
    )
    assert uncut(scenario, 2) == run(Session(2, scenario, raised_after(3)), Session(2, scenario))
    once = uninterrupted(scenario)
    resized = run(Session(2, scenario, raised_after(1)), Session(1, scenario, raised_after(2)), Session(2, scenario))
    for low, high in ((0, 100), (100, 200)):
        expected = [(e, i) for e in once.epochs for i in once.ids(e) if low <= i < high]
        assert expected == [(e, i) for e in resized.epochs for i in _by_rank(resized, e) if low <= i < high]


def _by_rank(actual: Run, epoch: int) -> list[int]:
    return [
        number for at, rounds in trained(actual) if at == epoch for ranks in rounds for ids in ranks for number in ids
    ]


class Striped(IterableDataset[int]):
    """A stream that gives each rank its own samples, and says nothing of where it stands."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[int]:
        rank, size = rank_and_size()
        yield from range(rank, self.samples, size)


class Remembering(Striped):
    """One that knows the next sample, which is another on each rank."""

    following: int | None = None

    def __iter__(self) -> Iterator[int]:
        rank, size = rank_and_size()
        for number in range(rank if self.following is None else self.following, self.samples, size):
            self.following = number + size
            yield number
        self.following = None

    def state_dict(self) -> dict[str, int | None]:
        """The next sample; None at an epoch's start."""
        return {"following": self.following}

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        """Go on with it."""
        self.following = state["following"]


def _streams(cls: type[Striped]) -> Scenario:
    return Scenario(shuffle=False, loaders=lambda s: DataLoader(cls(s.samples), batch_size=s.batch_size))


STREAMS = {"without a state": _streams(Striped), "with a state": _streams(Remembering)}


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_are_read_again_with_a_warning(kind: str) -> None:
    """Each rank reads its own stream again, whatever it saves; warnings say so."""
    scenario = STREAMS[kind]
    last = Session(2, scenario)

    def go_on(checkpoint: Path | None) -> tuple[Run, list[str]]:
        with pytest.warns(ResumptionWarning) as caught:
            return last.to_the_end(checkpoint), [
                str(warning.message).split(":")[0] for warning in caught if warning.category is ResumptionWarning
            ]

    actual, said = after(Session(2, scenario, raised_after(2)), ranks=2, work=go_on)
    assert uncut(scenario, 2) == actual
    lost = ["The dataset's own state is not carried over"] if kind == "with a state" else []
    assert [*lost, "This resume reads the stream again up to its position"] == said


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_on_other_ranks(kind: str) -> None:
    """There is no place in the middle of an epoch that another number of ranks could go on from."""
    scenario = STREAMS[kind]
    said = refusal(Session(2, scenario, raised_after(2)), Session(3, scenario))
    assert "It streams, so what each rank is given depends on the number of ranks." in said


def test_a_stream_on_other_ranks_at_an_epochs_end() -> None:
    """Between two epochs there is: the place before the first sample."""
    scenario = STREAMS["without a state"]
    actual = trained(run(Session(2, scenario, saved_at_epoch_end(0)), Session(3, scenario)))
    expected = [step for step in trained(uncut(scenario, 2)) if step[0] == 0]
    expected += [step for step in trained(uncut(scenario, 3)) if step[0] > 0]
    assert expected == actual


def test_too_little_data_for_so_many_ranks() -> None:
    """With drop_last an epoch may have no batch for all ranks; every rank names the sizes."""
    scenario = Scenario(samples=10, drop_last=True)
    assert """\
An epoch has no batch for every rank, so the run could never end.
  dataset length: 10
  batch_size:     4
  ranks:          3
  drop_last:      True
Use fewer ranks or a smaller batch_size, or drop_last=False.\
""" == refusal(Session(3, scenario))


def test_a_loader_that_was_made_for_other_ranks() -> None:
    """A ResumableLoader is told its ranks by whoever makes it."""
    scenario = Scenario(loaders=lambda s: ResumableLoader(numbers(s.samples), s.batch_size, data_parallel_size=1))
    assert """\
The train loader was made for another number of ranks.
  its data_parallel_size: 1
  the trainer's:          2
Pass it ranks=resumable.adapters.lightning.Ranks(trainer), or return a plain DataLoader, which is given them.\
""" == refusal(Session(2, scenario))


@resumable
class Loop:
    """Data of a loop of one's own, shared out by torch's DistributedSampler."""

    trainer = None

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def train_dataloader(self) -> Any:
        sampler = DistributedSampler[int](numbers(22), num_replicas=self.size, rank=self.rank)
        return DataLoader(numbers(22), batch_size=4, sampler=sampler)

    def state_dict(self) -> dict[str, Any]:
        """Nothing but the position."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing but the position."""


def test_a_loop_without_lightning() -> None:
    """There a DistributedSampler says who shares the data: its epochs go on with other ranks, too."""
    order = [int(number) for batch in Loop(0, 1).train_dataloader() for number in batch]
    (_, (first,)), (_, (second,)), (_, (third,)) = rule([order], Part(2, 1), Part(3)).steps
    states: list[dict[str, Any]] = []
    for rank in range(2):
        loop = Loop(rank, 2)
        (ids,) = (batch.tolist() for batch in islice(loop.train_dataloader(), 1))
        assert list(first[rank]) == ids
        states.append(loop.state_dict())
    assert states[0] == states[1]
    for rank in range(3):
        loop = Loop(rank, 3)
        loop.load_state_dict(states[0])
        assert [list(second[rank]), list(third[rank])] == [batch.tolist() for batch in loop.train_dataloader()]
        assert {"consumed_samples": 22, "epoch": 1, "offset": 0}.items() <= loop.state_dict().items()
