"""Experiments: each a small file that returns a frozen config as a commented diff from the base."""
