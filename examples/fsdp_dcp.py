"""FSDP2 with torch.distributed.checkpoint under torchrun: saved by some workers, loaded by more or fewer, and exact.

Run it, kill any of it by SIGTERM or SIGKILL, and run it again with another number of workers:

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nproc-per-node 2 --max-restarts 3 examples/fsdp_dcp.py checkpoints

It uses GPUs where there are some. Every node must see the folder. ddp_torchrun.py says what the variable is for.
"""

# torch exports these functions without naming them public
# mypy: disable-error-code="attr-defined"
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.data import TensorDataset

from resumable import ConstantBatchSize, ResumableLoader, Shuffled, agree_to_stop, stop_on
from resumable.adapters.device_mesh import Ranks

SAMPLES, EPOCHS, SAVE_EVERY = 200, 3, 5
MICRO_BATCH_SIZE, GLOBAL_BATCH_SIZE = 2, 12  # 12 = 2 * workers * micro batches, for 1, 2, 3 or 6 workers
STEPS = SAMPLES * EPOCHS // GLOBAL_BATCH_SIZE
INPUTS = torch.linspace(-1, 1, SAMPLES)


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def adam(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def loss_of(model: torch.nn.Module, x: Tensor) -> Any:
    """What these samples add to the mean over their global batch."""
    return (model(x[:, None]) - x[:, None] ** 2).square().sum() / GLOBAL_BATCH_SIZE


def sharded_network(mesh: DeviceMesh) -> FSDPModule:
    layers = network().to(mesh.device_type)
    for layer in (layers[0], layers[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(layers, mesh=mesh)


def global_batch(
    model: Any, batches: Iterator[Any], micro_batches: int, device: torch.device
) -> tuple[list[int], float]:
    """Forward and backward of one step on all workers: its ids, and its loss."""
    size, all_ids, loss = dist.get_world_size(), list[Tensor](), torch.zeros(())
    for number in range(1, micro_batches + 1):
        ids, x = next(batches)
        model.set_requires_gradient_sync(number == micro_batches)
        part = loss_of(model, x.to(device))
        (part * size).backward()  # times size: it averages over the workers
        loss += part.detach().cpu()
        all_ids.append(ids)
    dist.all_reduce(loss)
    # in their order: of each round the first rank's micro batch, then the second's, and so on
    of_ranks = [torch.stack(all_ids) for _ in range(size)]
    dist.all_gather(of_ranks, torch.stack(all_ids))
    return [int(index) for index in torch.stack(of_ranks, dim=1).flatten()], float(loss)


def last_in(folder: Path) -> Path | None:
    """The last checkpoint that is whole: torch writes its metadata last."""
    return max((path.parent for path in folder.glob("*/.metadata")), default=None)


def train(folder: Path, device: torch.device) -> tuple[list[int], list[float]]:
    """Go on from the last checkpoint until all is trained, or a signal asks to stop: the ids as trained, and each loss."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    model: Any = sharded_network(mesh)
    optimizer = adam(model)
    loader = ResumableLoader(
        TensorDataset(torch.arange(SAMPLES), INPUTS),
        batch_size=MICRO_BATCH_SIZE,
        shuffle=True,
        drop_last="carry",  # a step at an epoch's end is filled from the next one
        schedule=ConstantBatchSize(GLOBAL_BATCH_SIZE),  # the same for any number of workers
        ranks=Ranks(mesh),
    )
    trained, losses = list[int](), list[float]()

    def state() -> dict[str, Any]:
        weights, moments = get_state_dict(model, optimizer)
        # The position is a Stateful: DCP asks it for its dict to save, and gives it what was loaded.
        return {"model": weights, "optimizer": moments, "data": loader.state, "trained": trained, "losses": losses}

    if checkpoint := last_in(folder):
        saved = state()
        dcp.load(saved, checkpoint_id=checkpoint)
        set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
        trained, losses = saved["trained"], saved["losses"]
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} workers go on after step {len(losses)}", flush=True)

    group: Any = dist.new_group(backend="gloo")  # for a thread that saves while the training goes on
    saving: list[Any] = []
    batches = loader.forever()
    while len(losses) < STEPS:
        ids, loss = global_batch(model, batches, loader.num_microbatches, device)
        optimizer.step()
        optimizer.zero_grad()
        loader.commit()  # this step's samples are trained
        trained, losses = [*trained, *ids], [*losses, loss]
        stops, place = agree_to_stop(), folder / f"{len(losses):06}"
        if saving and (stops or len(losses) % SAVE_EVERY == 0):
            saving.pop().result()
        if stops:
            dcp.save(state(), checkpoint_id=place)
            return trained, losses
        if len(losses) % SAVE_EVERY == 0:
            saving.append(dcp.async_save(state(), checkpoint_id=place, process_group=group))
    for last in saving:
        last.result()
    return trained, losses


def is_exact(trained: list[int], losses: list[float]) -> bool:
    """Compare with one process that nothing interrupts."""
    model = network()
    optimizer, expected = adam(model), list[float]()
    order = torch.cat([torch.from_numpy(Shuffled(SAMPLES).indices(epoch, 0, SAMPLES)) for epoch in range(EPOCHS)])
    for ids in torch.split(order, GLOBAL_BATCH_SIZE):
        loss = loss_of(model, INPUTS[ids])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    return trained == order.tolist() and torch.allclose(torch.tensor(losses), torch.tensor(expected), atol=1e-5)


def main() -> int:
    stop_on()  # SIGTERM: torchrun passes it on, and sends it to change the number of workers
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    trained, losses = train(Path(*sys.argv[1:] or ["checkpoints"]), device)
    dist.destroy_process_group()
    result = "stopped" if len(losses) < STEPS else "exact" if is_exact(trained, losses) else "NOT EXACT"
    if os.environ["RANK"] == "0":
        print(f"{len(trained)} samples: {result}")
    return 1 if result == "NOT EXACT" else 0


if __name__ == "__main__":
    sys.exit(main())
