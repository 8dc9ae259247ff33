"""Tests of what reads the checkpoints of other tools."""
