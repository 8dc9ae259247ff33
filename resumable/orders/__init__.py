"""Which dataset index comes at which place of an epoch.

orders         Sequential and Shuffled
identity       what a saved state holds of an order
permutation    a shuffle that starts anywhere, a pure function of (length, seed, epoch)
network        the Feistel network that shuffles long datasets
splitmix       the 64-bit words that both draw
canary         a digest of the next indices, compared on resume
"""
