"""The adapter of Ray Train, against the real one."""
