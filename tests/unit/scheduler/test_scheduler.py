"""The pool as a whole: threads, strange exceptions, context, fork, exit, signals."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import io
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, as_completed, wait
from typing import Any

import pytest
from kit import LONG, PATIENCE, TIMEOUT, check_whole, in_time, made_by, occupy, threads_of
from unit.instructions import Places, moments

import fairpool._scheduler.worker
from fairpool import BrokenFairPool, FairPool, Future, blocking
from fairpool._core.here import here
from fairpool._core.report import wait_for_log
from fairpool._core.threads import yield_cpu

MakePool = Callable[..., FairPool]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# --- starting threads -------------------------------------------------------------------------


def test_no_thread_before_the_first_task(make_pool: MakePool) -> None:
    assert threads_of(make_pool(4)) == []


def test_never_more_threads_than_tasks_or_workers(
    make_pool: MakePool, gate: threading.Event
) -> None:
    pool = make_pool(3)
    for expected in (1, 2, 3):
        occupy(pool, gate)
        assert len(threads_of(pool)) == expected
    pool.submit(int)
    assert len(threads_of(pool)) == 3


class NoThread(threading.Thread):
    """Where the system has no more threads to give."""

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_submit_raises_where_no_thread_can_be_started(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(2, max_pending=1)
    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(fairpool._scheduler.worker, "new_thread", made_by(NoThread))
        for i in range(3):  # the backlog does not fill up with what was refused
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.submit(calls.append, i)
    # Threads can be had again: the pool is as good as new, and what was refused does not run.
    for i in (10, 11, 12):
        pool.submit(calls.append, i).result(TIMEOUT)
    assert calls == [10, 11, 12]
    check_whole(pool)


def test_submit_does_not_raise_where_another_worker_can_run_it(
    make_pool: MakePool, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(2)
    occupy(pool, gate)
    with monkeypatch.context() as patch:
        patch.setattr(fairpool._scheduler.worker, "new_thread", made_by(NoThread))
        future = pool.submit(int)
    gate.set()
    assert future.result(TIMEOUT) == 0
    check_whole(pool)


def test_a_wait_where_no_thread_can_be_started(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1)
    opened: Future[int] = Future()
    started = threading.Event()

    def waits() -> int:
        pool.submit(int)
        started.set()
        return opened.result()

    pool.submit(int).result(TIMEOUT)  # one worker there is
    with monkeypatch.context() as patch:
        patch.setattr(fairpool._scheduler.worker, "new_thread", made_by(NoThread))
        future = pool.submit(waits)
        assert started.wait(TIMEOUT)
        opened.set_result(5)
        assert future.result(TIMEOUT) == 5
    check_whole(pool)


def test_a_failed_start_strands_nobody_elses_task(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1. `submit` starts a thread. Until that has failed, the worker-to-be counts as one that
    #    searches.
    # 2. Meanwhile another thread submits, and relies on it.
    # 3. The start fails. The second task must not wait for ever.
    pool = make_pool(2)
    others: list[Any] = []

    class Interrupted(NoThread):
        def start(self) -> None:
            thread = threading.Thread(target=lambda: others.append(pool.submit(int)))
            thread.start()
            thread.join(TIMEOUT)
            super().start()

    with monkeypatch.context() as patch:
        patch.setattr(fairpool._scheduler.worker, "new_thread", made_by(Interrupted))
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.submit(int)
    [other] = others
    assert isinstance(other.exception(TIMEOUT), (RuntimeError, type(None)))
    check_whole(pool)


def test_an_interrupted_start_strands_nobody_elses_task(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(2)
    others: list[Any] = []

    class Interrupted(threading.Thread):
        def start(self) -> None:
            thread = threading.Thread(target=lambda: others.append(pool.submit(int)))
            thread.start()
            thread.join(TIMEOUT)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fairpool._scheduler.worker, "new_thread", made_by(Interrupted))
        with pytest.raises(KeyboardInterrupt):
            pool.submit(int)
    [other] = others
    assert other.result(TIMEOUT) == 0
    check_whole(pool)


def test_a_failed_start_for_a_lock_strands_nobody_elses_task(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(2)
    lock, other_lock = pool.lock(), pool.lock()
    others: list[Any] = []

    class Interrupted(NoThread):
        def start(self) -> None:
            if not others:
                for submit in (pool.submit, other_lock.submit):
                    thread = threading.Thread(target=lambda f=submit: others.append(f(int)))
                    thread.start()
                    thread.join(TIMEOUT)
            super().start()

    with monkeypatch.context() as patch:
        patch.setattr(fairpool._scheduler.worker, "new_thread", made_by(Interrupted))
        section = lock.submit(int)
        for future in (section, *others):
            with pytest.raises(RuntimeError, match="no worker could be started"):
                future.result(TIMEOUT)
    assert len(others) == 2
    assert lock.submit(int).result(TIMEOUT) == other_lock.submit(int).result(TIMEOUT) == 0
    check_whole(pool)


def test_a_start_that_failed_is_tried_again_for_what_a_worker_waits_for(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody comes by when threads can be had again: the only worker waits.
    pool = make_pool(1)
    failed = threading.Event()

    class Failing(NoThread):
        def start(self) -> None:
            failed.set()
            super().start()

    async def yields() -> int:
        await fairpool.yield_now()  # the second step needs another worker
        return 5

    pool.submit(int).result(TIMEOUT)
    with monkeypatch.context() as patch:
        patch.setattr(fairpool._scheduler.worker, "new_thread", made_by(Failing))
        future = pool.submit(lambda: pool.submit(yields).result())
        assert failed.wait(TIMEOUT)
    assert future.result(TIMEOUT) == 5
    check_whole(pool)


def test_a_start_that_failed_is_tried_again_where_all_workers_are_blocked(
    make_pool: MakePool, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    blocked = threading.Event()

    def blocks() -> None:
        with blocking():
            blocked.set()
            gate.wait(TIMEOUT)

    pool.submit(blocks)
    assert blocked.wait(TIMEOUT)
    with monkeypatch.context() as patch:
        patch.setattr(fairpool._scheduler.worker, "new_thread", made_by(NoThread))
        future = pool.submit(int)
    assert future.result(PATIENCE) == 0  # before the other one has had enough of it
    gate.set()
    check_whole(pool)


def test_no_memory_to_submit_takes_no_room_in_the_backlog(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1, max_pending=1)

    def fail() -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(fairpool._api.pool, "copy_context", fail)
        with pytest.raises(MemoryError):
            pool.submit(int)
    assert in_time(lambda: pool.submit(int)).result(TIMEOUT) == 0
    check_whole(pool)


def test_an_interrupted_start(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    # KeyboardInterrupt in `Thread.start`, when there is a thread, but it has not come far yet.
    pool = make_pool(1)
    go_on = threading.Event()

    class Interrupted(threading.Thread):
        def start(self) -> None:
            self._real = threading.Thread(target=lambda: go_on.wait(TIMEOUT) and self.run())
            self._real.start()
            real.append(self._real)
            raise KeyboardInterrupt

    real: list[threading.Thread] = []
    with monkeypatch.context() as patch:
        patch.setattr(fairpool._scheduler.worker, "new_thread", made_by(Interrupted))
        with pytest.raises(KeyboardInterrupt):
            pool.submit(int)
    future = pool.submit(int, "3")
    go_on.set()
    assert future.result(TIMEOUT) == 3
    real[0].join(TIMEOUT)
    check_whole(pool)


def test_idle_threads_end_and_new_ones_start(make_pool: MakePool) -> None:
    pool = make_pool(2, idle_timeout=0)
    for _ in range(20):
        thread = pool.submit(threading.current_thread).result(TIMEOUT)
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    check_whole(pool)


def test_threads_stay_for_the_idle_timeout(make_pool: MakePool) -> None:
    pool = make_pool(1, idle_timeout=TIMEOUT)
    threads = {pool.submit(threading.current_thread).result(TIMEOUT) for _ in range(20)}
    assert len(threads) == 1


# --- the initializer --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_initializer_failure(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    entered, proceed = threading.Event(), threading.Event()

    def initialize() -> None:
        entered.set()
        proceed.wait(TIMEOUT)
        raise error

    pool = make_pool(1, initializer=initialize)
    futures = [pool.submit(int)]
    assert entered.wait(TIMEOUT)
    futures += [pool.submit(int) for _ in range(3)]
    proceed.set()
    for future in futures:
        with pytest.raises(BrokenFairPool):
            future.result(TIMEOUT)
    with pytest.raises(BrokenFairPool):
        pool.submit(int)
    with pytest.raises(BrokenFairPool):
        pool.map(int, "1")
    check_whole(pool)
    del futures, future
    gc.collect()
    assert errors(caplog).count("Exception in initializer:") == 1
    logged = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert BrokenFairPool not in logged  # none for each future besides


WAITS: dict[str, Callable[[Future[Any]], object]] = {
    "result": lambda future: future.result(),
    "exception": lambda future: future.exception(),
    "wait": lambda future: wait([future]),
    "wait for the first": lambda future: wait([future], return_when="FIRST_COMPLETED"),
    "as_completed": lambda future: list(as_completed([future])),
    "of a link": lambda future: future.then(int).result(),
}


@pytest.mark.parametrize("way", WAITS)
def test_initializer_that_waits_for_its_own_pool_is_told(
    way: str, make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pools: list[FairPool] = []
    pools.append(make_pool(1, initializer=lambda: WAITS[way](pools[0].submit(int))))
    with pytest.raises(BrokenFairPool):
        pools[0].submit(int).result(TIMEOUT)
    assert "DeadlockError" in caplog.text


def block(own: FairPool, other: FairPool, look: Callable[[], None]) -> None:
    with blocking():
        look()


def wait_for_another_pool(own: FairPool, other: FairPool, look: Callable[[], None]) -> None:
    other.submit(look).result(TIMEOUT)


def wait_with_a_timeout(own: FairPool, other: FairPool, look: Callable[[], None]) -> None:
    future = own.submit(int)  # nobody may run it before this one has ended
    wait([future], 0.001)
    with contextlib.suppress(TimeoutError):
        future.result(0.001)
    look()


def wait_for_a_lock(own: FairPool, other: FairPool, look: Callable[[], None]) -> None:
    lock = own.lock()
    held = threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            while not lock.statistics().waiting:
                yield_cpu()
            look()

    future = other.submit(hold)
    held.wait(TIMEOUT)
    assert lock.acquire(timeout=TIMEOUT)  # without a time-out it is a DeadlockError
    look()
    lock.release()
    future.result(TIMEOUT)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "initialize", [block, wait_for_another_pool, wait_with_a_timeout, wait_for_a_lock]
)
def test_at_most_max_workers_initialize(
    initialize: Callable[..., None], workers: int, make_pool: MakePool
) -> None:
    # One that blocked in its initializer and let another one take its place, which blocks in its
    # own, would start a thousand.
    pools: list[FairPool] = []
    seen: list[int] = []
    other = make_pool(4)

    def look() -> None:
        seen.append(len(pools[0]._scheduler.threads))

    pools.append(make_pool(workers, initializer=lambda: initialize(pools[0], other, look)))
    for future in [pools[0].submit(int) for _ in range(20)]:
        assert future.result(TIMEOUT) == 0
    assert max(seen) <= workers


def test_an_initializer_may_submit_more_than_max_pending(make_pool: MakePool) -> None:
    pools: list[FairPool] = []
    submitted: list[Future[int]] = []

    def initialize() -> None:
        submitted.extend(pools[0].submit(int) for _ in range(5))

    pools.append(make_pool(1, initializer=initialize, max_pending=2))
    assert pools[0].submit(int).result(TIMEOUT) == 0
    assert [future.result(TIMEOUT) for future in submitted] == [0] * 5


# --- strange exceptions -----------------------------------------------------------------------


def endless() -> None:
    endless()


def raise_it(error: type[BaseException]) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "fn", "args"),
    [
        (RecursionError, endless, ()),
        *[
            (error, raise_it, (error,))
            for error in (SystemExit, KeyboardInterrupt, MemoryError, StopIteration, GeneratorExit)
        ],
    ],
)
def test_the_worker_survives(
    make_pool: MakePool,
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
    fn: Callable[..., None],
    args: tuple[object, ...],
) -> None:
    pool = make_pool(1)
    worker = pool.submit(threading.current_thread).result(TIMEOUT)
    for _ in range(3):
        future = pool.submit(fn, *args)
        with pytest.raises(error):
            future.result(TIMEOUT)
    # Another worker may run this, where the processor has kept the first one waiting.
    assert pool.submit(int, 7).result(TIMEOUT) == 7
    worker.join(0.1)
    assert worker.is_alive()
    assert "error in a worker's loop; the worker goes on" not in errors(caplog)


def test_stop_iteration_through_map(make_pool: MakePool) -> None:
    results = make_pool(1).map(raise_it, [StopIteration])
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(results)


# --- context ----------------------------------------------------------------------------------

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def exchange(value: str) -> str:
    before = variable.get()
    variable.set(value)
    return before


def test_context_is_captured_at_submit_and_private(make_pool: MakePool) -> None:
    pool = make_pool(1)
    begin = threading.Event()
    pool.submit(begin.wait, TIMEOUT)

    def submit_all() -> list[Future[str]]:
        variable.set("at submit")
        futures = [pool.submit(exchange, "changed by a task") for _ in range(3)]
        variable.set("after submit")
        return futures

    futures = contextvars.copy_context().run(submit_all)
    begin.set()
    assert [future.result(TIMEOUT) for future in futures] == ["at submit"] * 3
    assert variable.get() == "unset"
    assert pool.submit(variable.get).result(TIMEOUT) == "unset"


def test_context_of_a_task_is_inherited_by_its_tasks(make_pool: MakePool) -> None:
    pool = make_pool(1)

    def outer() -> tuple[str, str]:
        variable.set("outer")
        inner = pool.submit(exchange, "inner").result()  # run inline, in a context of its own
        return inner, variable.get()

    assert pool.submit(outer).result(TIMEOUT) == ("outer", "outer")


# --- backpressure -----------------------------------------------------------------------------


def test_max_pending_bounds_the_backlog_from_outside(
    make_pool: MakePool, gate: threading.Event
) -> None:
    pool = make_pool(1, max_pending=3)
    occupy(pool, gate)
    accepted: list[int] = []
    full = threading.Event()

    def submit_all() -> None:
        for i in range(10):
            if i == 3:
                full.set()
            pool.submit(int)
            accepted.append(i)

    thread = threading.Thread(target=submit_all)
    thread.start()
    assert full.wait(TIMEOUT)
    assert len(pool._scheduler.injector) == 3
    assert accepted == [0, 1, 2]
    gate.set()
    thread.join(TIMEOUT)
    assert len(accepted) == 10
    check_whole(pool)


@pytest.mark.parametrize("workers", [1, 2])
def test_max_pending_bounds_the_backlog_from_workers(make_pool: MakePool, workers: int) -> None:
    pool = make_pool(workers, max_pending=2)

    def spread(depth: int) -> int:
        futures: list[Any] = []
        for _ in range(6 if depth else 0):
            futures.append(pool.submit(spread, depth - 1))
            begun = sum(future.running() or future.done() for future in futures)
            assert begun >= len(futures) - 2  # at most two that nobody has started
        return 1 + sum(future.result() for future in futures)

    assert pool.submit(spread, 3).result(TIMEOUT) == 259
    check_whole(pool)


def test_cancelled_tasks_make_room(make_pool: MakePool, gate: threading.Event) -> None:
    pool = make_pool(1, max_pending=1)
    occupy(pool, gate)
    for _ in range(10):
        assert pool.submit(int).cancel()
    check = pool.submit(int)
    gate.set()
    assert check.result(TIMEOUT) == 0


@pytest.mark.parametrize("inside", [False, True])
def test_shutdown_wakes_submitters_that_wait_for_room(
    make_pool: MakePool, gate: threading.Event, inside: bool
) -> None:
    pool = make_pool(1, max_pending=1)
    other = make_pool(4)
    occupy(pool, gate)
    pool.submit(int)  # no more room
    refused = [other.submit(raises_at_submit, pool) for _ in range(3)]
    for future in refused:
        while not future.running() and not future.done():
            pass
    pool.shutdown(wait=False)
    assert [future.result(TIMEOUT) for future in refused] == [True] * 3
    gate.set()
    check_whole(pool)


def raises_at_submit(pool: FairPool) -> bool:
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)
    return True


# --- the end ----------------------------------------------------------------------------------


def test_cancelled_by_shutdown_can_be_waited_for(
    make_pool: MakePool, gate: threading.Event
) -> None:
    pool = make_pool(1)
    [running] = occupy(pool, gate)
    pending = [pool.submit(int) for _ in range(5)]
    called: list[object] = []
    for future in pending:
        future.add_done_callback(called.append)
    pool.shutdown(wait=False, cancel_futures=True)
    assert wait(pending, TIMEOUT) == (set(pending), set())
    assert called == pending
    for future in pending:
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)
    gate.set()
    assert running.result(TIMEOUT)


def test_cancelling_shutdown_reaches_what_tasks_have_submitted(
    make_pool: MakePool, gate: threading.Event
) -> None:
    pool = make_pool(1)
    inner: list[Any] = []
    submitted = threading.Event()

    def submits() -> None:
        inner.append(pool.submit(int))
        submitted.set()
        gate.wait(TIMEOUT)

    outer = pool.submit(submits)
    assert submitted.wait(TIMEOUT)
    pool.shutdown(wait=False, cancel_futures=True)
    assert inner[0].cancelled()
    gate.set()
    outer.result(TIMEOUT)


def test_shutdown_in_its_own_worker_raises(make_pool: MakePool) -> None:
    pool = make_pool(1)
    for future in pool.submit(pool.shutdown), pool.submit(pool.__exit__, None, None, None):
        with pytest.raises(RuntimeError, match="own workers"):
            future.result(TIMEOUT)
    assert pool.submit(int).result(TIMEOUT) == 0  # and the pool is open still


def test_tasks_submit_while_the_pool_ends(make_pool: MakePool) -> None:
    # What a running task submits after `shutdown` is refused; what waits is run.
    pool = make_pool(2)
    submitted, closed = threading.Barrier(3), threading.Event()

    def submits() -> bool:
        before = pool.submit(int)
        submitted.wait(TIMEOUT)
        closed.wait(TIMEOUT)
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(int)
        return before.result() == 0

    futures = [pool.submit(submits) for _ in range(2)]
    submitted.wait(TIMEOUT)
    pool.shutdown(wait=False)
    closed.set()
    assert all(future.result(TIMEOUT) for future in futures)
    check_whole(pool)


def test_a_pool_that_is_dropped_runs_what_it_has_and_ends(gate: threading.Event) -> None:
    pool = FairPool(1)
    [running] = occupy(pool, gate)
    pending = pool.submit(int, "6")
    threads = threads_of(pool)
    alive = weakref.ref(pool)
    del pool
    gc.collect()
    assert alive() is None
    assert threads[0].is_alive()
    gate.set()
    assert running.result(TIMEOUT)
    assert pending.result(TIMEOUT) == 6
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_several_threads_shut_down(make_pool: MakePool, gate: threading.Event) -> None:
    pool = make_pool(2)
    occupy(pool, gate, 2)
    threads = [threading.Thread(target=pool.shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    check_whole(pool)


@pytest.mark.thread_unsafe(reason="watches all instructions")
def test_submit_against_shutdown() -> None:
    # At any moment of `submit` another thread shuts the pool down. Until the task is queued, it is
    # refused; from then on it is refused or run.
    for moment in moments(shares=True, places=Places()):
        pool = FairPool(1, idle_timeout=LONG)
        calls: list[int] = []
        accepted = True

        def close(pool: FairPool = pool) -> bool:
            queued = pool._scheduler.has_work() or bool(pool._scheduler.workers)
            # A worker that is about to be started is waited for, and only `submit` can go on to
            # start it.
            scheduler = pool._scheduler
            waits = all(worker.thread.ident for worker in scheduler.threads)
            waits = waits and bool(scheduler.threads or scheduler.free_slots)
            in_time(lambda: pool.shutdown(waits))
            return queued

        try:
            with moment.do(close):
                pool.submit(calls.append, 1)
        except RuntimeError:
            accepted = False
        check_whole(pool)
        assert len(calls) == accepted, moment
        if moment.reached and not moment.result:
            assert not accepted, moment


# --- the interpreter's end, fork, signals: in a process of their own ----------------------------


def run_program(program: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-P", "-X", "faulthandler", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
        **kwargs,
    )


def test_interpreter_exit_runs_what_was_accepted() -> None:
    done = run_program(
        """
        import threading
        from fairpool import FairPool

        pool = FairPool(2)
        begin = threading.Event()

        def late():
            begin.wait()
            return pool.submit(print, "from a task").result()

        for _ in range(2):
            pool.submit(begin.wait)
        pool.submit(print, "pending")
        begin.set()
        """
    )
    assert (done.stdout, done.stderr, done.returncode) == ("pending\n", "", 0)


def test_submit_at_interpreter_exit_is_refused() -> None:
    done = run_program(
        """
        import atexit
        from fairpool import FairPool

        pool = FairPool(2)
        pool.submit(int).result()

        @atexit.register
        def late():
            try:
                pool.submit(int)
            except RuntimeError as error:
                print(error)
        """
    )
    assert "cannot schedule new futures after" in done.stdout
    assert (done.stderr, done.returncode) == ("", 0)


def test_interpreter_exit_of_unused_and_of_broken_pools() -> None:
    done = run_program(
        """
        import logging
        from fairpool import FairPool

        logging.disable(logging.CRITICAL)
        unused = FairPool(2)
        broken = FairPool(1, initializer=int, initargs=("x",))
        failure = broken.submit(int)
        parked = FairPool(2)
        parked.submit(int).result()
        failure.exception()
        """
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@needs_fork
def test_fork() -> None:
    done = run_program(
        """
        import os, warnings
        warnings.simplefilter("ignore")  # Python warns of fork in a process with threads
        from fairpool import BrokenFairPool, FairPool
        import threading

        pool = FairPool(2)
        begin = threading.Event()
        running = pool.submit(begin.wait)
        while not running.running():
            pass
        finished = pool.submit(int)
        finished.result()
        pid = os.fork()
        if pid == 0:
            try:
                for use in (
                    lambda: pool.submit(int),
                    lambda: pool.map(int, "1"),
                    running.result,
                    lambda: running.exception(5),
                ):
                    try:
                        use()
                    except BrokenFairPool as error:
                        assert "did not survive os.fork()" in str(error), error
                    else:
                        raise AssertionError(use)
                assert finished.result() == 0
                pool.dump()
                pool.shutdown()
                with FairPool(2) as fresh:
                    assert fresh.submit(lambda: fresh.submit(int).result()).result() == 0
                print("child", flush=True)
            except BaseException:
                import traceback
                traceback.print_exc()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        begin.set()
        assert running.result()
        assert pool.submit(lambda: pool.submit(int, "5").result()).result() == 5
        pool.shutdown()
        print("parent")
        """
    )
    assert done.stdout == "child\nparent\n"
    assert "Error" not in done.stderr
    assert done.returncode == 0


@needs_fork
def test_fork_in_a_task() -> None:
    # The child goes on in the task, and when that has returned there is nobody left in it.
    done = run_program(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        from fairpool import FairPool

        pool = FairPool(1)
        pid = pool.submit(os.fork).result()
        status = os.waitpid(pid, 0)[1]
        assert pool.submit(int).result() == 0
        pool.shutdown()
        print("parent")
        """
    )
    assert (done.stdout, done.stderr, done.returncode) == ("parent\n", "", 0)


