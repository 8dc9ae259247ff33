"""One decorated datamodule.

options     what the decorator was given, checked
instance    the state in an instance, and its data sampler
methods     what the three decorated methods do around the user's own
attach      from what `train_dataloader` returns to loaders that start at the position
"""
