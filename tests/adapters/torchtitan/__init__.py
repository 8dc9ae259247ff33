"""The adapter of torchtitan."""
