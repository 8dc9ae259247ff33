"""Loops of torchtitan's kind, saved by torch.distributed.checkpoint in real processes, and loaded at any degree.

The loop and the dataset have the shapes of torchtitan 0.2.2: torchtitan/train.py (`batch_generator`, `train_step`) and
torchtitan/hf_datasets/text_datasets.py (`HuggingFaceTextDataset`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.utils.data import IterableDataset

pytest.importorskip("torchdata")

from resumable import ConfigurationError, MismatchError, ResumptionError, ResumptionWarning, StateError
from resumable.adapters.torchtitan import ParallelAwareDataloader
from tests.support.ranks import in_ranks
from tests.support.streams import FollowsItsEpoch, KeepsItsStart, Stream

SAMPLES, STEPS = 23, 16


class Text(IterableDataset[Any]):
    """A stream as torchtitan's: its place and its token buffer are attributes, which its state holds."""

    def __init__(self, rank: int = 0, size: int = 1, *, infinite: bool = True) -> None:
        self.documents = [[number] * (number % 3 + 1) for number in range(SAMPLES)][rank::size]
        self.infinite = infinite
        self.at, self.buffer = 0, list[int]()

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            for document in self.documents[self.at :]:
                self.buffer += document
                self.at += 1
                while len(self.buffer) >= 2:
                    window, self.buffer = self.buffer[:2], self.buffer[2:]
                    yield {"input": torch.tensor(window)}
            if not self.infinite:
                break
            self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "buffer": self.buffer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at, self.buffer = state["at"], state["buffer"]


def numbers(**options: Any) -> Any:
    """A map-style dataset, shuffled."""
    return partial(ParallelAwareDataloader, range(SAMPLES), batch_size=2, repeat=True, shuffle=True, **options)


def shared(rank: int, size: int, **options: Any) -> Any:
    """A stream that all ranks read."""
    return ParallelAwareDataloader(Text(), rank, size, 2, already_sharded=False, **options)


def own(rank: int, size: int, **options: Any) -> Any:
    """A stream of this rank's samples."""
    return ParallelAwareDataloader(Text(rank, size), rank, size, batch_size=2, **options)


def ids_of(batch: Any) -> list[int]:
    """What a batch holds, in one row."""
    rows: Any = cast("Any", batch)["input"] if isinstance(batch, dict) else batch
    ids: list[int] = rows.flatten().tolist()
    return ids


def taken(loader: Any, count: int) -> list[list[int]]:
    """The next *count* batches."""
    return [ids_of(batch) for batch in islice(iter(loader), count)]


