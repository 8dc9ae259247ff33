"""Loaders in place of Megatron-Bridge's: the same samples at the same sizes, and a run that goes on exactly at others."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch

pytest.importorskip("megatron.core")

from resumable import ConfigurationError, MismatchError, ResumableLoader, ResumptionWarning, StateError
from resumable.adapters.megatron import Sizes, build_pretraining_data_loader, prepare
from tests.adapters.megatron.bridge_shape import Numbers, TrainState, in_order, loaders_of, train

ROWS = json.loads(Path(__file__).parents[2].joinpath("golden", "megatron_bridge.json").read_text("utf-8"))["rows"]
KINDS = [
    pytest.param("cyclic", {"data_sharding": True}, id="cyclic, sharded"),
    pytest.param("cyclic", {"data_sharding": False}, id="cyclic"),
    pytest.param("batch", {"drop_last": True}, id="batch"),
    pytest.param("batch", {"drop_last": False}, id="batch, padded"),
]


@pytest.mark.parametrize("kind", ["single", "cyclic", "batch"])
def test_the_batches_are_those_of_bridge(kind: str) -> None:
    """On every rank, from any count, over three epochs: as digests of what Bridge's own samplers gave."""
    for name, shards, drops, samples, micro, ranks, whole, consumed, digest in ROWS:
        if name == kind:
            sizes = Sizes(micro, ranks, whole)
            loaders = loaders_of(kind, samples, consumed, sizes, data_sharding=shards, drop_last=drops)
            passes = 1 if kind == "single" else 3
            drawn = [[batch for _ in range(passes) for batch in loader] for loader in loaders]
            assert digest == f"{crc32(json.dumps(drawn).encode()):08x}", (name, shards, drops, samples, sizes, consumed)


def test_ranks_stay_together_where_those_of_bridge_do_not() -> None:
    """15 samples in batches of 1 on 4 ranks: Bridge's ranks 0 to 2 draw a batch more in each epoch, and drift apart."""
    loaders = loaders_of("cyclic", 15, 0, Sizes(1, 4, 4), data_sharding=False)
    epochs = [[list(loader) for loader in loaders] for _ in range(2)]
    assert [[3] * 4] * 2 == [[len(batches) for batches in epoch] for epoch in epochs]
    for epoch in epochs:
        drawn = [sample for batches in epoch for batch in batches for sample in batch]
        assert 12 == len(set(drawn)) == len(drawn)


