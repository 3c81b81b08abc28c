"""What single things take: the defaults of `fairpool.testing.Costs`.

Each is measured on the real thing, through private names of the package, and shown beside the
default: all but `migrate`, which is from `docs/performance.md`. They are of one machine and one
hour: the ratio is what to look at.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from contend import State, iterations, touch
from harness import Row, Size, benchmark, pin_next_cpu, require

clock = time.perf_counter_ns

# For how many workers the looks at all queues are measured, and divided by.
MANY = 256


def new_pool(workers: int) -> Any:
    return require("fairpool", "FairPool").FairPool(
        workers, initializer=pin_next_cpu, initargs=(itertools.count(),)
    )


def here() -> Any:
    """The worker that calls this."""
    return require("fairpool._core.here", "here").here.worker


@contextmanager
def occupied(pool: Any, count: int) -> Iterator[threading.Event]:
    """Have so many workers wait in tasks; they go on when the block is left, or the event set."""
    gate = threading.Event()
    meeting = threading.Barrier(count + 1)

    def hold() -> None:
        meeting.wait(60)
        gate.wait(60)

    futures = [pool.submit(hold) for _ in range(count)]
    meeting.wait(60)
    try:
        yield gate
    finally:
        gate.set()
        for future in futures:
            future.result()


def nothing() -> None:
    """A task."""


def submit_and_step(count: int) -> dict[str, float]:
    """To submit a task, and to run one that is queued, one worker being busy meanwhile."""
    with new_pool(1) as pool, occupied(pool, 1) as gate:
        begin = clock()
        for _ in range(count):
            pool.submit(nothing)
        submitted = clock()
        last = pool.submit(clock)
        released = clock()
        gate.set()
        ended = last.result()
    return {"submit": (submitted - begin) / count, "step": (ended - released) / count}


def suspend(count: int) -> dict[str, float]:
    """What a coroutine's wait for a future takes, without the three steps that go with it."""
    awaited: list[Any] = []

    async def waits(number: int) -> None:
        await awaited[number]

    with new_pool(1) as pool, occupied(pool, 1) as gate:
        for number in range(count):
            pool.submit(waits, number)
        awaited += [pool.submit(nothing) for _ in range(count)]
        last = pool.submit(clock)
        released = clock()
        gate.set()
        ended = last.result()
        with_waits = (ended - released) / count
    return {"suspend": with_waits - 3 * submit_and_step(count)["step"]}


def section_and_enter(count: int) -> dict[str, float]:
    """From one section of a pass to the next; and to enter and leave a lock that is free."""
    begins: list[int] = []

    async def once(lock: Any) -> None:
        async with lock:
            begins.append(clock())

    async def often(lock: Any) -> float:
        begin = clock()
        for _ in range(count):
            async with lock:
                pass
        return (clock() - begin) / count

    with new_pool(1) as pool:
        lock = pool.lock()
        free = pool.submit(often, pool.lock()).result()
        with lock:
            futures = [pool.submit(once, lock) for _ in range(min(count, 2_000))]
            while lock.statistics().waiting < len(futures):
                time.sleep(0.001)
        for future in futures:
            future.result()
    gaps = [later - earlier for earlier, later in itertools.pairwise(begins)]
    return {"section": statistics.median(gaps), "enter": free}


def steal(count: int) -> dict[str, float]:
    """To take a task that another worker has queued, and half of what is left."""
    filled, emptied = threading.Barrier(2), threading.Barrier(2)
    times: list[float] = []

    def victim() -> None:
        queue = here().queue
        for _ in range(count):
            for _ in range(4):
                queue.append(object())
            filled.wait(60)
            emptied.wait(60)

    def thief() -> None:
        worker = here()
        for _ in range(count):
            filled.wait(60)
            before = worker.steals
            begin = clock()
            worker._steal()
            end = clock()
            if worker.steals != before:
                times.append(end - begin)
            for each in worker.scheduler.workers:
                each.queue.clear()
            emptied.wait(60)

    with new_pool(2) as pool:
        for future in [pool.submit(victim), pool.submit(thief)]:
            future.result()
    return {"steal": statistics.median(times)}


