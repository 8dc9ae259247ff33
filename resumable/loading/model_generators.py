"""Generators that megatron-core's layers draw from, on a process that holds a part of the model.

    the accelerator's own                  other numbers on each pipeline stage
    a state of `CudaRNGStatesTracker`      the same, and on each tensor-parallel rank, or expert one, as its name says

They are found where megatron-core is loaded, whenever that was. It is never imported here.

Source: `model_parallel_cuda_manual_seed` (megatron/core/tensor_parallel/random.py) of megatron-core 0.16.1, and
`_set_random_seed` of Megatron-LM (megatron/training/initialize.py), which gives each pipeline stage a seed.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import torch

from resumable.errors import ConfigurationError
from resumable.orders.splitmix import GAMMA, mixed

__all__ = ["of_stage", "seed_trackers"]

_PARALLEL_STATE: Final = "megatron.core.parallel_state"
_OF_STATES: Final = 5 * GAMMA
_TRACKERS: Final = "megatron.core.tensor_parallel.random"


def of_stage(word: int, /) -> int:
    """*word*, or on a later pipeline stage another one: layers of two stages would otherwise drop out alike.

    >>> of_stage(7)
    7
    """
    parallel_state: Any = sys.modules.get(_PARALLEL_STATE)
    if parallel_state is None or not parallel_state.is_initialized():
        return word
    stage = parallel_state.get_pipeline_model_parallel_rank()
    return mixed(word ^ stage) if stage else word


def seed_trackers(word: int, /) -> None:
    """Seed each state of megatron-core's `CudaRNGStatesTracker` by its name and *word*, where it is initialized.

    Raises:
        ConfigurationError: if megatron-core does not know the ranks that the states differ by.
    """
    module: Any = sys.modules.get(_TRACKERS)
    tracker = getattr(module, "_CUDA_RNG_STATE_TRACKER", None)
    if tracker is None or not tracker.is_initialized():
        return
    parallel_state: Any = sys.modules[_PARALLEL_STATE]  # the trackers' own module imports it
    if not parallel_state.is_initialized():
        raise ConfigurationError(
            "The generators of Megatron's layers follow from this process's ranks, which megatron-core does not know.",
            [("generators", type(tracker).__qualname__), ("not initialized", _PARALLEL_STATE)],
            "Call parallel_state.initialize_model_parallel(), or leave out reseed=True.",
        )
    states = tracker.get_states()
    for number, name in enumerate(sorted(states), start=1):
        seed = mixed(mixed(word + _OF_STATES) ^ number)
        for rank in _ranks(name, module, parallel_state):
            seed = mixed(seed ^ rank)
        states[name] = _seeded(states[name], seed)
    tracker.set_states(states)


def _ranks(name: str, module: Any, parallel_state: Any) -> tuple[int, ...]:
    """The ranks on which the state *name* differs."""
    if name == module.get_data_parallel_rng_tracker_name():
        return ()
    if name == module.get_expert_parallel_rng_tracker_name():
        return parallel_state.get_expert_model_parallel_rank(), parallel_state.get_expert_tensor_parallel_rank()
    return (parallel_state.get_tensor_model_parallel_rank(),)


def _seeded(state: Any, seed: int) -> Any:
    if isinstance(state, torch.Generator):  # with CUDA graphs, which hold this very generator
        return state.manual_seed(seed)
    return torch.Generator(device="cuda").manual_seed(seed).get_state()
