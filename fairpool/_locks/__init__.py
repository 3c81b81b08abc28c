"""Rank 2, locks: where a task is in a critical section, and how it gets there."""
