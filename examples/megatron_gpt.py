"""Megatron-core's GPTModel in a batch-size ramp-up: killed by SIGKILL twice, it ends with the weights of the uninterrupted run.

Run it: python examples/megatron_gpt.py
It uses a GPU where there is one. It needs megatron-core: pip install "resumable-training[megatron]"
"""

# megatron-core has no types
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from resumable import LinearRampup, ResumableLoader

with warnings.catch_warnings():  # that Transformer Engine and Apex are not installed
    warnings.simplefilter("ignore")
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.num_microbatches_calculator import (
        get_num_microbatches,
        init_num_microbatches_calculator,
        update_num_microbatches,
    )
    from megatron.core.transformer.transformer_config import TransformerConfig

MICRO_BATCH_SIZE, GLOBAL_BATCH_SIZE = 2, 16
RAMPUP = [4, 4, 60]  # Megatron's rampup_batch_size: from 4 in steps of 4, over 60 samples
STEPS, SAVE_EVERY, KILLED_IN = 15, 3, (8, 10)  # the ramp ends after step 10
WINDOW, WINDOWS = 32, 50  # so few that an epoch ends in step 9


class Source(Dataset[tuple[int, Tensor]]):
    """The standard library's own source, in windows of bytes, each with its id."""

    def __init__(self) -> None:
        modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        text = b"".join(path.read_bytes() for path in modules[:20])[: WINDOWS * WINDOW]
        self.windows = torch.tensor(list(text)).view(-1, WINDOW)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, self.windows[index]


class Attention(torch.nn.Module):
    """Causal attention by torch, since megatron-core's own needs a GPU. Shapes: sequence, batch, heads, width."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        q, k, v = (each.permute(1, 2, 0, 3) for each in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).permute(2, 0, 1, 3).flatten(2)


def gpt() -> Any:
    config = TransformerConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        cuda_graph_scope=[],  # the default gives a warning
    )
    spec: Any = get_gpt_layer_local_spec()
    spec.submodules.self_attention.submodules.core_attention = Attention
    return GPTModel(config, spec, vocab_size=256, max_sequence_length=WINDOW)


def initialize() -> torch.device:
    """torch, its process group and megatron-core, as each process of a run needs them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.use_deterministic_algorithms(mode=True)  # the weights are compared to the bit
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # torch does not list it as exported
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    init_num_microbatches_calculator(
        rank=0,
        rampup_batch_size=RAMPUP,
        global_batch_size=GLOBAL_BATCH_SIZE,
        micro_batch_size=MICRO_BATCH_SIZE,
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
    )
    return device


def micro_batches_of(step: int, loader: ResumableLoader[Any]) -> int:
    """The number of micro batches of *step*, which loader and megatron-core must agree on."""
    update_num_microbatches(loader.state.consumed_samples, consistency_check=False)
    counts = loader.num_microbatches, get_num_microbatches()
    if counts[0] != counts[1]:
        raise RuntimeError(f"step {step} has {counts[0]} micro batches by the loader, {counts[1]} by megatron-core")
    return counts[0]


def train(checkpoint: Path, killed_in: int | None = None) -> None:
    """One process: go on from *checkpoint* to the last step, or into step *killed_in*."""
    device = initialize()
    model = gpt().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = ResumableLoader(
        Source(),
        batch_size=MICRO_BATCH_SIZE,
        shuffle=True,
        drop_last="carry",  # a step at an epoch's end is filled from the next one
        schedule=LinearRampup.from_megatron(RAMPUP, GLOBAL_BATCH_SIZE),
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
    )
    history: list[dict[str, Any]] = []  # of each step: its loss, and the ids that it was trained on
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        history = saved["history"]

    positions = torch.arange(WINDOW - 1, device=device)[None]
    batches = loader.forever()
    for step in range(len(history) + 1, STEPS + 1):
        micro_batches = micro_batches_of(step, loader)
        trained: dict[str, Any] = {"loss": 0.0, "ids": []}
        for _ in range(micro_batches):
            ids, windows = next(batches)
            tokens = windows.to(device)
            loss = model(tokens[:, :-1], positions, None, labels=tokens[:, 1:]).mean() / micro_batches
            loss.backward()
            trained["loss"] += loss.item()
            trained["ids"] += ids.tolist()
            if step == killed_in:
                os.kill(os.getpid(), signal.SIGKILL)  # between two micro batches
        optimizer.step()
        optimizer.zero_grad()
        loader.commit()  # this step's samples are trained
        history.append(trained)
        if step % SAVE_EVERY == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
            torch.save({**state, "history": history}, new := checkpoint.with_suffix(".new"))
            new.replace(checkpoint)  # atomic: a kill leaves the old checkpoint or the new one


def run(checkpoint: Path, *killed_in: int) -> dict[str, Any]:
    """The last checkpoint of a run whose first processes are killed in the steps *killed_in*."""
    # a fork imports megatron-core only once, but a GPU's driver does not survive it
    context: Any = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    saved: dict[str, Any] = {}
    for step in (*killed_in, None):
        process = context.Process(target=train, args=(checkpoint, step))
        process.start()
        process.join()
        if process.exitcode != (0 if step is None else -signal.SIGKILL):
            raise RuntimeError(f"{checkpoint.stem}: a process ended with exit code {process.exitcode}")
        saved = torch.load(checkpoint, map_location="cpu")
        ended = "ended" if step is None else f"SIGKILL in step {step}"
        sizes = [len(trained["ids"]) for trained in saved["history"]]
        print(f"{checkpoint.stem:6} | {ended:18} | {len(sizes):11} | {saved['history'][-1]['loss']:.4f} |", *sizes)
    return saved


def main() -> int:
    """Compare a run that is killed and resumed with one that is not."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it cuBLAS is not deterministic
    print("run    | process            | steps saved | loss   | batch sizes")
    with tempfile.TemporaryDirectory() as folder:
        whole = run(Path(folder, "whole"))
        killed = run(Path(folder, "killed"), *KILLED_IN)
    weights = {name: value for name, value in whole["model"].items() if isinstance(value, Tensor)}
    same_weights = all(torch.equal(value, killed["model"][name]) for name, value in weights.items())
    exact = whole["history"] == killed["history"] and same_weights
    print(f"{STEPS} steps, killed in steps {KILLED_IN}: {'exact' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
