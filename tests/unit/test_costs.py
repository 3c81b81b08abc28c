"""No operation costs more because of things that it has nothing to do with.

What an operation does is counted, not timed: the lines of Python that run in its thread, in a pool
with one such thing and in one with many. And what nobody uses any more is gone at once.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kit import TIMEOUT

import fairpool
import fairpool._core.accounts
import fairpool._scheduler.queues
from fairpool import FairPool
from fairpool._core.accounts import ABSENCE
from fairpool._core.here import here
from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import FREE_THREADED, monotonic_ns
from fairpool._scheduler.worker import Worker
from fairpool._tasks.request import Request

MANY = 1_000


class Lines:
    """Counts the lines that run on this thread."""

    def __init__(self) -> None:
        self.count = 0

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        self.count += event == "line"
        return self._trace

    @contextmanager
    def counted(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)


def lines_of(operation: Callable[[], object]) -> int:
    """The least of several runs: a step of others' may come between."""
    counts = []
    for _ in range(10):
        lines = Lines()
        with lines.counted():
            operation()
        counts.append(lines.count)
    return min(counts)


# --- things that an operation has nothing to do with ----------------------------------------------


def unused_locks(pool: FairPool, count: int) -> Any:
    return [pool.lock() for _ in range(count)]


def locks_out_of_use(pool: FairPool, count: int) -> Any:
    """Each was entered once."""
    locks = [pool.lock() for _ in range(count)]
    for lock in locks:
        with lock:
            pass
    return locks


def guarded_states(pool: FairPool, count: int) -> Any:
    return [pool.guarded([]) for _ in range(count)]


def usage_locks(pool: FairPool, count: int) -> Any:
    return [pool.lock(order="usage") for _ in range(count)]


def idle_shares(pool: FairPool, count: int) -> Any:
    return [pool.share(f"idle {number}") for number in range(count)]


def shares_out_of_use(pool: FairPool, count: int) -> Any:
    """Each has run a task."""
    shares = [pool.share(f"used {number}") for number in range(count)]
    for share in shares:
        share.submit(int)

    async def until_all_have_run() -> None:
        while pool._scheduler.has_work():
            await fairpool.yield_now()

    pool.run(until_all_have_run)
    return shares


def suspended_tasks(pool: FairPool, count: int) -> Any:
    event = fairpool.Event()
    futures = [pool.submit(event.wait) for _ in range(count)]
    while pool.statistics().suspended < count:
        pool.run(int)
    return event, futures


def timers(pool: FairPool, count: int) -> Any:
    futures = [pool.submit(fairpool.sleep, 3600) for _ in range(count)]
    while pool.statistics().suspended < count:
        pool.run(int)
    return futures


THINGS = [
    unused_locks,
    locks_out_of_use,
    guarded_states,
    usage_locks,
    idle_shares,
    shares_out_of_use,
    suspended_tasks,
    timers,
]


# --- operations -----------------------------------------------------------------------------------


def noop() -> None:
    pass


def submitting(pool: FairPool) -> Callable[[], object]:
    return lambda: pool.submit(noop)


def nested_result(pool: FairPool) -> Callable[[], object]:
    return lambda: pool.submit(noop).result()


def running(pool: FairPool) -> Callable[[], object]:
    return lambda: pool.run(noop)


def delegating(pool: FairPool) -> Callable[[], object]:
    lock = pool.lock()
    return lambda: lock.submit(noop)


def entering(pool: FairPool) -> Callable[[], object]:
    lock = pool.lock()

    def enter() -> None:
        with lock:
            pass

    return enter


def making_a_lock(pool: FairPool) -> Callable[[], object]:
    return lambda: pool.lock()


def making_a_share(pool: FairPool) -> Callable[[], object]:
    names = iter(range(1_000))
    return lambda: pool.share(f"new {next(names)}")


def submitting_to_a_share(pool: FairPool) -> Callable[[], object]:
    share = pool.share("this one")
    return lambda: share.submit(noop)


def looking_for_work(pool: FairPool) -> Callable[[], object]:
    return pool._scheduler.has_work


def eager_gather(pool: FairPool) -> Callable[[], object]:
    async def child() -> None:
        pass

    async def parent() -> None:
        await fairpool.gather(child(), child(), eager_start=True)

    return lambda: pool.run(parent)


