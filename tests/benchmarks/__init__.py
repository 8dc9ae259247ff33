"""What resumption costs, next to a plain shuffled DataLoader in the same run. No tests: a table to be read.

Run them: python -m tests.benchmarks
"""
