"""`dump` says what a pool is doing, when nothing else does any more."""

from __future__ import annotations

import concurrent.futures
import io
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit import TIMEOUT, in_time, occupy

import fairpool
from fairpool import FairPool, Future, blocking

MakePool = Callable[..., FairPool]


def dump(pool: FairPool) -> str:
    out = io.StringIO()
    in_time(lambda: [pool.dump(out)])
    return out.getvalue()


def until(pool: FairPool, text: str) -> str:
    """The first dump that has this in it."""
    return in_time(lambda: next(shown for shown in iter(lambda: dump(pool), "") if text in shown))


def test_an_unused_pool(make_pool: MakePool) -> None:
    pool = make_pool(3, thread_name_prefix="unused")
    assert dump(pool) == "unused: open, 0 workers (max_workers=3), 0 tasks queued\n"
    pool.shutdown()
    assert "unused: closed" in dump(pool)


def test_to_stderr_by_default(make_pool: MakePool, capsys: pytest.CaptureFixture[str]) -> None:
    make_pool(1, thread_name_prefix="here").dump()
    assert capsys.readouterr().err.startswith("here: open")


def runs(started: threading.Event, gate: threading.Event) -> None:
    started.set()
    gate.wait(TIMEOUT)


def blocks(started: threading.Event, gate: threading.Event) -> None:
    with blocking():
        started.set()
        gate.wait(TIMEOUT)


def waits(future: Future[int]) -> int:
    return future.result()


def waits_for_a_while(future: Future[int]) -> int:
    return future.result(TIMEOUT)


@pytest.fixture
def awaited() -> Iterator[Future[int]]:
    future: Future[int] = Future()
    yield future
    if not future.done():
        future.set_result(1)


def test_what_each_worker_does(
    make_pool: MakePool, gate: threading.Event, awaited: Future[int]
) -> None:
    pool = make_pool(2, thread_name_prefix="busy")
    started = [threading.Event(), threading.Event()]
    pool.submit(blocks, started[0], gate)
    waiting = pool.submit(waits, awaited)
    while not waiting.running():  # else the next one may run it inline
        pass
    further = pool.submit(waits, waiting)
    pool.submit(waits_for_a_while, awaited)
    pool.submit(runs, started[1], gate)
    for event in started:
        assert event.wait(TIMEOUT)
    occupy(pool, gate)
    pool.submit(int)
    shown = dump(pool)
    lines = shown.splitlines()
    assert lines[0] == "busy: open, 6 workers (max_workers=2), 1 tasks queued"
    workers = "\n".join(line for line in lines if line.startswith("  busy_"))
    assert workers.count("thread ") == 6
    assert f"runs {runs.__module__}.runs" in workers
    assert f"blocked in {blocks.__module__}.blocks" in workers
    assert "waiting for fairpool.blocking()" in workers
    assert f"blocked in {waits.__module__}.waits" in workers
    assert f"waiting for <{id(awaited):#x}" in workers
    assert f"blocked in {waits.__module__}.waits_for_a_while" in workers
    edges = shown.partition("waits:")[2]
    assert f"{id(waiting):#x} running> waits for <{id(awaited):#x} pending>" in edges
    assert f"{id(further):#x} running> waits for <{id(waiting):#x} running>" in edges
    awaited.set_result(1)
    gate.set()
    assert further.result(TIMEOUT) == 1
    until(pool, "parked")


def test_in_the_initializer(make_pool: MakePool, gate: threading.Event) -> None:
    pool = make_pool(1, initializer=gate.wait, initargs=(TIMEOUT,))
    future = pool.submit(int)
    assert "in the initializer" in until(pool, "in the initializer")
    gate.set()
    assert future.result(TIMEOUT) == 0


def test_it_takes_no_lock_of_a_future(make_pool: MakePool, gate: threading.Event) -> None:
    # A future's condition is held for ever by somebody; so is what it takes to format its task.
    class Stuck:
        def __call__(self) -> None:
            gate.wait(TIMEOUT)

        def __repr__(self) -> str:
            raise AssertionError("dump must not call foreign code")

    pool = make_pool(1)
    future = pool.submit(Stuck())
    with future._condition:
        assert "Stuck" in until(pool, "runs")
    gate.set()
    future.result(TIMEOUT)


def test_it_works_at_any_moment(make_pool: MakePool, gate: threading.Event) -> None:
    pool = make_pool(2, idle_timeout=0)
    stop = threading.Event()

    def nested(depth: int) -> int:
        return 1 + pool.submit(nested, depth - 1).result() if depth else 0

    def work() -> None:
        while not stop.is_set():
            pool.submit(nested, 3).result(TIMEOUT)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(300):
            assert dump(pool)
    finally:
        stop.set()
        thread.join(TIMEOUT)