def sleeping(pool: FairPool) -> Callable[[], object]:
    async def nap() -> None:
        async with fairpool.timeout(3600):
            await fairpool.sleep(0)

    return lambda: pool.run(nap)


OPERATIONS = [
    submitting,
    nested_result,
    running,
    delegating,
    entering,
    making_a_lock,
    making_a_share,
    submitting_to_a_share,
    looking_for_work,
    eager_gather,
    sleeping,
]


def cost(operation: Any, thing: Any, count: int) -> int:
    """Lines, in a pool without threads: so all that is done is done by this one."""
    pool = FairPool(max_workers=0)

    def measure() -> int:
        return lines_of(operation(pool))

    try:
        kept = thing(pool, count)
        # A nested `result` is one in a task.
        found: int = pool.run(measure) if operation is nested_result else measure()
        del kept
        return found
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        pool._scheduler.cancel_all()
        pool.shutdown()


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_does_not_look_at_what_it_does_not_use(operation: Any, thing: Any) -> None:
    few, many = cost(operation, thing, 1), cost(operation, thing, MANY)
    # Not one line for each thing; what differs is which way is taken through a queue.
    assert many - few < MANY // 10, (few, many)


# --- what is no longer used is gone ---------------------------------------------------------------


async def enter(lock: Any, count: int = 1) -> None:
    for _ in range(count):
        async with lock:
            await fairpool.yield_now()


def use_not(pool: FairPool, lock: Any) -> None:
    """It was made, and that is all."""


def use_by_tasks(pool: FairPool, lock: Any) -> None:
    for future in [pool.submit(enter, lock, 5) for _ in range(4)]:
        future.result(TIMEOUT)


def use_by_stack(pool: FairPool, lock: Any) -> None:
    with lock:
        pass


def use_by_delegation(pool: FairPool, lock: Any) -> None:
    for future in [lock.submit(lambda *state: None) for _ in range(4)]:
        future.result(TIMEOUT)


def use_by_chain(pool: FairPool, lock: Any) -> None:
    lock = lock.lock if isinstance(lock, fairpool.Guarded) else lock
    pool.submit(int).then(lambda _: None, lock=lock).result(TIMEOUT)


