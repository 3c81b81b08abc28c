"""Waiting in a worker: at any depth, with any number of workers, it cannot starve the pool.

And a wait that would never end raises.
"""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, as_completed, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from kit import TIMEOUT, occupy

from fairpool import DeadlockError, FairPool, Future, blocking
from fairpool._core.here import here
from fairpool._core.waitgraph import waits
from fairpool._scheduler.worker import Worker

MakePool = Callable[..., FairPool]


class Counter:
    """How many are inside at the same time, at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._now -= 1

    def outside(self) -> AbstractContextManager[None]:
        """Not inside for a while: around a wait."""
        counter = self

        class Outside:
            def __enter__(self) -> None:
                counter.__exit__()

            def __exit__(self, *exc_info: object) -> None:
                counter.__enter__()

        return Outside()


# --- depth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("depth", [1, 50, 1000])
def test_nested_results(make_pool: MakePool, workers: int, depth: int) -> None:
    pool = make_pool(workers)

    def nested(depth: int) -> int:
        return 1 + pool.submit(nested, depth - 1).result() if depth else 0

    assert pool.submit(nested, depth).result(TIMEOUT) == depth


@pytest.mark.parametrize("workers", [1, 2])
def test_nested_results_that_cannot_run_inline(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    # Each wait takes another worker then: all of them but `workers` at a time are parked.
    monkeypatch.setattr("fairpool._scheduler.waiting.stack_is_deep", lambda: True)
    pool = make_pool(workers)
    inside = Counter()

    def nested(depth: int) -> int:
        with inside:
            inner = pool.submit(nested, depth - 1) if depth else None
            if inner is None:
                return 0
            with inside.outside():
                result = inner.result()
            return 1 + result

    assert pool.submit(nested, 100).result(TIMEOUT) == 100
    assert inside.most <= workers


def test_nested_results_under_a_high_recursion_limit(make_pool: MakePool) -> None:
    # A high limit does not make the thread's stack of C frames any larger.
    pool = make_pool(1)

    def nested(depth: int) -> int:
        return 1 + pool.submit(nested, depth - 1).result() if depth else 0

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200_000)
    try:
        assert pool.submit(nested, 3000).result(TIMEOUT) == 3000
    finally:
        sys.setrecursionlimit(limit)


def test_a_tree_of_tasks(make_pool: MakePool) -> None:
    for workers in (1, 2, 3):
        pool = make_pool(workers)

        def fibonacci(n: int, pool: FairPool = pool) -> int:
            if n < 2:
                return n
            first, second = pool.submit(fibonacci, n - 1), pool.submit(fibonacci, n - 2)
            return first.result() + second.result()

        assert pool.submit(fibonacci, 12).result(TIMEOUT) == 144


@pytest.mark.parametrize("mode", [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION])
def test_wait_in_a_worker(make_pool: MakePool, mode: str) -> None:
    pool = make_pool(1)

    def waits(depth: int) -> int:
        if not depth:
            return 0
        done, _ = wait([pool.submit(waits, depth - 1), pool.submit(waits, 0)], return_when=mode)
        return max(future.result() for future in done)

    assert pool.submit(waits, 5).result(TIMEOUT) == 0


def test_as_completed_in_a_worker(make_pool: MakePool) -> None:
    pool = make_pool(1)

    def gathers(depth: int) -> int:
        inner = [pool.submit(gathers, depth - 1) for _ in range(3)] if depth else []
        return 1 + sum(future.result() for future in as_completed(inner))

    assert pool.submit(gathers, 3).result(TIMEOUT) == 40


@pytest.mark.parametrize("chunksize", [1, 2])
@pytest.mark.parametrize("buffersize", [None, 1])
def test_map_in_a_worker(make_pool: MakePool, chunksize: int, buffersize: int | None) -> None:
    pool = make_pool(1)

    def maps(depth: int) -> int:
        inner = [depth - 1] * 3 if depth else []
        return 1 + sum(pool.map(maps, inner, chunksize=chunksize, buffersize=buffersize))

    assert pool.submit(maps, 3).result(TIMEOUT) == 40


@pytest.mark.parametrize("timeout", [TIMEOUT, None])
def test_two_pools_wait_for_each_other(make_pool: MakePool, timeout: float | None) -> None:
    pools = [make_pool(1), make_pool(1)]

    def nested(depth: int) -> int:
        if not depth:
            return 0
        return 1 + pools[depth % 2].submit(nested, depth - 1).result(timeout)

    assert pools[1].submit(nested, 30).result(TIMEOUT) == 30


def test_the_pool_goes_on_while_a_worker_waits_with_a_timeout(make_pool: MakePool) -> None:
    pool = make_pool(1)
    never: Future[int] = Future()
    helped = threading.Event()

    def waits() -> None:
        pool.submit(helped.set)
        with pytest.raises(concurrent.futures.TimeoutError):
            pool.submit(never.result, 0).result(TIMEOUT)
        pool.submit(int).result(TIMEOUT)
        assert wait([pool.submit(int)], TIMEOUT).not_done == set()

    pool.submit(waits).result(TIMEOUT)
    assert helped.is_set()


def test_a_timeout_in_a_worker(make_pool: MakePool) -> None:
    pool = make_pool(1)
    never: Future[int] = Future()
    for timeout in (0, -1, 0.001):
        future = pool.submit(never.result, timeout)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(TIMEOUT)
        assert pool.submit(wait, [never], timeout).result(TIMEOUT).not_done == {never}
    assert pool.submit(lambda: pool.submit(int).result()).result(TIMEOUT) == 0


def test_shutdown_of_an_inner_pool_does_not_starve_the_outer_one(make_pool: MakePool) -> None:
    outer = make_pool(1)

    def opens_a_pool() -> int:
        with FairPool(1) as inner:
            future = inner.submit(lambda: outer.submit(int, "3").result())
        return future.result()

    assert outer.submit(opens_a_pool).result(TIMEOUT) == 3


def test_a_callback_waits(make_pool: MakePool, gate: threading.Event) -> None:
    pool = make_pool(1)
    [future] = occupy(pool, gate)
    result: Future[int] = Future()
    future.add_done_callback(  # type: ignore[attr-defined]
        lambda _: result.set_result(pool.submit(int, "5").result())
    )
    gate.set()
    assert result.result(TIMEOUT) == 5


# --- inline runs are sound ----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("way", ["as_completed", FIRST_COMPLETED, FIRST_EXCEPTION])
def test_what_one_awaited_task_needs_from_the_waiter_comes(
    make_pool: MakePool, gate: threading.Event, workers: int, way: str
) -> None:
    # `slow` waits for what its waiter does after `fast` is done: it must not be run on top of it.
    pool = make_pool(workers)
    is_done = threading.Event()

    def slow() -> bool:
        with blocking():
            return is_done.wait(TIMEOUT)

    def waiter() -> list[object]:
        fast = pool.submit(int, "x" if way == FIRST_EXCEPTION else "1")
        futures = [pool.submit(slow), fast, pool.submit(slow)]
        if way == "as_completed":
            first = next(as_completed(futures))
        else:
            [first] = wait(futures, return_when=way).done
        assert first is fast
        fast.exception()
        is_done.set()
        return [future.result() for future in futures if future is not fast]

    assert pool.submit(waiter).result(TIMEOUT) == [True, True]


def test_room_in_the_backlog_is_not_made_by_running_strangers(make_pool: MakePool) -> None:
    # The backlog is full with a task that waits for the very task that submits.
    for workers in (1, 2):
        pool = make_pool(workers, max_pending=1)
        begin = threading.Event()

        def producer(pool: FairPool = pool, begin: threading.Event = begin) -> str:
            begin.wait(TIMEOUT)
            for future in [pool.submit(int) for _ in range(5)]:
                future.result()
            return "produced"

        produced = pool.submit(producer)
        consumed = pool.submit(lambda produced=produced: produced.result())
        begin.set()
        assert consumed.result(TIMEOUT) == "produced"


# --- how many run at once -----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_never_more_tasks_at_once_than_workers(make_pool: MakePool, workers: int) -> None:
    # A worker that returns from a wait has its slot back before it goes on; the one that completed
    # what it waited for ends its step and parks.
    pool = make_pool(workers)
    inside = Counter()
    gates = [Future[None]() for _ in range(30)]

    def waits(i: int) -> None:
        with inside:
            for _ in range(50):
                pass
            with inside.outside():
                gates[i].result()
            for _ in range(50):
                pass

    def opens(i: int) -> None:
        with inside:
            pass
        gates[i].set_result(None)  # the last thing in its step

    futures = [pool.submit(waits, i) for i in range(len(gates))]
    futures += [pool.submit(opens, i) for i in range(len(gates))]
    for future in futures:
        future.result(TIMEOUT)
    assert inside.most <= workers


def test_as_many_as_ever_while_others_wait(make_pool: MakePool, gate: threading.Event) -> None:
    pool = make_pool(2)
    forever: Future[bool] = Future()
    waiting = [pool.submit(forever.result) for _ in range(5)]
    meeting = threading.Barrier(2)
    for future in [pool.submit(meeting.wait, TIMEOUT) for _ in range(2)]:
        future.result(TIMEOUT)
    forever.set_result(True)
    assert all(future.result(TIMEOUT) for future in waiting)


def test_max_workers_holds_after_shutdown(make_pool: MakePool) -> None:
    # An overcommit is repaid, too, while the pool is ending.
    pool = make_pool(1)
    unblock, is_back = threading.Event(), threading.Event()
    inside = Counter()

    def first() -> None:
        with blocking():
            unblock.wait(TIMEOUT)
        with inside:
            is_back.set()
            beside.wait(0.1)  # the third one, if it is run now, has this long to show

    def second() -> None:
        unblock.set()
        is_back.wait(TIMEOUT)

    def third() -> None:
        with inside:
            beside.set()

    beside = threading.Event()
    futures = [pool.submit(first), pool.submit(second), pool.submit(third)]
    pool.shutdown(wait=False)
    for future in futures:
        future.result(TIMEOUT)
    assert inside.most == 1


# --- blocking() -------------------------------------------------------------------------------


def test_blocking_lets_others_run(make_pool: MakePool) -> None:
    pool = make_pool(1)
    event = threading.Event()

    def blocks() -> bool:
        pool.submit(event.set)
        with blocking():
            return event.wait(TIMEOUT)

    assert pool.submit(blocks).result(TIMEOUT)


def test_blocking_may_be_nested_and_waited_in(make_pool: MakePool) -> None:
    pool = make_pool(1)

    def blocks() -> int:
        with blocking(), blocking():
            inner = pool.submit(int, "4").result()
        with blocking():
            assert list(as_completed([pool.submit(int)]))
        return inner + pool.submit(int, "5").result()

    assert pool.submit(blocks).result(TIMEOUT) == 9
    pool.shutdown()
    parking = pool._scheduler.parking
    assert len(parking.free_slots) - len(parking.overcommits) == 1


@pytest.mark.parametrize("order", ["ab", "abc", "bac", "bca", "acb", "cab", "cba"])
def test_blocking_may_overlap(make_pool: MakePool, order: str) -> None:
    # Each is left by a generator. The slot comes back with the last one, and nothing stays behind.
    pool = make_pool(1)
    parking = pool._scheduler.parking

    def blocks() -> Generator[None]:
        with blocking():
            yield

    def overlap() -> list[bool]:
        worker = here.worker
        open_ones = {name: blocks() for name in sorted(order)}
        for block in open_ones.values():
            next(block)
        had_slot = []
        for name in order:
            had_slot.append(worker.has_slot)
            open_ones[name].close()
            pool.submit(int).result()  # one that waits as well
        assert worker.wait is None
        return [*had_slot, worker.has_slot]

    assert pool.submit(overlap).result(TIMEOUT) == [False] * len(order) + [True]
    pool.shutdown()
    assert len(parking.free_slots) - len(parking.overcommits) == 1


def test_blocking_ends_with_an_exception(make_pool: MakePool) -> None:
    pool = make_pool(1)

    def blocks() -> None:
        with blocking():
            raise LookupError

    assert isinstance(pool.submit(blocks).exception(TIMEOUT), LookupError)
    assert pool.submit(lambda: pool.submit(int).result()).result(TIMEOUT) == 0


def test_blocking_outside_of_a_pool_does_nothing() -> None:
    with blocking(), blocking():
        pass


# --- cycles -----------------------------------------------------------------------------------


def cycle(pool: FairPool, length: int, join: Callable[[Future[int]], object]) -> list[Future[Any]]:
    """Tasks that each wait for the next one, the last one for the first."""
    futures: list[Future[Any]] = []
    complete = threading.Event()

    def member(i: int) -> object:
        with blocking():
            complete.wait(TIMEOUT)
        return join(futures[(i + 1) % length])

    member.__qualname__ = "member"
    for i in range(length):
        futures.append(pool.submit(member, i))
    complete.set()
    return futures


JOINS: dict[str, Callable[[Future[int]], object]] = {
    "result": lambda future: future.result(),
    "exception": lambda future: future.exception(),
    "wait": lambda future: wait([future]),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("join", JOINS)
def test_a_cycle_raises(make_pool: MakePool, workers: int, length: int, join: str) -> None:
    pool = make_pool(workers)
    futures = cycle(pool, length, JOINS[join])
    done, not_done = wait(futures, TIMEOUT)
    assert not not_done
    errors = [future.exception() for future in done]
    first = next(error for error in errors if isinstance(error, DeadlockError))
    assert str(first).count("member waits for") == length
    # One of them is told; for the others that one has ended, and the pool goes on.
    if join == "wait":
        assert sum(error is not None for error in errors) == 1
    assert pool.submit(lambda: pool.submit(int).result()).result(TIMEOUT) == 0


def test_a_cycle_through_inline_runs_raises(make_pool: MakePool) -> None:
    pool = make_pool(1)
    futures: list[Future[Any]] = []

    def outer() -> object:
        return pool.submit(middle).result()

    def middle() -> object:
        return pool.submit(inner).result()

    def inner() -> object:
        return futures[0].result()

    begin = threading.Event()
    occupied = pool.submit(begin.wait, TIMEOUT)
    futures.append(pool.submit(outer))
    begin.set()
    assert occupied.result(TIMEOUT)
    error = futures[0].exception(TIMEOUT)
    assert isinstance(error, DeadlockError)
    for name in ("outer", "middle", "inner"):
        assert f"{name} waits for" in str(error)


def test_one_of_several_that_are_waited_for_closes_the_cycle(make_pool: MakePool) -> None:
    pool = make_pool(2)
    futures: list[Future[Any]] = []
    begin = threading.Event()

    def waits() -> object:
        begin.wait(TIMEOUT)
        return wait([pool.submit(int), pool.submit(futures[0].result), pool.submit(int)])

    futures.append(pool.submit(waits))
    begin.set()
    if not isinstance(futures[0].exception(TIMEOUT), DeadlockError):  # then the other one was told
        done = futures[0].result().done
        assert sum(isinstance(future.exception(), DeadlockError) for future in done) == 1


def test_no_false_alarm(make_pool: MakePool) -> None:
    # Many wait for the same, with a timeout round in a circle, and for what is done.
    pool = make_pool(2)
    done = pool.submit(int)
    done.result(TIMEOUT)
    shared: Future[int] = Future()
    waiting = [pool.submit(lambda: (shared.result(), done.result())) for _ in range(10)]
    further = [pool.submit(lambda f=future: f.result()) for future in waiting * 2]
    shared.set_result(1)
    assert all(future.result(TIMEOUT) == (1, 0) for future in further)
    for future in cycle(pool, 2, lambda future: future.exception(0.001)):
        assert not isinstance(future.exception(TIMEOUT), DeadlockError)


def test_no_trace_of_a_wait_is_left(make_pool: MakePool) -> None:
    pool = make_pool(2)
    for length in (1, 2, 3):
        for future in cycle(pool, length, JOINS["result"]):
            future.exception(TIMEOUT)
    pool.submit(lambda: pool.submit(int).result()).result(TIMEOUT)
    pool.shutdown()
    assert waits() == []


# --- where no more workers can be had ----------------------------------------------------------


def test_the_cap_on_spare_workers(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fairpool._scheduler.scheduler.SPARE_WORKERS_MAX", 2)
    pool = make_pool(1)
    event: Future[int] = Future()
    waiting = [pool.submit(event.result) for _ in range(6)]
    occupied = [future for future in waiting if future.running()]
    assert len(occupied) <= 3
    event.set_result(8)
    assert [future.result(TIMEOUT) for future in waiting] == [8] * 6


def test_a_wait_at_the_cap_runs_inline_however_deep(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Deep in the stack a task is left to another worker; not so where there can be no other one.
    monkeypatch.setattr("fairpool._scheduler.scheduler.SPARE_WORKERS_MAX", 2)
    monkeypatch.setattr("fairpool._scheduler.waiting.stack_is_deep", lambda: True)
    pool = make_pool(1)

    def nested(depth: int) -> int:
        return 1 + pool.submit(nested, depth - 1).result() if depth else 0

    assert pool.submit(nested, 20).result(TIMEOUT) == 20


def test_recursion_error_anywhere_in_a_wait_leaves_the_worker_whole(make_pool: MakePool) -> None:
    # The stack ends at any depth inside `submit` and `result`.
    pool = make_pool(1)

    def descend(depth: int) -> object:
        return descend(depth - 1) if depth else pool.submit(int).result()

    def room() -> int:
        """How many more frames fit on a worker's stack."""
        try:
            return 1 + room()
        except RecursionError:
            return 1

    most = pool.submit(room).result(TIMEOUT)
    raised = 0
    for depth in range(most - 40, most):
        future = pool.submit(descend, depth)
        raised += isinstance(future.exception(TIMEOUT), RecursionError)
        nested = pool.submit(lambda: pool.submit(lambda: pool.submit(int).result()).result())
        assert nested.result(TIMEOUT) == 0
    assert raised
    pool.shutdown()
    parking = pool._scheduler.parking
    assert len(parking.free_slots) - len(parking.overcommits) == 1
    assert not parking.searching


def test_a_worker_has_a_slot_after_every_kind_of_wait(make_pool: MakePool) -> None:
    from fairpool._core.here import here

    pool = make_pool(1)
    never: Future[int] = Future()

    def has_slot() -> bool:
        worker: Worker = here.worker  # type: ignore[assignment]
        return worker.has_slot and worker.wait is None

    def check() -> bool:
        pool.submit(int).result()
        with pytest.raises(concurrent.futures.TimeoutError):
            never.result(0.001)
        wait([never], 0.001)
        with nullcontext(), blocking():
            pass
        with pytest.raises(DeadlockError):
            itself[0].result()
        return has_slot()

    itself: list[Future[bool]] = []
    begin = threading.Event()
    first = pool.submit(begin.wait, TIMEOUT)
    itself.append(pool.submit(check))
    begin.set()
    assert itself[0].result(TIMEOUT)
    assert first.result()
