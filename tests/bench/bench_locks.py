"""Benchmarks of locks: the "Must show" rows.

Where a share of a bound is required it is given twice: of two bare threads that do the same work
without any lock, measured just before and after in the same round, and of the plain ceiling of one
thread (see `contend`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench_tasks import RUNTIMES
from contend import (
    CLIENTS,
    MECHANISMS,
    Findings,
    Load,
    Log,
    Rounds,
    State,
    bare_threads,
    clock,
    fair_seconds,
    find,
    get_thread,
    iterations,
    logged_fair,
    logged_fair_client,
    logged_thread_client,
    logged_threads,
    mean_of,
    one_thread,
    pool_of,
    quantile,
    spin,
    thread_seconds,
    touch,
    without,
)
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
    fair_pool,
    microseconds,
    milliseconds,
    pin_next_cpu,
    require,
    thread_pool,
    warm,
)

SHARE = Goal("at least", 0.9)


def loads_of(section: float, rest: float, clients: int = CLIENTS) -> list[Load]:
    """Clients with sections and rests of so many seconds."""
    size = iterations(touch, section, State())
    rest_size = iterations(spin, rest) if rest else 0
    return [Load(touch, size, spin, rest_size)] * clients


# --- sections and rests ---------------------------------------------------------------------------


def shares(section: int, rest: int, size: Size) -> list[Row]:
    """Clients that alternate between a critical section and a rest of so many µs."""
    loads = loads_of(section * 1e-6, rest * 1e-6)
    turns = max(size(60, 20), size(200_000, 20_000) // (CLIENTS * (section + rest)))
    total = turns * CLIENTS

    def per_turn(run: Callable[[list[Load], int], float]) -> Measure:
        return lambda: run(loads, turns) / total

    def switched(mechanism: str) -> Measure:
        def measure() -> float:
            with without(mechanism):
                return fair_seconds(loads, turns) / total

        return measure

    contenders = {
        "before": per_turn(bare_threads),
        "fairpool": per_turn(fair_seconds),
        "after": per_turn(bare_threads),
        "one thread's ceiling": per_turn(one_thread),
        "ThreadPoolExecutor + Lock": per_turn(thread_seconds),
        **{f"without {name}": switched(name) for name in MECHANISMS},
    }
    series = alternate(size.rounds, contenders)
    bound = mean_of("two bare threads", series["before"], series["after"])
    ours = series["fairpool"]
    what = f"{section} µs sections, {rest} µs rests"
    rows = [
        compare(f"{what}: share of two bare threads", ours, bound, SHARE),
        compare(f"{what}: share of the ceiling", ours, series["one thread's ceiling"], SHARE),
        compare(f"{what}: the reference's share", series["ThreadPoolExecutor + Lock"], bound),
        compare(f"{what}: against it", ours, series["ThreadPoolExecutor + Lock"]),
    ]
    for name in MECHANISMS:
        rows.append(compare(f"{what}, without {name}", series[f"without {name}"], ours))
    return rows


def register_shares(section: int, rest: int) -> None:
    @benchmark(f"lock-{section}-{rest}")
    def run(size: Size) -> list[Row]:
        return shares(section, rest, size)


for _section in (15, 150):
    for _rest in (_section // 3, _section, 4 * _section):
        register_shares(_section, _rest)


# --- the smallest section -------------------------------------------------------------------------

lock: Any = None


async def increments(cell: list[int], count: int) -> None:
    for _ in range(count):
        async with lock:
            cell[0] += 1


async def asyncio_contended(cell: list[int], count: int) -> None:
    for _ in range(count):
        async with lock:
            cell[0] += 1
            await asyncio.sleep(0)


async def tonio_contended(cell: list[int], count: int) -> None:
    tonio = sys.modules["tonio.colored"]
    for _ in range(count):
        async with lock:
            cell[0] += 1
            await tonio.yield_now()


async def fairpool_contended(cell: list[int], count: int) -> None:
    fairpool = sys.modules["fairpool"]
    for _ in range(count):
        async with lock:
            cell[0] += 1
            await fairpool.yield_now()


CONTENDED = {
    "fairpool": fairpool_contended,
    "tonio": tonio_contended,
    "asyncio": asyncio_contended,
}


LOCK_MODULES = {"tonio": "tonio.colored.sync", "asyncio": "asyncio"}


def increments_on(name: str, client: Any, count: int) -> float:
    """Seconds per section of a coroutine runtime."""
    global lock
    cell = [0]
    runtime = RUNTIMES[name]()

    async def main() -> float:
        begin = time.perf_counter()
        await runtime.gather(*[client(cell, count) for _ in range(CLIENTS)])
        return time.perf_counter() - begin

    if name == "fairpool":
        with warm(fair_pool()) as pool:
            lock = pool.lock()  # type: ignore[attr-defined]
            seconds = pool.submit(main).result()
    else:
        lock = require(LOCK_MODULES[name], "Lock").Lock()
        seconds = runtime.run(main())
    check(cell[0], CLIENTS * count)
    return seconds / (CLIENTS * count)


def check(counted: int, expected: int) -> None:
    if counted != expected:
        raise AssertionError(f"{expected:,} increments counted to {counted:,}")


def plain_increments(mutex: threading.Lock, cell: list[int], count: int) -> None:
    for _ in range(count):
        with mutex:
            cell[0] += 1


def increments_in_threads(count: int) -> float:
    cell, mutex = [0], threading.Lock()
    with warm(thread_pool()) as pool:
        begin = time.perf_counter()
        futures = [pool.submit(plain_increments, mutex, cell, count) for _ in range(CLIENTS)]
        for future in futures:
            future.result()
        seconds = time.perf_counter() - begin
    check(cell[0], CLIENTS * count)
    return seconds / (CLIENTS * count)


def increments_on_bocpy(count: int) -> float:
    """In a process of its own, because its workers are interpreters that import the program."""
    require("bocpy", "when")
    program = str(Path(__file__).with_name("bocpy_increments.py"))
    command = [sys.executable, program, str(CLIENTS), str(count), str(WORKERS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return float(json.loads(done.stdout)["cost"])


@benchmark("lock-tiny")
def tiny_sections(size: Size) -> list[Row]:
    """One increment inside, nothing outside: what entering and leaving cost."""
    count = size(20_000, 2_000)
    contenders: dict[str, Measure] = {
        "fairpool": lambda: increments_on("fairpool", increments, count),
        "tonio": lambda: increments_on("tonio", increments, count),
        "asyncio": lambda: increments_on("asyncio", increments, count),
        "threading.Lock in threads": lambda: increments_in_threads(count),
        "bocpy": lambda: increments_on_bocpy(size(5_000, 1_000)),
    }
    series = alternate(size.rounds, contenders)
    ours = series["fairpool"]
    what = f"one increment, async with, {CLIENTS} tasks"
    return [
        compare(what, ours, series["tonio"], Goal("at most", 1)),
        compare(what, ours, series["bocpy"], Goal("at least", 10)),
        compare(what, ours, series["asyncio"]),
        compare(what, ours, series["threading.Lock in threads"]),
    ]


@benchmark("lock-contended")
def contended_sections(size: Size) -> list[Row]:
    """One increment, and a yield inside the section: so that others always wait for it."""
    count = size(5_000, 500)

    def measure_on(name: str) -> Measure:
        return lambda: increments_on(name, CONTENDED[name], count)

    series = alternate(size.rounds, {name: measure_on(name) for name in RUNTIMES})
    what = f"one increment and a yield inside, {CLIENTS} tasks"
    return [
        compare(what, series["fairpool"], series["tonio"]),
        compare(what, series["fairpool"], series["asyncio"]),
    ]


def increment(cell: list[int]) -> None:
    cell[0] += 1


IN_FLIGHT = 250
"""How many sections a client submits before it waits for them."""


async def submitter(cell: list[int], count: int) -> None:
    submit = lock.submit
    for _ in range(count // IN_FLIGHT):
        futures = [submit(increment, cell) for _ in range(IN_FLIGHT)]
        for future in futures:
            await future


def seconds_of_delegation(count: int) -> float:
    """Seconds for each section that clients submit to a lock."""
    global lock
    cell = [0]
    with pool_of() as pool:
        lock = pool.lock()
        begin = time.perf_counter()
        futures = [pool.submit(submitter, cell, count) for _ in range(CLIENTS)]
        for future in futures:
            future.result()
        seconds = time.perf_counter() - begin
    check(cell[0], CLIENTS * count)
    return seconds / (CLIENTS * count)


@benchmark("lock-submit")
def submit_pipelined(size: Size) -> list[Row]:
    """Delegation: a critical section as a call, and its future; many before the first is read."""
    count = size(10_000, 1_000)

    contenders: dict[str, Measure] = {
        "fairpool": lambda: seconds_of_delegation(count),
        "threading.Lock in threads": lambda: increments_in_threads(count),
    }
    series = alternate(size.rounds, contenders)
    goal = Goal("at most", 1.2e-6, absolute="1.2 µs")
    what = f"lock.submit of one increment, {CLIENTS} tasks, {IN_FLIGHT} in flight each"
    return [compare(what, series["fairpool"], series["threading.Lock in threads"], goal)]


# --- waits and responses --------------------------------------------------------------------------


def longest_interruption(seconds: float) -> float:
    """How long a bare thread was not run, at most: what the machine adds to any longest wait."""
    answer: list[float] = []

    def body() -> None:
        pin_next_cpu(itertools.count())
        before = begin = time.perf_counter()
        longest = 0.0
        while before - begin < seconds:
            now = time.perf_counter()
            longest = max(longest, now - before)
            before = now
        answer.append(longest)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return answer[0]


@benchmark("lock-wait")
def longest_wait(size: Size) -> list[Row]:
    """Clients that want in again as soon as they are out: each waits for all others, no more."""
    turns = size(400, 100)
    loads = loads_of(100e-6, 0)
    interruptions: list[float] = []

    def fair() -> Findings:
        interruptions.append(longest_interruption(turns * CLIENTS * 100e-6))
        return logged_fair(loads, turns)

    contenders = {"fairpool": fair, "threading.Lock": lambda: logged_threads(loads, turns)}
    rounds = Rounds(size.rounds, contenders)
    what = f"{CLIENTS} clients, 100 µs sections: "
    ours, reference = (rounds.series(name, lambda f: max(f.waits)) for name in contenders)
    ideal = rounds.series("fairpool", lambda f: CLIENTS * f.section, "ideal")
    in_a_row = rounds.series("fairpool", lambda f: f.in_a_row, "the 8 longest sections in a row")
    machine = Series("a bare thread's longest interruption", interruptions[1:])
    rows = [
        compare(f"{what}longest wait", ours, ideal, Goal("at most", 1.5), milliseconds),
        compare(f"{what}longest wait", ours, in_a_row, Goal("at most", 1.5), milliseconds),
        compare(f"{what}longest wait", ours, reference, None, milliseconds),
        compare(f"{what}longest wait", ours, machine, None, milliseconds),
    ]
    for name, q in (("median", 0.5), ("99 %", 0.99), ("99.9 %", 0.999)):
        pair = [rounds.series(each, lambda f, q=q: quantile(f.waits, q)) for each in contenders]
        rows.append(compare(f"{what}{name} of the waits", *pair, None, milliseconds))
    return rows


@benchmark("lock-response")
def response(size: Size) -> list[Row]:
    """Who serves others does not pay for it: its own tasks come back as soon as theirs do.

    An own section is one that ran on the worker where it was asked for; a response is the time from
    there until the task goes on behind the section, on whatever worker.
    """
    turns = size(400, 60)
    rows: list[Row] = []
    for section, rest in ((15, 15), (100, 100), (100, 300)):
        loads = loads_of(section * 1e-6, rest * 1e-6)
        rounds = Rounds(size.rounds, {"fairpool": lambda loads=loads: logged_fair(loads, turns)})
        what = f"{section}/{rest} µs: the combiner's own response, "
        for name, q, index in (("median", 0.5, 0), ("99 %", 0.99, 1)):
            own = rounds.series("fairpool", lambda f, q=q: quantile(f.own, q), "own")
            others = rounds.series("fairpool", lambda f, q=q: quantile(f.others, q), "others'")
            rows.append(compare(what + name, own, others, Goal("at most", 1.1)))
            own = rounds.series("fairpool", lambda f, i=index: f.statistics.own_responses[i])
            others = rounds.series(
                "fairpool", lambda f, i=index: f.statistics.combined_responses[i], "others'"
            )
            if all(own.values) and all(others.values):
                rows.append(compare(f"{what}{name}, as the lock says", own, others))
    return rows


# --- many locks, and work that needs none ---------------------------------------------------------

MANY_WORKERS, MANY_LOCKS, HOT_LOCKS, HOT_CLIENTS, LIGHT_CLIENTS = 4, 100, 2, 8, 4


async def light_client(guards: list[Any], load: Load, stop: threading.Event, log: Log) -> None:
    yield_now = require("fairpool", "yield_now").yield_now
    dice = random.Random(id(log))
    while not stop.is_set():
        guard = dice.choice(guards)
        asker, asked = get_thread(), clock()
        async with guard as state:
            entered, server = clock(), get_thread()
            load.section(state, load.size)
            left = clock()
        log.append((asked, entered, left, clock(), asker, server, get_thread()))
        load.rest(load.rest_size)
        await yield_now()  # a lock that is free is no reason to give way


def light_thread(guards: list[Any], load: Load, stop: threading.Event, log: Log) -> None:
    dice = random.Random(id(log))
    while not stop.is_set():
        mutex, state = dice.choice(guards)
        asker, asked = get_thread(), clock()
        with mutex:
            entered, server = clock(), get_thread()
            load.section(state, load.size)
            left = clock()
        log.append((asked, entered, left, clock(), asker, server, get_thread()))
        load.rest(load.rest_size)


def fair_many(hot: Load, light: Load, turns: int) -> tuple[Findings, Findings]:
    hot_logs: list[Log] = [[] for _ in range(HOT_CLIENTS)]
    light_logs: list[Log] = [[] for _ in range(LIGHT_CLIENTS)]
    stop = threading.Event()
    with pool_of(MANY_WORKERS) as pool:
        guards = [pool.guarded(State) for _ in range(MANY_LOCKS)]
        for guard in guards:
            guard.submit(id).result()
        total, turn = turns * HOT_CLIENTS, itertools.count()
        begin = time.perf_counter()
        futures = [
            pool.submit(logged_fair_client, guards[i % HOT_LOCKS], hot, turn, total, log)
            for i, log in enumerate(hot_logs)
        ]
        others = [
            pool.submit(light_client, guards[HOT_LOCKS:], light, stop, log) for log in light_logs
        ]
        for future in futures:
            future.result()
        seconds = time.perf_counter() - begin
        stop.set()
        for future in others:
            future.result()
    return find(light_logs, seconds), find(hot_logs, seconds)


def thread_many(hot: Load, light: Load, turns: int) -> tuple[Findings, Findings]:
    hot_logs: list[Log] = [[] for _ in range(HOT_CLIENTS)]
    light_logs: list[Log] = [[] for _ in range(LIGHT_CLIENTS)]
    stop = threading.Event()
    threads, cpus = HOT_CLIENTS + LIGHT_CLIENTS, itertools.count()
    with ThreadPoolExecutor(threads, initializer=pin_next_cpu, initargs=(cpus,)) as pool:
        meeting = threading.Barrier(threads)
        for future in [pool.submit(meeting.wait, 30) for _ in range(threads)]:
            future.result()
        guards = [(threading.Lock(), State()) for _ in range(MANY_LOCKS)]
        total, turn = turns * HOT_CLIENTS, itertools.count()
        begin = time.perf_counter()
        futures = [
            pool.submit(logged_thread_client, *guards[i % HOT_LOCKS], hot, turn, total, log)
            for i, log in enumerate(hot_logs)
        ]
        others = [
            pool.submit(light_thread, guards[HOT_LOCKS:], light, stop, log) for log in light_logs
        ]
        for future in futures:
            future.result()
        seconds = time.perf_counter() - begin
        stop.set()
        for future in others:
            future.result()
    return find(light_logs, seconds), find(hot_logs, seconds)


@benchmark("lock-many")
def hot_and_light(size: Size) -> list[Row]:
    """Two hot locks and many light ones, and more workers than processors.

    A light lock is rarely waited for; what takes time is to come back behind the section, and to
    find a worker that does not serve a hot lock just then. The bound is that of
    docs/protocols/tickets.md, all on one worker: one pass that runs already, one of each hot lock
    (it has room for all that may have asked there before), the sections of the light ones, and as
    many tasks of its run queue; times the workers per processor.
    """
    (hot,) = loads_of(100e-6, 0, 1)
    (light,) = loads_of(5e-6, 50e-6, 1)
    turns = size(500, 60)
    contenders = {"fairpool": fair_many, "threading.Lock": thread_many}
    lights: dict[str, list[Findings]] = {name: [] for name in contenders}
    hots: dict[str, list[Findings]] = {name: [] for name in contenders}

    def measure_on(name: str) -> Measure:
        def measure() -> float:
            found = contenders[name](hot, light, turns)
            lights[name].append(found[0])
            hots[name].append(found[1])
            return max(found[0].waits)

        return measure

    series = alternate(size.rounds, {name: measure_on(name) for name in contenders})
    what = f"{MANY_WORKERS} workers, {MANY_LOCKS} locks, {HOT_LOCKS} of them hot: "

    def of(where: dict[str, list[Findings]], number: Callable[[Findings], float]) -> list[Series]:
        return [
            Series(name, [number(f) for f in where[name][1:]], series[name].failure)
            for name in contenders
        ]

    def slowest(found: Findings) -> float:
        return max(found.own + found.others)

    def turns_of(found: Findings) -> float:
        return found.cost

    numbers: list[tuple[str, dict[str, list[Findings]], Callable[[Findings], float], Any]] = [
        ("longest wait of a light request", lights, lambda f: max(f.waits), milliseconds),
        ("slowest response of a light request", lights, slowest, milliseconds),
        (
            "99.9 % of the light responses are below",
            lights,
            lambda f: quantile(f.own + f.others, 0.999),
            milliseconds,
        ),
        ("a light turn", lights, turns_of, microseconds),
        ("a hot turn", hots, turns_of, microseconds),
    ]
    pass_time = require("fairpool._locks.combiner", "PASS_TIME").PASS_TIME * 1e-9
    tasks = HOT_CLIENTS + LIGHT_CLIENTS

    def bound(hot_found: Findings, light_found: Findings) -> float:
        passes = (1 + HOT_LOCKS) * (pass_time + hot_found.section)
        sections = light_found.section * LIGHT_CLIENTS
        steps = tasks * (light_found.section + 50e-6)
        return (passes + sections + steps) * MANY_WORKERS / WORKERS

    bounds = [
        bound(*pair) for pair in zip(hots["fairpool"][1:], lights["fairpool"][1:], strict=True)
    ]
    rows = [
        compare(
            f"{what}longest wait of a light request",
            series["fairpool"],
            Series("bound", bounds, series["fairpool"].failure),
            Goal("at most", 1),
            milliseconds,
        )
    ]
    for name, where, number, unit in numbers:
        rows.append(compare(what + name, *of(where, number), None, unit))
    return rows


# thread, begin, end (ns), and how often the thread had slept by the beginning
Event = tuple[int, int, int, int]


def sleeps() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def free_work(size: int, events: list[Event]) -> None:
    slept, begin = sleeps(), clock()
    spin(size)
    events.append((get_thread(), begin, clock(), slept))


async def fair_locker(guard: Any, size: int, turns: int, events: list[Event]) -> None:
    for _ in range(turns):
        async with guard as state:
            slept, begin = sleeps(), clock()
            touch(state, size)
            events.append((get_thread(), begin, clock(), slept))


def thread_locker(
    mutex: threading.Lock, state: State, size: int, turns: int, events: list[Event]
) -> None:
    for _ in range(turns):
        with mutex:
            slept, begin = sleeps(), clock()
            touch(state, size)
            events.append((get_thread(), begin, clock(), slept))


def idle_share(events: list[Event], free: list[Event]) -> float:
    """The share of the workers' time that they slept through while free work was queued.

    A gap between two pieces of work is slept through if the thread's count of sleeps has grown in
    it: `ru_nvcsw`, which neither counts preemption nor `sched_yield`.
    """
    end = max(begin for _, begin, _, _ in free)  # then none was queued any more
    start = min(begin for _, begin, _, _ in events + free)
    slept = 0
    by_thread: dict[int, list[Event]] = {}
    for event in sorted(events + free, key=lambda event: event[1]):
        by_thread.setdefault(event[0], []).append(event)
    for row in by_thread.values():
        for before, after in itertools.pairwise(row):
            if after[3] > before[3]:
                slept += max(0, min(after[1], end) - before[2])
    return slept / (WORKERS * (end - start))


@benchmark("lock-idle")
def idle_workers(size: Size) -> list[Row]:
    """A lock that is always wanted, and plain work in the queue: no worker is to sleep."""
    turns, count = size(250, 60), size(1_500, 300)
    locked, unlocked = iterations(touch, 100e-6, State()), iterations(spin, 100e-6)

    def fair() -> float:
        events: list[Event] = []
        free: list[Event] = []
        with pool_of() as pool:
            guard = pool.guarded(State)
            guard.submit(id).result()
            futures = [
                pool.submit(fair_locker, guard, locked, turns, events) for _ in range(CLIENTS)
            ]
            futures += [pool.submit(free_work, unlocked, free) for _ in range(count)]
            for future in futures:
                future.result()
        return idle_share(events, free)

    def threads() -> float:
        events: list[Event] = []
        free: list[Event] = []
        with warm(thread_pool()) as pool:
            mutex, state = threading.Lock(), State()
            futures = [
                pool.submit(thread_locker, mutex, state, locked, turns, events)
                for _ in range(CLIENTS)
            ]
            futures += [pool.submit(free_work, unlocked, free) for _ in range(count)]
            for future in futures:
                future.result()
        return idle_share(events, free)

    series = alternate(size.rounds, {"fairpool": fair, "ThreadPoolExecutor + Lock": threads})
    what = "workers asleep while work that needs no lock is queued"
    ours, reference = series["fairpool"], series["ThreadPoolExecutor + Lock"]
    goal = Goal("at most", 0.001, absolute="0.1 %")
    return [compare(what, ours, reference, goal, percent)]


def percent(share: float) -> str:
    return f"{share:.2%}"


# --- locality -------------------------------------------------------------------------------------


async def traveller(guard: Any, inside: int, outside: int, turns: int, log: list[Any]) -> None:
    """A client whose rest works on objects of its own, wherever it is."""
    own = State()
    before = get_thread()
    for _ in range(turns):
        async with guard as state:
            touch(state, inside)
        thread, begin = get_thread(), clock()
        touch(own, outside)
        log.append((thread != before, clock() - begin))
        before = thread


@benchmark("lock-locality")
def locality(size: Size) -> list[Row]:
    """What it costs to migrate: the same rest, on objects of the task's own, stayed and moved."""
    turns = size(300, 60)
    rows = []
    for micros in (15, 150):
        count = iterations(touch, micros * 1e-6, State())
        moved: list[float] = []
        stayed: list[float] = []

        def run(count: int = count, moved: list[float] = moved, stayed: Any = stayed) -> float:
            log: list[Any] = []
            with pool_of() as pool:
                guard = pool.guarded(State)
                guard.submit(id).result()
                futures = [
                    pool.submit(traveller, guard, count, count, turns, log) for _ in range(CLIENTS)
                ]
                for future in futures:
                    future.result()
            for into, which in ((moved, True), (stayed, False)):
                times = [taken for has_moved, taken in log if has_moved is which]
                into.append(statistics.median(times) * 1e-9 if times else float("nan"))
            return 0.0

        series = alternate(size.rounds, {"fairpool": run})["fairpool"]
        rows.append(
            compare(
                f"a rest of {micros} µs on the task's own objects: moved against stayed",
                Series("moved", moved[1:], series.failure),
                Series("stayed", stayed[1:], series.failure),
            )
        )
    return rows