KINDS: dict[str, Callable[[FairPool], Any]] = {
    "ticket": lambda pool: pool.lock(),
    "guarded value": lambda pool: pool.guarded([]),
    "guarded factory": lambda pool: pool.guarded(list),
    "charging": lambda pool: pool.share("one") and pool.lock(),
    "usage": lambda pool: pool.lock(order="usage"),
    "strict": lambda pool: pool.lock(order="usage", strict=True),
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run_on_both_workers(pool: FairPool) -> None:
    """Let them merge reference counts.

    A free-threaded build leaves that to the thread that made an object (`_Py_brc_queue_object`): to
    a worker, say, which made the bound method of an `async with`, and parks. With the GIL the
    workers stay parked, so what one of them holds in its frames is found there.
    """
    together = threading.Barrier(2)
    for future in [pool.submit(together.wait, TIMEOUT) for _ in range(2)]:
        future.result(TIMEOUT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "use", [use_not, use_by_tasks, use_by_stack, use_by_delegation, use_by_chain]
)
def test_a_dropped_lock_does_not_wait_for_the_collector(
    no_collector: None, use: Any, kind: str
) -> None:
    with FairPool(2, idle_timeout=1e6) as pool:
        guard = KINDS[kind](pool)
        use(pool, guard)
        gone = weakref.ref(guard.lock if isinstance(guard, fairpool.Guarded) else guard)
        del guard
        # Not at once, but soon: a worker may have it in hand still, until it has parked.
        end = time.monotonic() + TIMEOUT
        no_lock = fairpool._scheduler.queues.no_lock
        while gone() is not None or pool._scheduler.locks - {no_lock}:
            assert time.monotonic() < end, gc.get_referrers(gone())
            time.sleep(0)
            if FREE_THREADED:
                run_on_both_workers(pool)
        assert not pool._scheduler.locks_in_use
        assert pool.statistics().locks == ()


def test_a_timeout_that_expires_leaves_nothing_to_the_collector(no_collector: None) -> None:
    async def too_long() -> Any:
        try:
            async with fairpool.timeout(0.001) as timeout:
                await fairpool.sleep(3600)
        except TimeoutError:
            pass
        return weakref.ref(timeout)

    with FairPool(2) as pool:
        blocks = [pool.submit(too_long).result(TIMEOUT) for _ in range(20)]
        end = time.monotonic() + TIMEOUT
        while any(block() is not None for block in blocks):
            assert time.monotonic() < end, "a cycle"
            time.sleep(0)


# --- what is looked at in the midst of an operation -----------------------------------------------


def charge_all(ledger: Any, pool: FairPool, count: int, now: int) -> None:
    """So many shares have used something, and were seen then."""
    for number in range(count):
        ledger.charge(ledger.find(pool.share(f"other {number}")._principal), 1, now)


def arriving(pool: FairPool, count: int, ago: int) -> Callable[[], object]:
    """A share comes after a long time."""
    share = pool.share("this one")
    ledger = pool._scheduler.shares.ledger
    account = ledger.find(share._principal)
    now = monotonic_ns()
    charge_all(ledger, pool, count, now - ago)

    def arrive() -> None:
        account.seen = now - 2 * ABSENCE
        ledger.arrive(account, now)

    return arrive


def entering_strictly(pool: FairPool, count: int, ago: int) -> Callable[[], object]:
    """A section of a strict lock, of a share that has used it more than the others have."""
    lock: Any = pool.lock(order="usage", strict=True)
    ledger = lock.queue.ledger
    now = monotonic_ns()
    charge_all(ledger, pool, count, now - ago)
    ledger.charge(ledger.find(None), 10**12, now)

    def enter() -> None:
        with lock:
            pass

    return enter


@pytest.mark.parametrize(
    ("operation", "ago"),
    [
        pytest.param(arriving, 2 * ABSENCE, id="arriving beside those that are absent"),
        pytest.param(arriving, 0, id="arriving beside those that are present"),
        pytest.param(entering_strictly, 2 * ABSENCE, id="entering a strict lock"),
    ],
)
def test_a_share_does_not_look_at_every_other_share(operation: Any, ago: int) -> None:
    counts = []
    for count in (1, MANY):
        with FairPool(max_workers=0) as pool:
            counts.append(lines_of(operation(pool, count, ago)))
    few, many = counts
    assert many - few < MANY // 10, (few, many)


def test_starting_a_worker_does_not_look_at_the_others() -> None:
    counts = []
    for count in (1, MANY):
        with FairPool(1) as pool:
            scheduler = pool._scheduler
            others = [Worker(scheduler, "one that blocks") for _ in range(count)]
            scheduler.threads.extend(others)
            counts.append(lines_of(lambda scheduler=scheduler: scheduler._start_worker([None])))
            for other in others:
                scheduler.forget_thread(other)
    few, many = counts
    assert many - few < MANY // 10, (few, many)


def test_publishing_does_not_look_at_waiters_that_cannot_help() -> None:
    def measure(pool: FairPool, count: int) -> int:
        lock: Any = pool.lock()
        here.worker.published.append(None)  # what somebody could be lent for
        for _ in range(count):
            RunQueue.append(lock.queue, Request())
        try:
            return lines_of(lock.recruit_helper)
        finally:
            lock.queue.clear()
            here.worker.published.clear()

    with FairPool(max_workers=0) as pool:
        few, many = (pool.run(measure, pool, count) for count in (1, MANY))
    assert many - few < MANY // 10, (few, many)


def test_a_share_that_comes_and_goes_is_not_written_down_each_time() -> None:
    class Counting(dict[Any, None]):
        writes = 0

        def __setitem__(self, key: Any, value: None) -> None:
            Counting.writes += 1
            super().__setitem__(key, value)

    with FairPool(max_workers=0) as pool:
        principal = pool.share("one")._principal
        shares = pool._scheduler.shares
        shares.active = Counting()
        for _ in range(100):
            principal.append(None)
            assert shares.choose() is principal
            principal.queue.take()
            assert shares.choose() is None
    assert Counting.writes < 10


def test_where_many_are_active_a_share_that_is_listed_again_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So each is taken out when it has nothing.
    monkeypatch.setattr(fairpool._core.accounts, "ACTIVE", 0)

    def submit_often(share: Any) -> None:
        for _ in range(300):
            assert share.submit(int).result(TIMEOUT) == 0

    with FairPool(2) as pool:
        threads = [
            threading.Thread(target=submit_often, args=(pool.share(f"share {number % 2}"),))
            for number in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pool.submit(int).result(TIMEOUT) == 0
