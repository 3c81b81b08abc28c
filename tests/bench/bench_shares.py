"""Benchmarks of shares: equal lock time, a worker's time divided, and what the counting costs.

One client for each share, in a closed loop without a rest, is the hardest case: whoever is not
there when the lock is given out gets nothing, and its way back takes as long as its section.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from contend import iterations, spin
from harness import (
    WORKERS,
    Goal,
    Measure,
    Row,
    Series,
    Size,
    alternate,
    benchmark,
    compare,
    milliseconds,
    pin_next_cpu,
    require,
    warm,
)

SHORT, LONG = 15e-6, 150e-6
"""Seconds of a critical section of one half of the shares, and of the other half."""

EVEN = Goal("at least", 0.99, absolute="0.99")

LOCKS: dict[str, dict[str, Any]] = {
    "strict": {"order": "usage", "strict": True},
    "usage": {"order": "usage"},
    "ticket": {"order": "ticket"},
}


def pool_of(workers: int = WORKERS) -> Any:
    """A pool with pinned workers that are there."""
    module = require("fairpool", "FairPool", "Share")
    pool = module.FairPool(workers, initializer=pin_next_cpu, initargs=(itertools.count(),))
    return warm(pool) if workers == WORKERS else pool


def jain_index(values: list[float]) -> float:
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


# Equal lock time


async def closed_loop(lock: Any, count: int, end: float) -> float:
    """Seconds that this client spent inside."""
    inside = 0.0
    while (now := time.perf_counter()) < end:
        async with lock:
            begin = time.perf_counter()
            spin(count)
            inside += time.perf_counter() - begin
    return inside if now else 0.0


def lock_times(kind: str, shares: int, seconds: float, sizes: list[int]) -> list[float]:
    with pool_of() as pool:
        views = [pool.share(f"share-{index}") for index in range(shares)]
        lock = pool.lock(**LOCKS[kind])
        end = time.perf_counter() + seconds
        loops = [
            view.submit(closed_loop, lock, sizes[index % 2], end)
            for index, view in enumerate(views)
        ]
        return [loop.result() for loop in loops]


def plain(value: float) -> str:
    return f"{value:.4f}"


def percent(value: float) -> str:
    return f"{value:.0%}"


@benchmark("shares-lock")
def equal_lock_time(size: Size) -> list[Row]:
    """Sections of 1:10 in a closed loop: how evenly the lock's time is divided, and at what cost.

    The second row of each size is the part of the time in which the lock was in use: what strict
    loses of it, it waits for those that have had less.
    """
    sizes = [iterations(spin, SHORT), iterations(spin, LONG)]
    seconds = size(1_000, 200) * 1e-3
    rows = []
    for shares in (2, 4, 16):
        used: dict[str, list[float]] = {kind: [] for kind in LOCKS}

        def measure_on(
            kind: str, shares: int = shares, used: dict[str, list[float]] = used
        ) -> Measure:
            def measure() -> float:
                times = lock_times(kind, shares, seconds, sizes)
                used[kind].append(sum(times) / seconds)
                return jain_index(times)

            return measure

        series = alternate(size.rounds, {kind: measure_on(kind) for kind in LOCKS})
        what = f"{shares} shares, sections 1:10, closed loop: Jain's index of lock time"
        rows.append(compare(what, series["strict"], series["ticket"], EVEN, plain))
        rows.append(compare(what, series["usage"], series["ticket"], None, plain))
        in_use = {kind: Series(kind, values[1:]) for kind, values in used.items()}
        what = f"{shares} shares, sections 1:10, closed loop: lock in use"
        rows.append(compare(what, in_use["strict"], in_use["ticket"], None, percent))
        rows.append(compare(what, in_use["usage"], in_use["ticket"], None, percent))
    return rows


# The workers' time


def flooded(divided: bool, tasks: int, count: int) -> float:
    """Seconds until some tasks are done that were submitted after ten times as many."""
    with pool_of() as pool:
        flood, other = (pool.share("flood"), pool.share("other")) if divided else (pool, pool)
        floods = [flood.submit(spin, count) for _ in range(10 * tasks)]
        begin = time.perf_counter()
        for future in [other.submit(spin, count) for _ in range(tasks)]:
            future.result()
        seconds = time.perf_counter() - begin
        for future in floods:
            future.cancel()
        return seconds


def alone(tasks: int, count: int) -> float:
    """The same tasks on half of the workers, with the others idle."""
    with pool_of(WORKERS // 2) as pool:
        pool.submit(spin, count).result()
        begin = time.perf_counter()
        for future in [pool.submit(spin, count) for _ in range(tasks)]:
            future.result()
        return time.perf_counter() - begin


@benchmark("shares-workers")
def flood(size: Size) -> list[Row]:
    """One share floods the pool; how long the other one waits for its own tasks."""
    tasks, count = size(200, 50), iterations(spin, 1e-3)
    contenders: dict[str, Measure] = {
        "shares": lambda: flooded(True, tasks, count),
        "one queue": lambda: flooded(False, tasks, count),
        "half of the workers": lambda: alone(tasks, count),
    }
    series = alternate(size.rounds, contenders)
    what = f"{tasks} tasks of 1 ms, behind a flood of {10 * tasks:,}"
    return [
        compare(what, series["shares"], series["one queue"], None, milliseconds),
        compare(what, series["shares"], series["half of the workers"], None, milliseconds),
    ]


# What it costs


def noop() -> None:
    pass


def per_task(kind: str, count: int) -> float:
    """Seconds for each of many tasks that do nothing."""
    with pool_of() as pool:
        target = pool
        if kind != "no shares":
            share = pool.share("one")
            target = share if kind == "in a share" else pool
        begin = time.perf_counter()
        for future in [target.submit(noop) for _ in range(count)]:
            future.result()
        return (time.perf_counter() - begin) / count


async def enter_often(lock: Any, count: int) -> None:
    for _ in range(count):
        async with lock:
            pass


def per_section(kind: str, clients: int, count: int) -> float:
    """Seconds for each of many sections that do nothing."""
    with pool_of() as pool:
        if kind == "no shares":
            lock, target = pool.lock(), pool
        else:
            target = pool.share("one")
            lock = pool.lock(**LOCKS[kind])
        begin = time.perf_counter()
        for future in [target.submit(enter_often, lock, count // clients) for _ in range(clients)]:
            future.result()
        return (time.perf_counter() - begin) / count


@benchmark("shares-cost")
def cost(size: Size) -> list[Row]:
    """What counting costs, against a pool without shares."""
    rows = []
    count = size(50_000, 5_000)
    kinds = ("no shares", "has shares", "in a share")
    series = alternate(
        size.rounds, {kind: lambda kind=kind: per_task(kind, count) for kind in kinds}
    )
    for kind in kinds[1:]:
        rows.append(compare("submit + result, per task", series[kind], series["no shares"]))
    for clients in (1, 8):
        names = ("no shares", *LOCKS)
        series = alternate(
            size.rounds,
            {kind: lambda kind=kind: per_section(kind, clients, count) for kind in names},
        )
        for kind in LOCKS:
            what = f"empty section, {clients} clients, per section"
            rows.append(compare(what, series[kind], series["no shares"]))
    return rows
