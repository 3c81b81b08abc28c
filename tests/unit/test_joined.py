"""Joined callers: threads of the user's that work for a pool for a while.

The meetings of two or three threads are in `tests/interleave/scenarios.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, as_completed, wait
from typing import Any

import pytest
from unit.conftest import TIMEOUT, in_time, occupy

import fairpool
from fairpool import FairPool
from fairpool._sync import here, yield_cpu

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
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


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
        pool.submit(fairpool.Event().wait).result()
    try:
        pool.run(own)
    except KeyboardInterrupt:
        print("interrupted")
    pool.shutdown(cancel_futures=True, wait=False)
    pool._scheduler.cancel_all()
    """
    assert interrupted_program(body) == "interrupted\n"


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


def test_a_handler_of_the_program_stays(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(0)

    def handler(*_: object) -> None: ...

    before = signal.signal(signal.SIGINT, handler)
    try:
        assert pool.run(lambda: signal.getsignal(signal.SIGINT)) is handler
    finally:
        signal.signal(signal.SIGINT, before)


# --- seats ----------------------------------------------------------------------------------------


@WORKERS
def test_seats_after_callers(workers: int, make_pool: Callable[..., FairPool]) -> None:
    """Callers take with them what they have brought."""
    pool = make_pool(workers)
    scheduler = pool._scheduler

    def call() -> None:
        for i in range(50):
            assert pool.run(echo, i, 3) == i

    in_threads(call, call, call, call)
    pool.shutdown()
    assert len(scheduler.seats) - len(scheduler.parking.debts) == scheduler.seat_count
    assert not scheduler.searching
    assert not scheduler.parking.parked
    assert not scheduler.workers
    assert not scheduler.roster