def walked(kind: str, samples: int, begun: Sizes, **options: Any) -> list[Any]:
    """The run's samples one by one, as a single rank loads them."""
    (loader,) = loaders_of(kind, samples, 0, Sizes(1, 1, 1), begun_with=begun, **options)
    batches = loader.forever()
    return [sample for _ in range(500) for sample in next(batches)]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("chains", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_a_run_goes_on_in_other_sizes(kind: str, options: dict[str, Any], chains: int) -> None:
    """Chains of resumes with other ranks, micro and global batches, from the count alone or from a saved state."""
    draw = random.Random(chains)
    for _ in range(chains):
        samples = draw.randint(30, 60)
        micro, ranks, many = draw.choice([1, 2, 3]), draw.choice([1, 2, 4]), draw.choice([1, 2])
        begun = Sizes(micro, ranks, micro * ranks * many)
        whole, trained, saved = walked(kind, samples, begun, **options), list[Any](), None
        while len(trained) < 4 * samples:
            micro, ranks = draw.choice([1, 2, 3]), draw.choice([1, 2, 3, 4])
            sizes = Sizes(micro, ranks, micro * ranks * draw.choice([1, 2]))
            is_by_state = saved is not None and draw.random() < 0.5
            loaders = (
                loaders_of(kind, samples, saved, sizes, **options)
                if is_by_state
                else loaders_of(kind, samples, len(trained), sizes, begun_with=begun, **options)
            )
            batches = [loader.forever() for loader in loaders]
            deals = kind == "batch" or not options["data_sharding"]
            for _ in range(draw.randint(1, 9)):
                trained += in_order([next(each) for each in batches], deals=deals)
            saved = loaders[-1].state_dict()
            assert {len(trained)} == {loader.state.consumed_samples for loader in loaders}
        assert whole[: len(trained)] == trained


@pytest.mark.parametrize(("kind", "shards"), [("single", True), ("cyclic", True), ("cyclic", False)])
def test_each_stop_of_a_ramp_with_skipped_steps(kind: str, shards: bool) -> None:
    """A loop of Bridge's shape, with megatron-core's calculator and `iterations_to_skip`, stopped after each step, twice."""
    sizes, steps, skips = Sizes(2, 2, 16), 14, (3, 9, 10)
    samples = 400 if kind == "single" else 54
    options: dict[str, Any] = {"ramp": [4, 4, 60], "skips": skips, "deals": not shards}
    whole_state = TrainState()
    whole = train(whole_state, loaders_of(kind, samples, 0, sizes, data_sharding=shards), sizes, steps, **options)
    for stop in range(1, steps):
        state, trained = TrainState(), list[list[Any]]()
        for until in (stop, min(stop + 3, steps), steps):
            loaders = loaders_of(kind, samples, state.consumed_train_samples, sizes, data_sharding=shards)
            trained += train(state, loaders, sizes, until, **options)
            state = TrainState(**{name: int(value) for name, value in state.state_dict().items()})
        assert whole == trained
        assert whole_state == state
    assert sum(map(len, whole)) + whole_state.skipped_train_samples == whole_state.consumed_train_samples


def test_validation_goes_on_where_it_was() -> None:
    """A validation loader at `consumed_valid_samples`, endless over validations, at another number of ranks too."""
    begun = Sizes(2, 2, 4)
    whole = walked("cyclic", 30, begun)
    state, seen = TrainState(), list[Any]()
    for sizes in (begun, Sizes(1, 3, 3), Sizes(4, 1, 4)):
        loaders = loaders_of("cyclic", 30, state.consumed_valid_samples, sizes, begun_with=begun)
        iterators = [loader.forever() for loader in loaders]
        for _ in range(2):  # two validations, of four batches each
            for _ in range(4):
                seen += in_order([next(each) for each in iterators], deals=False)
                state.consumed_valid_samples += sizes.per_round
    assert whole[: len(seen)] == seen


def test_what_is_given_back_and_workers() -> None:
    """No dataset and an external one are given back; workers load the same; a dataset keeps its attributes."""
    assert build_pretraining_data_loader(None, 0, "single", 1) is None
    external = object()
    assert build_pretraining_data_loader(external, 0, "external", 1) is external

    class Told(Numbers):
        def __init__(self, length: int) -> None:
            super().__init__(length)
            self.told = list[int]()

        def set_epoch(self, epoch: int) -> None:
            self.told.append(epoch)

        def __getitems__(self, indices: list[int]) -> list[int]:
            return [10 + index for index in indices]

    dataset = Told(10)
    loader = build_pretraining_data_loader(dataset, 8, "cyclic", 4, pin_memory=False)
    assert list(range(10, 18)) == sorted(each for batch in loader for each in batch.tolist())
    assert ([1], 10) == (dataset.told, loader.dataset.length + 2)
    plain, spread = (
        [
            batch.tolist()
            for batch in build_pretraining_data_loader(
                Numbers(37), 8, "batch", 2, workers, pin_memory=False, global_batch_size=8, drop_last=False, seed=3
            )
        ]
        for workers in (0, 2)
    )
    assert plain == spread


def test_what_is_refused() -> None:
    """Counts that these sizes cannot reach, data that are used up, unknown types, and what Bridge refuses too."""

    def build(kind: str, consumed: Any = 0, micro: int = 2, samples: int = 37, **options: Any) -> Any:
        return build_pretraining_data_loader(Numbers(samples), consumed, kind, micro, pin_memory=False, **options)

    for kind, options in (("cyclic", {}), ("batch", {"global_batch_size": 4, "seed": 0})):
        with pytest.raises(ConfigurationError, match="the run had other sizes"):
            build(kind, 37, **options)
    with pytest.raises(ConfigurationError, match="No samples are left"):
        build("single", 37)
    with pytest.warns(ResumptionWarning, match="No batch is left"):
        build("single", 36)
    for options in ({}, {"global_batch_size": 3}):
        with pytest.raises(ConfigurationError, match="global batch size of whole"):
            build("batch", seed=0, **options)
    with pytest.warns(ResumptionWarning, match="no seed"):
        build("batch", global_batch_size=4)
    for kind in ("cyclic", "batch"):
        with pytest.raises(ConfigurationError, match="does not fill one"):
            build(kind, samples=1, global_batch_size=4, seed=0)
    sizes: Any
    for sizes, complaint in (((2, 4), "must be Sizes"), (Sizes(2, 4), "needs the global batch size")):
        with pytest.raises(ConfigurationError, match=complaint):
            build("batch", global_batch_size=4, seed=0, begun_with=sizes)
    with pytest.raises(ConfigurationError, match="seed is too large"):
        build("batch", global_batch_size=4, seed=2**64)
    with pytest.raises(ConfigurationError, match="the run had other sizes"):
        prepare(TrainState(1, 9), build("cyclic"))
    changes = Numbers(37)
    loader = build_pretraining_data_loader(changes, 0, "cyclic", 2, pin_memory=False)
    changes.length = 50
    with pytest.raises(ConfigurationError, match="different lengths"):
        iter(loader)
    with pytest.raises(ConfigurationError, match="no such type"):
        build("other")
    for consumed in (-1, 2.0, None):
        with pytest.raises(ConfigurationError, match="consumed_samples"):
            build("cyclic", consumed)
    with pytest.raises(ConfigurationError, match="micro_batch_size is too small"):
        Sizes(0)
    with pytest.raises(StateError):
        build("cyclic", {"epoch": 1})
    saved = build("cyclic", 8, data_parallel_rank=0, data_parallel_size=2).state_dict()
    with pytest.raises(MismatchError, match="cyclic, 2 x 2 sharded"):
        build("cyclic").load_state_dict(saved)
    with pytest.raises(MismatchError, match="of another kind"):
        build("single", saved)


def test_prepare() -> None:
    """Any loader of ours goes on from the counters, on any ranks; two positions, or none, are refused."""
    uninterrupted = ResumableLoader(Numbers(30), 3, True, seed=5).forever()
    whole = [next(uninterrupted).tolist() for _ in range(25)]
    for stop in range(25):
        loader = prepare(
            {"consumed_train_samples": torch.tensor(3 * stop)}, ResumableLoader(Numbers(30), 3, True, seed=5)
        )
        batches = loader.forever()
        assert whole[stop:] == [next(batches).tolist() for _ in range(25 - stop)]
    state = TrainState(2, 6)
    with pytest.raises(ConfigurationError, match="prepared already"):
        prepare(state, prepare(state, ResumableLoader(Numbers(30), 3)))
    loader = ResumableLoader(Numbers(30), 3)
    loader.load_state_dict({"consumed_samples": 9})
    with pytest.raises(MismatchError, match="different positions"):
        prepare(state, loader)
    assert 3 == prepare(TrainState(3, 9), loader).batches_done
    with pytest.raises(ConfigurationError, match="Only a resumable loader"):
        prepare(state, [])
    with pytest.raises(ConfigurationError, match="the run had other sizes"):
        prepare(TrainState(2, 33), ResumableLoader(Numbers(30), 4, drop_last=True))
