"""`concurrent.futures.wait` and `as_completed`, mixed with the standard library's own futures."""

from __future__ import annotations

import concurrent.futures
import threading
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Executor,
    Future,
    as_completed,
    wait,
)

import pytest
from contract.conftest import occupied
from kit import TIMEOUT


def test_wait_for_all(executor: Executor) -> None:
    by_hand: Future[int] = Future()
    futures = {executor.submit(int, i) for i in range(5)}
    timer = threading.Timer(0, by_hand.set_result, [1])
    timer.start()
    done, not_done = wait({*futures, by_hand}, TIMEOUT, ALL_COMPLETED)
    assert done == {*futures, by_hand}
    assert not_done == set()
    timer.join()


def test_wait_for_the_first(executor: Executor, gate: threading.Event) -> None:
    with occupied(executor, 1, gate) as [blocked]:
        by_hand: Future[int] = Future()
        timer = threading.Timer(0, by_hand.set_result, [1])
        timer.start()
        done, not_done = wait([blocked, by_hand], TIMEOUT, FIRST_COMPLETED)
        assert (done, not_done) == ({by_hand}, {blocked})
        timer.join()
    assert wait([blocked], TIMEOUT, FIRST_COMPLETED).done == {blocked}


def test_wait_for_the_first_of_the_executor(executor: Executor) -> None:
    never: Future[int] = Future()
    future = executor.submit(int)
    assert wait([never, future], TIMEOUT, FIRST_COMPLETED) == ({future}, {never})


def test_wait_for_the_first_exception(executor: Executor) -> None:
    never: Future[int] = Future()
    good = executor.submit(int)
    assert good.result(TIMEOUT) == 0
    bad = executor.submit(int, "x")
    assert wait([never, good, bad], TIMEOUT, FIRST_EXCEPTION) == ({good, bad}, {never})
    assert isinstance(bad.exception(), ValueError)


def test_wait_for_the_first_exception_where_there_is_none(executor: Executor) -> None:
    futures = {executor.submit(int) for _ in range(4)}
    assert wait(futures, TIMEOUT, FIRST_EXCEPTION) == (futures, set())


@pytest.mark.parametrize("mode", [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION])
def test_wait_times_out(executor: Executor, gate: threading.Event, mode: str) -> None:
    with occupied(executor, 1, gate) as [future]:
        for timeout in (0, 0.001):
            assert wait([future], timeout, mode) == (set(), {future})
    assert wait([future], TIMEOUT, mode) == ({future}, set())


def test_wait_sees_what_is_done_already(executor: Executor) -> None:
    futures = [executor.submit(int) for _ in range(3)]
    for future in futures:
        future.result(TIMEOUT)
    assert wait(futures, 0) == (set(futures), set())


def test_two_threads_wait_for_the_same(executor: Executor, gate: threading.Event) -> None:
    done: list[object] = []
    with occupied(executor, 1, gate) as [future]:
        threads = [
            threading.Thread(target=lambda: done.append(wait([future], TIMEOUT).done))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert done == [{future}] * 2


def test_as_completed_yields_in_the_order_of_completion(executor: Executor) -> None:
    first, second = Future[int](), Future[int]()
    done = executor.submit(int)
    done.result(TIMEOUT)
    order = as_completed([second, first, done], TIMEOUT)
    assert next(order) is done
    first.set_result(1)
    assert next(order) is first
    second.cancel()
    second.set_running_or_notify_cancel()
    assert next(order) is second
    assert next(order, None) is None


def test_as_completed_yields_each_once(executor: Executor) -> None:
    futures = [executor.submit(int, i) for i in range(20)]
    assert sorted(f.result() for f in as_completed(futures * 2, TIMEOUT)) == list(range(20))


def test_as_completed_times_out(executor: Executor, gate: threading.Event) -> None:
    with occupied(executor, 1, gate) as [future], pytest.raises(concurrent.futures.TimeoutError):
        next(as_completed([future], 0))
    assert next(as_completed([future], TIMEOUT)) is future


def test_as_completed_of_failures(executor: Executor) -> None:
    futures = {executor.submit(int, "x") for _ in range(3)}
    seen = set()
    for future in as_completed(futures, TIMEOUT):
        assert isinstance(future.exception(), ValueError)
        seen.add(future)
    assert seen == futures
