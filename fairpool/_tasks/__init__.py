"""Rank 1, tasks: what runs. Futures, tasks, coroutines, chains, `gather`."""
