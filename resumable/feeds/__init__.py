"""One rank's batches of indices, from any position.

feed               the Feed protocol, and the sampler through which torch's DataLoader reads a feed
order_feed         batches cut from an order or a user's sampler, for one rank or one of many
sampler_feeds      batches of a user's batch sampler, and of a loader that yields one rank's samples
drawn              how a user's batch sampler falls into batches, as they were drawn
replay             a user's sampler as an order of seeded epochs that can be drawn again
sampler_memory     what a user's sampler remembers between its epochs
rank_sampler       what a loader shows as its sampler on several ranks
draws              batches that know the epoch of each index, and how often it came
from_dataloader    the feed for what a DataLoader was built with
"""
