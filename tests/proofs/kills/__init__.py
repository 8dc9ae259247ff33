"""Real runs of DistributedDataParallel, killed by SIGKILL again and again: command ──► session ──► training."""
