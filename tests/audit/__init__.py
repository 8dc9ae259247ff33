"""Tests of the audit: what is written while a run trains, and the proof that is read off it."""
