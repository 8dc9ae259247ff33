"""The generators of megatron-core's layers follow the position, each on the ranks that Megatron lets it differ by."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings
from importlib import import_module
from typing import Any

import pytest
import torch

from resumable import ConfigurationError, ResumableLoader
from resumable.loading.model_generators import of_stage, seed_trackers
from resumable.loading.reseeding import YIELDED, reseed
from tests.support.nemo_shape import has_megatron_core

if not has_megatron_core():
    pytest.skip("megatron-core is not installed", allow_module_level=True)

SHARED, MODEL, EXPERTS, OWN = "data-parallel-rng", "model-parallel-rng", "expert-parallel-rng", "a-user-s"
RANKS = {
    "tensor": "_MPU_TENSOR_MODEL_PARALLEL_RANK",
    "pipeline": "_MPU_PIPELINE_MODEL_PARALLEL_RANK",
    "expert": "_MPU_EXPERT_MODEL_PARALLEL_RANK",
    "expert_tensor": "_MPU_EXPERT_TENSOR_PARALLEL_RANK",
}


class Process:
    """One process of a model-parallel run, whose tracker holds states *as_generators*, as with CUDA graphs, or as bytes."""

    def __init__(self, patch: pytest.MonkeyPatch, *, as_generators: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Transformer Engine and Apex, which are not there
            self.random: Any = import_module("megatron.core.tensor_parallel.random")
        self.parallel_state: Any = import_module("megatron.core.parallel_state")
        self._patch = patch
        self._on_cpu = torch.Generator
        generator = torch.Generator
        self.tracker: Any = self.random.CudaRNGStatesTracker()
        patch.setattr(self.random, "_CUDA_RNG_STATE_TRACKER", self.tracker)
        patch.setattr(self.parallel_state, "is_initialized", lambda: True)
        states = {name: generator().manual_seed(0) for name in (SHARED, MODEL, EXPERTS, OWN)}
        self.kept = states if as_generators else {name: state.get_state() for name, state in states.items()}
        self.tracker.set_states(dict(self.kept))

    def at(self, **ranks: int) -> None:
        """Be the process of these ranks."""
        for name, variable in RANKS.items():
            self._patch.setattr(self.parallel_state, variable, ranks.get(name, 0))

    def draws(self, word: int = 5, **ranks: int) -> dict[str, float]:
        """What each state draws first, once it is seeded on these ranks."""
        self.at(**ranks)
        seed_trackers(word)
        drawn: dict[str, float] = {}
        for name, state in self.tracker.get_states().items():
            generator = self._on_cpu()
            generator.set_state(state.get_state() if isinstance(state, torch.Generator) else state)
            drawn[name] = float(torch.rand((), generator=generator, dtype=torch.float64))
        return drawn


@pytest.fixture(params=[True, False], ids=["generators", "bytes"])
def process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Process:
    """A process on the CPU, with the real tracker of megatron-core."""
    made = Process(monkeypatch, as_generators=request.param)
    if not request.param:
        generator = torch.Generator

        class OnCpu(generator):  # type: ignore[misc, valid-type]  # in place of one on a device that is not here
            def __new__(cls, device: Any = None) -> Any:
                assert device == "cuda"
                return generator()

        monkeypatch.setattr("resumable.loading.model_generators.torch.Generator", OnCpu)
    return made


def differing(one: dict[str, float], other: dict[str, float]) -> set[str]:
    """The names of what draws other numbers."""
    return {name for name in one if one[name] != other[name]}


def test_each_state_follows_its_ranks(process: Process) -> None:
    """What tensor-parallel ranks hold alike is the same on all, what is split differs; experts follow expert ranks."""
    first = process.draws()
    assert first == process.draws()
    assert 4 == len(set(first.values()))
    assert {SHARED, MODEL, EXPERTS, OWN} == differing(first, process.draws(6))
    assert {MODEL, OWN} == differing(first, process.draws(tensor=1))
    assert {EXPERTS} == differing(first, process.draws(expert=1))
    assert {EXPERTS} == differing(first, process.draws(expert_tensor=1))
    assert {EXPERTS} == differing(process.draws(expert=1), process.draws(expert_tensor=1))


def test_generators_stay_the_same_objects(process: Process) -> None:
    """A CUDA graph holds them."""
    process.draws()
    for name, state in process.tracker.get_states().items():
        assert not isinstance(state, torch.Generator) or state is process.kept[name]


def test_a_pipeline_s_stages_draw_apart(process: Process) -> None:
    """Also those of the accelerator's own generator, which no tracker holds; the samples' transforms stay alike."""
    words: list[int] = []
    drawn: list[float] = []
    for stage in (0, 1, 2):
        process.at(pipeline=stage)
        words.append(of_stage(7))
        reseed(YIELDED, 1, 0, 0)
        drawn.append(torch.rand(()).item())
    assert 3 == len(set(words))
    assert 1 == len(set(drawn))


def test_a_tracker_that_is_not_initialized_is_left_alone(process: Process) -> None:
    """And none is made."""
    process.tracker.reset()
    seed_trackers(5)
    assert ({}, False) == (process.tracker.get_states(), process.tracker.is_initialized())


def test_ranks_that_megatron_does_not_know(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeded by hand with other ranks, tensor-parallel processes would all drop out alike: refused at the first batch."""
    monkeypatch.setattr(process.parallel_state, "is_initialized", lambda: False)
    with pytest.raises(ConfigurationError, match="follow from this process's ranks"):
        next(iter(ResumableLoader(range(4), batch_size=2, reseed=True)))
    assert 4 == len(list(ResumableLoader(range(8), batch_size=2)))


def test_megatron_may_be_loaded_later(process: Process) -> None:
    """A loader that was built before the model seeds its generators too: each step looks for them."""
    loader = ResumableLoader(range(8), batch_size=2, reseed=True)
    process.at()
    seen: list[Any] = []
    for _ in loader:
        state: Any = process.tracker.get_states()[MODEL]
        seen.append((state.get_state() if isinstance(state, torch.Generator) else state).tolist())
    assert all(one != other for one, other in itertools.pairwise(seen))


def test_megatron_is_never_imported() -> None:
    """Where it is installed and nobody has loaded it."""
    program = (
        "import sys; from resumable import ResumableLoader\n"
        "list(ResumableLoader(range(4), reseed=True))\n"
        "sys.exit(any(name.startswith('megatron') for name in sys.modules))"
    )
    assert 0 == subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode
