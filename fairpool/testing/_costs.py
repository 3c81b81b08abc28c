"""`Costs`: what things take on a simulated machine."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite


@dataclass(frozen=True)
class Costs:
    """What things take on the simulated machine: seconds, but for `away`.

    The defaults were measured on CPython 3.13.5t and two processors, with `tox -e bench -- costs`;
    `section` (with another worker that takes what follows) and `migrate` are those of
    `docs/performance.md`.
    """

    submit: float = 1.3e-6
    """To submit a task, for its submitter."""
    step: float = 1.4e-6
    """To take a task or a continuation from a queue, to begin and to end its step."""
    suspend: float = 20e-6
    """To wait for a future in a coroutine, and to be told that it is there."""
    section: float = 2.2e-6
    """From the end of one critical section to the beginning of the next, for the combiner."""
    enter: float = 2.5e-6
    """To enter and leave a lock that is free."""
    steal: float = 2.2e-6
    """To take tasks from another worker's run queue."""
    look: float = 0.12e-6
    """To look at one worker's queue, in a scan of those of all workers."""
    check: float = 0.74e-6
    """The same, in the look before a worker parks, and after it has found work."""
    pause: float = 0.7e-6
    """To let others go first, between two looks for work."""
    lock: float = 0.07e-6
    """Any operation of a lock, or of what threads park on."""
    unpark: float = 4e-6
    """To wake a thread, for its waker."""
    wake: float = 12e-6
    """From then until that thread runs."""
    start: float = 250e-6
    """To start a thread, for its starter; and from then until it runs."""
    migrate: float = 3e-6
    """What a task loses by going on with another worker than before."""
    away: float = 1.1
    """How much longer a critical section takes with another worker than its lock's first one."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{each.name} must be a number, not {value!r}")
            least = 1 if each.name == "away" else 0
            if not (value >= least and isfinite(value)):
                raise ValueError(f"{each.name} must be at least {least}, and finite, not {value!r}")


DEFAULT_COSTS = Costs()
