"""`World`: the pools, locks and counts that the parties of one round share, and what must hold."""

from __future__ import annotations

import random
import threading
import time
from asyncio import CancelledError
from collections import Counter
from concurrent.futures import CancelledError as StdCancelledError
from concurrent.futures import wait
from typing import Any

from kit import check_slots
from soak.faults import Faults

from fairpool import BrokenFairPool, FairPool, Future, Lock
from fairpool._core import waitgraph as waits_module

TIMEOUT = 90  # seconds, for what takes milliseconds
SLOW_SECTION = 0.002  # seconds


class Account:
    """What one lock guards: counted without any atomic operation."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock
        self.inside = 0
        self.total = 0
        self.numbers: list[int] = []  # that the sections took
        self.tokens: list[object] = []  # of the requests that were served

    def enter(self, token: object) -> None:
        assert self.inside == 0, "two are inside"
        self.inside += 1
        total = self.total
        for _ in range(3):
            total += 0
        self.total = total + 1
        self.numbers.append(total + 1)
        self.tokens.append(token)

    def leave(self) -> None:
        assert self.inside == 1, "two are inside"
        self.inside -= 1


class World:
    """One round: what there is, and what has been done."""

    def __init__(self, seed: str) -> None:
        chance = random.Random(seed)
        self.seed = seed
        # In every fourth round there are no workers but the parties.
        self.has_workers = chance.randrange(4) > 0
        self.pool = FairPool(
            chance.choice((1, 1, 2, 2, 3, 4, 8, 16)) if self.has_workers else 0,
            max_pending=chance.choice((None, None, 4, 100)) if self.has_workers else None,
            idle_timeout=chance.choice((0, 0.001, 1000)),
            lend=chance.choice((None, True)),
        )
        self.closes = chance.randrange(3) == 0  # in the midst of it
        self.shares = [self.pool.share(name, weight) for name, weight in (("one", 1), ("two", 3))]
        if chance.randrange(2):
            self.shares = []
        self.locks = [self.pool.lock() for _ in range(4)]
        self.locks += [self.pool.lock(order="usage"), self.pool.lock(order="usage", strict=True)]
        self.accounts = [Account(lock) for lock in self.locks]
        self.shelf = self.pool.guarded(dict)
        self.shelf_total: list[None] = []  # one for each that was put on the shelf
        self.faults = Faults(chance, self.pool)
        self.futures: list[Any] = []  # all that parties have got
        self.done: list[str] = []
        self.errors: list[BaseException] = []
        self.expected_calls: list[None] = []  # of callbacks
        self.calls: list[None] = []

    # --- what may happen -------------------------------------------------------------------------

    def excuses(self, error: BaseException) -> bool:
        """Whether this may come where nobody has asked for it."""
        if isinstance(error, (CancelledError, StdCancelledError)):
            return True  # parties cancel each other's futures
        if isinstance(error, BrokenFairPool):
            return False
        if isinstance(error, BaseExceptionGroup):
            return all(self.excuses(each) for each in error.exceptions)
        if isinstance(error, MemoryError):
            return self.faults.is_of(error)
        if isinstance(error, RuntimeError):
            text = str(error)
            if "takes no more tasks" in text:
                return True  # another child of the group was cut off, by one of the others here
            if "after shutdown" in text or "is closed" in text:
                return self.closes
            return bool(self.faults.starting) and (
                "can't start new thread" in text or "no worker could be started" in text
            )
        return False

    def keep(self, future: Any) -> Any:
        self.futures.append(future)
        return future

    def victim(self, chance: random.Random) -> Any:
        """Some future of the last ones; None at the beginning."""
        futures = self.futures
        return futures[-1 - chance.randrange(min(len(futures), 50))] if futures else None

    # --- the end -----------------------------------------------------------------------------

    def finish(self) -> None:
        """Let all of it end, and check what must hold then."""
        if self.has_workers:
            self._await_all()
        for lock in self.locks:
            self._check_free(lock)
        self.pool.shutdown()
        self._await_all()  # without workers: what the parties have left is run by `shutdown`
        for account in self.accounts:
            assert account.inside == 0
            assert len({*map(id, account.tokens)}) == account.total, "served more than once"
            assert sorted(account.numbers) == [*range(1, account.total + 1)], "two were inside"
            assert not account.lock.queue.items()
            assert not account.lock.locked()
        assert len(self.calls) == len(self.expected_calls), "callbacks: called too often, or not"
        scheduler = self.pool._scheduler
        parking = scheduler.parking
        check_slots(self.pool)
        assert not parking.searching
        assert not parking.parked
        assert not scheduler.workers
        assert not scheduler.suspended
        assert not scheduler.has_work()
        assert not [task for task in waits_module.waiting_tasks.copy() if task._pool is scheduler]
        self._check_threads(scheduler._prefix + "_")

    def _await_all(self) -> None:
        while any(not future.done() for future in self.futures.copy()):
            late = wait(self.futures.copy(), TIMEOUT).not_done
            assert not late, f"never final: {late}"

    def _check_free(self, lock: Lock) -> None:
        if not self.has_workers:
            return  # what needs a worker lies in the queue until `shutdown`
        assert lock.acquire(timeout=TIMEOUT), f"{lock!r} is not free"
        lock.release()

    @staticmethod
    def _check_threads(prefix: str) -> None:
        # A timer thread that nobody has joined (the pool was never waited for) ends by itself.
        end = time.monotonic() + TIMEOUT
        while left := [t for t in threading.enumerate() if t.name.startswith(prefix)]:
            assert time.monotonic() < end, f"threads are left: {left}"
            time.sleep(0.001)

    def counts(self) -> Counter[str]:
        return Counter(self.done)


def outcome(future: Future[Any]) -> str:
    if future.cancelled():
        return "cancelled"
    return "failed" if future.exception(0) is not None else "returned"
