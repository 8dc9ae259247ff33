"""One decorated datamodule.

options     what the decorator is given, checked
instance    the state that an instance holds, and its data sampler
methods     what the three decorated methods do around the user's own
attach      what `train_dataloader` returns, made to start where the training is
trainer     what all this asks of a trainer, and which adapter answers
loop        the adapter for no trainer; those of frameworks are in adapters/
"""
