"""`Simulation`: what a simulated program has done. `LockSimulation`: what happened at one lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from fairpool.testing._costs import Costs


@dataclass(frozen=True)
class LockSimulation:
    """What happened at one lock."""

    name: str
    sections: int
    combined: int
    """Sections that a combiner has taken from the queue and run."""
    passes: int
    hand_offs: int
    longest_pass: int
    away: int
    """Sections that ran on another worker than the lock's first one."""
    busy: float
    """Seconds that somebody was inside."""
    waits: tuple[float, float, float]
    """Median, 99 % and 99.9 % quantile of all waits, from asking to being inside (s)."""
    longest_wait: float
    jain: float
    """Jain's index of the time that each task was inside: 1 if all had the same."""


@dataclass(frozen=True)
class Simulation:
    """What a simulated program has done. Times are in seconds of the virtual clock.

    Two runs of the same program with the same seed and costs are equal (`real_time` and
    `peak_memory` are not compared).
    """

    result: Any
    """What the program has returned."""
    workers: int
    seed: int
    costs: Costs
    elapsed: float
    """From the beginning of the program until it returned, or the last `work` ended after that."""
    tasks: int
    """Tasks that have begun, and …"""
    steps: int
    """… the steps that they were run in."""
    worked: float
    """The seconds of all calls of `work`, with what `away` has added."""
    steals: int
    """How often a worker has taken tasks from another one's run queue."""
    migrations: int
    """Steps that began on another worker than the task's last one, sections not counted."""
    parks: int
    wake_ups: int
    """Threads that were woken: workers, mostly."""
    looks: int
    """How many workers' queues were looked at, by those that go through all of them."""
    spent: Mapping[str, float]
    """Where the time of all threads went, by the names of the costs, and "work"."""
    locks: tuple[LockSimulation, ...]
    events: int
    """How often another virtual thread went on."""
    real_time: float = field(compare=False)
    """Seconds that the simulation has really taken."""
    peak_memory: int = field(compare=False)
    """The most memory, in bytes, that the process had up to the end; 0 where that is not known."""

    @property
    def throughput(self) -> float:
        """Tasks per second."""
        return self.tasks / self.elapsed if self.elapsed else inf

    @property
    def utilization(self) -> float:
        """The part of the workers' time that was `work`."""
        return self.worked / (self.workers * self.elapsed) if self.elapsed else 0.0
