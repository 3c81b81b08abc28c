"""How long a pool works: after its users have dropped it, and after the main thread has ended."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from kit import TIMEOUT, threads_of

import fairpool
from fairpool import FairPool
from fairpool._core.threads import yield_cpu

WORKERS = pytest.mark.parametrize("workers", [1, 2])


def drop(pools: list[FairPool]) -> Any:
    """Drop the only reference; return the scheduler, which knows of it by now."""
    scheduler = pools[0]._scheduler
    pools.clear()
    end = time.monotonic() + TIMEOUT
    while not scheduler.ending:  # a reference may be given back late, or lie in a cycle
        assert time.monotonic() < end, "something holds the pool"
        gc.collect()
        yield_cpu()
    return scheduler


def check_ended(scheduler: Any) -> None:
    """The pool has no thread any more: it does not take an idle time-out."""
    for worker in scheduler.threads.copy():
        worker.thread.join(TIMEOUT)
        assert not worker.thread.is_alive(), "a thread is left"
    assert not scheduler.workers
    assert scheduler.is_over()


async def echo(value: Any) -> Any:
    await fairpool.yield_now()
    return value


def fail() -> None:
    raise LookupError


# --- a dropped pool: what its tasks start ---------------------------------------------------------


async def creates_a_task() -> int:
    return await fairpool.create_task(echo(1))  # type: ignore[no-any-return]


async def gathers() -> int:
    return sum(await fairpool.gather(echo(1), fairpool.create_task(echo(0)), echo(0)))


async def gathers_eagerly() -> int:
    return sum(await fairpool.gather(echo(1), echo(0), eager_start=True))


async def has_a_group() -> int:
    async with fairpool.TaskGroup() as group:
        task = group.create_task(echo(1))
    return task.result()


async def sleeps() -> int:
    await fairpool.sleep(0.001)
    await fairpool.sleep(0.001)
    return await fairpool.create_task(echo(1))  # type: ignore[no-any-return]


async def has_a_time_out() -> int:
    try:
        async with fairpool.timeout(0.001):
            await fairpool.Event().wait()
    except TimeoutError:
        return 1
    return 0


async def chains() -> int:
    return await fairpool.create_task(echo(0)).then(lambda value: value + 1)


async def leaves_a_generator() -> int:
    closed = fairpool.Event()

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            await fairpool.yield_now()
            closed.set()

    numbers_left = numbers()
    number = await anext(numbers_left)
    del numbers_left
    while not closed.is_set():
        gc.collect()
        await fairpool.sleep(0.001)
    return number


@WORKERS
@pytest.mark.parametrize(
    "starts",
    [
        creates_a_task,
        gathers,
        gathers_eagerly,
        has_a_group,
        sleeps,
        has_a_time_out,
        chains,
        leaves_a_generator,
    ],
)
def test_a_dropped_pool_runs_what_its_tasks_start(
    starts: Callable[[], Any], workers: int, gate: threading.Event
) -> None:
    async def main() -> Any:
        gate.wait()
        return await starts()

    pools = [FairPool(workers, idle_timeout=1000)]
    future = pools[0].submit(main)
    scheduler = drop(pools)
    gate.set()
    assert future.result(TIMEOUT) == 1
    check_ended(scheduler)


# --- a dropped pool: what those start that hold something of it -----------------------------------


def chain_then(future: Any, lock: Any, state: Any) -> Any:
    return future.then(lambda value: value + 1).result(TIMEOUT)


def chain_catch(future: Any, lock: Any, state: Any) -> Any:
    return future.then(lambda _: fail()).catch(lambda _: 1).result(TIMEOUT)


def chain_finally(future: Any, lock: Any, state: Any) -> Any:
    called: list[int] = []
    future.finally_(lambda: called.append(1)).result(TIMEOUT)
    return len(called)


def chain_to_a_coroutine(future: Any, lock: Any, state: Any) -> Any:
    return future.then(lambda _: echo(1)).result(TIMEOUT)


def submit_to_the_lock(future: Any, lock: Any, state: Any) -> Any:
    return lock.submit(int, 1).result(TIMEOUT)


def map_in_the_lock(future: Any, lock: Any, state: Any) -> Any:
    return sum(lock.map(int, [1, 0]))


def chain_a_section(future: Any, lock: Any, state: Any) -> Any:
    return lock.submit(int).then(lambda _: echo(1)).result(TIMEOUT)


def enter_the_lock(future: Any, lock: Any, state: Any) -> Any:
    with lock:
        section = lock.submit(int, 1)
    return section.result(TIMEOUT)


def submit_to_the_state(future: Any, lock: Any, state: Any) -> Any:
    return state.submit(len).result(TIMEOUT)


def enter_the_state(future: Any, lock: Any, state: Any) -> Any:
    with state as value:
        return len(value)


def enter_the_lock_in_asyncio(future: Any, lock: Any, state: Any) -> Any:
    async def client() -> int:
        async with lock:
            return 1

    async def clients() -> int:
        return sum(await asyncio.gather(client(), client())) // 2

    return asyncio.run(clients())


def enter_the_lock_in_another_pool(future: Any, lock: Any, state: Any) -> Any:
    async def client() -> int:
        async with lock:
            await fairpool.yield_now()
            return 1

    return fairpool.run(client(), max_workers=1)


@WORKERS
@pytest.mark.parametrize("when", ["running", "over"])
@pytest.mark.parametrize(
    "start",
    [
        chain_then,
        chain_catch,
        chain_finally,
        chain_to_a_coroutine,
        submit_to_the_lock,
        map_in_the_lock,
        chain_a_section,
        enter_the_lock,
        submit_to_the_state,
        enter_the_state,
        enter_the_lock_in_asyncio,
        enter_the_lock_in_another_pool,
    ],
)
def test_what_is_held_of_a_dropped_pool_can_be_used(
    start: Callable[..., Any], when: str, workers: int, gate: threading.Event
) -> None:
    """Also when its threads have ended: one is started again, and ends again."""
    pools = [FairPool(workers, idle_timeout=1000)]
    future = pools[0].submit(gate.wait)
    future = future.then(lambda _: 0)
    lock, state = pools[0].lock(), pools[0].guarded([0])
    scheduler = drop(pools)
    gate.set()
    if when == "over":
        check_ended(scheduler)
    assert start(future, lock, state) == 1
    check_ended(scheduler)


@WORKERS
@pytest.mark.parametrize("view", ["pool", "share", "map", "map of a share"])
def test_what_a_view_of_a_pool_starts_keeps_it_going(view: str, workers: int) -> None:
    """A share is a view of the pool, and an iterator submits as it goes."""
    pools = [FairPool(workers, idle_timeout=1000)]
    source: Any = pools[0] if "share" not in view else pools[0].share("a", 2)
    if "map" in view:
        results = source.map(int, range(5), buffersize=1)
        del source
        scheduler = pools.pop()._scheduler
        gc.collect()
        assert list(results) == [0, 1, 2, 3, 4]
        del results
    else:
        scheduler = pools.pop()._scheduler
        gc.collect()
        assert source.submit(int, 1).result(TIMEOUT) == 1
        del source
    end = time.monotonic() + TIMEOUT
    while not scheduler.ending:
        assert time.monotonic() < end
        gc.collect()
    check_ended(scheduler)


def test_a_dropped_executor_of_an_asyncio_loop() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(FairPool(1), int, "7")

    assert asyncio.run(main()) == 7


@WORKERS
def test_a_pool_that_is_dropped_while_it_is_idle_has_no_thread(workers: int) -> None:
    pools = [FairPool(workers, idle_timeout=1000)]
    pools[0].submit(int).result(TIMEOUT)
    threads = threads_of(pools[0])
    check_ended(drop(pools))
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pool_that_goes_in_a_cycle_leaves_no_timer_thread(workers: int) -> None:
    async def main() -> None:
        async with fairpool.timeout(3600):
            # Else it may be cancelled before its thread has seen it, and the thread ends at once.
            while not owners[0].pool._scheduler.timers._heap:
                await fairpool.yield_now()

    class Owner:
        def __init__(self) -> None:
            self.pool = FairPool(workers, idle_timeout=0)
            self.pool.owner = self  # type: ignore[attr-defined]

    owners = [Owner()]
    pool, scheduler = owners[0].pool, weakref.ref(owners[0].pool._scheduler)
    if workers:
        pool.submit(main).result(TIMEOUT)
    else:
        pool.run(main)
    timers = pool._scheduler.timers.threads()
    assert timers
    for thread in {*threads_of(pool)}.difference(timers):
        thread.join(TIMEOUT)
    del pool
    owners.clear()
    end = time.monotonic() + TIMEOUT
    while scheduler() is not None:
        assert time.monotonic() < end, "something holds the pool"
        gc.collect()
        yield_cpu()
    for thread in timers:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_a_dropped_pool_that_is_bounded(gate: threading.Event) -> None:
    """What waits for room gets it: nobody has closed the pool."""
    pools = [FairPool(1, idle_timeout=1000, max_pending=1)]
    lock = pools[0].lock()
    first = pools[0].submit(gate.wait)
    scheduler = drop(pools)
    sections = [lock.submit(int, 1) for _ in range(3)]
    gate.set()
    assert first.result(TIMEOUT)
    assert [section.result(TIMEOUT) for section in sections] == [1] * 3
    check_ended(scheduler)


# --- after the end of the main thread -------------------------------------------------------------


def run_thread(body: str, before: str = "") -> str:
    """What a non-daemon thread prints that does this when the main thread has ended."""
    program = f"""
