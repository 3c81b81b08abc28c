"""A matrix of clients and ways in: ten locks in turn, every third section raises.

In the manner of the tests of folly's DistributedMutex. Each client goes through all of the locks.
Each of its sections gets a parcel of its own, and takes a number from the lock's account, which is
counted without any atomic operation. So at the end it is known of each lock that no two were
inside at once, that the numbers given are 1, 2, 3, … with none missing and none twice, that what a
section has returned or raised has reached the one whose section it was, and that of all the
parcels none is left.
"""

from __future__ import annotations

import concurrent.futures
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit import TIMEOUT, check_free, check_whole
from stress.conftest import run_all

from fairpool import CancelledError, FairPool, Lock, timeout, yield_now

pytestmark = pytest.mark.stress

LOCKS = 10
PATIENCE = 0.0005  # seconds, of those that give up


class Parcel:
    """What one section is given; counts how many are made, and how many are gone."""

    __slots__ = ("gone", "number", "times")

    def __init__(self, made: list[None], gone: list[None]) -> None:
        made.append(None)
        self.gone = gone
        self.number = 0  # that the account has given it
        self.times = 0  # it was inside

    def __del__(self) -> None:
        self.gone.append(None)


class ParcelMishap(Exception):
    def __init__(self, parcel: Parcel) -> None:
        super().__init__(parcel)
        self.parcel = parcel


class Account:
    """What one lock guards."""

    def __init__(self) -> None:
        self.inside = 0
        self.total = 0

    def enter(self, parcel: Parcel) -> None:
        assert self.inside == 0, "two are inside"
        self.inside += 1
        total = self.total
        for _ in range(3):
            total += 0
        self.total = parcel.number = total + 1
        parcel.times += 1

    def leave(self) -> None:
        assert self.inside == 1, "two are inside"
        self.inside -= 1


def section(account: Account, parcel: Parcel) -> Parcel:
    account.enter(parcel)
    try:
        return outcome(parcel)
    finally:
        account.leave()


async def section_that_pauses(account: Account, parcel: Parcel) -> Parcel:
    account.enter(parcel)
    try:
        await yield_now()
        return outcome(parcel)
    finally:
        account.leave()


def outcome(parcel: Parcel) -> Parcel:
    if parcel.number % 3 == 0:
        raise ParcelMishap(parcel)
    return parcel


# --- ways in --------------------------------------------------------------------------------------
# Each returns what the section returns, raises what it raises, or raises that it was given up.

Way = Callable[[FairPool, Lock, Account, Parcel], Any]


def delegated(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    return lock.submit(section, account, parcel).result(TIMEOUT)


def delegated_coroutine(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    return lock.submit(section_that_pauses, account, parcel).result(TIMEOUT)


def link(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    # Not the source's result: that would be the parcel's, too.
    return pool.submit(int).then(lambda _: section(account, parcel), lock=lock).result(TIMEOUT)


def task(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    return pool.submit(enter_as_task, lock, account, parcel, section).result(TIMEOUT)


def task_that_pauses(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    return pool.submit(enter_as_task, lock, account, parcel, section_that_pauses).result(TIMEOUT)


async def enter_as_task(lock: Lock, account: Account, parcel: Parcel, body: Any) -> Any:
    async with lock:
        result = body(account, parcel)
        return result if isinstance(result, Parcel) else await result


def thread(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    with lock:
        return section(account, parcel)


def worker(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    return pool.submit(thread, pool, lock, account, parcel).result(TIMEOUT)


def timed_thread(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    if not lock.acquire(timeout=PATIENCE):
        raise TimeoutError
    try:
        return section(account, parcel)
    finally:
        lock.release()


def timed_worker(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    return pool.submit(timed_thread, pool, lock, account, parcel).result(TIMEOUT)


def timed_task(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    async def body() -> Any:
        async with timeout(PATIENCE):
            return await enter_as_task(lock, account, parcel, section)

    return pool.submit(body).result(TIMEOUT)


def cancelled_task(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    future = pool.submit(enter_as_task, lock, account, parcel, section_that_pauses)
    future.cancel()
    return future.result(TIMEOUT)


def cancelled_delegation(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    future = lock.submit(section, account, parcel)
    future.cancel()
    return future.result(TIMEOUT)


def cancelled_link(pool: FairPool, lock: Lock, account: Account, parcel: Parcel) -> Any:
    future = pool.submit(int).then(lambda _: section(account, parcel), lock=lock)
    future.cancel()
    return future.result(TIMEOUT)


COMBINED: list[Way] = [delegated, delegated_coroutine, link]
PLAIN: list[Way] = [thread, worker]
AWAITED: list[Way] = [task, task_that_pauses]
GIVEN_UP: list[Way] = [
    timed_thread,
    timed_worker,
    timed_task,
    cancelled_task,
    cancelled_delegation,
    cancelled_link,
]
WAYS = {
    "combined": COMBINED,
    "plain": PLAIN,
    "async with": AWAITED,
    "mixed": COMBINED + GIVEN_UP[:2] + PLAIN + GIVEN_UP[2:4] + AWAITED + GIVEN_UP[4:],
}


class Client:
    """A thread that goes through all of the locks."""

    def __init__(self, number: int, ways: list[Way]) -> None:
        self.number = number
        self.ways = ways
        self.numbers: list[list[int]] = [[] for _ in range(LOCKS)]  # that it got, of each lock

    def run(self, pool: FairPool, locks: list[Lock], accounts: list[Account], tally: Any) -> None:
        for turn in range(LOCKS):
            place = (self.number + turn) % LOCKS
            way = self.ways[(self.number + turn) % len(self.ways)]
            parcel = Parcel(*tally)
            came_back = None
            raised = False
            try:
                came_back = way(pool, locks[place], accounts[place], parcel)
            except ParcelMishap as mishap:
                came_back = mishap.parcel
                raised = True
            except (TimeoutError, CancelledError, concurrent.futures.CancelledError):
                assert way in GIVEN_UP
                assert parcel.times <= 1
            else:
                assert came_back is not None
            if came_back is not None:
                assert came_back is parcel, "somebody else's"
                assert parcel.times == 1
                assert raised == (parcel.number % 3 == 0)
            if parcel.times:
                self.numbers[place].append(parcel.number)


@pytest.mark.parametrize("clients", [2, 8, 32, 100])
@pytest.mark.parametrize("ways", WAYS)
def test_matrix(ways: str, clients: int, rounds: Iterator[int]) -> None:
    made: list[None] = []
    gone: list[None] = []
    for number in rounds:
        # With such an idle time-out, no lost wake-up is made good.
        pool = FairPool(1 + number % 4, idle_timeout=1000, lend=number % 3 > 0)
        locks = [pool.lock() for _ in range(LOCKS)]
        accounts = [Account() for _ in locks]
        crowd = [Client(client, WAYS[ways]) for client in range(clients)]
        run_all(*(lambda one=one: one.run(pool, locks, accounts, (made, gone)) for one in crowd))
        for place, (lock, account) in enumerate(zip(locks, accounts, strict=True)):
            check_free(lock)
            assert account.inside == 0
            numbers = sorted(n for client in crowd for n in client.numbers[place])
            assert numbers == [*range(1, account.total + 1)]
            if ways != "mixed":
                assert account.total == clients
        check_whole(pool, TIMEOUT)
    # Not after each round: on a free-threaded build, objects wait for the thread that made them.
    gc.collect()
    assert len(gone) == len(made)
