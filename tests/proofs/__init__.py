"""Proofs that a run goes on with the exact next sample, to be run on one's own machine with one's own versions.

    python -m tests.proofs simulate     many thousand chains of kills, resumes and resizes, played in one process
    python -m tests.proofs simulate --only 17 --seed 3      one of them again, told step by step
    python -m tests.proofs kill         real DDP runs, killed by SIGKILL some hundred times

Each command is a folder here. Its `command` has a function `add_command`, which `__main__` calls.
"""
