"""One rank's batches of indices, from any position.

feed               the Feed protocol, and the sampler through which torch's DataLoader reads a feed
order_feed         batches cut from an order, for one rank of many
sampler_feeds      batches of a user's samplers, shared out among the ranks
replay             a user's sampler as seeded epochs that can be drawn again
from_dataloader    the feed for what a DataLoader was built with
"""
