"""What the processes of `__main__` are asked to do."""

from __future__ import annotations

import os
import time
from typing import Any

from interleave import locks, scenarios
from interleave.bugs import BUGS
from interleave.harness import explorer

SCENARIOS = [*scenarios.ALL, *locks.ALL]


def take_processor(numbers: Any) -> None:
    """Each process has a processor of its own, as far as there are enough."""
    number = numbers.get()
    if hasattr(os, "sched_getaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[number % len(processors)]})


def find(number: int) -> tuple[int, int | str, str, float]:
    """(schedules needed or 0, seed, the error, seconds) for one bug."""
    bug = BUGS[number]
    start = time.perf_counter()
    with bug.put_in():
        explored = explorer(bug.scenario)
        with explored.in_place():
            failure = explored.search(bug.schedules, 0, "mixed")
    seconds = time.perf_counter() - start
    if failure is None:
        return 0, "", "", seconds
    switches = len(failure.plan.decisions)
    what = f"{type(failure.error).__name__} ({switches} switches)"
    return failure.found_after, failure.seed, what, seconds


def explore(number: int, schedules: int) -> tuple[int, str, float]:
    """(schedules, what went wrong, seconds) for one scenario."""
    start = time.perf_counter()
    explored = explorer(SCENARIOS[number])
    with explored.in_place():
        failure = explored.search(schedules, 0, "mixed")
    text = "" if failure is None else str(failure.as_error())
    return explored.schedules, text, time.perf_counter() - start
