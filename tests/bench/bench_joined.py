"""Benchmarks of joined callers: threads of the program's own, with the locks of a pool.

Each client has a thread of its own, pinned in turn, with all contenders.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace

from bench_locks import loads_of
from contend import (
    Findings,
    Load,
    Log,
    Rounds,
    State,
    find,
    logged_fair,
    logged_fair_client,
    logged_thread_client,
    logged_threads,
    quantile,
)
from harness import Goal, Row, Size, benchmark, compare, milliseconds, pin_next_cpu, require

SECTION, REST = 100e-6, 100e-6


def threads_of_ours(loads: list[Load], turns: int) -> Findings:
    """Plain threads, `with` a lock of a pool that has no threads."""
    with require("fairpool", "FairPool").FairPool(max_workers=0) as pool:
        return logged_threads(loads, turns, make_lock=pool.lock)


@benchmark("joined-threads")
def plain_threads(size: Size) -> list[Row]:
    """`with lock` in plain threads: the one line that is changed is where the lock is made."""
    loads = loads_of(SECTION, REST)
    turns = size(400, 100)
    contenders = {
        "fairpool": lambda: threads_of_ours(loads, turns),
        "threading.Lock": lambda: logged_threads(loads, turns),
    }
    rounds = Rounds(size.rounds, contenders)
    what = f"{len(loads)} threads, `with lock`, 100 µs sections, 100 µs rests: "
    ours, reference = (rounds.series(name, lambda f: max(f.waits)) for name in contenders)
    rows = [
        compare(f"{what}longest wait", ours, reference, Goal("at most", 0.5), milliseconds),
        compare(
            f"{what}throughput",
            rounds.costs["fairpool"],
            rounds.costs["threading.Lock"],
            Goal("at least", 0.9),
        ),
    ]
    median = [rounds.series(name, lambda f: quantile(f.waits, 0.5)) for name in contenders]
    rows.append(compare(f"{what}median wait", *median, None, milliseconds))
    return rows


def callers(loads: list[Load], turns: int) -> Findings:
    """Coroutines that callers bring to a pool without threads, one caller each."""
    logs: list[Log] = [[] for _ in loads]
    total = turns * len(loads)
    cpus, turn = itertools.count(), itertools.count()
    meeting = threading.Barrier(len(loads) + 1)
    with require("fairpool", "FairPool").FairPool(max_workers=0) as pool:
        guard = pool.guarded(State)

        def call(load: Load, log: Log) -> None:
            pin_next_cpu(cpus)
            meeting.wait(30)
            pool.run(logged_fair_client, guard, load, turn, total, log)

        threads = [
            threading.Thread(target=call, args=pair) for pair in zip(loads, logs, strict=True)
        ]
        for thread in threads:
            thread.start()
        meeting.wait(30)
        begin = time.perf_counter()
        for thread in threads:
            thread.join()
        return find(logs, time.perf_counter() - begin, guard.statistics())


@benchmark("joined-callers")
def joined_callers(size: Size) -> list[Row]:
    """`run` on a pool that has no threads, against a pool with two workers."""
    loads = loads_of(SECTION, REST)
    turns = size(400, 100)
    contenders = {
        "max_workers=0": lambda: callers(loads, turns),
        "FairPool(2)": lambda: logged_fair(loads, turns),
    }
    rounds = Rounds(size.rounds, contenders)
    what = f"{len(loads)} callers of `run`, 100 µs sections, 100 µs rests: "
    return [
        compare(
            f"{what}throughput",
            rounds.costs["max_workers=0"],
            rounds.costs["FairPool(2)"],
            Goal("at least", 0.9),
        ),
        compare(
            f"{what}longest wait",
            rounds.series("max_workers=0", lambda f: max(f.waits)),
            rounds.series("FairPool(2)", lambda f: max(f.waits)),
            None,
            milliseconds,
        ),
    ]


COROUTINES, THREADS = 6, 2


def caller_and_threads(load: Load, turns: int, lend: bool) -> Findings:
    """Coroutines of one caller, who combines, and threads that wait `with lock`.

    Of the findings, `own` are the responses of the coroutines, `others` those of the threads. The
    caller has one processor, the threads share another.
    """
    logs: list[Log] = [[] for _ in range(COROUTINES + THREADS)]
    total, turn = turns * len(logs), itertools.count()
    module, state = require("fairpool", "FairPool"), State()
    meeting = threading.Barrier(THREADS + 2)
    with module.FairPool(max_workers=0, lend=lend) as pool:
        lock = pool.lock()

        async def client(log: Log) -> None:
            clock, thread = time.perf_counter_ns, threading.get_ident
            while next(turn) < total:
                asker, asked = thread(), clock()
                async with lock:
                    entered, server = clock(), thread()
                    load.section(state, load.size)
                    left = clock()
                log.append((asked, entered, left, clock(), asker, server, thread()))
                load.rest(load.rest_size)

        async def clients() -> None:
            await module.gather(*map(client, logs[:COROUTINES]))

        def call() -> None:
            pin_next_cpu(itertools.count(0))
            meeting.wait(30)
            pool.run(clients)

        def stay(log: Log) -> None:
            pin_next_cpu(itertools.count(1))
            meeting.wait(30)
            logged_thread_client(lock, state, load, turn, total, log)

        threads = [threading.Thread(target=call)]
        threads += [threading.Thread(target=stay, args=(log,)) for log in logs[COROUTINES:]]
        for thread in threads:
            thread.start()
        meeting.wait(30)
        begin = time.perf_counter()
        for thread in threads:
            thread.join()
        findings = find(logs, time.perf_counter() - begin, lock.statistics())
    responses = [[(back - asked) * 1e-9 for asked, _, _, back, *_ in log] for log in logs]
    findings.own = list(itertools.chain(*responses[:COROUTINES]))
    findings.others = list(itertools.chain(*responses[COROUTINES:]))
    return findings


@benchmark("joined-lending")
def lending(size: Size) -> list[Row]:
    """What it costs a combiner that its thread does the others' work, and what lending mends."""
    load = loads_of(SECTION, REST)[0]
    turns = size(300, 100)
    contenders = {
        "lend on": lambda: caller_and_threads(load, turns, lend=True),
        "lend off": lambda: caller_and_threads(load, turns, lend=False),
    }
    rounds = Rounds(size.rounds, contenders)
    what = f"{COROUTINES} coroutines of a caller, {THREADS} threads, 100 µs sections and rests: "
    rows = []
    for name in contenders:
        own, others = (
            rounds.series(name, lambda f, of=of: quantile(getattr(f, of), 0.5), whose)
            for of, whose in (("own", "combiner"), ("others", "others"))
        )
        row = compare(f"{what}responses, {name}", own, others, Goal("at most", 1.1), milliseconds)
        # Off is there to show what is to be mended.
        rows.append(row if name == "lend on" else replace(row, required="", met=""))
    on, off = (rounds.costs[name] for name in contenders)
    rows.append(compare(f"{what}throughput, lend on against off", on, off))
    return rows
