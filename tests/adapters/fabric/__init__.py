"""Tests of the adapter of Lightning Fabric, against the real library."""
