"""Who is rank r of n: the Protocol's adapters, in real process groups, and what nobody is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import lightning as L
import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import DataLoader

from resumable import ConfigurationError, DecorationError, ResumableLoader, Sequential, resumable, resumption_of
from resumable.adapters import device_mesh, distributed, lightning, megatron
from tests.support.lightning_runs import Scenario, numbers
from tests.support.rank_runs import uncut
from tests.support.ranks import in_ranks
from tests.support.reference import Loader


@dataclass(frozen=True)
class Told:
    """Ranks told by two numbers."""

    data_parallel_rank: int
    data_parallel_size: int


def everyones(mine: Callable[[], Any]) -> list[Any]:
    """What *mine* gives on each rank of a new process group; None on ranks other than 0."""
    dist.init_process_group("gloo")
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine())
    dist.destroy_process_group()
    return found


def asked(ranks: Any) -> tuple[int, int]:
    """What *ranks* says."""
    return ranks.data_parallel_rank, ranks.data_parallel_size


def of_everybody() -> Any:
    """All processes."""
    return asked(distributed.Ranks())


def of_a_group() -> Any:
    """The last two processes; the first is told that it has no rank there."""
    group: Any = dist.new_group([1, 2])
    if dist.get_rank():
        return asked(distributed.Ranks(group))
    with pytest.raises(ConfigurationError, match="This process has no rank in the process group"):
        asked(distributed.Ranks(group))
    return None


def of_a_mesh(dimensions: Any, shape: tuple[int, ...], names: tuple[str, ...] | None) -> Any:
    """The places along *dimensions*."""
    return asked(device_mesh.Ranks(init_device_mesh("cpu", shape, mesh_dim_names=names), dimensions))


def of_megatron() -> Any:
    """The data-parallel rank beside a tensor-parallel one."""
    from megatron.core import parallel_state

    with pytest.raises(ConfigurationError, match=r"Call parallel_state.initialize_model_parallel\(\)"):
        asked(megatron.Ranks())
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    return asked(megatron.Ranks()), parallel_state.get_tensor_model_parallel_rank()


@pytest.mark.parametrize(
    ("ranks", "mine", "expected"),
    [
        (2, of_everybody, [(0, 2), (1, 2)]),
        (3, of_a_group, [None, (0, 2), (1, 2)]),
        (2, partial(of_a_mesh, (), (2,), None), [(0, 2), (1, 2)]),
        (4, partial(of_a_mesh, "dp", (2, 2), ("dp", "tp")), [(0, 2), (0, 2), (1, 2), (1, 2)]),
        (4, partial(of_a_mesh, "dp", (2, 2), ("tp", "dp")), [(0, 2), (1, 2), (0, 2), (1, 2)]),
        (4, partial(of_a_mesh, ("replicate", "shard"), (2, 2), ("replicate", "shard")), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (4, of_megatron, [((0, 2), 0), ((0, 2), 1), ((1, 2), 0), ((1, 2), 1)]),
    ],
    ids=["all", "a group", "a mesh", "dp outside", "dp inside", "hybrid", "megatron"],
)  # fmt: skip
def test_each_adapter_tells_the_data_parallel_rank(ranks: int, mine: Callable[[], Any], expected: list[Any]) -> None:
    """Processes that differ in other dimensions only share a rank, and so get the same samples."""
    assert expected == in_ranks(ranks, partial(everyones, mine))


def first_batches(loader: Callable[[], Any]) -> list[list[int]]:
    """The first two batches of this rank."""
    return [batch.tolist() for batch in islice(loader(), 2)]


def test_a_loader_takes_the_numbers_from_whoever_says_them() -> None:
    """`ranks=` stands for the two numbers."""
    loader = partial(Loader, range(12), batch_size=2)
    found = in_ranks(2, partial(everyones, partial(first_batches, lambda: loader(ranks=distributed.Ranks()))))
    told = [first_batches(partial(loader, ranks=Told(rank, 2))) for rank in range(2)]
    by_numbers = [
        [batch.tolist() for batch in islice(loader(data_parallel_rank=r, data_parallel_size=2), 2)] for r in (0, 1)
    ]
    assert [[[0, 1], [4, 5]], [[2, 3], [6, 7]]] == found == told == by_numbers


def refused() -> list[str]:
    """What a loader says that nobody tells its rank."""
    said: list[str] = []
    for options in ({}, {"data_parallel_rank": 1}, {"data_parallel_size": 2}):
        with pytest.raises(ConfigurationError) as caught:
            Loader(range(12), batch_size=2, **options)
        said.append(str(caught.value))
    assert [[0, 1], [2, 3]] == first_batches(lambda: Loader(range(12), batch_size=2, data_parallel_size=1))
    return said


def test_nobody_guesses_among_several_processes() -> None:
    """Each would train all of the data, or all the same part: it is said, unless every process is to load everything."""
    expected = """\
Several processes run, and nothing says which part of the data this one loads.
  processes:          2
  data_parallel_rank: {}
  data_parallel_size: {}
