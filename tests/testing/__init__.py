"""Tests of resumable.testing."""
