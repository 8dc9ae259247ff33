"""DataLoaders that start where they are told, and the count of what a loop takes from them.

dataloader         a DataLoader whose passes are started by a callback
loop_progress      the progress of a loop: what was yielded, or committed
counted            the batches of one pass, counted as they are yielded
endless            the batches of one epoch after another, for loops that know no epochs; windows of them
loop_passes        the passes of a loader in a loop, and where a trainer's loops take them over
trainer_loops      which trainer's loop asks a loader for a pass
trainers           from a trainer to the file that adapts its framework
cursor             how far a loop has read, and how far it has trained
map_loader         a train loader over a map-style dataset
stream_loader      a train loader over an iterable dataset or any other iterable
loop_stream        a stream in a loop without Lightning
stream_state       the state that a stream saves of itself: the start of one pass
contents           by what the data of Hugging Face is told from other data
batch_digest       whether a stream gave the same batch again
epochs             the epoch that a dataset is told before each pass
reseeding          the seeding of global generators, for samples and steps
model_generators   the generators of megatron-core
stream_numbers     a stream's batches by number, which their random numbers follow
prepared           loaders that a framework's own loop trains with
own_batches        loader classes with an `__iter__` of their own
rebuilds           who builds a loader anew from its options
arguments          the arguments of a ResumableLoader, checked
"""
