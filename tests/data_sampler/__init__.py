"""Megatron's frameworks: the calculators of megatron-core, and of Apex where that is still in use."""
