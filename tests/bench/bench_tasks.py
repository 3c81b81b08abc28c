"""Benchmarks of tasks: coroutines and chains of futures on the pool.

The references are tonio, a multi-threaded runtime written in Rust, and asyncio, which has one
thread. Each runtime's part is written out as its users would write it, with module-level functions,
instead of once with the runtime as a parameter: an object that is passed around and shared by two
threads costs more than the operations that are measured here.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from harness import (
    WORKERS,
    FirstWave,
    Goal,
    Measure,
    NotThereYet,
    Row,
    Size,
    alternate,
    benchmark,
    bytes_each,
    compare,
    fair_pool,
    probe,
    require,
    resident_bytes,
    run_probe,
    warm,
)

# Loaded when a benchmark needs them: an import that fails is one contender's matter, not the
# program's. They are globals so that the coroutines below read as ordinary user code.
fairpool: Any = None
tonio: Any = None


async def noop() -> None:
    """The smallest coroutine: it never suspends."""


# The three runtimes


async def asyncio_yields(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def tonio_yields(count: int) -> None:
    for _ in range(count):
        await tonio.yield_now()


async def fairpool_yields(count: int) -> None:
    for _ in range(count):
        await fairpool.yield_now()


async def asyncio_fib(n: int) -> int:
    if n < 2:
        return n
    left, right = await asyncio.gather(asyncio_fib(n - 1), asyncio_fib(n - 2))
    return left + right


async def tonio_fib(n: int) -> int:
    if n < 2:
        return n
    left, right = await tonio.spawn(tonio_fib(n - 1), tonio_fib(n - 2))
    return int(left + right)


async def fairpool_fib(n: int) -> int:
    if n < 2:
        return n
    left, right = await fairpool.gather(fairpool_fib(n - 1), fairpool_fib(n - 2), eager_start=True)
    return int(left + right)


Main = Coroutine[Any, Any, float]


@dataclass(frozen=True)
class Runtime:
    """What the benchmarks need of a runtime."""

    run: Callable[[Main], float]
    gather: Callable[..., Awaitable[Any]]
    yields: Callable[[int], Coroutine[Any, Any, None]]
    fib: Callable[[int], Coroutine[Any, Any, int]]


_tonio_runtime: Any = None


def load_asyncio() -> Runtime:
    return Runtime(asyncio.run, asyncio.gather, asyncio_yields, asyncio_fib)


def load_tonio() -> Runtime:
    """Only one tonio runtime may exist in a process; each run of it starts its threads anew."""
    global tonio, _tonio_runtime
    tonio = require("tonio.colored", "runtime", "spawn", "yield_now")
    if _tonio_runtime is None:
        _tonio_runtime = tonio.runtime(threads=WORKERS)

    def run(main: Main) -> float:
        return float(_tonio_runtime.run_until_complete(pinned(main, tonio.spawn)))

    return Runtime(run, tonio.spawn, tonio_yields, tonio_fib)


def load_fairpool() -> Runtime:
    global fairpool
    fairpool = require("fairpool", "run", "gather", "yield_now")

    def run(main: Main) -> float:
        return float(fairpool.run(pinned(main, fairpool.gather), max_workers=WORKERS))

    return Runtime(run, fairpool.gather, fairpool_yields, fairpool_fib)


RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "fairpool": load_fairpool,
    "tonio": load_tonio,
    "asyncio": load_asyncio,
}


async def pinned(main: Main, gather: Callable[..., Awaitable[Any]]) -> float:
    """Pin the runtime's workers by a first wave of tasks, then run `main`."""
    wave = FirstWave()

    async def arrive() -> None:
        wave.arrive()
        end = time.perf_counter() + 0.001  # long enough that the other worker takes some, too
        while time.perf_counter() < end:
            pass

    for _ in range(50):
        await gather(*[arrive() for _ in range(2 * WORKERS)])
        if wave.complete:
            return await main
    main.close()
    raise RuntimeError(f"fewer than {WORKERS} workers took part in 50 waves of tasks")