Pass ranks=resumable.adapters.distributed.Ranks(), or data_parallel_rank= and data_parallel_size=. If each process is to load \
all samples, pass data_parallel_size=1."""
    told = [(None, None), (1, None), (None, 2)]
    assert [[expected.format(*numbers) for numbers in told]] * 2 == in_ranks(2, partial(everyones, refused))


def test_nobody_guesses_before_the_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun the number of processes is known before they have found each other."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="Several processes run"):
        Loader(range(12), batch_size=2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert 12 == len(Loader(range(12)))


def test_ranks_told_twice_are_refused() -> None:
    """Two sayings may contradict each other, so there is one."""
    with pytest.raises(ConfigurationError, match=r"The rank is given twice.\n(.*\n)*Pass ranks=, or the two numbers."):
        Loader(range(12), ranks=Told(0, 2), data_parallel_rank=0)


@pytest.mark.parametrize("ranks", [distributed.Ranks, (0, 2), 3])
def test_what_says_no_ranks(ranks: Any) -> None:
    """A class in the place of its object, or the bare numbers, are no ranks."""
    with pytest.raises(ConfigurationError, match="ranks= must have data_parallel_rank and data_parallel_size"):
        Loader(range(12), ranks=ranks)


@pytest.mark.parametrize(("rank", "size"), [(2, 2), (-1, 2), (0, 0), (0, 1.5), (True, 2)])
def test_ranks_that_are_none(rank: Any, size: Any) -> None:
    """What somebody else says is looked at like what the user says."""
    with pytest.raises(ConfigurationError, match="data_parallel_"):
        Loader(range(12), ranks=Told(rank, size))


def test_without_a_process_group() -> None:
    """No rank is made up."""
    with pytest.raises(ConfigurationError, match=re.escape("Call torch.distributed.init_process_group()")):
        Loader(range(12), ranks=distributed.Ranks())


def unknown_dimensions() -> list[str]:
    """What a mesh says that has no such dimension."""
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp", "tp"))
    said: list[str] = []
    for dimensions in ("data", (), ("dp", "x")):
        with pytest.raises(ConfigurationError) as caught:
            device_mesh.Ranks(mesh, dimensions)
        said.append(str(caught.value).splitlines()[1].strip())
    return said


def test_a_mesh_without_that_dimension() -> None:
    """The dimensions that it has are named."""
    found = in_ranks(2, partial(everyones, unknown_dimensions))
    assert found is not None
    assert ["asked for:      'data'", "asked for:      ()", "asked for:      ('dp', 'x')"] == found[0]


# Decorated datamodules.


@resumable(ranks=distributed.Ranks())
class Data:
    """A plain loader in a loop of one's own, shared out by the decorator."""

    trainer = None

    def train_dataloader(self) -> Any:
        return DataLoader(numbers(12), batch_size=2)


def test_a_decorated_datamodule_in_a_loop() -> None:
    """The numbers are asked when the loader is built, so the class may be decorated before there are processes."""
    found = in_ranks(2, partial(everyones, partial(first_batches, lambda: Data().train_dataloader())))
    assert [[[0, 1], [4, 5]], [[2, 3], [6, 7]]] == found


def test_a_data_sampler_has_ranks_of_its_own() -> None:
    """An option that nobody could follow is refused."""

    @resumable(ranks=Told(0, 1))
    class Sampled:
        trainer = None

        def __init__(self) -> None:
            self.data_sampler: Any = Counting()

        def train_dataloader(self) -> Any:
            return DataLoader(numbers(12), batch_size=2)

    with pytest.raises(DecorationError, match="A data sampler has ranks and batch sizes of its own"):
        Sampled().train_dataloader()


class Counting:
    """The shape of NeMo's sampler."""

    init_global_step = init_consumed_samples = prev_consumed_samples = if_first_step = 0

    def compute_consumed_samples(self, steps: int) -> int:
        """Two a step."""
        return self.init_consumed_samples + 2 * steps


class OwnLoader(L.LightningDataModule):
    """A ResumableLoader under a trainer, which tells it the ranks."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self.scenario = scenario

    def train_dataloader(self) -> Any:
        trainer: Any = self.trainer
        return ResumableLoader[Any](
            numbers(self.scenario.samples), self.scenario.batch_size, ranks=lightning.Ranks(trainer)
        )

    def val_dataloader(self) -> Any:
        return DataLoader(numbers(100, 106), batch_size=2)


resumable(OwnLoader)


def test_a_resumable_loader_under_a_trainer() -> None:
    """It trains what a plain loader would."""
    plain = Scenario(shuffle=False)
    assert uncut(plain, 2).steps == uncut(Scenario(shuffle=False, data=OwnLoader), 2).steps


def test_a_process_alone() -> None:
    """Without other processes nobody has to say anything."""
    assert Sequential(4).n == len(Loader(range(4)))
    assert resumption_of(Data()).consumed_samples == 0
