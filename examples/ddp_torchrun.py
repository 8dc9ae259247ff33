"""DistributedDataParallel under torchrun: workers may die and come back in another number, and each step trains the same samples.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # or restarted workers of torch 2.13 look for the dead ones' addresses
    torchrun --nproc-per-node 2 --max-restarts 3 examples/ddp_torchrun.py ddp.pt

Kill any of it, and run it again with any number of workers, on GPUs where there are some. All must see the checkpoint.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from resumable import ConstantBatchSize, ResumableLoader, Shuffled, agree_to_stop, stop_on
from resumable.adapters.distributed import Ranks

SAMPLES, EPOCHS, SAVE_EVERY = 1_000, 3, 5
MICRO_BATCH_SIZE, GLOBAL_BATCH_SIZE = 4, 24  # 24 = 4 * workers * micro batches, for 1, 2, 3 or 6 workers
INPUTS = torch.linspace(-1, 1, SAMPLES)


def model_and_optimizer(device: torch.device) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).to(device)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def loss_of(model: torch.nn.Module, x: Tensor) -> Any:
    """What these samples add to the mean over their global batch."""
    return (model(x[:, None]) - x[:, None] ** 2).square().sum() / GLOBAL_BATCH_SIZE


def in_order(micro_batches: list[Tensor]) -> Tensor:
    """The ids of a global batch: of each round the first rank's micro batch, then the second's, and so on."""
    of_ranks = [torch.stack(micro_batches) for _ in range(dist.get_world_size())]
    dist.all_gather(of_ranks, torch.stack(micro_batches))
    return torch.stack(of_ranks, dim=1).flatten()


def train(checkpoint: Path, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Go on from *checkpoint* until all is trained, or a signal asks to stop: the weights, and the ids as trained."""
    rank, size = dist.get_rank(), dist.get_world_size()
    model, optimizer = model_and_optimizer(device)
    loader = ResumableLoader(
        TensorDataset(torch.arange(SAMPLES), INPUTS),
        MICRO_BATCH_SIZE,
        shuffle=True,
        drop_last="carry",  # a step at an epoch's end is filled from the next one
        schedule=ConstantBatchSize(GLOBAL_BATCH_SIZE),  # the same for any number of workers
        ranks=Ranks(),
    )
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": loader}
    trained = torch.empty(0, dtype=torch.int64, device=device)
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device)
        trained = saved["trained"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    if rank == 0:
        print(f"{size} workers go on after step {len(trained) // GLOBAL_BATCH_SIZE}", flush=True)
    parallel, micro_batches = DistributedDataParallel(model), list[Tensor]()
    for _ in range(loader.epoch, EPOCHS):
        for ids, x in loader:
            micro_batches.append(ids.to(device))
            is_last = len(micro_batches) == loader.num_microbatches
            parallel.require_backward_grad_sync = is_last
            (loss_of(parallel, x.to(device)) * size).backward()  # times size: it averages over the ranks
            if not is_last:
                continue
            optimizer.step()
            optimizer.zero_grad()
            loader.commit()  # this step's samples are trained
            trained, micro_batches = torch.cat([trained, in_order(micro_batches)]), []
            stops = agree_to_stop()  # on every worker, or on none
            if rank == 0 and (stops or len(trained) // GLOBAL_BATCH_SIZE % SAVE_EVERY == 0):
                state = {name: part.state_dict() for name, part in parts.items()}
                torch.save({**state, "trained": trained}, new := checkpoint.with_suffix(".new"))
                new.replace(checkpoint)  # atomic: a kill leaves the old checkpoint or the new one
            if stops:
                return model.state_dict(), trained
    return model.state_dict(), trained


def is_exact(weights: dict[str, Tensor], trained: Tensor) -> bool:
    """Compare with one process that nothing interrupts."""
    model, optimizer = model_and_optimizer(torch.device("cpu"))
    order = torch.cat([torch.from_numpy(Shuffled(SAMPLES).indices(epoch, 0, SAMPLES)) for epoch in range(EPOCHS)])
    for ids in torch.split(order, GLOBAL_BATCH_SIZE):
        loss_of(model, INPUTS[ids]).backward()
        optimizer.step()
        optimizer.zero_grad()
    alike = (torch.allclose(value, weights[name].cpu(), atol=1e-5) for name, value in model.state_dict().items())
    return torch.equal(trained.cpu(), order) and all(alike)


def main() -> int:
    stop_on()  # SIGTERM: torchrun passes it on, and sends it to change the number of workers
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    weights, trained = train(Path(*sys.argv[1:] or ["ddp.pt"]), device)
    dist.destroy_process_group()
    result = "stopped" if len(trained) < SAMPLES * EPOCHS else "exact" if is_exact(weights, trained) else "NOT EXACT"
    if os.environ["RANK"] == "0":
        print(f"{len(trained)} samples: {result}")
    return 1 if result == "NOT EXACT" else 0


if __name__ == "__main__":
    sys.exit(main())
