"""What the processes of `__main__` are asked to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from math import ceil
from typing import Any

from interleave import acquire, locks, scenarios
from interleave.bugs import BUGS
from interleave.harness import search

SCENARIOS = [*scenarios.ALL, *locks.ALL, *acquire.ALL]


def strategies_of(scenario: Callable[[], None]) -> dict[str, float]:
    """How to explore it, and for what part of its schedules."""
    if scenario in acquire.ALL:
        return {"systematic": 2 / 3, "mixed": 1 / 3}
    if scenario in locks.MEETS.values():
        return {"systematic": 1 / 2, "mixed": 1 / 2}
    return {"mixed": 1.0}


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
        _, failure = search(bug.scenario, bug.schedules, bug.strategy)
    seconds = time.perf_counter() - start
    if failure is None:
        return 0, "", "", seconds
    switches = len(failure.plan.decisions)
    what = f"{type(failure.error).__name__} ({switches} switches)"
    return failure.found_after, failure.seed, what, seconds


def explore(number: int, schedules: int) -> tuple[int, str, float]:
    """(schedules, what went wrong, seconds) for one scenario."""
    start = time.perf_counter()
    count = 0
    text = ""
    for strategy, part in strategies_of(SCENARIOS[number]).items():
        explored, failure = search(SCENARIOS[number], ceil(schedules * part), strategy)
        count += explored.schedules
        if failure is not None:
            text = str(failure.as_error())
            break
    return count, text, time.perf_counter() - start
