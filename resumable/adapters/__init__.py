"""One framework, one file. Each imports its framework at the top and is itself imported on first use.

    from resumable.adapters import lightning    # if Lightning is missing, the error names the extra to install

All files export the same few names, so that the next adapter is written by copying the smallest:

    Ranks         which part of the data this process loads     distributed  device_mesh  megatron  lightning
                                                                accelerate  fabric  transformers  ray
    prepare       the same loader, for a framework's own loop   accelerate  fabric  transformers  ray  megatron
    AllGather     the records of all ranks                       distributed
    Calculator    how many micro batches a step takes            megatron  apex
    ParallelAwareDataloader    a loader with torchtitan's arguments  torchtitan
    build_pretraining_data_loader  a loader with Bridge's arguments  megatron
    save_dataloader, load_dataloader   as in BioNeMo's recipes   bionemo
    Adapter       a framework's trainer, for `@resumable`        lightning
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from resumable.errors import MissingExtraError
from resumable.extras import naming_the_extra
from resumable.loading.trainers import TRAINERS, adapter_for, framework_of, hand_over

__all__ = [
    "TRAINERS",
    "MissingExtraError",
    "adapter_for",
    "framework_of",
    "hand_over",
    "naming_the_extra",
]

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would take every misspelt name for Any

    def __getattr__(name: str) -> object:
        if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        with naming_the_extra():
            return import_module(f"{__name__}.{name}")