def test_dump_shows_the_locks_that_are_taken(make_pool: MakePool) -> None:
    pool = make_pool(1)
    lock, free = pool.lock("taken"), pool.lock("free")
    with lock:
        section = lock.submit(int)
        text = dump(pool)
        assert re.search(r"<Lock taken held by the thread \S+, 1 waiting>", text), text
        assert "free" not in text
    section.result(TIMEOUT)
    del free


def test_dump_shows_the_waiters_of_a_lock(make_pool: MakePool) -> None:
    pool = make_pool(1)
    lock = pool.lock("door")

    def enters() -> None:
        with lock:
            pass

    with lock:
        entering = pool.submit(enters)
        shown = until(pool, "waits:")
    entering.result(TIMEOUT)
    assert re.search(r"enters <.*> waits for the lock door\n", shown)


def test_dump_shows_the_owner_of_a_lock(make_pool: MakePool, gate: threading.Event) -> None:
    pool = make_pool(1)
    lock = pool.lock("door")
    started = threading.Event()

    def plain() -> None:
        with lock:
            runs(started, gate)

    async def coroutine() -> None:
        async with lock:
            runs(started, gate)

    for fn, name in ((plain, r"the task 0x\w+"), (coroutine, ".*coroutine")):
        holder = pool.submit(fn)
        assert started.wait(TIMEOUT)
        assert re.search(rf"<Lock door held by {name}>", dump(pool)), dump(pool)
        gate.set()
        holder.result(TIMEOUT)
        gate.clear()
        started.clear()


def test_dump_shows_what_is_suspended(make_pool: MakePool, awaited: Future[int]) -> None:
    pool = make_pool(1)

    async def waits_for_it() -> int:
        return await awaited

    async def naps() -> None:
        await fairpool.sleep(TIMEOUT)

    task, nap = pool.submit(waits_for_it), pool.submit(naps)
    in_time(lambda: [None for _ in iter(lambda: pool.statistics().suspended, 2)])
    shown = until(pool, "parked")
    assert "  suspended, or about to go on:\n" in shown
    assert re.search(r"    <\S*waits_for_it 0x\w+ running> waits for <0x\w+ pending>\n", shown)
    assert re.search(r"    <\S*naps 0x\w+ running>\n", shown)
    nap.cancel()
    awaited.set_result(1)
    assert task.result(TIMEOUT) == 1
    until(pool, "parked")
    assert "suspended" not in dump(pool)


def test_dump_shows_a_future_of_another_executor(make_pool: MakePool) -> None:
    pool = make_pool(1)
    foreign: concurrent.futures.Future[int] = concurrent.futures.Future()

    async def waits_for_it() -> int:
        return await fairpool.wrap_future(foreign)

    task = pool.submit(waits_for_it)
    in_time(lambda: [None for _ in iter(lambda: pool.statistics().suspended, 1)])
    shown = until(pool, "parked")
    assert " waits for <a future of concurrent.futures._base.Future at 0x" in shown, shown
    foreign.set_result(7)
    assert task.result(TIMEOUT) == 7


def test_dump_of_a_callable_that_has_no_name(make_pool: MakePool, gate: threading.Event) -> None:
    class Proxy:
        def __call__(self) -> None:
            gate.wait(TIMEOUT)

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("working outside of context")

    pool = make_pool(1)
    running = pool.submit(Proxy())
    until(pool, "Proxy object at")
    gate.set()
    running.result(TIMEOUT)


def test_dump_lists_some_of_what_is_suspended(make_pool: MakePool, awaited: Future[int]) -> None:
    pool = make_pool(2)

    async def waits_for_it() -> int:
        return await awaited

    tasks = [pool.submit(waits_for_it) for _ in range(1030)]
    shown = until(pool, "and 1,010 more\n")
    assert shown.count("    <test_dump_lists") == 20
    awaited.set_result(1)
    assert {task.result(TIMEOUT) for task in tasks} == {1}


def test_dump_shows_the_combiner_of_a_lock(make_pool: MakePool, gate: threading.Event) -> None:
    # Between two sections, there is no task; here it is held there, as far as `dump` can see.
    pool = make_pool(1)
    lock = pool.lock("door")
    occupy(pool, gate)
    (worker,) = pool._scheduler.workers
    item, worker.item = worker.item, lock
    shown = dump(pool)
    worker.item = item
    assert "serves the lock door\n" in shown
