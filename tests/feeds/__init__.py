"""This rank's batches of indices."""
