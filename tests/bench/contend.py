"""Clients that contend for a lock: what the benchmarks of locks have in common.

- **The bound** is measured in the same round as the pool, with two bare threads that are pinned as
  the pool's workers are: one runs all critical sections back to back, on state that it has created,
  and both share the rests. So both processors are busy as they are with the pool, which matters
  where two processors slow each other down. `one_thread` is the plain ceiling, the other processor
  being idle: max(all sections, all work / 2).
- **Mechanisms are switched off** one at a time, through private names of the package, to show what
  each is worth. A switch that has gone, or that switches nothing off, fails loudly.
- **Clients log** each turn: when they asked, entered, left and were back, and on which threads. It
  costs some 0.5 µs a turn, the same for all contenders, the bound included.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness import WORKERS, NotThereYet, Series, alternate, pin_next_cpu, require, warm

CLIENTS = 8

clock = time.perf_counter_ns
get_thread = threading.get_ident

Work = Callable[..., Any]


# --- work -----------------------------------------------------------------------------------------


class State:
    """What a critical section works on: some mutable objects, as a program would have them."""

    def __init__(self) -> None:
        self.cells = {i: [i] for i in range(64)}


def touch(state: State, count: int) -> None:
    """A critical section: `count` reads and writes of shared objects."""
    cells = state.cells
    for i in range(count):
        cells[i & 63][0] += 1


def spin(count: int) -> int:
    """A rest: it touches nothing that is shared."""
    x = 0
    for i in range(count):
        x += i
    return x


def start_threads_first() -> None:
    """CPython 3.13t runs slower code once a thread was started: calibrate after that."""
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def iterations(work: Work, seconds: float, *args: Any) -> int:
    """How many iterations of `work` take so long: the best of several tries."""
    start_threads_first()
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        work(*args, 2_000)
        best = min(best, time.perf_counter() - begin)
    return max(1, int(seconds / best * 2_000))


@dataclass(frozen=True)
class Load:
    """What one client does in a turn: `section(state, *size)` inside, `rest(rest_size)` outside."""

    section: Work
    size: Any
    rest: Work
    rest_size: int


# --- the bound ------------------------------------------------------------------------------------


def bare_threads(loads: list[Load], turns: int, make: Callable[[], Any] = State) -> float:
    """Seconds that two bare threads need for `turns` turns of each client."""
    meeting = threading.Barrier(WORKERS)
    cpus = itertools.count()
    rests: Iterator[Load] = itertools.chain.from_iterable(itertools.repeat(loads, turns))
    lock = threading.Lock()  # a chain of iterators is not safe to share
    begins: list[float] = []
    ends: list[float] = []

    def rest() -> None:
        while True:
            with lock:
                batch = list(itertools.islice(rests, 8))
            if not batch:
                break
            for load in batch:
                load.rest(load.rest_size)
        ends.append(time.perf_counter())

    def sections() -> None:
        pin_next_cpu(cpus)
        state = make()
        meeting.wait()
        begins.append(time.perf_counter())
        run_sections(loads, turns, state)
        rest()

    def rests_only() -> None:
        pin_next_cpu(cpus)
        meeting.wait()
        rest()

    threads = [threading.Thread(target=each) for each in (sections, rests_only)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(ends) - begins[0]


def run_sections(loads: list[Load], turns: int, state: Any) -> None:
    plan = [(load.section, load.size) for load in loads]
    for _ in range(turns):
        for section, size in plan:
            section(state, size)


def one_thread(loads: list[Load], turns: int, make: Callable[[], Any] = State) -> float:
    """The plain ceiling: max(all sections, all work / 2) on one thread."""
    answer: list[float] = []

    def body() -> None:
        pin_next_cpu(itertools.count())
        state = make()
        begin = time.perf_counter()
        run_sections(loads, turns, state)
        middle = time.perf_counter()
        for _ in range(turns):
            for load in loads:
                load.rest(load.rest_size)
        end = time.perf_counter()
        answer.append(max(middle - begin, (end - begin) / WORKERS))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return answer[0]


# --- clients that only work -----------------------------------------------------------------------


async def fair_client(guard: Any, load: Load, turns: int) -> None:
    section, size, rest, rest_size = load.section, load.size, load.rest, load.rest_size
    for _ in range(turns):
        async with guard as state:
            section(state, size)
        rest(rest_size)


def thread_client(lock: threading.Lock, state: Any, load: Load, turns: int) -> None:
    section, size, rest, rest_size = load.section, load.size, load.rest, load.rest_size
    for _ in range(turns):
        with lock:
            section(state, size)
        rest(rest_size)


def pool_of(workers: int = WORKERS) -> Any:
    """A FairPool with locks, its workers pinned in turn, started."""
    module = require("fairpool", "FairPool", "all_of")
    pool = module.FairPool(workers, initializer=pin_next_cpu, initargs=(itertools.count(),))
    return warm(pool)


def fair_seconds(loads: list[Load], turns: int, make: Callable[[], Any] = State) -> float:
    """Seconds for `turns` turns of each client, as tasks of a FairPool."""
    with pool_of() as pool:
        guard = pool.guarded(make)
        guard.submit(id).result()  # it is made
        begin = time.perf_counter()
        futures = [pool.submit(fair_client, guard, load, turns) for load in loads]
        for future in futures:
            future.result()
        return time.perf_counter() - begin


def thread_seconds(loads: list[Load], turns: int, make: Callable[[], Any] = State) -> float:
    """The same with ThreadPoolExecutor and threading.Lock, on as many workers.

    A client stays on its worker until its last turn, so that it pays for no more than the lock.
    """
    with ThreadPoolExecutor(WORKERS, initializer=pin_next_cpu, initargs=(itertools.count(),)) as p:
        warm(p)
        lock, state = threading.Lock(), p.submit(make).result()
        begin = time.perf_counter()
        futures = [p.submit(thread_client, lock, state, load, turns) for load in loads]
        for future in futures:
            future.result()
        return time.perf_counter() - begin


# --- clients that log -----------------------------------------------------------------------------

# asked, entered, left, back (ns); threads: where it asked, where its section ran, where it was back
Turn = tuple[int, int, int, int, int, int, int]
Log = list[Turn]


async def logged_fair_client(guard: Any, load: Load, turn: Any, total: int, log: Log) -> None:
    section, size, rest, rest_size = load.section, load.size, load.rest, load.rest_size
    while next(turn) < total:
        asker, asked = get_thread(), clock()
        async with guard as state:
            entered, server = clock(), get_thread()
            section(state, size)
            left = clock()
        back = clock()
        log.append((asked, entered, left, back, asker, server, get_thread()))
        rest(rest_size)


def logged_thread_client(
    lock: threading.Lock, state: Any, load: Load, turn: Any, total: int, log: Log
) -> None:
    section, size, rest, rest_size = load.section, load.size, load.rest, load.rest_size
    while next(turn) < total:
        asker, asked = get_thread(), clock()
        with lock:
            entered, server = clock(), get_thread()
            section(state, size)
            left = clock()
        back = clock()
        log.append((asked, entered, left, back, asker, server, get_thread()))
        rest(rest_size)


def quantile(values: list[float], q: float) -> float:
    """The `q` quantile, or nan of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * q)]


