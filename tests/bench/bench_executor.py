"""Benchmarks of the executor: what stands wherever a `ThreadPoolExecutor` stands.

Tasks are no-ops wherever the pool's own cost is the question, so that nothing else is in the
number. In every benchmark both pools are used through the same `concurrent.futures` interface, by
the same function.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial

from harness import (
    POOLS,
    WORKERS,
    Goal,
    Measure,
    NotThereYet,
    Row,
    Series,
    Size,
    TimedOut,
    alternate,
    benchmark,
    bytes_each,
    compare,
    milliseconds,
    pin_next_cpu,
    probe,
    resident_bytes,
    run_probe,
    warm,
)


def noop() -> None:
    """The smallest task."""


def same(value: int) -> int:
    """The smallest task that has an argument and a result to check."""
    return value


def on_pools(
    run: Callable[[Executor], float], pools: tuple[str, ...] = tuple(POOLS)
) -> dict[str, Measure]:
    """`run` on a fresh, warmed pool of each kind; shutting down is outside of the measurement."""

    def measure_on(name: str) -> Measure:
        def measure() -> float:
            with POOLS[name]() as pool:
                return run(warm(pool))

        return measure

    return {name: measure_on(name) for name in pools}


def versus_thread_pool(
    what: str, size: Size, run: Callable[[Executor], float], goal: Goal
) -> list[Row]:
    series = alternate(size.rounds, on_pools(run))
    return [compare(what, series["fairpool"], series["ThreadPoolExecutor"], goal)]


def seconds_to_submit(pool: Executor, count: int) -> float:
    """Seconds for each of many tasks: submit all, then ask for every result."""
    begin = time.perf_counter()
    futures = [pool.submit(noop) for _ in range(count)]
    for future in futures:
        future.result()
    return (time.perf_counter() - begin) / count


def seconds_of_ping_pong(pool: Executor, count: int) -> float:
    """Seconds for each of many tasks, one at a time."""
    begin = time.perf_counter()
    for _ in range(count):
        pool.submit(noop).result()
    return (time.perf_counter() - begin) / count


def seconds_to_map(pool: Executor, count: int) -> float:
    """Seconds for each call of a `map`."""
    begin = time.perf_counter()
    total = sum(pool.map(same, range(count)))
    cost = (time.perf_counter() - begin) / count
    if total != sum(range(count)):
        raise AssertionError(f"map of {count:,} lost or changed results")
    return cost


@benchmark("submit")
def submit_pipelined(size: Size) -> list[Row]:
    """A backlog: submit everything, then ask for every result.

    The cost of a task when nobody waits for the single one: creating the future, queueing, running,
    completing, reading.
    """
    count = size(50_000, 5_000)
    what = f"submit + result of a no-op, pipelined {count:,}"
    run = partial(seconds_to_submit, count=count)
    return versus_thread_pool(what, size, run, Goal("at least", 5))


@benchmark("pingpong")
def ping_pong(size: Size) -> list[Row]:
    """One task at a time, each waited for.

    This is the price of waking a worker and of waking the waiter, or of whatever avoids that.
    """
    count = size(2_000, 500)
    what = f"submit().result() ping-pong, {count:,}"
    run = partial(seconds_of_ping_pong, count=count)
    return versus_thread_pool(what, size, run, Goal("at least", 2))


@benchmark("map")
def map_default_chunks(size: Size) -> list[Row]:
    """`map` as most people call it, without a chunk size.

    A pool that groups small calls by itself need not pay for a future for each.
    """
    count = size(100_000, 10_000)
    what = f"map of {count:,} no-ops, default chunksize"
    run = partial(seconds_to_map, count=count)
    return versus_thread_pool(what, size, run, Goal("at least", 5))


@probe
def pending_memory(pool_name: str, count: int) -> dict[str, float]:
    """Resident bytes per pending task, by the growth of a fresh process.

    The workers are held at a gate while tasks are submitted, so that all of them are pending when
    we measure. The list that keeps the futures exists before the first measurement and is not
    counted. Then the gate opens, and every task has to complete.
    """
    gate = threading.Event()
    arrived = threading.Barrier(WORKERS + 1)

    def hold() -> None:
        arrived.wait(30)
        gate.wait()

    futures: list[Future[int] | None] = [None] * count
    with warm(POOLS[pool_name]()) as pool:
        holders = [pool.submit(hold) for _ in range(WORKERS)]
        arrived.wait(30)
        before = resident_bytes()
        for index in range(count):
            futures[index] = pool.submit(same, 1)
        growth = resident_bytes() - before
        early = sum(future.done() for future in futures if future)
        gate.set()
        completed = sum(future.result() for future in futures if future)
        for holder in holders:
            holder.result()
    if early or completed != count:
        raise AssertionError(f"{early:,} ran behind the gate; {completed:,} of {count:,} completed")
    return {"bytes_each": growth / count}


@benchmark("memory")
def memory_of_pending(size: Size) -> list[Row]:
    """A large backlog that nobody has bounded: what one pending task weighs."""
    count = size(1_000_000, 100_000)

    def measure_on(name: str) -> Measure:
        return lambda: float(run_probe(pending_memory, name, count, timeout=300)["bytes_each"])

    series = alternate(1 if size.quick else 3, {name: measure_on(name) for name in POOLS})
    what = f"memory of {count:,} pending tasks, each (all complete)"
    goal = Goal("at most", 0.5)
    return [compare(what, series["fairpool"], series["ThreadPoolExecutor"], goal, bytes_each)]


def loop_work(turns: int) -> int:
    """Pure Python work on the thread's own objects: it scales with cores if anything does.

    What is shared by all threads is only `range` and the code itself, which are immortal.
    """
    total = 0
    for number in range(turns):
        total += number & 7
    return total


@benchmark("cpu")
def cpu_bound(size: Size) -> list[Row]:
    """Real work on all workers, against bare pinned threads that do the same calls.

    What a pool adds (queues, wake-ups, an unlucky last task) shows as the share of the bare
    threads' speed-up that it reaches. The bare threads split the calls in advance and start at a
    barrier, so they pay for neither.

    Two processors of one machine may be unequally fast, by the minute, and the share follows that.
    So there is also the share of the workers' time that was spent inside the tasks: what is missing
    there is the pool's, whatever the processors do.
    """
    count = size(400, 60)
    begin = time.perf_counter()
    loop_work(20_000)
    turns = int(20_000 * 0.003 / (time.perf_counter() - begin))  # about 3 ms each

    def timed_work() -> float:
        begin = time.perf_counter()
        loop_work(turns)
        return time.perf_counter() - begin

    inside: dict[str, list[float]] = {}

    def run(pool: Executor) -> float:
        begin = time.perf_counter()
        futures = [pool.submit(timed_work) for _ in range(count)]
        working = sum(future.result() for future in futures)
        seconds = time.perf_counter() - begin
        inside.setdefault(type(pool).__name__, []).append(working / seconds / WORKERS)
        return seconds

    def bare(threads: int) -> float:
        start = threading.Barrier(threads + 1)
        turn = itertools.count()

        def work() -> None:
            pin_next_cpu(turn)
            start.wait()
            for _ in range(count // threads):
                loop_work(turns)

        crew = [threading.Thread(target=work) for _ in range(threads)]
        for thread in crew:
            thread.start()
        start.wait()
        begin = time.perf_counter()
        for thread in crew:
            thread.join()
        return time.perf_counter() - begin

    contenders: dict[str, Measure] = {
        **on_pools(run),
        "2 bare threads": lambda: bare(2),
        "1 bare thread": lambda: bare(1),
    }
    series = alternate(size.rounds, contenders)
    two, one = series["2 bare threads"], series["1 bare thread"]
    what = f"CPU-bound tasks, {count} of 3 ms"
    goal = Goal("at least", 0.97)
    return [
        compare(f"{what}: share of the speed-up", series["fairpool"], two, goal, milliseconds),
        compare(what, series["ThreadPoolExecutor"], two, None, milliseconds),
        compare(f"{what}: speed-up", series["fairpool"], one, None, milliseconds),
        compare(f"{what}: speed-up", two, one, None, milliseconds),
        Row(
            f"{what}: of the workers' time, inside the tasks",
            f"FairPool {statistics.median(inside['FairPool']):.3f}",
            f"ThreadPoolExecutor {statistics.median(inside['ThreadPoolExecutor']):.3f}",
        ),
    ]


@probe
def nested(pool_name: str, depth: int) -> dict[str, float]:
    """Seconds for a task that waits for a task that waits … `depth` times."""
    with warm(POOLS[pool_name]()) as pool:

        def descend(levels: int) -> int:
            return 1 + pool.submit(descend, levels - 1).result() if levels else 0

        begin = time.perf_counter()
        reached = pool.submit(descend, depth).result()
        seconds = time.perf_counter() - begin
    if reached != depth:
        raise AssertionError(f"{reached} levels of {depth}")
    return {"seconds": seconds}


@benchmark("nested")
def nested_result(size: Size) -> list[Row]:
    """Waiting inside of tasks, deeper than there are workers: whether it ends, and how fast.

    Each try has a process of its own, because a hung pool hangs its interpreter's exit as well.
    """
    depth = size(1_000, 1_000)

    def outcome(name: str, limit: float) -> tuple[str, bool]:
        costs = []
        for _ in range(size.rounds):
            try:
                answer = run_probe(nested, name, depth, timeout=limit)
            except (NotThereYet, TimedOut, RuntimeError) as error:
                missing = "not there yet: " if isinstance(error, NotThereYet) else ""
                return f"{name} {missing}{error}", False
            costs.append(float(answer["seconds"]))
        return f"{name} {milliseconds(statistics.median(costs))}", True

    ours, completed = outcome("fairpool", 60)
    theirs, _ = outcome("ThreadPoolExecutor", 3)
    met = "yes" if completed else "not there yet" if "not there yet" in ours else "no"
    return [Row(f"nested result(), depth {depth:,}", ours, theirs, "", "completes", met)]


@benchmark("outside")
def outside_threads(size: Size) -> list[Row]:
    """Many threads that are not the pool's submit at once: the entrance must not be a bottleneck.

    Each outside thread submits its part, then reads its results; every result is checked, so that
    nothing is lost and nothing arrives at another's future. More submitters than cores is the
    point.
    """
    count = size(50_000, 8_000)

    def with_submitters(submitters: int) -> Callable[[Executor], float]:
        def run(pool: Executor) -> float:
            start = threading.Barrier(submitters + 1)
            correct = [0] * submitters

            def submit(mine: int) -> None:
                part = range(mine, count, submitters)
                start.wait()
                futures = [pool.submit(same, number) for number in part]
                pairs = zip(part, futures, strict=True)
                correct[mine] = sum(future.result() == number for number, future in pairs)

            crew = [threading.Thread(target=submit, args=(i,)) for i in range(submitters)]
            for thread in crew:
                thread.start()
            start.wait()
            begin = time.perf_counter()
            for thread in crew:
                thread.join()
            seconds = time.perf_counter() - begin
            if sum(correct) != count:
                raise AssertionError(f"{count - sum(correct):,} of {count:,} lost or mixed up")
            return seconds / count

        return run

    contenders: dict[str, Measure] = {}
    for submitters in (8, 1):
        for name, measure in on_pools(with_submitters(submitters)).items():
            contenders[f"{name}, {submitters}"] = measure
    series = alternate(size.rounds, contenders)

    def many_and_one(name: str) -> tuple[Series, Series]:
        return series[f"{name}, 8"], series[f"{name}, 1"]

    what = f"{count:,} no-ops from 8 outside threads (nothing lost)"
    return [
        compare(f"{what}, or from 1", *many_and_one("fairpool"), Goal("at least", 1)),
        compare(f"{what}, or from 1", *many_and_one("ThreadPoolExecutor")),
        compare(what, series["fairpool, 8"], series["ThreadPoolExecutor, 8"]),
    ]