needs_signals = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="this system has no such signals"
)


@needs_signals
@pytest.mark.parametrize(
    "use",
    [
        "pool.submit(gate.wait).result()",
        "pool.submit(gate.wait).exception(100)",
        "concurrent.futures.wait([pool.submit(gate.wait)])",
        "pool.run(lambda: concurrent.futures.wait([pool.submit(gate.wait)], 100))",
        "pool.submit(gate.wait) and pool.__exit__(None, None, None)",
        "[pool.submit(gate.wait) for _ in range(100)]",
    ],
)
def test_ctrl_c_interrupts_at_once(use: str) -> None:
    done = run_program(
        f"""
        import concurrent.futures, os, signal, threading, time
        from fairpool import FairPool

        pool = FairPool(1, max_pending=1)
        gate = threading.Event()
        main = threading.get_native_id()

        def interrupt():
            # When the main thread has slept for a while: then it has come to its wait.
            asleep = 0
            while asleep < 50:
                with open(f"/proc/self/task/{{main}}/stat") as file:
                    asleep = asleep + 1 if file.read().rpartition(")")[2].split()[0] == "S" else 0
                time.sleep(0.002)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        try:
            {use}
        except KeyboardInterrupt:
            print("interrupted", gate.is_set())
        gate.set()
        pool.shutdown()
        """
        if os.path.exists("/proc/self/stat")
        else "print('interrupted', False)"
    )
    assert done.stdout == "interrupted False\n", done.stderr
    assert (done.stderr, done.returncode) == ("", 0)


