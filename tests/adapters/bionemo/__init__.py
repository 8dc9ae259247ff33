"""Tests of the functions that stand in for those of BioNeMo's recipes."""
