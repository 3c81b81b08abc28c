"""Joined callers: threads of the user's that work for a pool for a while.

The meetings of two or three threads are in `tests/interleave/scenarios.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, as_completed, wait
from functools import partial
from typing import Any

import pytest
from kit import LONG, TIMEOUT, check_whole, in_time, occupy, until
from unit.instructions import PACKAGE, Places, moments

import fairpool
import fairpool._core.here
import fairpool._locks.combiner
import fairpool._scheduler.process
import fairpool._scheduler.scheduler
from fairpool import FairPool
from fairpool._core.here import here
from fairpool._core.threads import yield_cpu
from fairpool._locks.waiters import ThreadWaiter

WORKERS = pytest.mark.parametrize("workers", [0, 2])


async def echo(value: Any, steps: int = 1) -> Any:
    for _ in range(steps):
        await fairpool.yield_now()
    return value


def in_threads(*functions: Callable[[], object]) -> None:
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "hangs"


# --- run ------------------------------------------------------------------------------------------


@WORKERS
def test_function_and_coroutine_function(workers: int, make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(workers)
    assert pool.run(pow, 2, 10) == 1024
    assert pool.run(int, "ff", base=16) == 255
    assert pool.run(echo, "x") == "x"
    assert here.worker is None


@WORKERS
def test_raises_what_the_task_raises(workers: int, make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(workers)

    async def fail() -> None:
        await fairpool.yield_now()
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        pool.run(fail)
    with pytest.raises(ValueError, match="invalid literal"):
        pool.run(int, "x")
    assert pool.run(int) == 0


def test_wrong_arguments(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(0)
    with pytest.raises(TypeError, match=r"run.*callable.*3"):
        pool.run(3)  # type: ignore[arg-type]
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.run(int)


def test_no_thread_is_started(make_pool: Callable[..., FairPool]) -> None:
    """With `max_workers=0` everything runs on the callers' threads."""
    pool = make_pool(0)
    before = threading.active_count()
    futures = [pool.submit(threading.current_thread) for _ in range(3)]
    assert not any(future.done() for future in futures)
    assert pool.run(threading.current_thread) is threading.current_thread()
    assert {future.result() for future in futures} == {threading.current_thread()}
    assert threading.active_count() == before


