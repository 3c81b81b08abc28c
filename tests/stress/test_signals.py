"""Signal handlers that raise, on a main thread that works for a pool."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from typing import Any

import pytest
from stress.conftest import TIMEOUT, check_free, check_whole

import fairpool
from fairpool import FairPool, Lock

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such timer here"),
]

LONGEST = 0.002  # seconds until the alarm; what is run takes about as long


class Alarm(Exception):
    pass


@pytest.fixture
def handled() -> Iterator[None]:
    def handler(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, handler)
    gc.disable()  # what is raised in a `__del__`, or where a weak reference dies, is lost
    yield
    gc.enable()
    signal.signal(signal.SIGALRM, before)


class Party:
    """What the main thread and others do in one pool with one lock."""

    def __init__(self, pool: FairPool, lock: Lock) -> None:
        self.pool = pool
        self.lock = lock
        self.inside: list[None] = []

    def section(self) -> None:
        assert not self.inside
        self.inside.append(None)
        self.inside.pop()

    async def client(self) -> int:
        for _ in range(3):
            async with self.lock:
                self.section()
            await fairpool.yield_now()
        return await self.pool.submit(int, 1)

    def waits(self) -> int:
        children = [self.pool.submit(self.client) for _ in range(2)]
        wait(children)
        self.lock.submit(self.section).result()
        return children[0].result()

    # What the main thread runs. An alarm that comes inside of a section ends it there.

    async def own_coroutine(self) -> int:
        for _ in range(3):
            await self.pool.submit(int)
            await fairpool.sleep(0.0001)
            async with self.lock:
                pass
        return await self.pool.submit(self.waits)

    async def own_sections(self) -> int:
        # Others wait each time that it leaves, so that there is something to be awaited then.
        for _ in range(100):
            async with self.lock:
                child = self.pool.submit(self.client)
                await fairpool.yield_now()
        return await child

    def own_function(self) -> int:
        with self.lock:
            pass
        with fairpool.blocking():
            pass
        wait([self.pool.submit(int) for _ in range(3)])
        return self.pool.submit(self.waits).result()

    def own_function_that_goes_on(self) -> int:
        with contextlib.suppress(Alarm):
            self.own_function()
        return self.pool.submit(self.waits).result()


async def all_of(futures: list[Any]) -> list[Any]:
    return await fairpool.gather(*futures)


@pytest.mark.usefixtures("handled")
@pytest.mark.thread_unsafe(reason="signals are the main thread's")
def test_alarms_in_run(rounds: Iterator[int]) -> None:
    # Each ends what the main thread waits for, at most, and nothing of anybody else's.
    alarms = 0
    for number in rounds:
        rng = random.Random(number)
        pool = FairPool(number % 3, idle_timeout=1000, lend=bool(number % 2))
        party = Party(pool, pool.lock())
        over = threading.Event()
        others: list[Any] = []

        def feed(party: Party = party, over: Any = over, others: list[Any] = others) -> None:
            while not over.wait(0.0005):
                if sum(not future.done() for future in others[-20:]) == 20:
                    continue
                others.append(party.pool.submit(party.client))
                others.append(party.pool.submit(party.waits))

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        for _ in range(20):
            own = rng.choice(
                [
                    party.own_coroutine,
                    party.own_sections,
                    party.own_function,
                    party.own_function_that_goes_on,
                ]
            )
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, LONGEST))
                    assert pool.run(own) == 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:
                alarms += 1
        over.set()
        feeder.join(TIMEOUT)
        assert set(pool.run(all_of, others)) <= {1}
        check_whole(pool)
        check_free(party.lock)
        gc.collect()
    assert alarms
