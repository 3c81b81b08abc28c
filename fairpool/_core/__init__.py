"""Rank 0, the core: what every other room stands on. It knows no task, no lock and no pool."""
