"""Tests under every interleaving: schedules that are drawn, found, shrunk, and done again.

See `docs/testing.md`.
"""

from fairpool.testing._costs import Costs
from fairpool.testing._drawn import Schedule, explore, schedules
from fairpool.testing._explore import InterleavingError
from fairpool.testing._linearizable import NotLinearizable, Recorder
from fairpool.testing._run import Deadlock, Livelock, Stuck
from fairpool.testing._simulate import simulate, work
from fairpool.testing._simulation import LockSimulation, Simulation

__all__ = [
    "Costs",
    "Deadlock",
    "InterleavingError",
    "Livelock",
    "LockSimulation",
    "NotLinearizable",
    "Recorder",
    "Schedule",
    "Simulation",
    "Stuck",
    "explore",
    "schedules",
    "simulate",
    "work",
]