import asyncio, threading
main_has_ended = threading.Event()
threading._register_atexit(main_has_ended.set)  # before any other one: it is called last
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
import fairpool
from fairpool import FairPool

pool = FairPool(2)
callers = FairPool(0)
lock = pool.lock()

async def echo(value):
    await fairpool.sleep(0.01)
    return value

async def main():
    main_has_ended.wait()
    await fairpool.sleep(0.01)
    return sum(await fairpool.gather(echo(1), echo(2)))

def thread():
    main_has_ended.wait()
{textwrap.indent(textwrap.dedent(body), "    ")}
{textwrap.dedent(before)}
threading.Thread(target=thread).start()
"""
    done = subprocess.run(
        [sys.executable, "-P", "-X", "faulthandler", "-c", program],
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(fairpool.__file__))},
    )
    assert (done.stderr, done.returncode) == ("", 0), done.stdout
    return done.stdout


@pytest.mark.parametrize(
    "body",
    [
        "print(fairpool.run(main()))",
        "print(pool.run(main))",
        "print(callers.run(main))",
        "print(pool.submit(main).result())",
        "print(pool.submit(int, 3).result())",
        "print(FairPool(2).submit(main).result())",
        "print(FairPool(2).submit(int, 2).then(lambda value: value + 1).result())",
        "print(sum(pool.map(int, [1, 2])))",
        "print(len(wait([pool.submit(main) for _ in range(3)]).done))",
        "print(sum(each.result() for each in as_completed([pool.submit(echo, 3)])))",
        "with lock: print(3)",
        "print(lock.submit(int, 3).result())",
        "print(pool.guarded([0] * 3).submit(len).result())",
        "print(pool.share('a', 2).submit(main).result())",
        """
        with FairPool(1) as other:
            future = other.submit(echo, 3)
        print(future.result())
        """,
        """
        async def in_asyncio():
            loop = asyncio.get_running_loop()
            async with lock:
                assert await loop.run_in_executor(pool, int, 3) == 3
            return await pool.submit(main)
        print(asyncio.run(in_asyncio()))
        """,
        """
        this = threading.current_thread()
        def another():
            this.join()
            print(pool.submit(main).result())
        threading.Thread(target=another).start()
        """,
    ],
)
def test_the_pools_go_on_for_a_thread_that_outlives_the_main_thread(body: str) -> None:
    assert run_thread(body) == "3\n"


@pytest.mark.parametrize(
    "wait_for", ["future.result()", "callers.run(main)", "fairpool.run(main())"]
)
def test_what_a_thread_waits_for_when_the_main_thread_ends_is_finished(wait_for: str) -> None:
    program = f"""
    future = pool.submit(main)
    def waiting():
        print({wait_for})
    threading.Thread(target=waiting).start()
    """
    assert run_thread("pass", before=program) == "3\n"


def test_what_a_thread_of_another_executor_waits_for_is_finished() -> None:
    """The other executor's threads are told to end by a hook of its own, perhaps after ours."""
    program = """
    begin = threading.Event()
    threading._register_atexit(begin.set)
    def waiting():
        begin.wait()
        print(pool.submit(echo, 1).result() + fairpool.run(echo(2)))
    executor = ThreadPoolExecutor(1)
    executor.submit(waiting)
    """
    assert run_thread("pass", before=program) == "3\n"