# --- entered again in the middle of itself ------------------------------------------------------


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged as an error."""
    gc.collect()  # what other tests have left behind
    assert wait_for_log(TIMEOUT)
    caplog.clear()
    yield
    assert wait_for_log(TIMEOUT)
    assert errors(caplog) == []


@pytest.mark.parametrize("max_pending", [None, 100])
def test_submit_in_the_middle_of_submit(quiet: None, max_pending: int | None) -> None:
    # As from a signal handler or a `__del__`, at every place where one could run.
    for moment in moments(interrupts=True, places=Places()):
        pool = FairPool(1, max_pending=max_pending, idle_timeout=LONG)
        calls: list[str] = []
        with moment.do(lambda pool=pool, calls=calls: pool.submit(calls.append, "inner")):
            outer = pool.submit(calls.append, "outer")
        inner = moment.result
        for future in (outer, inner) if moment.reached else (outer,):
            assert future.result(TIMEOUT) is None, moment
        assert sorted(calls) == (["inner", "outer"] if moment.reached else ["outer"]), moment
        check_whole(pool)


@pytest.mark.parametrize("what", ["result", "cancel", "callback", "shutdown", "dump", "wait"])
def test_anything_in_the_middle_of_submit(quiet: None, what: str) -> None:
    for moment in moments(interrupts=True, places=Places()):
        pool = FairPool(1, idle_timeout=LONG)
        begin = threading.Event()
        first = pool.submit(begin.wait, TIMEOUT)
        second = pool.submit(int)
        told: list[object] = []

        def intrude(
            pool: FairPool = pool,
            first: Any = first,
            second: Any = second,
            told: list[object] = told,
            begin: threading.Event = begin,
        ) -> None:
            if what == "cancel":
                assert second.cancel()
            elif what == "callback":
                second.add_done_callback(told.append)
            elif what == "dump":
                pool.dump(file=io.StringIO())
            else:
                begin.set()
                if what == "result":
                    assert first.result(TIMEOUT)
                elif what == "wait":
                    assert wait([first, second], TIMEOUT).not_done == set()
                else:
                    pool.shutdown()

        third: Any = None
        try:
            with moment.do(intrude):
                third = pool.submit(int)
        except RuntimeError:
            assert what == "shutdown"
        begin.set()
        if third is not None:
            assert third.result(TIMEOUT) == 0, moment
        check_whole(pool)
        assert second.done()
        assert len(told) == (what == "callback" and moment.reached), moment


def test_submit_in_the_middle_of_result(quiet: None) -> None:
    for moment in moments(interrupts=True, places=Places()):
        pool = FairPool(1, idle_timeout=LONG)
        future = pool.submit(int)
        with moment.do(lambda pool=pool: pool.submit(int, "2").result(TIMEOUT)):
            assert future.result(TIMEOUT) == 0
        assert moment.result == (2 if moment.reached else None), moment
        check_whole(pool)


def interrupt() -> None:
    raise KeyboardInterrupt


def park_its_worker(pool: FairPool) -> None:
    pool.submit(int).result(TIMEOUT)
    while not pool._scheduler.parking.parked:
        pass


def let_go(pool: FairPool) -> None:
    """Let the threads of a pool end that hangs: they would keep the process from ending."""
    pool._scheduler.idle_timeout = 0
    for worker in pool._scheduler.workers.copy():
        with contextlib.suppress(RuntimeError):
            worker.parker.unpark()


@pytest.mark.thread_unsafe(reason="watches all instructions")
@pytest.mark.parametrize("max_pending", [None, 2])
@pytest.mark.parametrize("parked", [False, True])
def test_an_interrupt_anywhere_in_submit_harms_no_other_task(
    max_pending: int | None, parked: bool
) -> None:
    # Ctrl-C comes wherever the interpreter looks for signals. The task of this very call may be run
    # or not; the pool goes on, and ends.
    for moment in moments(interrupts=True, places=Places()):
        pool = FairPool(1, max_pending=max_pending, idle_timeout=LONG)
        if parked:
            park_its_worker(pool)
        with contextlib.suppress(KeyboardInterrupt), moment.do(interrupt):
            pool.submit(int)
        assert here.notifying is None, moment

        def go_on(pool: FairPool = pool) -> list[int]:
            return [pool.submit(int).result() for _ in range(4)]

        try:
            assert in_time(go_on) == [0] * 4
            check_whole(pool)
        except AssertionError as error:
            let_go(pool)
            raise AssertionError(moment) from error


@pytest.mark.thread_unsafe(reason="watches all instructions")
@pytest.mark.parametrize("parked", [False, True])
def test_an_interrupt_anywhere_in_shutdown_can_be_made_good(parked: bool) -> None:
    for moment in moments(interrupts=True, places=Places()):
        pool = FairPool(1, idle_timeout=LONG)
        future = pool.submit(int)
        if parked:
            park_its_worker(pool)
        with contextlib.suppress(KeyboardInterrupt), moment.do(interrupt):
            pool.shutdown()
        try:
            check_whole(pool)
        except AssertionError as error:
            let_go(pool)
            raise AssertionError(moment) from error
        assert future.result(TIMEOUT) == 0


def test_recursion_error_anywhere_in_submit_harms_no_other_task() -> None:
    # The caller's stack ends at any depth inside of `submit`.
    def descend(depth: int, pool: FairPool) -> Any:
        return descend(depth - 1, pool) if depth else pool.submit(int)

    def room() -> int:
        try:
            return 1 + room()
        except RecursionError:
            return 1

    for parked in (False, True):
        raised = 0
        most = room()
        for depth in range(most - 40, most):
            pool = FairPool(1, idle_timeout=LONG)
            if parked:
                park_its_worker(pool)
            try:
                assert descend(depth, pool).result(TIMEOUT) == 0
            except RecursionError:
                raised += 1
            after = [pool.submit(int) for _ in range(3)]
            assert [future.result(TIMEOUT) for future in after] == [0] * 3, depth
            check_whole(pool)
        assert raised


@needs_signals
def test_a_signal_handler_submits_while_the_main_thread_does(make_pool: MakePool) -> None:
    pool = make_pool(2)
    inner: list[Any] = []
    outer: list[Any] = []

    def handle(*args: object) -> None:
        future = pool.submit(int, "1")  # no other handler's, should one come in the middle of this
        future.add_done_callback(told.append)
        future.cancel()
        inner.append(future)

    told: list[object] = []
    previous = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while len(inner) < 200:
            outer.append(pool.submit(int, "2"))
            if len(outer) % 50 == 0:
                outer[-1].result(TIMEOUT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert all(future.result(TIMEOUT) == 2 for future in outer)
    assert all(future.cancelled() or future.result(TIMEOUT) == 1 for future in inner)
    pool.shutdown()
    assert Counter(map(id, told)) == Counter(map(id, inner))


def test_a_del_submits_whenever_the_collector_runs(make_pool: MakePool) -> None:
    pool = make_pool(2)
    submitted: list[Any] = []

    class Submits:
        """In a cycle, so that the collector calls its `__del__`, wherever that may be."""

        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            with contextlib.suppress(RuntimeError):  # the last ones may come after the shutdown
                submitted.append(pool.submit(int))

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    futures = []
    try:
        for _ in range(300):
            Submits()
            futures.append(pool.submit(Submits))
    finally:
        gc.set_threshold(*thresholds)
    for future in futures:
        assert isinstance(future.result(TIMEOUT), Submits)
    del future, futures
    gc.collect()
    for future in submitted.copy():
        assert future.result(TIMEOUT) == 0
    assert len(submitted) >= 300
    pool.shutdown()
