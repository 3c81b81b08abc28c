"""Rank 5, the API: what users touch, and every coroutine function."""
