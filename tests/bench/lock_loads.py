"""Loads for a lock: what clients do inside and outside, and what must be true of it afterwards.

A load is made anew for each run. `load.requests(number)` is the program of one client, as a
generator. It yields critical sections, which are callables without arguments, gets their results,
and rests in between. So the same program runs on any runtime. It ends after its first request, or a
later one, when the world's time is over. `load.check()` raises AssertionError if a request was
lost, doubled, or ran beside another one.

- `Turns`: sections of two lengths, and rests, as in the field (`coro_delegation`).
- `SortedMap`: the mixes A, B, C and E of YCSB, with skewed keys.
- `PriorityQueue`: half of the clients put jobs in, the other half takes the most urgent one.
- `WriteAheadLog`: append, then make durable. A commit makes all durable that was appended before
  it, so the requests that waited meanwhile find nothing to do (group commit).
"""

from __future__ import annotations

import heapq
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from random import Random
from typing import Any

Section = Callable[[], Any]
Requests = Generator[Section, Any, None]


@dataclass
class World:
    """Where a load runs: in a simulation, or for real."""

    busy: Callable[[float], Any]
    """Keeps the calling worker busy for so many seconds."""
    sync: Callable[[bytes], Any]
    """Writes these bytes to a file, and returns when they are durable."""
    end: float = 0.0

    def open_for(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def is_open(self) -> bool:
        return time.monotonic() < self.end


class Load:
    """A load of so many clients, with a lightest section of `light` seconds."""

    clients = 64
    mean: float = 5
    """The mean section, in light ones. And …"""
    rest: float = 4
    """… a rest."""

    def __init__(self, world: World, light: float) -> None:
        self.world, self.light = world, light
        self.inside = 0  # sections that have begun, or nonsense, if two ran at once
        self.asked: list[int] = []  # requests of each client that has ended

    def section(self, cost: float) -> None:
        """What every section does: it takes its time, and sees whether it is alone."""
        number = self.inside
        self.world.busy(cost)
        assert self.inside == number, "two sections at once"
        self.inside = number + 1

    def requests(self, number: int) -> Requests:
        raise NotImplementedError

    def check(self) -> None:
        """Raise AssertionError if what the clients have seen cannot be. After the last request."""
        assert len(self.asked) == self.clients
        assert self.inside == sum(self.asked)


@dataclass(frozen=True)
class Shape:
    """The shape of `Turns`."""

    clients: int
    rest: float
    """In light sections."""
    heavy: float
    """The section of every other client, in light ones."""


SUSTAINED = {"1:1": Shape(64, 4, 1), "1:8": Shape(64, 4, 8)}
BURSTY = {"1:1": Shape(16, 32, 1), "1:8": Shape(16, 32, 8)}


class Turns(Load):
    """A section and a rest, in turn."""

    def __init__(self, world: World, light: float, shape: Shape) -> None:
        super().__init__(world, light)
        self.clients, self.rest, self.heavy = shape.clients, shape.rest, shape.heavy
        self.mean = (1 + shape.heavy) / 2

    def requests(self, number: int) -> Requests:
        cost = self.light * (self.heavy if number % 2 else 1)
        asked = 0
        while not asked or self.world.is_open():
            yield lambda: self.section(cost)
            asked += 1
            self.world.busy(self.light * self.rest)
        self.asked.append(asked)


RECORDS = 1_000
SCAN_MAX = 100

# How often each record is chosen: Zipf's law with YCSB's exponent.
_SKEW = list(accumulate(1 / rank**0.99 for rank in range(1, RECORDS + 1)))

MIXES: dict[str, dict[str, float]] = {
    "A": {"read": 0.5, "update": 0.5},
    "B": {"read": 0.95, "update": 0.05},
    "C": {"read": 1.0},
    "E": {"scan": 0.95, "insert": 0.05},
}


class SortedMap(Load):
    """A sorted map behind one lock: get, put, and scans of up to 100 records."""

    def __init__(self, world: World, light: float, mix: str) -> None:
        super().__init__(world, light)
        self.mix = MIXES[mix]
        # The keys are even, and those that are inserted are odd.
        self.keys = [2 * each for each in range(RECORDS)]
        self.values = dict.fromkeys(self.keys, 0)
        self.updated: list[int] = []
        self.inserted: list[int] = []

    def read(self, key: int) -> int:
        self.section(self.light)
        return self.values[key]

    def update(self, key: int) -> None:
        self.section(2 * self.light)
        self.values[key] += 1

    def insert(self, key: int) -> None:
        self.section(4 * self.light)
        insort(self.keys, key)
        self.values[key] = 0

    def scan(self, key: int, length: int) -> list[int]:
        self.section(self.light * length / 10)
        at = bisect_left(self.keys, key)
        return self.keys[at : at + length]

    def requests(self, number: int) -> Requests:
        rng = Random(number)
        kinds, weights = list(self.mix), list(self.mix.values())
        ranks = range(RECORDS)
        asked = updated = inserted = 0
        while not asked or self.world.is_open():
            kind = rng.choices(kinds, weights)[0]
            # Neighbours in rank are no neighbours in the map.
            key = 2 * (rng.choices(ranks, cum_weights=_SKEW)[0] * 7919 % RECORDS)
            if kind == "read":
                assert (yield lambda: self.read(key)) >= 0
            elif kind == "update":
                yield lambda: self.update(key)
                updated += 1
            elif kind == "scan":
                length = rng.randint(1, SCAN_MAX)
                found = yield lambda: self.scan(key, length)
                assert found[0] == key, "a record is missing"
                assert found == sorted(set(found))
            else:
                new = 2 * (inserted * self.clients + number) + 1
                yield lambda: self.insert(new)
                inserted += 1
            asked += 1
            self.world.busy(self.light * self.rest)
        self.asked.append(asked)
        self.updated.append(updated)
        self.inserted.append(inserted)

    def check(self) -> None:
        super().check()
        assert len(self.keys) == RECORDS + sum(self.inserted)
        assert self.keys == sorted(self.values)
        assert sum(self.values.values()) == sum(self.updated)


Job = tuple[int, int, int]
"""Its priority, the lowest first; its maker's number; its number there."""


class PriorityQueue(Load):
    """Jobs go in with a priority; the most urgent one comes out, and takes some time."""

    def __init__(self, world: World, light: float) -> None:
        super().__init__(world, light)
        self.heap: list[Job] = []
        self.put: list[int] = []
        self.taken: list[list[Job]] = []

    def push(self, job: Job) -> None:
        self.section(self.light)
        heapq.heappush(self.heap, job)

    def pop(self) -> Job | None:
        self.section(3 * self.light)
        if not self.heap:
            return None
        job = heapq.heappop(self.heap)
        assert not self.heap or job < self.heap[0]
        return job

    def requests(self, number: int) -> Requests:
        rng = Random(number)
        asked = 0
        taken: list[Job] = []
        while not asked or self.world.is_open():
            if number % 2:
                job = (rng.randrange(8), number, asked)
                yield lambda: self.push(job)
            elif (most_urgent := (yield self.pop)) is not None:
                taken.append(most_urgent)
            asked += 1
            self.world.busy(self.light * self.rest)
        self.asked.append(asked)
        self.put.append(asked if number % 2 else 0)
        self.taken.append(taken)

    def check(self) -> None:
        super().check()
        out = [job for taken in self.taken for job in taken] + self.heap
        assert len(out) == len({job[1:] for job in out}) == sum(self.put)


class WriteAheadLog(Load):
    """Each request appends a record, and is acknowledged when that is durable."""

    def __init__(self, world: World, light: float) -> None:
        super().__init__(world, light)
        self.log: list[int] = []
        self.durable = self.commits = 0
        self.acknowledged: list[int] = []

    def append(self, record: int) -> int:
        self.section(self.light)
        self.log.append(record)
        return len(self.log)

    def commit(self, upto: int) -> int:
        self.inside += 1
        if self.durable < upto:
            fresh = self.log[self.durable :]
            self.world.sync(b"".join(record.to_bytes(8, "little") for record in fresh))
            self.durable += len(fresh)
            self.commits += 1
            assert self.durable == len(self.log), "two sections at once"
        return self.durable

    def requests(self, number: int) -> Requests:
        asked = 0
        while not asked or self.world.is_open():
            mine = yield lambda: self.append(asked * self.clients + number)
            durable = yield lambda: self.commit(mine)
            assert durable >= mine
            assert self.log[mine - 1] == asked * self.clients + number
            asked += 1
            self.world.busy(self.light * self.rest)
        self.asked.append(2 * asked)
        self.acknowledged.append(asked)

    def check(self) -> None:
        super().check()
        assert len(set(self.log)) == len(self.log) == sum(self.acknowledged)
        assert self.durable == len(self.log)


Make = Callable[[World, float], Load]

LOADS: dict[str, Make] = {
    **{f"sustained {mix}": partial(Turns, shape=shape) for mix, shape in SUSTAINED.items()},
    **{f"bursty {mix}": partial(Turns, shape=shape) for mix, shape in BURSTY.items()},
    **{f"map {mix}": partial(SortedMap, mix=mix) for mix in MIXES},
    "priority queue": PriorityQueue,
    "log": WriteAheadLog,
}
