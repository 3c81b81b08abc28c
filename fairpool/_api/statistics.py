"""`PoolStatistics`: what has happened in a pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fairpool._locks.statistics import LockStatistics


@dataclass(frozen=True)
class PoolStatistics:
    """What has happened in a pool so far. Times are in seconds.

    Reading it stops no worker. Each number is true of one moment, not all of the same moment.
    """

    workers: int
    """Threads that exist now."""
    searching: int
    """Those of them that search for work."""
    parked: int
    """Those of them that are parked."""
    queued: int
    """Runnable tasks and continuations in queues. Requests in the queues of locks do not count."""
    suspended: int
    """Coroutines that have started, and not ended."""
    steps: int
    """Steps that the existing workers have run. Lags behind by up to 61 for each worker."""
    steals: int
    """How often they have stolen from another worker's run queue."""
    worker_time: Mapping[str, float]
    """Seconds that the steps of each share have taken, by its name; blocked time does not count."""
    jain: float
    """Jain's fairness index of `worker_time` by weight: 1 if even, 1/n if one of n has had all."""
    locks: tuple[LockStatistics, ...]
    """The statistics of the pool's locks."""