def jain(values: list[float]) -> float:
    """Jain's index: 1 if all are equal, 1 / n if one has all."""
    squares = len(values) * sum(value * value for value in values)
    return sum(values) ** 2 / squares if squares else 1.0


@dataclass
class Findings:
    """What one run has shown. Times are in seconds."""

    cost: float
    """Wall time per turn."""
    jain: float
    """Jain's index of the clients' times inside."""
    dice: float
    """Dice's fairness factor: the busier half's share of the turns. 0.5 is fair, 1 is not."""
    section: float
    """The mean section."""
    waits: list[float]
    """From asking to being inside."""
    own: list[float]
    """Responses (from asking to being back) where the section ran where it was asked for, …"""
    others: list[float]
    """… and where another worker ran it."""
    stayed: float
    """The share of turns after which a client went on where its section ran."""
    in_a_row: float
    """The longest that as many sections as there are clients have taken, one after the other: what
    the longest wait is in perfect ticket order, where the machine has interrupted a section."""
    mean_pass: float = 0.0
    waits_of: list[list[float]] = field(default_factory=list)
    """The waits of each client."""
    turns: list[int] = field(default_factory=list)
    """Turns of each client."""
    statistics: Any = None


def entered_at(turn: Turn) -> int:
    return turn[1]


def max_of_sums(values: list[int], count: int) -> int:
    """The greatest sum of `count` consecutive values."""
    sums = list(itertools.accumulate(values, initial=0))
    return max(b - a for a, b in zip(sums, sums[min(count, len(values)) :], strict=False))


