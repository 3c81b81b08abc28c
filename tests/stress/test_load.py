"""Large numbers: queued tasks, workers, pools one after another.

`FAIRPOOL_LOAD=1` (`tox -e load`) has the full sizes, without it each is a part of that. What they
took in time and memory is printed (`-s` shows it).
"""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from kit import TIMEOUT, check_whole, until
from memory import MEBIBYTE, of_the_package, resident, threads, wait_for_threads

from fairpool import FairPool, all_of, blocking, gather, sleep, yield_now

pytestmark = pytest.mark.stress

FULL = os.environ.get("FAIRPOOL_LOAD") == "1"

TASKS = 1_000_000 if FULL else 20_000
WORKERS = 500 if FULL else 100
POOLS = 1_000 if FULL else 50

LONG = 600 if FULL else TIMEOUT  # seconds, for all of the tasks together


@contextmanager
def told(what: str) -> Iterator[Callable[[], None]]:
    """Print how long the block took, and by how much the memory grew up to the call."""
    gc.collect()
    before, began = resident(), time.monotonic()
    grown = 0

    def look() -> None:
        nonlocal grown
        grown = resident() - before

    yield look
    took = time.monotonic() - began
    print(f"\nload: {what}: {took:.2f} s, memory +{grown / MEBIBYTE:.0f} MiB")


# --- tasks ----------------------------------------------------------------------------------------


def occupy(pool: FairPool, gate: threading.Event, workers: int) -> None:
    """Have all workers busy until the gate opens."""
    arrived = threading.Barrier(workers + 1)

    def hold() -> None:
        arrived.wait(TIMEOUT)
        gate.wait(LONG)

    for _ in range(workers):
        pool.submit(hold)
    arrived.wait(TIMEOUT)


@pytest.mark.parametrize("submitter", ["thread", "worker", "share", "lock"])
def test_each_queued_task_is_run_once(submitter: str, gate: threading.Event) -> None:
    pool = FairPool(2)
    lock = pool.lock()
    ran: list[int] = []
    done: list[Any] = []
    count = TASKS if submitter in ("thread", "worker") else TASKS // 5
    executor = {"share": pool.share("one"), "lock": lock}.get(submitter, pool)

    def submit_all() -> None:
        for i in range(count):
            executor.submit(ran.append, i).add_done_callback(done.append)

    with told(f"{count:,} tasks queued by a {submitter}") as look:
        occupy(pool, gate, 2)
        if submitter == "worker":  # a third one, which stands in for one that blocks
            with_a_slot = pool.submit(submit_all)
            gate.set()
            with_a_slot.result(LONG)
        else:
            submit_all()
            assert not ran
            look()
            gate.set()
        pool.shutdown()
    assert len(done) == count
    assert len(ran) == count
    if submitter == "lock":
        assert ran == [*range(count)]  # in ticket order
    else:
        ran.sort()
        assert ran == [*range(count)]
    assert all(future.done() and future.result(0) is None for future in done)
    check_whole(pool, TIMEOUT)


def test_each_suspended_coroutine_goes_on_once(gate: threading.Event) -> None:
    count = TASKS // 10
    ran: list[int] = []

    async def body(i: int, door: Any) -> int:
        await yield_now()
        await door
        ran.append(i)
        return i

    with told(f"{count:,} coroutines that wait for one future") as look, FairPool(2) as pool:
        occupy(pool, gate, 2)
        door = pool.submit(gate.is_set)
        futures = [pool.submit(body, i, door) for i in range(count)]
        look()
        gate.set()
        assert [future.result(LONG) for future in futures] == [*range(count)]
    assert sorted(ran) == [*range(count)]


# --- workers --------------------------------------------------------------------------------------


def test_many_workers() -> None:
    with told(f"{WORKERS} workers") as look:
        pool = FairPool(WORKERS)
        # All at once: none of these would end without the last one.
        meeting = threading.Barrier(WORKERS)
        for future in [pool.submit(meeting.wait, TIMEOUT) for _ in range(WORKERS)]:
            future.result(TIMEOUT)
        look()
        assert pool.statistics().workers == WORKERS

        # Small tasks, trees of tasks that wait for each other, and one lock for all.
        lock = pool.lock()
        total = [0]

        def add() -> None:
            with lock:
                total[0] += 1

        def tree(depth: int) -> int:
            inner = [pool.submit(tree, depth - 1) for _ in range(2 if depth else 0)]
            with blocking():
                time.sleep(0)
            return 1 + sum(future.result() for future in inner)

        adding = [pool.submit(add) for _ in range(2 * WORKERS)]
        trees = [pool.submit(tree, 4) for _ in range(WORKERS // 10)]
        assert [future.result(TIMEOUT) for future in trees] == [31] * len(trees)
        for future in adding:
            future.result(TIMEOUT)
        assert total == [2 * WORKERS]
        check_whole(pool, TIMEOUT)


# --- pools ----------------------------------------------------------------------------------------


async def _coroutine(lock: Any, shelf: Any, number: int) -> int:
    async with lock:
        await sleep(1e-6)
    async with all_of(lock, shelf) as (_, values):
        values.append(number)
    return sum(await gather(*(_number(i) for i in range(4))))


async def _number(i: int) -> int:
    await yield_now()
    return i


def _mishap() -> None:
    raise ValueError


def use_a_pool(number: int) -> tuple[weakref.ref[Any], ...]:
    """A pool from its beginning to its end, which is another one each time."""
    # The idle time-out is also that of the timer thread, which ends on its own where nobody waits.
    pool = FairPool(number % 4, idle_timeout=0.01)
    lock, shelf, share = pool.lock(), pool.guarded(list), pool.share("one")
    charged = pool.lock(order="usage")
    futures = [
        pool.submit(_coroutine, lock, shelf, number),
        share.submit(_coroutine, charged, shelf, number),
        lock.submit(int).then(lambda _: 6, lock=charged),
        pool.submit(_mishap).catch(lambda _: 6, ValueError),
    ]
    assert pool.run(_coroutine, lock, shelf, number) == 6
    if number % 4 == 0:
        pool.shutdown()
    for future in futures:
        assert future.result(TIMEOUT) == 6
    if number % 4 != 3:
        pool.shutdown(wait=number % 2 == 0)
    # Else it is only dropped, and its workers end.
    return weakref.ref(pool), weakref.ref(pool._scheduler), weakref.ref(lock), weakref.ref(charged)


def are_gone(entries: Sequence[weakref.ref[Any]]) -> bool:
    # `gc.collect` does nothing while another thread's collection is under way.
    gc.collect()
    return all(entry() is None for entry in entries)


def test_pools_leave_nothing_behind() -> None:
    count = threads()
    use_a_pool(0)  # what is made once, and stays
    before = of_the_package(count, TIMEOUT)
    with told(f"{POOLS:,} pools one after another") as look:
        for number in range(POOLS):
            entries = use_a_pool(number)
            if number % 10 == 9:  # a collection takes longer than all the rest
                wait_for_threads(count, TIMEOUT)
                until(partial(are_gone, entries))
        wait_for_threads(count, TIMEOUT)
        gc.collect()
        look()
    after = of_the_package(count, TIMEOUT)
    assert after - before == Counter(), "objects are left"
