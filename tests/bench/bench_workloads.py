"""Benchmarks of locks: workloads as in the papers of the field, for information.

Proportional counter, bully and victim: scheduler-cooperative and usage-fair locks. Fetch-and-
multiply, queue and stack pairs, hash table: flat combining and its successors. Rests are turns of
an empty loop.

What is shown: the cost of a turn against threads with `threading.Lock`, one thread for each client;
the share of the bound of two bare threads (see `contend`); the same with one mechanism switched off
at a time; Jain's index of the clients' times inside; Dice's fairness factor (0.5: the busier half
of the clients had half of the turns); quantiles of the waits; how long a task was away for a
section that its own worker has served, and for one that another has; and how many sections a pass
had.

Read the fairness of the pool with this in mind: a task that finds the lock free goes on without
giving way, as in asyncio, so where the lock is seldom contended as many clients as there are
workers take most of the turns. The operating system takes turns with threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from contend import (
    CLIENTS,
    MECHANISMS,
    Findings,
    Load,
    Rounds,
    State,
    bare_threads,
    check_switched_off,
    iterations,
    logged_fair,
    logged_threads,
    quantile,
    spin,
    touch,
    without,
)
from harness import Row, Size, alternate, benchmark, compare, microseconds

LOCK = "threads + Lock"
KEYS = 1_000


class Box:
    """One number."""

    def __init__(self) -> None:
        self.value = 1


def count_up(box: Box, times: int) -> None:
    for _ in range(times):
        box.value += 1


def fetch_and_multiply(box: Box, factor: int) -> int:
    fetched = box.value
    box.value = fetched * factor & 0xFFFF_FFFF | 1
    return fetched


def filled() -> deque[int]:
    return deque(range(100))


def queue_pair(queue: deque[int], item: int) -> int:
    queue.append(item)
    return queue.popleft()


def stack_pair(stack: deque[int], item: int) -> int:
    stack.append(item)
    return stack.pop()


class Table:
    """A hash table, and whose turn it is to write."""

    def __init__(self) -> None:
        self.turn = 0
        self.entries = {key: key for key in range(KEYS)}


def use_table(table: Table, write_every: int) -> int:
    """A read, or every so many turns a write: of keys all over the table."""
    table.turn = turn = table.turn + 1
    key = turn * 617 % KEYS
    if turn % write_every:
        return table.entries[key]
    table.entries[key] = turn
    return turn


@dataclass(frozen=True)
class Workload:
    """Its clients, and what they work on."""

    what: str
    loads: list[Load]
    make: Callable[[], Any]


def numbers(findings: list[Findings], of: Callable[[Findings], float]) -> float:
    """The median over the rounds."""
    return quantile([of(each) for each in findings], 0.5)


def fairness(found: list[Findings]) -> str:
    return (
        f"Jain {numbers(found, lambda f: f.jain):.3f}, Dice {numbers(found, lambda f: f.dice):.2f}"
    )


def waits(found: list[Findings]) -> str:
    each = (numbers(found, lambda f, q=q: quantile(f.waits, q)) for q in (0.5, 0.99, 0.999))
    return f"{' / '.join(f'{wait * 1e6:,.0f}' for wait in each)} µs"


def responses(found: list[Findings]) -> str:
    own = numbers(found, lambda f: quantile(f.own, 0.5))
    others = numbers(found, lambda f: quantile(f.others, 0.5))
    return f"own {own * 1e6:,.1f} µs, others {others * 1e6:,.1f} µs"


def run_workload(workload: Workload, size: Size, turns: int) -> list[Row]:
    loads, make, what = workload.loads, workload.make, workload.what

    def switched(mechanism: str) -> Callable[[], Findings]:
        def run() -> Findings:
            with without(mechanism):
                findings = logged_fair(loads, turns, make)
            check_switched_off(mechanism, findings)
            return findings

        return run

    contenders: dict[str, Callable[[], Findings]] = {
        "fairpool": lambda: logged_fair(loads, turns, make),
        LOCK: lambda: logged_threads(loads, turns, make),
        **{f"without {name}": switched(name) for name in MECHANISMS},
    }
    rounds = Rounds(size.rounds, contenders)
    bare = alternate(
        size.rounds, {"bare": lambda: bare_threads(loads, turns, make) / (turns * len(loads))}
    )["bare"]
    bare.name = "two bare threads"
    ours, theirs = rounds.costs["fairpool"], rounds.costs[LOCK]
    rows = [compare(what, ours, theirs), compare(f"{what}: share of two bare threads", ours, bare)]
    for name in MECHANISMS:
        rows.append(compare(f"{what}, without {name}", rounds.costs[f"without {name}"], ours))
    found, others = rounds.found["fairpool"], rounds.found[LOCK]
    if ours.failure or theirs.failure:
        return rows
    mean_pass = numbers(found, lambda f: f.mean_pass)
    return [
        *rows,
        Row(f"{what}: fairness", f"fairpool {fairness(found)}", f"{LOCK} {fairness(others)}"),
        Row(
            f"{what}: waits, 50 / 99 / 99.9 %",
            f"fairpool {waits(found)}",
            f"{LOCK} {waits(others)}",
        ),
        Row(f"{what}: responses", f"fairpool {responses(found)}", f"mean pass {mean_pass:.1f}"),
    ]


@benchmark("workload-proportional")
def proportional_counter(size: Size) -> list[Row]:
    """Two groups, the sections of one three times as long as the other's."""
    rows: list[Row] = []
    for rest, turns in ((0, size(1_000, 200)), (1_000, size(600, 100)), (100_000, size(20, 4))):
        loads = [Load(count_up, 10 if i % 2 else 30, spin, rest) for i in range(CLIENTS)]
        what = f"counter, sections 1:3, rest {rest:,}"
        rows += run_workload(Workload(what, loads, Box), size, turns)
    return rows


