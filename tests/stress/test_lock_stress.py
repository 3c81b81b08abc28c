"""Random programs of tasks that enter locks in all ways, against a sequential model.

A counter that is not atomic says whether two were inside at once. The order in which sections were
let in is compared with the order in which they asked, where that is known. At the end every lock is
free, every future final, and everybody was served once, or gave up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kit import TIMEOUT, Mishap, check_free
from stress.conftest import SECONDS

from fairpool import CancelledError, FairPool, Lock, all_of, timeout, yield_now

pytestmark = pytest.mark.stress

LOCKS = 4
WAYS = ("task", "stack", "thread", "submit", "coroutine submit", "link", "guest")


class Section(NamedTuple):
    """One critical section, or several locks at once."""

    way: str
    locks: tuple[int, ...]  # in the order in which they are taken; nested, or with `all_of`
    together: bool
    pauses: int  # inside, where the way allows to wait there
    raises: bool
    cancelled: bool  # somebody tries to cancel it
    timed: bool  # it waits for 1 ms at most


@st.composite
def sections(draw: Callable[..., Any]) -> Section:
    way = draw(st.sampled_from(WAYS))
    several = draw(st.lists(st.integers(0, LOCKS - 1), min_size=1, max_size=3, unique=True))
    if way in ("submit", "coroutine submit", "link", "guest"):
        several = several[:1]
    return Section(
        way,
        tuple(sorted(several)),
        draw(st.booleans()),
        draw(st.integers(0, 2)),
        draw(st.integers(0, 2)) == 0,
        draw(st.integers(0, 3)) == 0,
        draw(st.integers(0, 3)) == 0,
    )


programs = st.fixed_dictionaries(
    {
        "workers": st.integers(1, 8),
        "clients": st.lists(st.lists(sections(), min_size=1, max_size=6), min_size=1, max_size=8),
        "idle_timeout": st.sampled_from([0, 1000]),
        "lend": st.booleans(),
    }
)


class Account:
    """What one lock guards: counted without any atomic operation."""

    def __init__(self) -> None:
        self.inside = 0
        self.total = 0

    def enter(self) -> None:
        assert self.inside == 0, "two are inside"
        self.inside += 1
        total = self.total
        for _ in range(3):
            total += 0
        self.total = total + 1

    def leave(self) -> None:
        assert self.inside == 1
        self.inside -= 1


class Run:
    def __init__(self, program: dict[str, Any]) -> None:
        self.program = program
        self.pool = FairPool(
            program["workers"], idle_timeout=program["idle_timeout"], lend=program["lend"]
        )
        self.locks = [self.pool.lock(f"lock {i}") for i in range(LOCKS)]
        self.accounts = [Account() for _ in self.locks]
        self.entered: list[list[object]] = [[] for _ in self.locks]  # tokens of who was inside
        self.futures: list[Any] = []
        self.outcomes: Counter[str] = Counter()
        self.errors: list[BaseException] = []

    # Inside.

    def work(self, section: Section, token: object) -> None:
        for i in section.locks:
            self.accounts[i].enter()
            self.entered[i].append(token)
        try:
            if section.raises:
                raise Mishap
        finally:
            for i in section.locks:
                self.accounts[i].leave()

    async def work_slowly(self, section: Section, token: object) -> None:
        for i in section.locks:
            self.accounts[i].enter()
            self.entered[i].append(token)
        try:
            for _ in range(section.pauses):
                await (yield_now() if asyncio._get_running_loop() is None else asyncio.sleep(0))
            if section.raises:
                raise Mishap
        finally:
            for i in section.locks:
                self.accounts[i].leave()

    # Ways in.

    async def task(self, section: Section, token: object) -> None:
        if section.timed:
            async with timeout(0.001):
                await self.nested(section, token, 0)
        elif section.together:
            async with all_of(*(self.locks[i] for i in section.locks)):
                await self.work_slowly(section, token)
        else:
            await self.nested(section, token, 0)

    async def nested(self, section: Section, token: object, depth: int) -> None:
        if depth == len(section.locks):
            await self.work_slowly(section, token)
            return
        async with self.locks[section.locks[depth]]:
            await self.nested(section, token, depth + 1)

    def stack(self, section: Section, token: object) -> None:
        if section.together and not section.timed:
            with all_of(*(self.locks[i] for i in section.locks)):
                self.work(section, token)
            return
        taken: list[Lock] = []
        try:
            for i in section.locks:
                if not self.locks[i].acquire(timeout=0.001 if section.timed else -1):
                    raise TimeoutError
                taken.append(self.locks[i])
            self.work(section, token)
        finally:
            for lock in reversed(taken):
                lock.release()

    def submit(self, section: Section, token: object) -> Any:
        lock = self.locks[section.locks[0]]
        if section.way == "task":
            return self.pool.submit(self.task, section, token)
        if section.way == "stack":
            return self.pool.submit(self.stack, section, token)
        if section.way == "submit":
            return lock.submit(self.work, section, token)
        if section.way == "coroutine submit":
            return lock.submit(self.work_slowly, section, token)
        if section.way == "link":
            source = self.pool.submit(int)
            return source.then(lambda _: self.work(section, token), lock=lock)
        return None

    def client(self, sections: list[Section]) -> None:
        try:
            for section in sections:
                token = object()
                future = self.submit(section, token)
                if future is None:
                    self.account_for(section, token, lambda: self.directly(section, token))
                    continue
                self.futures.append(future)
                if section.cancelled:
                    future.cancel()
                self.account_for(section, token, lambda: future.result(TIMEOUT))
        except BaseException as error:
            self.errors.append(error)

    def directly(self, section: Section, token: object) -> None:
        if section.way == "thread":
            self.stack(section, token)
        else:
            asyncio.run(self.as_guest(section, token))

    async def as_guest(self, section: Section, token: object) -> None:
        body = asyncio.ensure_future(self.nested(section, token, 0))
        if section.cancelled:
            await asyncio.sleep(0)
            body.cancel()
        await body

    def account_for(self, section: Section, token: object, call: Callable[[], object]) -> None:
        """What the model says of one section."""
        try:
            call()
            outcome = "served"
        except Mishap:
            outcome = "raised"
        except TimeoutError:
            outcome = "timed out"
        except (CancelledError, concurrent.futures.CancelledError):
            outcome = "cancelled"
        times = [self.entered[i].count(token) for i in section.locks]
        assert outcome != "served" or not section.raises
        assert outcome != "raised" or section.raises
        assert outcome != "timed out" or section.timed
        assert outcome != "cancelled" or section.cancelled
        if outcome in ("served", "raised"):
            assert times == [1] * len(times)
        else:
            assert max(times) <= 1
        self.outcomes[outcome] += 1

    def run(self) -> None:
        threads = [
            threading.Thread(target=self.client, args=[client], daemon=True)
            for client in self.program["clients"]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive(), "hangs"
        if self.errors:
            raise self.errors[0]
        self.check()

    def check(self) -> None:
        assert all(future.done() for future in self.futures)
        for lock, account, entered in zip(self.locks, self.accounts, self.entered, strict=True):
            check_free(lock)
            assert account.total == len(entered)
            assert account.inside == 0
        self.pool.shutdown()
        assert not self.pool._scheduler.suspended
        assert not self.pool._scheduler.workers


@settings(
    max_examples=40,
    phases=[Phase.generate],  # a race that was lost once does not shrink
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(programs)
def run_some(program: dict[str, Any]) -> None:
    Run(program).run()


def test_programs_of_locks() -> None:
    end = time.monotonic() + SECONDS * 0.2
    run_some()
    while time.monotonic() < end:
        run_some()


def test_tickets_that_are_drawn_one_after_the_other(rounds: Iterator[int]) -> None:
    # A thread queues one after the other; whatever the workers do, they are served in that order.
    for number in rounds:
        with FairPool(1 + number % 4) as pool:
            lock = pool.lock()
            order: list[int] = []

            async def body(i: int, order: list[int] = order) -> None:
                order.append(i)
                if i % 7 == 0:
                    await yield_now()

            with lock:
                futures: list[Any] = []
                for i in range(100):
                    if i % 3 == 0:
                        futures.append(lock.submit(order.append, i))
                    elif i % 3 == 1:
                        futures.append(lock.submit(body, i))
                    else:
                        before = len(lock.queue)
                        futures.append(pool.submit(_enter, lock, order, i))
                        while len(lock.queue) == before:
                            time.sleep(0)
            for future in futures:
                future.result(TIMEOUT)
            assert order == [*range(100)]


async def _enter(lock: Lock, order: list[int], i: int) -> None:
    async with lock:
        order.append(i)
