"""What is logged: each exception that nobody retrieves, whatever its thread is just doing."""

from __future__ import annotations

import _thread
import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit import TIMEOUT, Mishap, in_time

import fairpool
from fairpool import FairPool, Future
from fairpool._core.report import LOGGER, wait_for_log

LOST = "exception of %s was never retrieved"
COUNT = 300


def fail(number: int) -> None:
    raise Mishap(number)


def failed(number: int) -> Future[None]:
    future: Future[None] = Future()
    future.set_exception(Mishap(number))
    return future


class Log(logging.Handler):
    """Keeps the numbers of the exceptions that were logged, and can be busy meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []
        self.others: list[str] = []
        self.do: Callable[[], object] | None = None
        self.lock_of_its_own = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        with self.lock_of_its_own:
            if record.msg == LOST and record.exc_info and record.exc_info[1]:
                self.numbers.append(record.exc_info[1].args[0])
            else:
                self.others.append(str(record.msg))
            do, self.do = self.do, None
            if do is not None:
                do()


@pytest.fixture
def log() -> Iterator[Log]:
    gc.collect()
    assert wait_for_log(TIMEOUT)
    handler = Log()
    LOGGER.addHandler(handler)
    yield handler
    LOGGER.removeHandler(handler)


# Where the last references are dropped: on a thread that is just logging, or is no thread at all.
def in_emit(log: Log, drop: Callable[[], None]) -> None:
    log.do = drop
    LOGGER.warning("busy")


def in_filter(log: Log, drop: Callable[[], None]) -> None:
    def dropping(record: logging.LogRecord) -> bool:
        drop()
        return True

    log.addFilter(dropping)
    LOGGER.warning("busy")
    log.removeFilter(dropping)


def in_format(log: Log, drop: Callable[[], None]) -> None:
    class Shown:
        def __str__(self) -> str:
            drop()
            return "shown"

    log.do = lambda: logging.LogRecord("", 0, "", 0, "%s", (Shown(),), None).getMessage()
    LOGGER.warning("busy")


def with_its_lock(log: Log, drop: Callable[[], None]) -> None:
    log.acquire()
    log.lock_of_its_own.acquire()
    try:
        drop()
    finally:
        log.lock_of_its_own.release()
        log.release()


def with_the_lock_of_threading(log: Log, drop: Callable[[], None]) -> None:
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        drop()


def in_a_strange_thread(log: Log, drop: Callable[[], None]) -> None:
    ended = threading.Lock()
    ended.acquire()

    def run() -> None:
        try:
            drop()
        finally:
            ended.release()

    _thread.start_new_thread(run, ())
    assert ended.acquire(timeout=TIMEOUT)


def at_the_end_of_a_thread(log: Log, drop: Callable[[], None]) -> None:
    class Dropping:
        def __del__(self) -> None:
            drop()

    local = threading.local()

    def run() -> None:
        local.dropping = Dropping()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def in_a_handler_of_callbacks(log: Log, drop: Callable[[], None]) -> None:
    """It is our own logging that is busy."""
    log.do = drop
    future: Future[int] = Future()
    future.set_result(1)
    future.add_done_callback(lambda _: fail(0))


PLACES = [
    in_emit,
    in_filter,
    in_format,
    with_its_lock,
    with_the_lock_of_threading,
    in_a_strange_thread,
    at_the_end_of_a_thread,
    in_a_handler_of_callbacks,
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["by hand", "tasks"])
def test_each_failure_that_nobody_retrieves_is_logged(
    log: Log, place: Callable[[Log, Callable[[], None]], None], kind: str
) -> None:
    with FairPool(2) as pool:
        futures: list[Any] = [
            pool.submit(fail, number) if kind == "tasks" else failed(number)
            for number in range(COUNT)
        ]

    def drop() -> None:
        futures.clear()
        gc.collect()

    in_time(lambda: place(log, drop) or True)
    gc.collect()
    assert wait_for_log(TIMEOUT)
    assert sorted(log.numbers) == [*range(COUNT)]
    # The noise at the end of the interpreter comes from these.
    assert not [each for each in threading.enumerate() if type(each).__name__ == "_DummyThread"]


def test_where_no_thread_can_be_started_it_is_logged_at_once(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    future = failed(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        del future
        gc.collect()
    assert log.numbers == [1]
    future = failed(2)
    del future
    gc.collect()
    assert wait_for_log(TIMEOUT)
    assert log.numbers == [1, 2]


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_what_cannot_be_said_now_is_said_later(
    log: Log, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise error

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    future = failed(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        del future
        gc.collect()
    future = failed(2)
    del future
    gc.collect()
    assert wait_for_log(TIMEOUT)
    # In any order: what waits for the log helps, beside the thread that was started.
    assert sorted(log.numbers) == [1, 2]


# --- a handler that raises ------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Mishap, SystemExit, RecursionError, GeneratorExit])
def test_a_handler_that_raises_harms_nobody(log: Log, error: type[BaseException]) -> None:
    def refuse() -> None:
        raise error

    calls: list[object] = []
    with FairPool(1) as pool:
        lock = pool.lock()
        future = lock.submit(fail, 1)
        future.exception(TIMEOUT)
        for _ in range(3):
            log.do = refuse
            future.add_done_callback(lambda _: fail(1))
            waiting: Future[int] = Future()
            waiting.add_done_callback(lambda _: fail(1))
            waiting.add_done_callback(calls.append)
            log.do = refuse
            waiting.set_result(1)
        log.do = refuse
        section = lock.submit(int)
        section.add_done_callback(lambda _: fail(1))
        assert section.result(TIMEOUT) == 0
        assert in_time(lambda: lock.submit(int, 3).result(TIMEOUT)) == 3
        log.do = refuse
        pool.submit(fail, 2)
        assert pool.submit(int, 3).result(TIMEOUT) == 3
    assert len(calls) == 3


# --- at the end of the interpreter ----------------------------------------------------------------

DOORS = {
    "submit": "f = pool.submit(fail)",
    "coroutine": "f = pool.submit(later)",
    "then": "f = pool.submit(int).then(lambda _: fail())",
    "past then": "f = pool.submit(fail).then(int)",
    "finally_": "f = pool.submit(int).finally_(fail)",
    "lock.submit": "f = pool.lock().submit(fail)",
    "lock.submit, coroutine": "f = pool.lock().submit(later)",
    "then, lock": "f = pool.submit(int).then(lambda _: fail(), lock=pool.lock())",
    "guarded": "f = pool.guarded(0).submit(lambda _: fail())",
    "share": "f = pool.share('a').submit(fail)",
    "gather": "f = fairpool.gather(pool.submit(fail))",
    "shield": "f = fairpool.shield(pool.submit(fail))",
    "by hand": "f = fairpool.Future(); f.set_exception(Mishap('here'))",
    "in a cycle": "f = pool.submit(fail)\nf.itself = f",
    "in a module": "fairpool.kept = pool.submit(fail)",
    "in a task": "f = pool.submit(lambda: inner.append(pool.submit(fail)))\nf.result()",
}

PROGRAM = """
import sys, threading
import fairpool
from fairpool import FairPool

