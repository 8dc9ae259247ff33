"""Which dataset index comes at which place of an epoch.

orders         Sequential and Shuffled
identity       what a saved state says of an order
permutation    a shuffle that can be entered anywhere, a pure function of (length, seed, epoch)
network        the Feistel network that permutes long datasets
splitmix       the 64-bit words that both draw from
canary         a digest of the next indices, compared on a resume
"""
