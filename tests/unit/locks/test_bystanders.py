"""Burden and bystanders: tasks that lie on the worker that combines, and do not use the lock.

The workload is that of `coro_delegation`: clients, half of them with long sections, and one task a
worker that works for a while and then lets others go first.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from fairpool import FairPool, yield_now
from fairpool._locks import combiner as combiner_module
from fairpool._locks.statistics import Counters, LockStatistics
from fairpool.testing import simulate, work

# A simulation has the whole process to itself.
pytestmark = pytest.mark.thread_unsafe

MICROSECOND = 1e-6


# A short section, a quarter of a rest, and a step of a bystander.
LIGHT = 15 * MICROSECOND


def delays() -> tuple[float, list[int]]:
    """The longest that a `yield_now` of a bystander took, and how many each of them did."""
    waited: list[float] = []
    steps = [0] * 4

    def program(pool: FairPool) -> None:
        lock = pool.lock()
        end = time.monotonic() + 3000 * LIGHT

        async def client(number: int) -> None:
            while time.monotonic() < end:
                async with lock:
                    work(LIGHT * (8 if number % 2 else 1))
                work(LIGHT * 4)

        async def bystander(number: int) -> None:
            while time.monotonic() < end:
                work(LIGHT)
                began = time.monotonic()
                await yield_now()
                waited.append(time.monotonic() - began)
                steps[number] += 1

        futures = [pool.submit(client, i) for i in range(32)]
        futures += [pool.submit(bystander, i) for i in range(4)]
        for future in futures:
            future.result()

    simulate(program, workers=4)
    return max(waited[100:]), steps  # not while threads are being started


def test_no_bystander_waits_for_a_pass() -> None:
    longest, steps = delays()
    # In front of it: a long section, or the rests of two clients, and a step of another bystander.
    assert longest < 10 * LIGHT
    assert max(steps) < 2 * min(steps)


def test_one_waits_for_it_where_nothing_is_displaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combiner_module, "DISPLACE_AFTER", combiner_module.PASS_TIME * 2)
    longest, _ = delays()
    assert longest > combiner_module.PASS_TIME / 1e9


def test_what_a_section_submits_does_not_wait_for_the_rest_of_its_pass() -> None:
    begun: list[float] = []

    def program(pool: FairPool) -> None:
        lock = pool.lock()

        async def busy() -> None:
            while not begun:
                work(MICROSECOND)
                await yield_now()

        def first() -> None:
            asked = time.monotonic()
            pool.submit(lambda: begun.append(time.monotonic() - asked))

        other = pool.submit(busy)
        with lock:
            sections = [lock.submit(first)]
            sections += [lock.submit(work, 100 * MICROSECOND) for _ in range(15)]
        for future in [other, *sections]:
            future.result()

    simulate(program, workers=2)
    assert begun[0] < 150 * MICROSECOND


def test_the_burden_is_seen() -> None:
    def program(pool: FairPool) -> LockStatistics:
        lock = pool.lock()

        async def client() -> None:
            for _ in range(50):
                async with lock:
                    work(LIGHT)
                work(LIGHT)

        for future in [pool.submit(client) for _ in range(8)]:
            future.result()
        return lock.statistics()

    statistics = simulate(program, workers=4).result
    burden = statistics.burden
    assert len(burden) == 5
    assert burden[None] == 0
    assert 0.9 * statistics.busy < sum(burden.values()) <= statistics.busy
    assert 0.25 <= statistics.burden_jain <= 1


class Server:
    """As much of a worker as is asked."""

    exited = False


def test_the_burden_of_workers_that_have_gone_is_one_sum() -> None:
    counters = Counters()
    workers: list[Any] = [Server() for _ in range(4)]
    for worker in workers:
        counters.serve_with(worker)
        counters.burden.time += 7
        worker.exited = True
    assert counters.burdens[None].time == 3 * 7
    assert {*counters.burdens} == {None, workers[-1]}
    assert counters.hand_offs == 4