def versus(
    what: str, size: Size, body: Callable[[Runtime], Main], of: int, goal: Goal
) -> list[Row]:
    """Seconds that `body` returns, divided by `of`, on each runtime; the goal is against tonio."""

    def measure_on(name: str) -> Measure:
        def measure() -> float:
            runtime = RUNTIMES[name]()
            return runtime.run(body(runtime)) / of

        return measure

    series = alternate(size.rounds, {name: measure_on(name) for name in RUNTIMES})
    return [
        compare(what, series["fairpool"], series["tonio"], goal),
        compare(what, series["fairpool"], series["asyncio"]),
    ]


@benchmark("yield")
def yield_now(size: Size) -> list[Row]:
    """A task steps aside and is resumed: the price of a suspension and of the run queue alone.

    Several tasks per worker, so that yielding always gives way to another one.
    """
    tasks, count = 8, size(25_000, 2_500)

    async def body(runtime: Runtime) -> float:
        begin = time.perf_counter()
        await runtime.gather(*[runtime.yields(count) for _ in range(tasks)])
        return time.perf_counter() - begin

    what = f"yield_now, per resume ({tasks} tasks)"
    return versus(what, size, body, tasks * count, Goal("at most", 0.6))


@benchmark("gather")
def spawn_and_gather(size: Size) -> list[Row]:
    """What one more small task costs: creating it, running it, handing its result over."""
    count = size(100_000, 10_000)

    async def body(runtime: Runtime) -> float:
        begin = time.perf_counter()
        await runtime.gather(*[noop() for _ in range(count)])
        return time.perf_counter() - begin

    what = f"spawn + gather of {count:,} no-op coroutines, per task"
    return versus(what, size, body, count, Goal("at most", 1))


@benchmark("fib")
def fork_join(size: Size) -> list[Row]:
    """A tree of tasks that wait for their children: small gathers, many wake-ups, stealing."""
    n = size(18, 14)
    numbers = [0, 1]
    calls = [1, 1]
    for _ in range(2, n + 1):
        numbers.append(numbers[-1] + numbers[-2])
        calls.append(calls[-1] + calls[-2] + 1)

    async def body(runtime: Runtime) -> float:
        begin = time.perf_counter()
        result = await runtime.fib(n)
        seconds = time.perf_counter() - begin
        if result != numbers[n]:
            raise AssertionError(f"fib({n}) gave {result}")
        return seconds

    what = f"fork-join fib({n}), per task ({calls[n] - 1:,} tasks)"
    return versus(what, size, body, calls[n] - 1, Goal("at most", 0.7))


# Chains


def add_one(number: int) -> int:
    return number + 1


def seconds_of_links(links: int) -> float:
    """Seconds for each link of a chain that is built while it runs."""
    if not hasattr(require("fairpool", "Future").Future, "then"):
        raise NotThereYet("no fairpool.Future.then yet")
    with fair_pool() as pool:
        warm(pool)
        begin = time.perf_counter()
        future: Any = pool.submit(add_one, 0)
        for _ in range(links):
            future = future.then(add_one)
        result = future.result()
        seconds = time.perf_counter() - begin
    if result != links + 1:
        raise AssertionError(f"{links:,} links gave {result}")
    return seconds / links


@benchmark("chain")
def then_chain(size: Size) -> list[Row]:
    """A long chain of small steps, built while it runs, as a program would build it.

    The floor is the same calls in a plain loop. A chain that recursed would not survive this.
    """
    links = size(100_000, 10_000)

    def loop() -> float:
        begin = time.perf_counter()
        number = 0
        for _ in range(links):
            number = add_one(number)
        return (time.perf_counter() - begin) / links

    series = alternate(
        size.rounds, {"fairpool": lambda: seconds_of_links(links), "bare calls": loop}
    )
    goal = Goal("at most", 2e-6, absolute="2 µs")
    what = f"then chain of {links:,} links, per link"
    return [compare(what, series["fairpool"], series["bare calls"], goal)]


# Sleepers

CLASS_SIZE = 1_000
CLASS_SPACING = 0.002
"""Sleepers wake in classes, this many at one deadline, this many seconds apart."""


