"""Tests of the adapter of accelerate, against the real library."""
