"""What an operation costs beside many things that it has nothing to do with.

The numbers of things go from 1 to 100,000: unused locks, locks that were entered once, shares,
suspended tasks, timers; and up to 1,000 workers that wait. The last number against the first is the
ratio. A row that grows is a fault.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from harness import Row, Size, benchmark, microseconds, require

NUMBERS = (1, 100, 10_000, 100_000)
WORKERS_MAX = 900


def noop() -> None:
    """A task."""


async def child() -> None:
    """A child of a `gather`."""


def entered(lock: Any) -> Any:
    with lock:
        return lock


def suspended(pool: Any, count: int, wait: Callable[[], Any]) -> Any:
    futures = [pool.submit(wait) for _ in range(count)]
    while pool.statistics().suspended < count:
        time.sleep(0.01)
    return futures


def tasks(pool: Any, count: int) -> Any:
    event = require("fairpool").Event()
    return suspended(pool, count, event.wait), event


def timers(pool: Any, count: int) -> Any:
    sleep = require("fairpool").sleep
    return suspended(pool, count, lambda: sleep(3600))


def workers(pool: Any, count: int) -> Any:
    gate = threading.Event()
    blocking = require("fairpool").blocking
    arrived = threading.Semaphore(0)

    def wait() -> None:
        with blocking():
            arrived.release()
            gate.wait()

    for _ in range(count):
        pool.submit(wait)
    for _ in range(count):
        arrived.acquire()
    return gate


THINGS: dict[str, Callable[[Any, int], Any]] = {
    "unused locks": lambda pool, count: [pool.lock() for _ in range(count)],
    "locks entered once": lambda pool, count: [entered(pool.lock()) for _ in range(count)],
    "idle shares": lambda pool, count: [pool.share(f"idle {n}") for n in range(count)],
    "suspended tasks": tasks,
    "timers": timers,
    "workers that wait": workers,
}


def often(operation: Callable[[], object], count: int = 200) -> float:
    """Seconds for one: the median of five times so many, after one that is thrown away."""
    costs = []
    for _ in range(6):
        begin = time.perf_counter()
        for _ in range(count):
            operation()
        costs.append((time.perf_counter() - begin) / count)
    return statistics.median(costs[1:])


def in_task(pool: Any, operation: Callable[[], object]) -> float:
    return float(pool.submit(often, operation).result())


def nested_result(pool: Any) -> float:
    return in_task(pool, lambda: pool.submit(noop).result())


def eager_gather(pool: Any) -> float:
    gather = require("fairpool").gather

    async def parent() -> float:
        begin = time.perf_counter()
        for _ in range(1_000):
            await gather(child(), child(), eager_start=True)
        return (time.perf_counter() - begin) / 1_000

    return float(min(pool.submit(parent).result() for _ in range(3)))


def pool_run(pool: Any) -> float:
    return often(lambda: pool.run(noop))


def round_trip(pool: Any) -> float:
    return often(lambda: pool.submit(noop).result())


def in_share(pool: Any) -> float:
    share = pool.share("this one")
    return often(lambda: share.submit(noop).result())


def with_lock(pool: Any) -> float:
    lock = pool.lock()
    return often(lambda: entered(lock))


def making_a_lock(pool: Any) -> float:
    return often(pool.lock)


def time_out(pool: Any) -> float:
    timeout = require("fairpool").timeout

    async def parent() -> float:
        begin = time.perf_counter()
        for _ in range(1_000):
            async with timeout(60):
                pass
        return (time.perf_counter() - begin) / 1_000

    return float(min(pool.submit(parent).result() for _ in range(3)))


OPERATIONS: dict[str, Callable[[Any], float]] = {
    "submit + result, from outside": round_trip,
    "submit + result, in a task": nested_result,
    "eager gather of two": eager_gather,
    "pool.run": pool_run,
    "submit + result in a share": in_share,
    "with lock": with_lock,
    "making a lock": making_a_lock,
    "timeout": time_out,
}


def beside(thing: str, count: int) -> dict[str, float]:
    """The cost of each operation beside so many things."""
    pool = require("fairpool", "FairPool").FairPool(2)
    kept = THINGS[thing](pool, count)
    found = {name: operation(pool) for name, operation in OPERATIONS.items()}
    if isinstance(kept, threading.Event):
        kept.set()
    pool._scheduler.cancel_all()
    pool.shutdown(cancel_futures=True)
    return found


@benchmark("beside")
def costs_beside(size: Size) -> list[Row]:
    """Every operation beside 1 to 100,000 of each thing."""
    rows = []
    for thing in THINGS:
        most = WORKERS_MAX if thing == "workers that wait" else size(100_000, 10_000)
        numbers = sorted({min(number, most) for number in NUMBERS})
        found = {number: beside(thing, number) for number in numbers}
        for name in OPERATIONS:
            costs = [found[number][name] for number in numbers]
            rows.append(
                Row(
                    f"{name}, beside {' / '.join(f'{number:,}' for number in numbers)} {thing}",
                    " / ".join(map(microseconds, costs[1:])),
                    microseconds(costs[0]),
                    f"{costs[-1] / costs[0]:.2f}",
                )
            )
    return rows
