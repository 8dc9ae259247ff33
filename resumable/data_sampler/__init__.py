"""A data sampler of NeMo's shape counts the samples, and its loaders start where the count says.

progress         the count of a sampler and a trainer's steps
written          what a load writes into a sampler, and how that is taken back
options          what `@resumable` passes on to the count and its loaders
placed_loader    a Megatron-style train loader whose passes begin at the count
cyclic_order     Megatron's "cyclic" order in closed form, as a saved state names it
epochs_apart     epochs that are others without this package: how a batch sampler moves its own count
calculators      megatron-core's and Apex's microbatch calculators
sampler_hooks    what the sampler makes and hears of, hooked in the instance
stand_ins        runs a class's own methods while its trainer, sampler or calculator is still None
"""