def test_what_is_suspended_is_cancelled_when_the_last_thread_has_ended() -> None:
    program = """
    order = []
    async def for_ever():
        try:
            await fairpool.Event().wait()
        finally:
            print(order)
    left = pool.submit(for_ever)
    started = pool.submit(echo, 1).result()
    """
    body = """
    fairpool.run(main())
    order.append("thread")
    """
    assert run_thread(body, before=program) == "['thread']\n"


JOINED = """
joined = threading.Event()
class Thread(threading.Thread):
    pass
def join(self, timeout=None, join=threading.Thread.join):
    try:
        join(self, timeout if type(self) is not Thread else 0)
    finally:
        if type(self) is Thread:
            joined.set()
threading.Thread.join = join
"""


def test_a_thread_that_is_just_being_started_is_waited_for() -> None:
    program = """
    class Thread(Thread):
        def _bootstrap(self):
            joined.wait()
            super()._bootstrap()
    slow = Thread(target=lambda: print(pool.submit(echo, 3).result()), daemon=False)
    threading.Thread(target=slow.start, daemon=True).start()
    while slow not in threading.enumerate():
        pass
    async def for_ever():
        await fairpool.Event().wait()
    left = pool.submit(for_ever)
    """
    assert run_thread("pass", before=JOINED + textwrap.dedent(program)) == "3\n"


