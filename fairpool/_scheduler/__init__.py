"""Rank 3, the scheduler: workers, callers, and what the workers of one pool share."""