def looks(count: int) -> dict[str, float]:
    """To look at each of many workers' queues: for work, and to make sure that there is none."""

    def measure() -> dict[str, float]:
        worker = here()
        scheduler = worker.scheduler
        found = {}
        for name, look in (
            ("steal", worker._steal),
            ("published", worker._take_published),
            ("check", scheduler.has_work),
        ):
            look()
            begin = clock()
            for _ in range(count):
                look()
            found[name] = (clock() - begin) / count / len(scheduler.workers)
        return found

    with new_pool(MANY) as pool, occupied(pool, MANY - 1):
        pool.lock()
        found = pool.submit(measure).result()
    return {"look": (found["steal"] + found["published"]) / 2, "check": found["check"]}


def pause_and_lock(count: int) -> dict[str, float]:
    """To let others go first, and an operation of a lock."""
    yield_cpu = require("fairpool._core.threads", "yield_cpu").yield_cpu
    lock = require("fairpool._core.threads", "Lock").Lock()
    begin = clock()
    for _ in range(count):
        yield_cpu()
    paused = clock()
    for _ in range(count):
        lock.acquire(False)
        lock.release()
    return {"pause": (paused - begin) / count, "lock": (clock() - paused) / count / 2}


def wake_up(count: int) -> dict[str, float]:
    """To unpark a thread: what it takes whoever does it, and until the thread runs."""
    parker = require("fairpool._core.park", "Parker").Parker()
    cpus = itertools.count()
    woken: list[int] = []
    answered = threading.Semaphore(0)

    def sleeper() -> None:
        pin_next_cpu(cpus)
        for _ in range(count):
            parker.park()
            woken.append(clock())
            answered.release()

    thread = threading.Thread(target=sleeper)
    thread.start()
    begins, ends = [], []

    def waker() -> None:
        pin_next_cpu(cpus)
        for _ in range(count):
            time.sleep(0.0005)  # until it has parked
            begins.append(clock())
            parker.unpark()
            ends.append(clock())
            answered.acquire()

    other = threading.Thread(target=waker)
    other.start()
    other.join()
    thread.join()
    return {
        "unpark": statistics.median(map(int.__sub__, ends, begins)),
        "wake": statistics.median(map(int.__sub__, woken, begins)),
    }


def start(count: int) -> dict[str, float]:
    """To start a thread, for who does it."""
    times = []
    for _ in range(count):
        thread = threading.Thread(target=nothing)
        begin = clock()
        thread.start()
        times.append(clock() - begin)
        thread.join()
    return {"start": statistics.quantiles(times, n=10)[0]}


def away(count: int) -> dict[str, float]:
    """How much longer a thread works on objects that another one has made than on its own."""
    size = iterations(touch, 15e-6, State())
    cpus = itertools.count()
    made: list[State] = [State(), State()]
    own: list[int] = []
    foreign: list[int] = []
    meeting = threading.Barrier(2)

    def thread(number: int) -> None:
        pin_next_cpu(cpus)
        made[number] = State()
        for which, into in ((number, own), (1 - number, foreign)):
            meeting.wait(60)
            state = made[which]
            for _ in range(count):
                begin = clock()
                touch(state, size)
                into.append(clock() - begin)

    threads = [threading.Thread(target=thread, args=(number,)) for number in (0, 1)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return {"away": statistics.median(foreign) / statistics.median(own)}


MEASURES: list[Callable[[int], dict[str, float]]] = [
    submit_and_step,
    suspend,
    section_and_enter,
    steal,
    looks,
    pause_and_lock,
    wake_up,
    start,
    away,
]


def measured(rounds: int, count: int) -> dict[str, float]:
    """All costs but `migrate`, as `Costs` has them: the least of the rounds; of `away` the median.

    What disturbs a round is not a part of what a thing takes, and would be simulated as such.
    """
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for measure in MEASURES:
            for name, value in measure(count).items():
                found.setdefault(name, []).append(value if name == "away" else value * 1e-9)
    return {
        name: statistics.median(values) if name == "away" else min(values)
        for name, values in found.items()
    }


@benchmark("costs")
def costs(size: Size) -> list[Row]:
    """What `simulate` takes for granted."""
    defaults = require("fairpool.testing", "Costs").Costs()
    rows = []
    for name, value in measured(size.rounds, size(2_000, 200)).items():
        default = getattr(defaults, name)
        scale, unit = (1.0, "") if name == "away" else (1e6, " µs")
        rows.append(
            Row(
                f"simulated cost: {name}",
                f"{value * scale:.3g}{unit}",
                f"default {default * scale:.3g}{unit}",
                f"{value / default:.2f}",
            )
        )
    return rows
