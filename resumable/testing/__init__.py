"""Proofs that a run goes on with the exact next sample, to be run on one's own machine with one's own versions.

    python -m resumable.testing simulate     many thousand chains of kills, resumes and resizes, played in one process
    python -m resumable.testing simulate --only 17 --seed 3      one of them again, told step by step
    python -m resumable.testing kill         real DDP runs, killed by SIGKILL some hundred times

    sizes ──► chains ──► simulation ──► simulate        what is drawn, how one is played, and the command
                            │
               walk ──► loop, log ◄── ranks             what must come, one process, the loader of one rank

Every subcommand is a module here with a function `add_command`; `__main__` names them.
"""