class Nap:
    """Deadlines for many sleepers, and the account of who woke when.

    The deadlines are a fixed shuffle of the order of starting, so that the timers have to be
    sorted. They begin late enough that all sleepers are asleep by then.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.first = time.monotonic() + 2 + count * 25e-6
        self.all_started = threading.Event()
        self.woke: list[int] = []
        self._started = itertools.count(1)  # next() on it is atomic: no update is lost

    def delay(self, index: int) -> float:
        return self.first + CLASS_SPACING * self.deadline_class(index) - time.monotonic()

    def deadline_class(self, index: int) -> int:
        return index * 611_953 % self.count // CLASS_SIZE  # a prime: each rank once

    def arrive(self) -> None:
        if next(self._started) == self.count:
            self.all_started.set()

    def account(self, growth: int) -> dict[str, float]:
        """Bytes each, and how many woke after somebody whose deadline was clearly later.

        Two workers may note two wake-ups in the other order when the deadlines are close, so a
        neighbouring class does not count.
        """
        latest = disordered = 0
        for each in self.woke:
            latest = max(latest, each)
            disordered += each < latest - 1
        lost = self.count - len(self.woke)
        return {"bytes_each": growth / self.count, "disordered": disordered, "lost": lost}

    def measured_in_time(self) -> None:
        if time.monotonic() > self.first:
            raise AssertionError("the first sleepers woke before the last ones slept")


nap: Nap


async def asyncio_sleeper(index: int) -> None:
    nap.arrive()
    await asyncio.sleep(nap.delay(index))
    nap.woke.append(nap.deadline_class(index))


async def fairpool_sleeper(index: int) -> None:
    nap.arrive()
    await fairpool.sleep(nap.delay(index))
    nap.woke.append(nap.deadline_class(index))


@probe
def asyncio_sleepers(count: int) -> dict[str, float]:
    """Memory and order of many sleepers on asyncio, in a fresh process."""

    async def main() -> int:
        tasks: list[asyncio.Task[None] | None] = [None] * count
        before = resident_bytes()
        for index in range(count):
            tasks[index] = asyncio.create_task(asyncio_sleeper(index))
        while not nap.all_started.is_set():
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        growth = resident_bytes() - before
        nap.measured_in_time()
        for task in tasks:
            if task:
                await task
        return growth

    global nap
    nap = Nap(count)
    return nap.account(asyncio.run(main()))


@probe
def fairpool_sleepers(count: int) -> dict[str, float]:
    """Memory and order of many sleepers on a pool of two workers, in a fresh process."""
    global nap, fairpool
    fairpool = require("fairpool", "FairPool", "sleep")
    futures: list[Any] = [None] * count
    nap = Nap(count)
    with warm(fair_pool()) as pool:
        before = resident_bytes()
        for index in range(count):
            futures[index] = pool.submit(fairpool_sleeper, index)
        if not nap.all_started.wait(240):
            raise AssertionError("not all sleepers started")
        time.sleep(0.1)  # the last ones have arrived, and are about to suspend
        growth = resident_bytes() - before
        nap.measured_in_time()
        for future in futures:
            future.result()
    return nap.account(growth)


@benchmark("sleepers")
def sleeping_tasks(size: Size) -> list[Row]:
    """A crowd that waits for the clock.

    What one sleeping task weighs, and whether the earliest deadline always wakes first.
    """
    count = size(1_000_000, 50_000)
    notes: dict[str, str] = {}

    def measure_on(function: Callable[[int], dict[str, float]]) -> Measure:
        def measure() -> float:
            answer = run_probe(function, count, timeout=300)
            if answer["lost"] or answer["disordered"]:
                notes[function.__name__] = (
                    f"{answer['lost']:,} never woke, {answer['disordered']:,} woke out of order"
                )
            return float(answer["bytes_each"])

        return measure

    contenders = {
        "fairpool": measure_on(fairpool_sleepers),
        "asyncio": measure_on(asyncio_sleepers),
    }
    series = alternate(1, contenders)
    row = compare(
        f"memory of {count:,} sleeping tasks, each",
        series["fairpool"],
        series["asyncio"],
        Goal("at most", 1),
        bytes_each,
    )
    order = Row(
        f"{count:,} sleeping tasks wake in order",
        f"fairpool {notes.get('fairpool_sleepers', 'in order')}",
        f"asyncio {notes.get('asyncio_sleepers', 'in order')}",
        required="in order",
        met="no" if "fairpool_sleepers" in notes else "yes",
    )
    if series["fairpool"].failure:
        order = Row(
            order.what, series["fairpool"].failure, order.reference, "", "in order", row.met
        )
    return [row, order]
