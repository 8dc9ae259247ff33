"""Tests of the loaders and counters of Megatron-Bridge's shape, with the real megatron-core."""
