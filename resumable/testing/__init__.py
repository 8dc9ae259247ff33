"""The place for checks that users run on their own samplers, orders and loaders. None is here yet.

The package's own proofs are in its repository: `python -m tests.proofs simulate` and `python -m tests.proofs kill`.
"""
