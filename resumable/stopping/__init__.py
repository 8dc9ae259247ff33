"""Stop on request, and save first.

signals        a signal as a flag that the training reads at its next step
workers        DataLoader workers that survive such a signal
fork_server    the same for the fork server that starts workers
"""
