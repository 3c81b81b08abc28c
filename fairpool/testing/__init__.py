"""Tests under every interleaving: schedules that are drawn, found, shrunk, and done again.

See `docs/testing.md`.
"""

from fairpool.testing._drawn import Schedule, explore, schedules
from fairpool.testing._explore import InterleavingError
from fairpool.testing._linearizable import NotLinearizable, Recorder
from fairpool.testing._run import Deadlock, Livelock, Stuck

__all__ = [
    "Deadlock",
    "InterleavingError",
    "Livelock",
    "NotLinearizable",
    "Recorder",
    "Schedule",
    "Stuck",
    "explore",
    "schedules",
]