@benchmark("workload-multiply")
def multiply(size: Size) -> list[Row]:
    """The smallest operation that no machine has an instruction for."""
    loads = [Load(fetch_and_multiply, 3, spin, 10)] * CLIENTS
    return run_workload(Workload("fetch and multiply", loads, Box), size, size(1_000, 200))


@benchmark("workload-pairs")
def pairs(size: Size) -> list[Row]:
    """One item in and one out, of a queue and of a stack."""
    rows: list[Row] = []
    for what, section in (("queue pair", queue_pair), ("stack pair", stack_pair)):
        loads = [Load(section, 7, spin, 10)] * CLIENTS
        rows += run_workload(Workload(what, loads, filled), size, size(1_000, 200))
    return rows


@benchmark("workload-table")
def hash_table(size: Size) -> list[Row]:
    """One hash table under one lock: only writes, every fifth turn, every hundredth."""
    rows: list[Row] = []
    for write_every in (1, 5, 100):
        loads = [Load(use_table, write_every, spin, 100)] * CLIENTS
        what = f"hash table, {100 // write_every} % writes"
        rows += run_workload(Workload(what, loads, Table), size, size(800, 200))
    return rows


@benchmark("workload-bully")
def bully_and_victim(size: Size) -> list[Row]:
    """One client with long sections and no rest, and one with short sections."""
    state = State()
    bully = Load(touch, iterations(touch, 200e-6, state), spin, 0)
    victim = Load(touch, iterations(touch, 5e-6, state), spin, iterations(spin, 5e-6))
    what = "bully (200 µs) and victim (5 µs)"
    turns = size(500, 100)
    rows = run_workload(Workload(what, [bully, victim], State), size, turns)
    contenders = {
        "fairpool": lambda: logged_fair([bully, victim], turns),
        LOCK: lambda: logged_threads([bully, victim], turns),
    }
    rounds = Rounds(size.rounds, contenders)
    for name, of in (
        ("its longest wait", lambda f: max(f.waits_of[1])),
        ("time for each of its turns", lambda f: f.cost * sum(f.turns) / f.turns[1]),
    ):
        pair = [rounds.series(each, of) for each in contenders]
        rows.append(compare(f"the bully's victim: {name}", *pair, None, microseconds))
    return rows