def find(logs: list[Log], seconds: float, statistics_: Any = None) -> Findings:
    """Digest the clients' logs."""
    turns = [turn for log in logs for turn in log]
    held = [sum(left - entered for _, entered, left, *_ in log) for log in logs]
    counts = sorted((len(log) for log in logs), reverse=True)
    waits_of = [[(turn[1] - turn[0]) * 1e-9 for turn in log] for log in logs]
    stats = statistics_
    return Findings(
        cost=seconds / len(turns),
        jain=jain([float(each) for each in held]),
        dice=sum(counts[: (len(counts) + 1) // 2]) / len(turns),
        section=sum(held) / len(turns) * 1e-9,
        waits=[wait for waits in waits_of for wait in waits],
        own=[(t[3] - t[0]) * 1e-9 for t in turns if t[4] == t[5]],
        others=[(t[3] - t[0]) * 1e-9 for t in turns if t[4] != t[5]],
        stayed=sum(t[5] == t[6] for t in turns) / len(turns),
        in_a_row=max_of_sums([t[2] - t[1] for t in sorted(turns, key=entered_at)], len(logs))
        * 1e-9,
        mean_pass=stats.combined / stats.passes if stats is not None and stats.passes else 0.0,
        waits_of=waits_of,
        turns=[len(log) for log in logs],
        statistics=stats,
    )


def logged_fair(loads: list[Load], turns: int, make: Callable[[], Any] = State) -> Findings:
    """Tasks of a FairPool that together take `turns` turns for each of them, whoever comes."""
    logs: list[Log] = [[] for _ in loads]
    total = turns * len(loads)
    with pool_of() as pool:
        guard = pool.guarded(make)
        guard.submit(id).result()
        turn = itertools.count()
        begin = time.perf_counter()
        futures = [
            pool.submit(logged_fair_client, guard, load, turn, total, log)
            for load, log in zip(loads, logs, strict=True)
        ]
        for future in futures:
            future.result()
        return find(logs, time.perf_counter() - begin, guard.statistics())


def logged_threads(
    loads: list[Load],
    turns: int,
    make: Callable[[], Any] = State,
    make_lock: Callable[[], Any] = threading.Lock,
) -> Findings:
    """The same with a thread for each client, since one that shares a thread would never come."""
    logs: list[Log] = [[] for _ in loads]
    total = turns * len(loads)
    cpus = itertools.count()
    with ThreadPoolExecutor(len(loads), initializer=pin_next_cpu, initargs=(cpus,)) as pool:
        meeting = threading.Barrier(len(loads))
        for future in [pool.submit(meeting.wait, 30) for _ in loads]:
            future.result()
        lock, state, turn = make_lock(), pool.submit(make).result(), itertools.count()
        begin = time.perf_counter()
        futures = [
            pool.submit(logged_thread_client, lock, state, load, turn, total, log)
            for load, log in zip(loads, logs, strict=True)
        ]
        for future in futures:
            future.result()
        return find(logs, time.perf_counter() - begin)


# --- switches -------------------------------------------------------------------------------------

FOREVER = 1 << 62


def _take_own_published(worker: Any) -> Any:
    """What stands for `Worker._take_published`: no look at the other workers."""
    try:
        return worker.published.pop(0)
    except IndexError:
        return None


@contextmanager
def without(mechanism: str) -> Iterator[None]:
    """Switch a mechanism of the locks off, through private names.

    - combining: a pass serves one section;
    - stealing: a continuation goes on where its section ran;
    - home: a lock is served by whoever comes;
    - bound: a pass ends when nobody waits, and displaces nothing.
    """
    import fairpool._locks.combiner as combiner
    import fairpool._locks.exit as lock_exit
    import fairpool._scheduler.worker as worker

    bounds = ("PASS_SECTIONS", "PASS_TIME", "DISPLACE_AFTER")
    switches: dict[str, list[tuple[Any, str, Any]]] = {
        "combining": [(combiner, "PASS_SECTIONS", 1)],
        "stealing": [(worker.Worker, "_take_published", _take_own_published)],
        "home": [(lock_exit, "GO_HOME_ABOVE", FOREVER)],
        "bound": [(combiner, name, FOREVER) for name in bounds],
    }
    with ExitStack() as stack:
        for owner, name, value in switches[mechanism]:
            if not hasattr(owner, name):
                raise NotThereYet(f"no switch {name} any more")
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


MECHANISMS = ("combining", "stealing", "home")


def check_switched_off(mechanism: str, findings: Findings) -> None:
    """Raise if a run with a mechanism switched off has used it."""
    stats = findings.statistics
    used = {
        "combining": stats.longest_pass > 1,
        "stealing": findings.stayed < 1,
        "home": stats.home is not None,
    }[mechanism]
    if used:
        raise AssertionError(f"{mechanism} was not switched off: {stats}")


# --- rounds ---------------------------------------------------------------------------------------


class Rounds:
    """Contenders that give `Findings`, in alternation; what was found in each round."""

    def __init__(self, rounds: int, contenders: dict[str, Callable[[], Findings]]) -> None:
        self.found: dict[str, list[Findings]] = defaultdict(list)

        def measure_on(name: str, run: Callable[[], Findings]) -> Callable[[], float]:
            def measure() -> float:
                findings = run()
                self.found[name].append(findings)
                return findings.cost

            return measure

        self.costs = alternate(
            rounds, {name: measure_on(name, run) for name, run in contenders.items()}
        )
        for found in self.found.values():
            del found[0]  # the warm-up

    def series(self, name: str, of: Callable[[Findings], float], label: str = "") -> Series:
        """One number of each round."""
        failure = self.costs[name].failure
        return Series(label or name, [] if failure else [of(f) for f in self.found[name]], failure)

    def median(self, name: str, of: Callable[[Findings], float]) -> float:
        values = [of(each) for each in self.found[name]]
        return statistics.median(values) if values else float("nan")


def mean_of(name: str, *series: Series) -> Series:
    """The mean of several series, round by round."""
    failure = next((each.failure for each in series if each.failure), "")
    values = zip(*[each.values for each in series], strict=not failure)
    return Series(name, [] if failure else [statistics.mean(each) for each in values], failure)
