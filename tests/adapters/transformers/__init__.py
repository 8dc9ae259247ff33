"""The adapter of Hugging Face's Trainer, against the real one."""