class Mishap(Exception):
    pass

def fail(*_):
    raise Mishap("here")

async def later():
    await fairpool.yield_now()
    raise Mishap("here")

inner = []
pool = FairPool(2)
{door}
{end}
"""

ENDS = {
    "shutdown": "pool.shutdown()",
    "none": "",
    "deleted pool": "del pool",
    "sys.exit": "pool.shutdown(); sys.exit(0)",
    "from a thread": (
        "thread = threading.Thread(target=pool.shutdown); thread.start(); del thread"
    ),
    "from a daemon": (
        "thread = threading.Thread(target=pool.shutdown, daemon=True); thread.start()"
    ),
}


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize(
    ("door", "end"),
    [*((door, "shutdown") for door in DOORS), *(("submit", end) for end in ENDS)],
)
def test_a_failure_that_is_kept_until_the_end_is_logged(door: str, end: str) -> None:
    done = run(PROGRAM.format(door=DOORS[door], end=ENDS[end]))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("was never retrieved\n") == 1, done.stderr
    assert "Exception ignored" not in done.stderr
    assert "Logging error" not in done.stderr
    assert done.stderr.endswith("Mishap: here\n")


@pytest.mark.parametrize("end", ENDS)
def test_a_failure_that_was_retrieved_is_not_logged_at_the_end(end: str) -> None:
    program = PROGRAM.format(door="f = pool.submit(fail)\nf.exception()", end=ENDS[end])
    done = run(program)
    assert (done.stderr, done.returncode) == ("", 0)


STRANGE = """
import _thread, gc, sys, threading, time
import fairpool
from fairpool import FairPool

def fail():
    raise ValueError

async def coroutine():
    await fairpool.sleep(0.001)

pool = FairPool(2)
lock = pool.lock("the lock")
begun = threading.Semaphore(0)
never = threading.Lock()
never.acquire()

def strange():
    {act}
    begun.release()
    never.acquire()  # until the interpreter ends

for _ in range(5):
    _thread.start_new_thread(strange, ())
for _ in range(5):
    begun.acquire()
pool.shutdown()
print(*[type(each).__name__ for each in threading.enumerate()])
"""


@pytest.mark.parametrize(
    "act",
    [
        "pool.submit(int).result()",
        "pool.run(int)",
        "lock.acquire(); lock.release()",
        "pool.run(fairpool.sleep, 0.001)",
        "repr(lock), pool.dump(open(fairpool.__file__ and '/dev/null', 'w'))",
        "pool.submit(fail)",
        "fairpool.run(coroutine())",
    ],
)
def test_a_thread_that_threading_does_not_know_stays_unknown(act: str) -> None:
    """Else its dummy is there at the end of the interpreter, and complains of it."""
    done = run(STRANGE.format(act=act))
    assert done.returncode == 0, done.stderr
    assert done.stdout in ("_MainThread\n", "_MainThread Thread\n")
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("was never retrieved") == (5 if "fail" in act else 0), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_the_child_of_a_fork_leaves_the_parents_failures_alone() -> None:
    done = run(
        "import os, sys, fairpool\n"
        "f = fairpool.Future(); f.set_exception(ValueError('here'))\n"
        "child = os.fork()\n"
        "if child:\n"
        "    os.waitpid(child, 0)\n"
    )
    assert done.stderr.count("was never retrieved") == 1, done.stderr


def test_the_current_thread_has_a_name() -> None:
    with FairPool(0) as pool:
        assert (
            pool.run(lambda: fairpool._core.here.here.worker.thread) is threading.current_thread()
        )