def session(build: Any, folder: str, steps: int, accumulation: int = 2) -> list[list[int]]:
    """A trainer's session from the checkpoint in *folder* on, where there is one: the micro batches of all ranks in turn."""
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    loader: Any = build(rank, size) if build in (own, shared) else build(dp_rank=rank, dp_world_size=size)
    if Path(folder, ".metadata").exists():
        dcp.load({"dataloader": loader}, checkpoint_id=folder)  # type: ignore[attr-defined]
    batches, trained = iter(loader), list[list[int]]()
    for _ in range(steps):
        for _ in range(accumulation // size):
            everyones: list[Any] = [None] * size
            dist.all_gather_object(everyones, ids_of(next(batches)))
            trained += everyones
    saving: Any = dcp.async_save({"dataloader": loader}, checkpoint_id=folder)  # type: ignore[attr-defined]
    next(batches)  # the training goes on while the state is written
    saving.result()
    loader.close()
    dist.destroy_process_group()
    return trained


@pytest.mark.parametrize("build", [numbers(), numbers(drop_last="carry"), shared], ids=["map", "carry", "shared"])
def test_saved_at_one_degree_it_loads_at_any_other(build: Any, tmp_path: Path) -> None:
    """By DCP in real processes, 2 to 1, 1 to 2 and 2 to 2: the micro batches are those of one process, in order."""
    warnings.simplefilter("ignore")  # of torch's: no process group, and the like
    one = build(0, 1) if build is shared else build(dp_rank=0, dp_world_size=1)
    whole = taken(one, 2 * STEPS)
    for first, then in ((2, 1), (1, 2), (2, 2)):
        folder = str(tmp_path / f"{first}-{then}")
        trained = in_ranks(first, partial(session, build, folder, 4)) or []
        trained += in_ranks(then, partial(session, build, folder, 5)) or []
        if build is not shared and "drop_last" not in build.keywords:  # the tail of an epoch is shared out
            assert list(chain.from_iterable(whole))[:22] == list(chain.from_iterable(trained))[:22]
        else:
            assert whole[: len(trained)] == trained


def test_a_stream_of_each_ranks_own_goes_on_at_the_same_degree(tmp_path: Path) -> None:
    """As in torchtitan; at another degree it is refused, by name."""
    warnings.simplefilter("ignore")
    whole = list(zip(taken(own(0, 2), STEPS), taken(own(1, 2), STEPS), strict=True))
    trained = in_ranks(2, partial(session, own, str(tmp_path), 3)) or []
    trained += in_ranks(2, partial(session, own, str(tmp_path), 4)) or []
    assert list(chain.from_iterable(whole))[: len(trained)] == trained
    one = own(0, 1)
    with pytest.raises(MismatchError, match="ranks of the saved run: 2") as refused:
        one.load_state_dict(own(0, 2).state_dict())
    assert "already_sharded=False" in str(refused.value)
    assert taken(own(0, 1), 3) == taken(one, 3), "nothing was loaded"


@pytest.mark.parametrize("build", [numbers(), shared, own], ids=["map", "shared", "own"])
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_each_stop_goes_on(build: Any, num_workers: int) -> None:
    """Stopped after each batch and stopped again, also where its dataset begins anew."""
    build = partial(build, 0, 1) if build in (shared, own) else partial(build, dp_rank=0, dp_world_size=1)
    build = partial(build, num_workers=num_workers, persistent_workers=bool(num_workers))
    whole = taken(build(), 26)
    for stop in range(0, 25, 1 + 5 * num_workers):
        first, second, third = build(), build(), build()
        trained = taken(first, stop)
        second.load_state_dict(first.state_dict())
        trained += taken(second, 1)
        third.load_state_dict(second.state_dict())
        assert whole == trained + taken(third, 25 - stop)


@pytest.mark.parametrize("dataset", [KeepsItsStart, FollowsItsEpoch, Stream])
def test_finite_streams_repeat(dataset: Any) -> None:
    """On any number of ranks; the end of a pass is filled from the next one. One that saves nothing is read again."""

    def at(rank: int, size: int) -> Any:
        return ParallelAwareDataloader(dataset(7), rank, size, 2, already_sharded=False, repeat=True)

    whole = taken(at(0, 1), 24)
    walked = dataset(7)
    for epoch in range(6):
        of_epoch = list(range(7))
        if isinstance(walked, FollowsItsEpoch):
            walked.set_epoch(epoch)
            of_epoch = list(walked.order())
        assert of_epoch == list(chain.from_iterable(whole[4 * epoch : 4 * epoch + 4]))
    for first, then in ((1, 1), (2, 3), (3, 2)):
        for stop in range(5):
            loaders = [at(rank, first) for rank in range(first)]
            trained = list(chain.from_iterable(zip(*(taken(each, stop) for each in loaders), strict=True)))
            states = [each.state_dict() for each in loaders]
            assert states[:1] * first == states
            loaders = [at(rank, then) for rank in range(then)]
            for each in loaders:
                each.load_state_dict(states[0])
            with warnings.catch_warnings():
                if dataset is Stream:
                    warnings.filterwarnings("ignore", "This resume reads the stream again", ResumptionWarning)
                following = [taken(each, 4) for each in loaders]
            trained += chain.from_iterable(zip(*following, strict=True))
            assert whole[: len(trained)] == trained


def test_an_epoch_ends_without_repeat() -> None:
    """Each rank yields equally many batches: those of an incomplete last round come twice."""
    for size in (1, 2, 3):
        loaders: list[Any] = [
            ParallelAwareDataloader(KeepsItsStart(7), rank, size, 2, already_sharded=False) for rank in range(size)
        ]
        for _ in range(2):
            of_ranks = [taken(each, 9) for each in loaders]
            assert [0, 1, 2, 3, 4, 5, 6] == sorted(set(chain.from_iterable(chain.from_iterable(of_ranks))))
            assert [-(-4 // size)] * size == [len(each) for each in of_ranks]
    loader: Any = ParallelAwareDataloader(range(5), 0, 1, batch_size=2)
    assert (3, 3) == (len(taken(loader, 9)), len(loader))


def test_what_is_refused() -> None:
    """A second iterator of a stream, a load during one, other batches in mid-pass, and states that are none of its own."""
    loader = shared(0, 1)
    batches = iter(loader)
    next(batches)
    with pytest.raises(ConfigurationError, match="iterated once at a time"):
        iter(loader)
    with pytest.raises(ResumptionError, match="while the stream is being iterated"):
        loader.load_state_dict(loader.state_dict())
    state = loader.state_dict()
    other: Any = ParallelAwareDataloader(Text(), 0, 1, 3, already_sharded=False)
    with pytest.raises(MismatchError, match="saved batch_size: 2"):
        other.load_state_dict(state)
    for wrong in ({"dp_rank_0": b"", "world_size": 1}, {**state, "format": 2}, {**state, "stream": b"x"}):
        with pytest.raises(StateError):
            shared(0, 1).load_state_dict(wrong)
    with pytest.raises(StateError, match="missing"):
        own(0, 1).load_state_dict(state)
    with pytest.warns(ResumptionWarning, match="empty state"):
        other.load_state_dict({})
    with pytest.raises(ConfigurationError, match="decides itself"):
        ParallelAwareDataloader(Text(), 0, 1, shuffle=True)
    with pytest.raises(ConfigurationError, match="streams"):
        ParallelAwareDataloader(Text(), 0, 1, streams="no")
    with pytest.raises(ConfigurationError, match="too large"):
        ParallelAwareDataloader(Text(), 2, 2)
    with pytest.raises(TypeError, match="no length"):
        len(loader)


def test_torchtitans_options() -> None:
    """What is for workers is left out without them, as in torchtitan, and the interval of torchdata's snapshots is not needed."""
    options: Any = {"persistent_workers": True, "prefetch_factor": 2, "snapshot_every_n_steps": 5, "pin_memory": False}
    for dataset in (range(4), KeepsItsStart(4)):
        assert [[0, 1], [2, 3]] == taken(ParallelAwareDataloader(dataset, 0, 1, batch_size=2, **options), 9)