@pytest.mark.parametrize(
    "method",
    [
        "def join(self, timeout=None): pool.shutdown(); super().join(timeout)",
        "def __eq__(self, other): return True",
    ],
)
def test_nothing_is_asked_of_the_class_of_a_thread(method: str) -> None:
    """`Thread.join`, say, is what tells many a thread to stop."""
    program = f"""
    class Thread(Thread):
        __hash__ = threading.Thread.__hash__
        {method}
        def run(self):
            main_has_ended.wait()
            joined.wait()
            print(pool.submit(echo, 3).result())
    thread_of_a_class = Thread()
    thread_of_a_class.start()
    """
    assert run_thread("pass", before=JOINED + textwrap.dedent(program)) == "3\n"


def test_a_daemon_does_not_keep_the_program() -> None:
    program = """
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    async def for_ever():
        await fairpool.Event().wait()
    left = pool.submit(for_ever)
    """
    assert run_thread("print(3)", before=program) == "3\n"


def test_it_is_refused_after_the_last_thread() -> None:
    program = """
    import atexit
    @atexit.register
    def late():
        try:
            pool.submit(int)
        except RuntimeError as error:
            print(error)
    """
    out = run_thread("print(pool.submit(int, 3).result())", before=program)
    assert out == "3\ncannot schedule new futures after interpreter shutdown\n"
