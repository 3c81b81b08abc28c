"""A finalizer, or a signal handler, that waits for a lock on the thread that runs the lock's pass.

Foreign code may run between any two sections of a pass, and wait for the lock itself, or for what
needs it. It is served, or refused with `DeadlockError` where it interrupts a section's own steps.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import pytest
from kit import PATIENCE, TIMEOUT
from unit.instructions import Moment, Places, moments

import fairpool
from fairpool import DeadlockError, FairPool, Future
from fairpool._core.here import here
from fairpool._core.threads import yield_cpu

MakePool = Callable[..., FairPool]


def alone(lock: Any) -> None:
    """A section, which nobody else may be in."""
    inside = lock.inside
    inside.append(threading.get_ident())
    yield_cpu()
    overlaps = len(inside) != 1
    inside.pop()
    if overlaps:
        lock.overlaps.append(threading.get_ident())


# --- what the finalizer does ------------------------------------------------------------------


def enter(pool: FairPool, lock: Any) -> None:
    with lock:
        alone(lock)


def enter_in_time(pool: FairPool, lock: Any) -> None:
    if not lock.acquire(timeout=PATIENCE):
        raise TimeoutError
    alone(lock)
    lock.release()


def enter_twice(pool: FairPool, lock: Any) -> None:
    enter(pool, lock)
    enter(pool, lock)


def enter_another_first(pool: FairPool, lock: Any) -> None:
    with pool.lock():
        enter(pool, lock)


def enter_guarded(pool: FairPool, lock: Any) -> None:
    guarded: Any = object.__new__(fairpool.Guarded)
    guarded.lock, guarded._state, guarded._made = lock, [5], None
    with guarded as state:
        assert state == 5
        alone(lock)


def wait_inside(pool: FairPool, lock: Any) -> None:
    with lock:
        alone(lock)
        assert pool.submit(int).result() == 0
        alone(lock)


def submit(pool: FairPool, lock: Any) -> None:
    lock.submit(alone, lock).result()


def submit_in_time(pool: FairPool, lock: Any) -> None:
    lock.submit(alone, lock).result(PATIENCE)


def submit_and_wait(pool: FairPool, lock: Any) -> None:
    if futures.wait([lock.submit(alone, lock)], PATIENCE).not_done:
        raise TimeoutError


def wait_for_another_that_enters(pool: FairPool, lock: Any) -> None:
    with pool.lock():
        pool.submit(enter, pool, lock).result()


def block_on_another_that_enters(pool: FairPool, lock: Any) -> None:
    entered = threading.Event()
    pool.submit(enter, pool, lock).add_done_callback(lambda _: entered.set())
    with fairpool.blocking():
        if not entered.wait(PATIENCE):
            raise TimeoutError


def run_in_pool(pool: FairPool, lock: Any) -> None:
    async def main() -> None:
        async with lock:
            alone(lock)

    pool.run(main)


# What waits without a time-out, and so is refused where it waits for the section that it is in.
REFUSED: list[Callable[[FairPool, Any], None]] = [
    enter,
    enter_twice,
    enter_another_first,
    enter_guarded,
    wait_inside,
    submit,
    wait_for_another_that_enters,
]
FOREIGN = [
    *REFUSED,
    enter_in_time,
    submit_in_time,
    submit_and_wait,
    block_on_another_that_enters,
    run_in_pool,
]


# --- what waits for the pass ------------------------------------------------------------------


def queue_section(pool: FairPool, lock: Any) -> Any:
    return lock.submit(alone, lock)


def queue_failing_section(pool: FairPool, lock: Any) -> Any:
    def fail() -> None:
        alone(lock)
        raise ValueError

    return lock.submit(fail)


def queue_coroutine_section(pool: FairPool, lock: Any) -> Any:
    async def body() -> None:
        alone(lock)
        await fairpool.yield_now()
        alone(lock)

    return lock.submit(body)


def queue_link(pool: FairPool, lock: Any) -> Any:
    return pool.submit(int).then(lambda _: alone(lock), lock=lock)


def queue_task(pool: FairPool, lock: Any) -> Any:
    async def body() -> None:
        async with lock:
            alone(lock)

    return pool.submit(body)


def queue_stack(pool: FairPool, lock: Any) -> Any:
    return pool.submit(enter, pool, lock)


def queue_thread(pool: FairPool, lock: Any) -> Any:
    outcome: Future[None] = Future()

    def call() -> None:
        enter(pool, lock)
        outcome.set_result(None)

    threading.Thread(target=call).start()
    return outcome


def queue_external_waiter(pool: FairPool, lock: Any) -> Any:
    outcome: Future[None] = Future()

    async def main() -> None:
        async with lock:
            alone(lock)

    def call() -> None:
        asyncio.run(main())
        outcome.set_result(None)

    threading.Thread(target=call).start()
    return outcome


QUEUED: list[Callable[[FairPool, Any], Any]] = [
    queue_section,
    queue_failing_section,
    queue_coroutine_section,
    queue_link,
    queue_task,
    queue_stack,
    queue_thread,
    queue_external_waiter,
]


def run_pass(pool: FairPool, lock: Any, moment: Moment, foreign: Callable[[], None]) -> None:
    """Run a pass on the calling worker; at the moment, foreign code."""
    worker = here.worker
    outer = worker.item, worker.fn
    worker.forget()
    with moment.do(foreign):
        following = lock.run(worker)
    if following is not None:
        worker.requeue(following)
    worker.turn_to(*outer)


CASES = [
    *((foreign, queue_section, "ticket") for foreign in FOREIGN),
    *((enter, queue, "ticket") for queue in QUEUED[1:]),
    (enter, queue_section, "usage"),
    (submit, queue_task, "usage"),
]


@pytest.mark.parametrize(("foreign", "queue", "order"), CASES)
def test_at_whatever_moment_of_a_pass_a_finalizer_waits(
    foreign: Callable[[FairPool, Any], None],
    queue: Callable[[FairPool, Any], Any],
    order: str,
    make_pool: MakePool,
) -> None:
    pool = make_pool(3)
    for moment in moments(interrupts=True, places=Places()):
        lock: Any = pool.lock(order=order)
        lock.inside, lock.overlaps = [], []
        failed: list[BaseException] = []

        def act(
            lock: Any = lock,
            failed: list[BaseException] = failed,
        ) -> None:
            task, owner = here.worker.task, lock.owner
            if here.worker.item is None:
                return  # the pass has not begun, or has given the key away
            is_inside = owner is not None and owner.task is task and not task.done()
            chooses = getattr(lock.queue, "chooses", False)
            if (is_inside or chooses) and foreign not in REFUSED:
                return
            if chooses and foreign is wait_for_another_that_enters:
                return  # not seen through: see docs/protocols/combining.md
            try:
                foreign(pool, lock)
            except DeadlockError as error:
                if not is_inside and not chooses:
                    failed.append(error)
            except BaseException as error:
                failed.append(error)
            else:
                # A section that is a coroutine may have been ended by another worker meanwhile.
                if (is_inside or chooses) and not task.done():
                    failed.append(AssertionError("it has entered"))

        assert lock.key.acquire(False)
        queued = []
        for _ in range(2):
            count = len(lock.queue.items())
            queued.append(queue(pool, lock))
            while len(lock.queue.items()) == count:
                yield_cpu()
        pool.submit(run_pass, pool, lock, moment, act).result(TIMEOUT)
        for future in queued:
            future.exception(TIMEOUT)
        assert not failed, (moment, failed)
        assert lock.acquire(timeout=TIMEOUT), moment
        lock.release()
        assert not lock.locked(), moment
        assert not lock.overlaps, moment


# --- an initializer -------------------------------------------------------------------------------


def shut_down(pool: FairPool, lock: Any) -> None:
    lock.shutdown()


def enter_all(pool: FairPool, lock: Any) -> None:
    with fairpool.all_of(pool.lock(), lock):
        pass


@pytest.mark.parametrize("wait", [enter, enter_guarded, enter_all, submit, shut_down])
def test_an_initializer_does_not_wait_for_a_lock_of_its_pool(
    wait: Callable[[FairPool, Any], None], make_pool: MakePool
) -> None:
    # The coroutine that holds the lock needs the worker that is being initialized.
    errors: list[BaseException] = []
    wanted: list[Any] = []

    def initialize() -> None:
        try:
            for lock in wanted:
                wait(pool, lock)
        except DeadlockError as error:
            errors.append(error)

    async def hold(lock: Any) -> None:
        async with lock:
            await go_on

    pool = make_pool(1, idle_timeout=0, initializer=initialize)
    go_on: Future[None] = Future()
    lock: Any = pool.lock()
    lock.inside, lock.overlaps = [], []
    holder = pool.submit(hold, lock)
    # Not until it has left the list of workers: it looks again after that, and may come back.
    while not lock.locked() or not all(
        worker.ended.is_set() for worker in pool._scheduler.threads.copy()
    ):
        yield_cpu()
    wanted.append(lock)
    try:
        assert pool.submit(int).result(TIMEOUT) == 0
        assert "an initializer must not wait" in str(errors[0])
    finally:
        go_on.set_result(None)
    holder.result(TIMEOUT)
