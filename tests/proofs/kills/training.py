"""One rank of a run of DistributedDataParallel: it resumes, trains, saves, tells where it is, and may die anywhere.

tells   s  it has begun          w  in a window, between two micro batches    m  a save is half done
        j  its group is there    o  the optimizer has stepped                 d  the save is done
        b  a batch has come      c  the step is committed                     !  the run is over
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from resumable.loader import ResumableLoader
from resumable.orders.orders import Shuffled
from resumable.state import ResumptionState
from resumable.steps.batch_plan import DropLast
from resumable.steps.schedules import ConstantBatchSize

__all__ = ["EPOCHS", "GLOBAL_BATCH_SIZE", "Chain", "Grouping", "expected", "read", "train"]

SAMPLES, EPOCHS, GLOBAL_BATCH_SIZE = 100, 3, 12

Tell = Callable[[str, int], None]
"""Told a place, as a letter, and the epoch."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """How a session takes its global batches: by so many ranks, in micro batches, with workers."""

    ranks: int
    micro_batch_size: int
    num_workers: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """What stays the same in all sessions of a run: *one_file* for weights and state, else one for each."""

    seed: int
    drop_last: DropLast = "carry"
    commits: bool = True
    one_file: bool = True
    save_every: int = 1


@dataclass(frozen=True, slots=True)
class _Training:
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    loader: ResumableLoader[Any]
    trained: list[int]

    def weights(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "trained": self.trained}


def expected(chain: Chain, /) -> list[int]:
    """The ids of the uninterrupted run in their order, cut from the whole epochs.

    >>> len(expected(Chain(0, drop_last=True))), len(expected(Chain(0, drop_last="carry")))
    (288, 300)
    """
    order = Shuffled(SAMPLES, chain.seed)
    epochs = [order.indices(epoch, 0, SAMPLES).tolist() for epoch in range(EPOCHS + 1)]
    if chain.drop_last is True:
        whole = SAMPLES - SAMPLES % GLOBAL_BATCH_SIZE
        return [index for epoch in epochs[:EPOCHS] for index in epoch[:whole]]
    steps = -(-SAMPLES * EPOCHS // GLOBAL_BATCH_SIZE)
    return [index for epoch in epochs for index in epoch][: steps * GLOBAL_BATCH_SIZE]


def read(folder: Path, /) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The weights and the state of the last checkpoint in *folder*; None where there is none.

    >>> read(Path("nowhere"))
    """
    if (folder / "all.pt").exists():
        both = torch.load(folder / "all.pt")
        return both, both["data"]
    if not (folder / "state.json").exists():
        return None
    state = ResumptionState.load(folder / "state.json")
    return torch.load(folder / f"weights-{state.consumed_samples}.pt"), state.state_dict()


def train(folder: Path, chain: Chain, grouping: Grouping, rank: int, tell: Tell, /) -> None:
    """Go on from the checkpoint in *folder* to the end of the run, in an initialised process group."""
    run = _resumed(folder, chain, grouping, rank)
    loader, ids, length = run.loader, list[Tensor](), len(expected(chain))
    parallel = DistributedDataParallel(run.model)
    if chain.commits:
        loader.state.commit()
    for epoch in range(loader.epoch, EPOCHS):
        for batch in loader:
            tell("b", epoch)
            ids.append(batch)
            is_last = len(ids) == loader.num_microbatches
            with nullcontext() if is_last else parallel.no_sync():
                (_loss(parallel, batch) * grouping.ranks).backward()
            if not is_last:
                tell("w", epoch)
                continue
            run.optimizer.step()
            run.optimizer.zero_grad()
            tell("o", epoch)
            if chain.commits:
                loader.state.commit()
                tell("c", epoch)
            run.trained.extend(_in_order(ids, grouping.ranks))
            ids.clear()
            is_due = len(run.trained) // GLOBAL_BATCH_SIZE % chain.save_every == 0
            if rank == 0 and (is_due or len(run.trained) == length):
                _save(folder, chain, run, epoch, tell)
    tell("!", EPOCHS)


def _resumed(folder: Path, chain: Chain, grouping: Grouping, rank: int) -> _Training:
    torch.manual_seed(chain.seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    numbers: Any = range(SAMPLES)  # torch's stubs do not take a range for a dataset
    loader = ResumableLoader[Any](
        numbers,
        grouping.micro_batch_size,
        shuffle=True,
        seed=chain.seed,
        schedule=ConstantBatchSize(GLOBAL_BATCH_SIZE),
        data_parallel_rank=rank,
        data_parallel_size=grouping.ranks,
        drop_last=chain.drop_last,
        num_workers=grouping.num_workers,
    )
    found = read(folder)
    if found is None:
        return _Training(model, optimizer, loader, [])
    weights, state = found
    model.load_state_dict(weights["model"])
    optimizer.load_state_dict(weights["optimizer"])
    loader.load_state_dict(state)
    return _Training(model, optimizer, loader, list(weights["trained"]))


def _loss(model: torch.nn.Module, ids: Tensor) -> Any:
    """What these samples add to the mean over their global batch."""
    features = torch.sin(ids[:, None].double() * torch.arange(1, 4))
    return (model(features).squeeze(1) - torch.cos(ids.double())).square().sum() / GLOBAL_BATCH_SIZE


def _in_order(micro_batches: list[Tensor], ranks: int) -> list[int]:
    """The ids of a global batch: of each round the first rank's micro batch, then the second's, and so on."""
    mine = torch.stack(micro_batches)
    of_ranks = [torch.empty_like(mine) for _ in range(ranks)]
    dist.all_gather(of_ranks, mine)
    return [int(index) for index in torch.stack(of_ranks, dim=1).flatten()]


def _save(folder: Path, chain: Chain, run: _Training, epoch: int, tell: Tell) -> None:
    """All of it or nothing, at whatever moment the process dies: a rename, or `ResumptionState.save`, is the last act."""
    state = run.loader.state
    name = "all.pt" if chain.one_file else f"weights-{state.consumed_samples}.pt"
    new = folder / f"{name}.new"
    torch.save({**run.weights(), "data": state.state_dict()} if chain.one_file else run.weights(), new)
    tell("m", epoch)
    new.replace(folder / name)
    if not chain.one_file:
        tell("m", epoch)
        state.save(folder / "state.json")
    tell("d", epoch)