def test_what_was_queued_is_run_first(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(0)
    order: list[int] = []
    for i in range(3):
        pool.submit(order.append, i)
    pool.run(order.append, 3)
    assert order == [0, 1, 2, 3]


def test_caller_takes_part(make_pool: Callable[..., FairPool], gate: threading.Event) -> None:
    """On a pool with workers, all of them busy, the caller runs what is queued."""
    pool = make_pool(1)
    occupy(pool, gate)
    queued = pool.submit(threading.get_ident)
    assert pool.run(threading.get_ident) == queued.result(TIMEOUT) == threading.get_ident()


def test_caller_waits_for_its_task_elsewhere(make_pool: Callable[..., FairPool]) -> None:
    """Two callers that need each other's threads at the same time both run."""
    pool = make_pool(0)
    barrier = threading.Barrier(2)
    in_threads(*[lambda: pool.run(barrier.wait, TIMEOUT)] * 2)


def test_more_callers_than_processors(make_pool: Callable[..., FairPool]) -> None:
    """Each caller runs its own function, as its thread would have: however many others block."""
    pool = make_pool(0)
    barrier = threading.Barrier(20)
    in_threads(*[lambda: pool.run(barrier.wait, TIMEOUT)] * 20)


@WORKERS
def test_run_in_a_task(workers: int, make_pool: Callable[..., FairPool]) -> None:
    """In a task of the pool it is `submit(...).result()`, whatever the depth."""
    pool = make_pool(workers)

    def nested(depth: int) -> int:
        return depth and 1 + pool.run(nested, depth - 1)

    assert in_time(lambda: pool.run(nested, 30)) == 30


def test_run_in_a_task_of_another_pool(make_pool: Callable[..., FairPool]) -> None:
    outer, inner = make_pool(1), make_pool(0)

    def task() -> list[Any]:
        worker = here.worker
        return [inner.run(echo, 1), inner.run(lambda: here.worker) is worker, here.worker is worker]

    assert outer.submit(task).result(TIMEOUT) == [1, False, True]


def test_run_in_an_asyncio_loop(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(0)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="asyncio loop"):
            pool.run(int)

    asyncio.run(main())


def test_run_inside_a_section(make_pool: Callable[..., FairPool]) -> None:
    """Nobody else's work is run on a stack that is inside a critical section."""
    pool = make_pool(0)
    with pool.lock(), pytest.raises(RuntimeError, match="inside a critical section"):
        pool.run(int)
    assert pool.run(int) == 0


def test_caller_of_a_pool_with_an_initializer(make_pool: Callable[..., FairPool]) -> None:
    """What needs an initialized thread is not run on one that is not."""
    seen: list[int] = []
    pool = make_pool(1, initializer=lambda: seen.append(threading.get_ident()))
    assert pool.run(threading.get_ident) in seen
    assert threading.get_ident() not in seen


# --- waiting in a caller --------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED", "each"])
@pytest.mark.parametrize("timeout", [None, TIMEOUT])
def test_the_only_caller_works_while_it_waits_for_any_of_several(
    timeout: float | None, when: str, make_pool: Callable[..., FairPool]
) -> None:
    pool = make_pool(0)

    def waits() -> list[Any]:
        futures: list[Any] = [
            pool.submit(echo, 1, 5).then(str),  # nothing of it can be run on top of this
            pool.submit(echo, 2, 5).then(str),
        ]
        if when == "each":
            return sorted(each.result(0) for each in as_completed(futures, timeout))
        done, _ = wait(futures, timeout, when)
        return sorted(each.result(0) for each in done) if len(done) == 2 else ["1", "2"]

    results: list[Any] = []
    in_threads(lambda: results.extend(pool.run(waits)))
    assert results == ["1", "2"]


def test_the_only_caller_waits_no_longer_than_it_was_told(
    make_pool: Callable[..., FairPool],
) -> None:
    pool = make_pool(0)
    never: Any = fairpool.Future()
    pair = [pool.submit(int).then(str), never]
    results: list[Any] = []
    in_threads(lambda: results.extend(pool.run(wait, pair, 0.05)))
    assert [len(each) for each in results] == [1, 1]


def test_only_caller_waits(make_pool: Callable[..., FairPool]) -> None:
    """The only thread of the pool waits for a coroutine that has been started."""
    pool = make_pool(0)

    def parent() -> list[int]:
        futures = [pool.submit(echo, i, 5) for i in range(3)]
        return [future.result() for future in futures]

    assert in_time(lambda: pool.run(parent)) == [0, 1, 2]


def test_only_caller_waits_with_a_timeout(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(0)

    def parent() -> str:
        future = pool.submit(fairpool.Event().wait)
        try:
            future.result(0.01)
        except TimeoutError:
            future.cancel()
            with pytest.raises(CancelledError):
                future.result()
            return "late"
        return "in time"

    assert in_time(lambda: pool.run(parent)) == "late"


def test_a_cycle_of_waits_raises(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(0)
    futures: list[Any] = []

    async def one() -> None:
        while len(futures) < 2:
            await fairpool.yield_now()
        await futures[1]

    async def other() -> None:
        await futures[0]

    futures.append(pool.submit(one))
    futures.append(pool.submit(other))
    in_time(lambda: pool.run(wait, futures))
    assert any(isinstance(future.exception(), fairpool.DeadlockError) for future in futures)


# --- leaving --------------------------------------------------------------------------------------


def test_caller_leaves_in_the_middle_of_a_pass(
    make_pool: Callable[..., FairPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One caller serves a lock. Its own task ends elsewhere meanwhile: it hands the lock on."""
    pool = make_pool(0)
    lock = pool.lock()
    served: list[tuple[int, int]] = []
    gone = threading.Event()
    came = threading.Event()

    async def own() -> None:
        async with lock:
            pass
        await fairpool.yield_now()

    def section(i: int) -> None:
        # The first is run by `caller`, whose own task is ended by another thread meanwhile.
        if i == 0:
            came.set()
            assert ended.wait(TIMEOUT)
        served.append((i, threading.get_ident()))

    ended = threading.Event()
    sections = [lock.submit(section, i) for i in range(5)]
    event = fairpool.Event()
    idents: list[int] = []

    def call() -> None:
        idents.append(threading.get_ident())
        pool.run(event.wait)
        gone.set()

    def end() -> None:
        assert came.wait(TIMEOUT)
        event.set()
        pool.run(int)  # runs what the event has woken
        ended.set()

    in_threads(call, end)
    assert gone.is_set()
    assert [i for i, _ in served][:1] == [0]
    assert (0, idents[0]) in served
    assert len([i for i, ident in served if ident == idents[0]]) < 5, "it stayed to the end"
    pool.shutdown()
    assert [i for i, _ in served] == [0, 1, 2, 3, 4]
    assert all(section.done() for section in sections)


def test_the_rest_is_run_by_shutdown(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(0)
    lock = pool.lock()
    futures = [pool.submit(echo, 1), lock.submit(int), pool.submit(int).then(echo)]
    futures.append(pool.submit(fairpool.sleep, 0.01))
    in_time(pool.shutdown)
    assert all(future.done() for future in futures)


def test_the_rest_is_cancelled_by_shutdown(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(0)
    futures = [pool.submit(echo, 1), pool.lock().submit(int)]
    in_time(lambda: pool.shutdown(cancel_futures=True))
    assert all(future.cancelled() for future in futures)


def test_the_rest_is_run_by_a_later_shutdown(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(0)
    future = pool.submit(echo, 1)
    pool.shutdown(wait=False)
    assert not future.done()
    pool.shutdown()
    assert future.result() == 1


def test_shutdown_waits_for_callers(make_pool: Callable[..., FairPool]) -> None:
    """`shutdown` returns when the callers' tasks have ended, too."""
    pool = make_pool(0)
    started = threading.Event()
    ended: list[int] = []

    def task() -> None:
        started.set()
        while pool._scheduler.is_open():
            yield_cpu()
        ended.append(1)

    def shut_down() -> None:
        assert started.wait(TIMEOUT)
        pool.shutdown()
        assert ended == [1]

    in_threads(lambda: pool.run(task), shut_down)


PROGRAM = """
import fairpool
pool = fairpool.FairPool(0)
future = pool.submit(print, "ran", flush=True)
{}
"""


@pytest.mark.parametrize("end", ["", "pool.shutdown(wait=False)", "del pool"])
def test_the_rest_is_run_at_exit(end: str) -> None:
    """What no caller has come for is run when the main thread has ended."""
    command = [sys.executable, "-c", PROGRAM.format(end)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


def ends_with_7(child: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork_in_a_caller(make_pool: Callable[..., FairPool]) -> None:
    """The child does not go on working for a pool that is in the parent."""
    pool = make_pool(0)
    parent = os.getpid()
    queued: list[int] = []

    def fork() -> int:
        pool.submit(queued.append, 1)
        return os.fork()

    child = -1
    try:
        child = pool.run(fork)
        if child == 0:
            assert not queued
            with pytest.raises(fairpool.BrokenFairPool):
                pool.run(int)
            os._exit(7)
    finally:
        if os.getpid() != parent:
            os._exit(8)
    ends_with_7(child)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.thread_unsafe(reason="signals are the main thread's")
def test_a_signal_in_a_child_that_others_have_forked(make_pool: Callable[..., FairPool]) -> None:
    """It is raised where it comes: nobody is there to raise it later."""
    pool = make_pool(0)
    parent = os.getpid()

    def fork() -> int:
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                os._exit(7)
            finally:
                os._exit(8)
        return child

    forked = pool.submit(fork)
    pool.run(int)
    assert os.getpid() == parent
    ends_with_7(forked.result())


# --- Ctrl-C ---------------------------------------------------------------------------------------


def interrupted_program(body: str) -> str:
    """What a program prints in which the main thread is a caller when Ctrl-C comes."""
    program = textwrap.dedent(
        """
        import os, signal, threading, time
        import fairpool
        pool = fairpool.FairPool(0)
        lock = pool.lock()
        def ctrl_c():
            os.kill(os.getpid(), signal.SIGINT)
        def ctrl_c_later():
            threading.Timer(0.2, ctrl_c).start()
        """
    ) + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ctrl_c_in_the_own_function() -> None:
    """It is raised on the spot, as on a thread that is no caller."""
    body = """
    def own():
        ctrl_c()
        while True: time.sleep(0.01)
    try:
        pool.run(own)
    except KeyboardInterrupt:
        print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    pool.shutdown()
    """
    assert interrupted_program(body) == "interrupted True\n"


def test_ctrl_c_while_parked() -> None:
    """The coroutine is cancelled, and cleans up with what the pool offers; then it is raised."""
    body = """
    async def own():
        ctrl_c_later()
        try:
            await fairpool.Event().wait()
        finally:
            await fairpool.sleep(0.01)
            print("cleaned up")
    try:
        pool.run(own)
    except KeyboardInterrupt:
        print("interrupted")
    pool.shutdown()
    """
    assert interrupted_program(body) == "cleaned up\ninterrupted\n"


def test_ctrl_c_while_it_works_for_others() -> None:
    """What the caller runs for others is not cut off; nothing that lies with it is lost."""
    body = """
    def others():
        ctrl_c()
        begin = time.monotonic()
        while time.monotonic() < begin + 0.1: pass
        return 1
    first = pool.submit(others)
    sections = [lock.submit(int, i) for i in range(3)]
    async def own():
        print("not started")
    try:
        pool.run(own)
    except KeyboardInterrupt:
        print("interrupted", first.result())
    pool.shutdown()
    print([section.result() for section in sections])
    """
    assert interrupted_program(body) == "interrupted 1\n[0, 1, 2]\n"


def test_ctrl_c_in_a_wait_of_the_own_function() -> None:
    """The only caller waits in its function for what it runs itself meanwhile."""
    body = """
    def own():
        ctrl_c_later()
        try:
            pool.submit(fairpool.Event().wait).result()
        except KeyboardInterrupt:
            print("in the wait")
            raise
    try:
        pool.run(own)
    except KeyboardInterrupt:
        print("interrupted")
    pool.shutdown(cancel_futures=True, wait=False)
    pool._scheduler.cancel_all()
    """
    assert interrupted_program(body) == "in the wait\ninterrupted\n"


def test_ctrl_c_while_combining() -> None:
    """A pass is not cut off in a section; the lock is served by the next who comes."""
    body = """
    def section(i):
        if i == 1:
            ctrl_c()
        return i
    sections = [lock.submit(section, i) for i in range(4)]
    async def own():
        async with lock:
            print("inside")
    try:
        pool.run(own)
    except KeyboardInterrupt:
        print("interrupted", [section.done() for section in sections[:2]])
    pool.shutdown()
    print([section.result() for section in sections])
    """
    out = interrupted_program(body)
    assert out == "interrupted [True, True]\n[0, 1, 2, 3]\n"


def test_a_second_ctrl_c_is_raised_where_it_comes() -> None:
    body = """
    def others():
        ctrl_c()
        ctrl_c()
        while True: time.sleep(0.01)
    first = pool.submit(others)
    try:
        pool.run(int)
    except KeyboardInterrupt:
        print("interrupted", type(first.exception()).__name__)
    pool.shutdown()
    """
    assert interrupted_program(body) == "interrupted KeyboardInterrupt\n"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_second_ctrl_c_gets_through_where_the_own_task_does_not_end(workers: int) -> None:
    """The first one asks it to end, and it goes on. The second one is raised by `run`."""
    body = f"""
    import asyncio
    pool = fairpool.FairPool({workers})
    asked = threading.Event()
    over = []
    async def own():
        while not over:
            try:
                await fairpool.Event().wait()
            except asyncio.CancelledError:
                asked.set()
    def press():
        ctrl_c()
        assert asked.wait(60)
        ctrl_c()
    threading.Timer(0.05, press).start()
    try:
        pool.run(own)
    except KeyboardInterrupt:
        print("interrupted", asked.is_set())
    over.append(True)
    pool._scheduler.cancel_all()
    pool.shutdown()
    """
    assert interrupted_program(body) == "interrupted True\n"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_second_ctrl_c_ends_a_wait_of_what_runs_for_others(workers: int) -> None:
    body = f"""
    pool = fairpool.FairPool({workers})
    main, never = threading.main_thread(), fairpool.Future()
    begun = threading.Barrier({workers} + 1)
    def others():
        begun.wait()
        if threading.current_thread() is main:
            threading.Timer(0.05, press).start()
            never.result()
    def press():
        for _ in range(2):
            ctrl_c()
            time.sleep(0.1)  # two at once are one
    tasks = [pool.submit(others) for _ in range({workers} + 1)]
    try:
        pool.run(int)
    except KeyboardInterrupt:
        print("interrupted")
    pool.shutdown()
    print(sorted(type(task.exception()).__name__ for task in tasks))
    """
    expected = ["KeyboardInterrupt"] + ["NoneType"] * workers
    assert interrupted_program(body) == f"interrupted\n{expected}\n"


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Press Ctrl-C, on the main thread, where Python's own handler is installed."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    gc.disable()  # what is raised in a `__del__`, or a callback of the collector, is lost
    yield lambda: signal.raise_signal(signal.SIGINT)
    gc.enable()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert handler is signal.default_int_handler


class Alarm(Exception):
    """What a handler of the program's own raises."""


@pytest.mark.thread_unsafe(reason="signals are the main thread's")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_handlers_of_the_program_are_left_alone(
    signum: int, make_pool: Callable[..., FairPool]
) -> None:
    """They are called where the signal comes, and what they raise is raised there."""

    def handler(*_: object) -> None:
        raise Alarm

    def others() -> bool:
        with pytest.raises(Alarm):
            signal.raise_signal(signum)
        return signal.getsignal(signum) is handler

    pool = make_pool(0)
    before = signal.signal(signum, handler)
    try:
        future = pool.submit(others)
        assert pool.run(others)
        assert future.result()
        assert signal.getsignal(signum) is handler
    finally:
        signal.signal(signum, before)


@pytest.mark.thread_unsafe(reason="signals are the main thread's")
def test_ctrl_c_in_the_own_code_may_be_caught_there(
    make_pool: Callable[..., FairPool], ctrl_c: Callable[[], None]
) -> None:
    def function() -> str:
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
        return "caught"

    async def coroutine() -> str:
        caught = function()
        await fairpool.yield_now()
        return caught

    pool = make_pool(0)
    assert pool.run(function) == pool.run(coroutine) == "caught"


def later(delay: float = 0.05) -> None:
    """Press Ctrl-C when the main thread waits."""
    threading.Timer(delay, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()


def waits_for_a_future(pool: FairPool, opened: fairpool.Event) -> None:
    pool.submit(opened.wait).result()


def waits_for_futures(pool: FairPool, opened: fairpool.Event) -> None:
    wait([pool.submit(opened.wait)])


def waits_for_a_lock(pool: FairPool, opened: fairpool.Event) -> None:
    lock = pool.lock()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    with lock:
        pass


def waits_for_a_pool(pool: FairPool, opened: fairpool.Event) -> None:
    other = FairPool(1)
    opened_there = other.submit(opened.wait)
    try:
        other.shutdown()
    finally:
        opened.set()
        opened_there.result()


def waits_for_room(pool: FairPool, opened: fairpool.Event) -> None:
    gate = threading.Event()
    with FairPool(1, max_pending=1) as other:
        occupy(other, gate)
        other.submit(int)
        try:
            other.submit(int)
        finally:
            gate.set()


@WORKERS
@pytest.mark.thread_unsafe(reason="signals are the main thread's")
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system has no such signals")
@pytest.mark.parametrize(
    "waits",
    [
        waits_for_a_future,
        waits_for_futures,
        waits_for_a_lock,
        waits_for_a_pool,
        waits_for_room,
    ],
)
def test_ctrl_c_ends_each_wait_of_the_own_function(
    waits: Callable[..., object],
    workers: int,
    make_pool: Callable[..., FairPool],
    ctrl_c: Callable[[], None],
) -> None:
    pool, main, opened = make_pool(workers), threading.get_ident(), fairpool.Event()

    def own() -> str:
        assert threading.get_ident() == main
        with pytest.raises(KeyboardInterrupt):
            later()
            waits(pool, opened)
        return "caught"

    assert pool.run(own) == "caught"
    opened.set()
    check_whole(pool)


@pytest.mark.thread_unsafe(reason="signals are the main thread's")
def test_ctrl_c_in_a_pool_in_a_pool(
    make_pool: Callable[..., FairPool], ctrl_c: Callable[[], None]
) -> None:
    """What runs for others is not cut off by way of what it runs in another pool."""
    pool, inner = make_pool(0), make_pool(0)

    def both(in_inner: Callable[[], object] = ctrl_c) -> str:
        inner.run(in_inner)
        return "not cut off"

    others = pool.submit(both)
    with pytest.raises(KeyboardInterrupt):
        pool.run(int)
    assert others.result() == "not cut off"
    with pytest.raises(KeyboardInterrupt):
        pool.run(both)
    others = pool.submit(both, int)
    inner.submit(ctrl_c)  # others' in the inner one, too
    with pytest.raises(KeyboardInterrupt):
        pool.run(int)
    assert others.result() == "not cut off"
    assert here.caller is None


@pytest.mark.thread_unsafe(reason="signals are the main thread's")
@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_while_what_is_waited_for_runs_inline(
    workers: int, make_pool: Callable[..., FairPool], ctrl_c: Callable[[], None]
) -> None:
    """What is awaited runs on the same stack: it is not cut off, the wait is."""
    pool, main, ended = make_pool(workers), threading.get_ident(), []

    def child() -> None:
        if threading.get_ident() == main and not ended:
            ctrl_c()
            ended.append(True)

    def own() -> None:
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            pool.submit(child).result()

    with pytest.raises(KeyboardInterrupt):
        pool.run(own)
    assert ended


@pytest.mark.thread_unsafe(reason="signals are the main thread's")
def test_ctrl_c_in_a_callback_is_not_logged_and_lost(
    make_pool: Callable[..., FairPool], ctrl_c: Callable[[], None]
) -> None:
    """It is raised in the next wait of the own function."""

    def own() -> None:
        future = fairpool.Future[int]()
        future.add_done_callback(lambda _: ctrl_c())
        future.set_result(1)
        with pytest.raises(KeyboardInterrupt):
            fairpool.Future[int]().result()

    make_pool(0).run(own)


def press_inside(times: int) -> None:
    """As Ctrl-C would, while the main thread is in the package's code that has called this."""
    frame: Any = sys._getframe()
    while not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    handler: Any = signal.getsignal(signal.SIGINT)
    for _ in range(times):
        handler(signal.SIGINT, frame)


async def enters_a_lock(pool: FairPool, lock: fairpool.Lock) -> None:
    async with lock:
        pass
    async with lock:
        await fairpool.yield_now()


async def awaits(pool: FairPool, lock: fairpool.Lock) -> None:
    await pool.submit(int)


def enters_a_lock_with(pool: FairPool, lock: fairpool.Lock) -> None:
    with lock:
        pass
    with fairpool.blocking():
        pass


def waits_for_one(pool: FairPool, lock: fairpool.Lock) -> None:
    pool.submit(int).result()


def waits_for_several(pool: FairPool, lock: fairpool.Lock) -> None:
    wait([pool.submit(int)])


def does_nothing(pool: FairPool, lock: fairpool.Lock) -> None:
    pass


async def enters_twice(lock: fairpool.Lock) -> None:
    for _ in range(2):
        async with lock:
            pass


# Whatever `run` is given, it begins and ends alike: the first that comes there visits that.
RUN_PLACES: dict[tuple[int, int], Places] = defaultdict(Places)


@pytest.mark.stress
@pytest.mark.thread_unsafe(reason="watches all instructions")
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "own",
    [
        enters_a_lock,
        awaits,
        enters_a_lock_with,
        waits_for_one,
        waits_for_several,
        does_nothing,
    ],
)
def test_ctrl_c_anywhere_in_run_harms_nobody(
    own: Callable[..., object], workers: int, times: int, ctrl_c: Callable[[], None]
) -> None:
    """Once or twice, between any two instructions of the package's at which signals are seen."""
    for moment in moments(interrupts=True, places=RUN_PLACES[workers, times]):
        pool = FairPool(workers, idle_timeout=LONG)
        lock = pool.lock()
        others: list[Any] = [pool.submit(int)]
        if own is does_nothing:
            others += [pool.submit(enters_twice, lock), lock.submit(int)]
        with contextlib.suppress(KeyboardInterrupt), moment.do(partial(press_inside, times)):
            pool.run(own, pool, lock)
            assert not moment.reached, moment
        assert here.worker is here.caller is None, moment
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, moment
        pool.run(int)
        check_whole(pool)
        assert [future.exception(TIMEOUT) for future in others] == [None] * len(others), moment
        assert not lock.locked(), moment


@pytest.mark.stress
@pytest.mark.thread_unsafe(reason="watches all instructions")
@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_anywhere_in_the_run_of_a_coroutine(
    workers: int, ctrl_c: Callable[[], None]
) -> None:
    """`fairpool.run`: what was begun has cleaned up, and nothing of the pool is left."""
    for moment in moments(interrupts=True, places=Places()):
        begun: list[str] = []
        cleaned: list[str] = []

        async def part(name: str, begun: list[str] = begun, cleaned: list[str] = cleaned) -> None:
            begun.append(name)
            try:
                await fairpool.sleep(0.0001)
            finally:
                cleaned.append(name)

        async def main(part: Callable[[str], Any] = part) -> None:
            left = fairpool.create_task(part("left"))
            await fairpool.gather(part("a"), part("b"))
            assert left

        before = set(fairpool._scheduler.process.live())
        coroutine = main()
        try:
            with contextlib.suppress(KeyboardInterrupt), moment.do(partial(press_inside, 1)):
                fairpool.run(coroutine, max_workers=workers)
                assert not moment.reached, moment
        finally:
            coroutine.close()  # the main thread had not come as far as to begin
        assert sorted(begun) == sorted(cleaned), moment
        for scheduler in set(fairpool._scheduler.process.live()) - before:
            assert scheduler.is_over() or not begun, moment
            assert not [each for each in scheduler.threads if each.thread.is_alive()], moment
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, moment


@pytest.mark.parametrize("workers", [0, 1])
def test_a_coroutine_is_run_by_the_threads_that_there_are(workers: int) -> None:
    async def child(value: int) -> int:
        await fairpool.sleep(0.001)
        return value

    async def main() -> int:
        left = fairpool.create_task(left_behind())
        await fairpool.yield_now()
        thread = await fairpool.FairPool(1).submit(child, 1)
        assert not left.done()
        return sum(await fairpool.gather(child(1), child(2))) + thread

    async def left_behind() -> None:
        try:
            await fairpool.Event().wait()
        finally:
            await fairpool.sleep(0.001)
            ended.append(None)

    ended: list[None] = []
    assert in_time(lambda: fairpool.run(main(), max_workers=workers)) == 4
    assert ended == [None]


@pytest.mark.parametrize("times", [2, 3])
def test_a_second_ctrl_c_in_the_run_of_a_coroutine(times: int) -> None:
    """The first asks it to end. The next ones end the waits for what does not react."""
    body = f"""
    import asyncio
    asked, released = threading.Event(), threading.Event()
    async def main():
        try:
            await fairpool.Event().wait()
        except asyncio.CancelledError:
            asked.set()
            released.wait()
    def press():
        ctrl_c()
        assert asked.wait(60)
        ctrl_c()
        if {times} == 2:
            released.set()
        while not came:
            time.sleep(0.2)  # two at once are one
            ctrl_c()
    came = []
    threading.Timer(0.05, press).start()
    try:
        fairpool.run(main(), max_workers=1)
    except KeyboardInterrupt:
        came.append(released.is_set())
    print("interrupted", came)
    released.set()
    """
    assert interrupted_program(body) == f"interrupted [{times == 2}]\n"


# --- threads that wait are lent -------------------------------------------------------------------


class Contest:
    """A lock that the test's thread holds, with requests of coroutines and of threads behind it."""

    def __init__(self, pool: FairPool, lock: Any = None) -> None:
        self.pool = pool
        self.lock = pool.lock() if lock is None else lock
        self.entered: list[str] = []
        self.went_on: dict[str, Any] = {}
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self.lock.acquire()

    async def client(
        self, name: str, inside: Callable[[], object] = int, after: Callable[[], object] = int
    ) -> None:
        async with self.lock:
            self.entered.append(name)
            inside()
        self.went_on[name] = threading.current_thread().name
        after()

    def start(self, name: str, function: Callable[[], object]) -> None:
        """Have a thread of that name do it, until it waits for the lock, or has begun to."""
        waiting = len(self.lock.queue)

        def body() -> None:
            try:
                function()
            except BaseException as error:
                self._errors.append(error)

        thread = threading.Thread(target=body, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        until(lambda: len(self.lock.queue) > waiting)

    def stay(self, name: str) -> None:
        with self.lock:
            self.entered.append(name)

    def begin(self) -> None:
        """Let them in; return when all have ended."""
        self.lock.release()
        for thread in self._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive(), "hangs"
        if self._errors:
            raise self._errors[0]


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a combiner that goes on combining, however slow the machine is."""
    monkeypatch.setattr(fairpool._scheduler.scheduler, "cpu_count", lambda: 2)
    monkeypatch.setattr(fairpool._locks.combiner, "PASS_TIME", 10**12)


def lend_one(pool: FairPool, stay: Callable[[Contest], object], lock: Any = None) -> str:
    """Which thread goes on with a coroutine, where its caller serves and a thread waits.

    The second section does not end before somebody has gone on with the first coroutine, unless it
    has seen that the thread was not asked to.
    """
    contest = Contest(pool, lock)

    def inside() -> None:
        waiting = [item for item in contest.lock.queue.items() if type(item) is ThreadWaiter]
        if any(item.lent for item in waiting):
            until(lambda: "first" in contest.went_on)

    async def clients() -> None:
        await fairpool.gather(contest.client("first"), contest.client("second", inside))

    contest.start("caller", lambda: pool.run(clients))
    until(lambda: len(contest.lock.queue) == 2)
    contest.start("thread", lambda: stay(contest))
    contest.begin()
    assert contest.entered == ["first", "second", "thread"]
    return str(contest.went_on["first"])


@pytest.mark.usefixtures("two_processors")
def test_waiting_thread_is_lent(make_pool: Callable[..., FairPool]) -> None:
    """The combiner goes on combining; a thread that waits takes what it has published.

    Unasked, because the pool has no workers.
    """
    pool = make_pool(0)
    assert lend_one(pool, lambda contest: contest.stay("thread")) == "thread"
    assert len(pool._scheduler.free_slots) == 2


@pytest.mark.usefixtures("two_processors")
def test_waiting_thread_is_lent_to_a_pool_with_workers(make_pool: Callable[..., FairPool]) -> None:
    """A slot that no worker has taken is taken by the thread that waits."""
    assert run_behind_workers(make_pool(2, lend=True)) == "thread"


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize("lend", [None, False])
def test_waiting_thread_is_not_lent_to_a_pool_with_workers_unasked(
    lend: bool | None, make_pool: Callable[..., FairPool]
) -> None:
    pool = make_pool(2) if lend is None else make_pool(2, lend=lend)
    assert run_behind_workers(pool) != "thread"


def run_behind_workers(pool: FairPool) -> str:
    """Which thread goes on with a coroutine, where the only worker serves and a thread waits.

    As in `lend_one`, the second section ends when that is decided.
    """
    workers, parked = pool._scheduler.workers, pool._scheduler.parking.parked
    contest = Contest(pool)

    def inside() -> None:
        waiting = [item for item in contest.lock.queue.items() if type(item) is ThreadWaiter]
        assert len(waiting) == 1
        if any(item.lent for item in waiting):
            until(lambda: "first" in contest.went_on)

    # There is one worker, and there will be no other: what it does on its way to parking may be
    # seen as a reason to start one.
    pool._scheduler._cap = 1
    first = pool.submit(contest.client, "first")
    until(lambda: len(contest.lock.queue) == len(parked) == 1)
    second = pool.submit(contest.client, "second", inside)
    until(lambda: len(contest.lock.queue) == 2 and len(parked) == 1)
    assert len(workers) == 1
    contest.start("thread", lambda: contest.stay("thread"))
    contest.begin()
    first.result(TIMEOUT)
    second.result(TIMEOUT)
    return str(contest.went_on["first"])


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize(("lend", "runs"), [(None, "thread"), (True, "thread"), (False, "caller")])
def test_lend_in_a_pool_without_workers(
    lend: bool | None, runs: str, make_pool: Callable[..., FairPool]
) -> None:
    pool = make_pool(0, lend=lend)
    assert lend_one(pool, lambda contest: contest.stay("thread")) == runs


def test_run_says_what_is_wrong_with_lend() -> None:
    async def body() -> None:
        raise AssertionError("run")

    coroutine = body()
    with pytest.raises(TypeError, match="lend must be a bool or None, not 1"):
        fairpool.run(coroutine, lend=1)
    assert coroutine.cr_frame is None  # closed: no warning that it was never awaited
    assert fairpool.run(current_lend(), max_workers=2) is False
    assert fairpool.run(current_lend(), max_workers=2, lend=True) is True


async def current_lend() -> bool:
    task: Any = fairpool.current_task()
    return bool(task._pool.lends)


@pytest.mark.usefixtures("two_processors")
def test_not_lent_inside_a_section(make_pool: Callable[..., FairPool]) -> None:
    """Not even if that is a section of another pool's lock."""
    other = make_pool(0).lock()

    def stay(contest: Contest) -> None:
        with other:
            contest.stay("thread")

    assert lend_one(make_pool(0), stay) == "caller"
    # The count of what it is inside of is right again afterwards.
    assert lend_one(make_pool(0), lambda contest: contest.stay("thread")) == "thread"


@pytest.mark.usefixtures("two_processors")
def test_not_lent_after_a_time_out_or_an_error_in_a_section(
    make_pool: Callable[..., FairPool],
) -> None:
    """What a thread has left, or has not got into, does not count as being inside."""
    other, held = make_pool(0).lock(), make_pool(0).lock()
    held.acquire()

    def stay(contest: Contest) -> None:
        assert not held.acquire(timeout=0)
        assert not held.acquire(timeout=0.001)
        with pytest.raises(KeyError), other:
            raise KeyError
        other.acquire()
        other.release()
        contest.stay("thread")

    assert lend_one(make_pool(0), stay) == "thread"


@pytest.mark.usefixtures("two_processors")
def test_not_lent_with_a_time_out(make_pool: Callable[..., FairPool]) -> None:
    def stay(contest: Contest) -> None:
        assert contest.lock.acquire(timeout=TIMEOUT)
        contest.entered.append("thread")
        contest.lock.release()

    assert lend_one(make_pool(0), stay) == "caller"


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize(("mean", "runs"), [(10**12, "caller"), (1, "thread")])
def test_not_lent_for_longer_than_it_waits(
    mean: int, runs: str, make_pool: Callable[..., FairPool]
) -> None:
    """The expected wait against the running mean of the continuations."""
    pool = make_pool(0)
    lock = pool.lock()
    with lock:
        time.sleep(0.001)
    pool._scheduler.mean_continuation = mean
    assert lend_one(pool, lambda contest: contest.stay("thread"), lock) == runs


def test_continuations_are_timed(make_pool: Callable[..., FairPool]) -> None:
    """Workers time one in so many, helpers all: with sections of 0 and rests of 1 ms."""
    pool = make_pool(0)
    lock = pool.lock()

    async def client() -> None:
        for _ in range(40):
            async with lock:
                await fairpool.yield_now()
            time.sleep(0.001)

    async def clients() -> None:
        await fairpool.gather(*[client() for _ in range(3)])

    pool.run(clients)
    assert pool._scheduler.mean_continuation >= 1_000_000


@pytest.mark.usefixtures("two_processors")
def test_the_one_that_waits_longest_is_lent(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(0)

    def stay(contest: Contest) -> None:
        contest.start("last", lambda: contest.stay("last"))
        contest.stay("thread")

    contest = Contest(pool)

    async def clients() -> None:
        await fairpool.gather(
            contest.client("first"),
            contest.client("second", lambda: until(lambda: "first" in contest.went_on)),
        )

    contest.start("caller", lambda: pool.run(clients))
    until(lambda: len(contest.lock.queue) == 2)
    contest.start("next", lambda: contest.stay("next"))
    contest.start("last", lambda: contest.stay("last"))
    contest.begin()
    assert contest.went_on["first"] == "last"
    assert contest.entered == ["first", "second", "next", "last"]


@pytest.mark.usefixtures("two_processors")
def test_helper_that_was_passed_over_goes_next(make_pool: Callable[..., FairPool]) -> None:
    """It is busy when its turn comes. When it is free, it is before all that wait."""
    pool = make_pool(0)
    contest = Contest(pool)
    release = threading.Event()
    lock = contest.lock

    def third() -> None:
        release.set()
        until(lambda: type(lock.queue.first()) is ThreadWaiter)

    async def clients() -> None:
        await fairpool.gather(
            contest.client("first", after=lambda: release.wait(TIMEOUT)),
            contest.client("second", lambda: until(lambda: "first" in contest.went_on)),
            late(),
        )

    has_come = fairpool.Event()

    async def late() -> None:
        await has_come.wait()
        await fairpool.gather(contest.client("third", third), contest.client("fourth"))

    contest.start("caller", lambda: pool.run(clients))
    until(lambda: len(lock.queue) == 2)
    contest.start("thread", lambda: contest.stay("thread"))
    has_come.set()
    until(lambda: len(lock.queue) == 5)
    contest.begin()
    assert contest.went_on["first"] == "thread"
    assert contest.entered == ["first", "second", "third", "thread", "fourth"]


@pytest.mark.usefixtures("two_processors")
def test_what_a_helper_runs_is_suspended_at_every_lock(make_pool: Callable[..., FairPool]) -> None:
    """A coroutine that enters tiny sections for ever does not keep the helper for ever."""
    pool = make_pool(0)
    contest = Contest(pool)
    lock, other = contest.lock, pool.lock()
    stop: list[None] = []

    async def endless() -> None:
        await contest.client("first")
        while not stop:
            async with other:
                pass

    async def clients() -> None:
        await fairpool.gather(
            endless(), contest.client("second", lambda: until(lambda: "first" in contest.went_on))
        )

    def stay() -> None:
        contest.stay("thread")
        stop.append(None)

    contest.start("caller", lambda: pool.run(clients))
    until(lambda: len(lock.queue) == 2)
    contest.start("thread", stay)
    contest.begin()
    assert contest.went_on["first"] == "thread"


@pytest.mark.usefixtures("two_processors")
def test_what_a_helper_runs_raises(make_pool: Callable[..., FairPool]) -> None:
    """It is the task's error, and the helper's section is its own."""
    pool = make_pool(0)
    contest = Contest(pool)
    failures: list[object] = []

    def fail() -> None:
        raise LookupError(threading.current_thread().name)

    async def clients() -> None:
        first = pool.submit(contest.client, "first", int, fail)
        second = pool.submit(
            contest.client, "second", lambda: until(lambda: "first" in contest.went_on)
        )
        await second
        try:
            await first
        except LookupError as error:
            failures.append(error.args[0])

    def stay() -> None:
        with pytest.raises(KeyError), contest.lock:
            raise KeyError
        contest.stay("thread")

    contest.start("caller", lambda: pool.run(clients))
    until(lambda: len(contest.lock.queue) == 2)
    contest.start("thread", stay)
    contest.begin()
    assert failures == ["thread"]


def test_ctrl_c_while_lent() -> None:
    """What the waiting main thread runs for others is not cut off; its wait is, and is raised."""
    body = """
    import fairpool._scheduler.scheduler
    fairpool._scheduler.scheduler.cpu_count = lambda: 2
    pool = fairpool.FairPool(0)
    lock = pool.lock()
    main = threading.main_thread()
    def until(condition):
        while not condition(): time.sleep(0)
    async def client(inside, after):
        async with lock:
            inside()
        after()
    ran = []
    def after():
        assert threading.current_thread() is main
        ctrl_c()
        begin = time.monotonic()
        while time.monotonic() < begin + 0.1: pass
        ran.append(1)
    async def clients():
        await fairpool.gather(client(int, after), client(lambda: until(lambda: ran), int))
    def hold():
        with lock:
            until(lambda: len(lock.queue) == 3)
    threading.Thread(target=hold).start()
    until(lock.locked)
    caller = threading.Thread(target=pool.run, args=(clients,))
    caller.start()
    until(lambda: len(lock.queue) == 2)
    try:
        with lock: print("inside")
    except KeyboardInterrupt:
        print("interrupted", ran)
    caller.join()
    with lock: print("free")
    """
    assert interrupted_program(body) == "interrupted [1]\nfree\n"


@pytest.mark.usefixtures("two_processors")
def test_fork_on_a_helper(make_pool: Callable[..., FairPool]) -> None:
    """In the child the helper's lock is in the parent; nothing hangs."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    program = """
    import os, threading, warnings
    warnings.simplefilter("ignore")
    import fairpool, fairpool._scheduler.scheduler
    fairpool._scheduler.scheduler.cpu_count = lambda: 2
    pool = fairpool.FairPool(0)
    lock = pool.lock()
    parent = os.getpid()
    statuses = []
    def until(condition):
        while not condition(): pass
    async def client(inside, after):
        async with lock:
            inside()
        after()
    def after():
        child = os.fork()
        if child:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    async def clients():
        await fairpool.gather(client(int, after), client(lambda: until(lambda: statuses), int))
    def stay():
        try:
            with lock: pass
        except fairpool.BrokenFairPool:
            os._exit(7)
        if os.getpid() != parent:
            os._exit(8)
    lock.acquire()
    caller = threading.Thread(target=pool.run, args=(clients,))
    caller.start()
    until(lambda: len(lock.queue) == 2)
    thread = threading.Thread(target=stay)
    thread.start()
    until(lambda: len(lock.queue) == 3)
    lock.release()
    caller.join()
    thread.join()
    print(statuses)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.returncode, done.stdout) == (0, "[7]\n"), done.stderr


# --- nobody is there but threads that wait --------------------------------------------------------


def test_thread_serves_what_the_last_caller_has_left(make_pool: Callable[..., FairPool]) -> None:
    """Sections wait, and no caller is there: the thread that waits behind them runs them."""
    pool = make_pool(0)
    lock = pool.lock()
    ran: list[str] = []
    sections = [lock.submit(lambda: ran.append(threading.current_thread().name)) for _ in range(3)]

    def stay() -> None:
        threading.current_thread().name = "thread"
        with lock:
            ran.append("inside")

    in_threads(stay)
    assert ran == ["thread"] * 3 + ["inside"]
    assert all(section.done() for section in sections)


def test_only_caller_waits_behind_a_section(make_pool: Callable[..., FairPool]) -> None:
    """A caller's function enters a lock for which a section waits, and nobody else is there."""
    pool = make_pool(0)
    lock = pool.lock()
    ran: list[int] = []

    def own() -> None:
        with lock:
            lock.submit(ran.append, 1)
        with lock:
            ran.append(2)

    in_time(lambda: pool.run(own))
    assert ran == [1, 2]


@pytest.mark.parametrize("lend", [True, False])
def test_thread_enters_where_nothing_waits_any_more(
    lend: bool, make_pool: Callable[..., FairPool]
) -> None:
    """A section was submitted and cancelled, and no caller has come: the lock is free all the same.

    Nothing of others is run for that, so it is so with `lend=False`, too.
    """
    pool = make_pool(0, lend=lend)
    lock = pool.lock()
    assert lock.submit(int).cancel()

    def stay() -> None:
        with lock:
            pass
        assert lock.acquire(timeout=TIMEOUT)
        lock.release()

    in_threads(stay)


def test_thread_that_is_not_lent_waits_for_a_caller(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(0, lend=False)
    lock = pool.lock()
    section = lock.submit(threading.current_thread)
    assert not lock.acquire(timeout=0.01)
    assert not section.done()
    assert pool.run(lambda: threading.current_thread()) is section.result()


# --- slots ----------------------------------------------------------------------------------------


@WORKERS
def test_slots_after_callers(workers: int, make_pool: Callable[..., FairPool]) -> None:
    """Callers take with them what they have brought."""
    pool = make_pool(workers)
    scheduler = pool._scheduler

    def call() -> None:
        for i in range(50):
            assert pool.run(echo, i, 3) == i

    in_threads(call, call, call, call)
    pool.shutdown()
    assert len(scheduler.free_slots) - len(scheduler.parking.overcommits) == scheduler.slot_count
    assert not scheduler.searching
    assert not scheduler.parking.parked
    assert not scheduler.workers
    assert not scheduler.threads
