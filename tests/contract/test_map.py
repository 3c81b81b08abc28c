"""`map`: order, errors, timeouts, lazy input, closing."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor

import pytest
from contract.conftest import occupied
from kit import TIMEOUT

from fairpool import FairPool, Lock


def test_results_come_in_input_order(executor: Executor) -> None:
    assert list(executor.map(pow, range(100), itertools.repeat(2))) == [i * i for i in range(100)]


def test_the_shortest_input_ends_it(executor: Executor) -> None:
    assert list(executor.map(max, [1, 5, 2], [4, 3])) == [4, 5]
    assert list(executor.map(int, [])) == []


@pytest.mark.parametrize("chunksize", [1, 2, 7, 100, 1000])
def test_chunks_do_not_show(executor: Executor, chunksize: int) -> None:
    assert list(executor.map(str, range(100), chunksize=chunksize)) == list(map(str, range(100)))


def test_input_may_be_a_generator(executor: Executor) -> None:
    assert list(executor.map(str, (i for i in range(10)))) == list(map(str, range(10)))


def test_calls_are_made_before_anyone_asks(executor: Executor) -> None:
    called = threading.Event()
    results = executor.map(lambda event: event.set(), [called])
    assert called.wait(TIMEOUT)
    assert list(results) == [None]


def test_an_error_comes_where_its_result_would_have_come(executor: Executor) -> None:
    results = executor.map(divmod, [1, 2, 3], [1, 1, 0])
    assert next(results) == (1, 0)
    assert next(results) == (2, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_an_error_of_the_input_is_raised_by_the_call(executor: Executor) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError

    with pytest.raises(LookupError):
        executor.map(str, broken())


def test_timeout(executor: Executor, gate: threading.Event) -> None:
    results = executor.map(
        lambda wanted: gate.wait(TIMEOUT) if wanted else None, [0, 1], timeout=0.05
    )
    received = []
    with pytest.raises(concurrent.futures.TimeoutError):
        for result in results:
            received.append(result)
    assert received in ([None], [])  # not even the first, on a very slow machine


def test_timeout_counts_from_the_call(
    executor: Executor, workers: int, gate: threading.Event
) -> None:
    with occupied(executor, workers, gate):
        results = executor.map(int, ["1"], timeout=0)
        with pytest.raises(concurrent.futures.TimeoutError):
            next(results)


def test_closing_cancels_what_was_not_started(
    executor: Executor, workers: int, gate: threading.Event
) -> None:
    calls: list[int] = []
    second_runs = threading.Event()

    def call(i: int) -> int:
        calls.append(i)
        if i == 1:
            second_runs.set()
            gate.wait(TIMEOUT)
        return i

    with occupied(executor, workers - 1, gate):  # so one worker makes the calls, one by one
        results = executor.map(call, range(4))
        assert next(results) == 0
        assert second_runs.wait(TIMEOUT)
        results.close()  # type: ignore[attr-defined]
    executor.shutdown()
    assert calls == [0, 1]


def test_an_error_cancels_what_was_not_started(
    executor: Executor, workers: int, gate: threading.Event
) -> None:
    calls: list[int] = []
    second_runs = threading.Event()

    def call(i: int) -> int:
        calls.append(i)
        if i == 1:
            second_runs.set()
            gate.wait(TIMEOUT)
        return 1 // i

    with occupied(executor, workers - 1, gate):
        results = executor.map(call, range(4))
        assert second_runs.wait(TIMEOUT)
        with pytest.raises(ZeroDivisionError):
            next(results)
    executor.shutdown()
    assert calls == [0, 1]


# --- buffersize: in the standard library from 3.14 --------------------------------------------


def test_buffersize_takes_infinite_input(fair: FairPool | Lock) -> None:
    results = fair.map(str, itertools.count(), buffersize=3)
    assert list(itertools.islice(results, 20)) == list(map(str, range(20)))


@pytest.mark.parametrize(("chunksize", "ahead"), [(1, 3), (2, 4), (5, 5)])
def test_buffersize_bounds_how_far_the_input_is_read(
    fair: FairPool | Lock, chunksize: int, ahead: int
) -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for i in itertools.count():
            read.append(i)
            yield i

    results = fair.map(str, numbers(), buffersize=3, chunksize=chunksize)
    assert len(read) == ahead
    for i in range(20):
        assert next(results) == str(i)
        assert len(read) <= i + 1 + ahead + chunksize


def test_buffersize_above_the_length_of_the_input(fair: FairPool | Lock) -> None:
    assert list(fair.map(str, range(5), buffersize=100)) == list(map(str, range(5)))


def test_an_error_of_lazy_input_is_raised_where_it_comes(fair: FairPool | Lock) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError

    results = fair.map(str, broken(), buffersize=1)
    assert next(results) == "1"
    with pytest.raises(LookupError):
        next(results)


def test_lazy_input_after_shutdown(fair: FairPool | Lock) -> None:
    results = fair.map(str, itertools.count(), buffersize=1)
    assert next(results) == "0"
    fair.shutdown()
    rest = []
    with pytest.raises(RuntimeError, match="after shutdown"):
        for result in results:
            rest.append(result)
    assert rest in ([], ["1"])  # what was accepted before


class Kept:
    """A result, to which there may be a weak reference."""


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_keeps_no_result_that_it_has_yielded(executor: Executor, chunksize: int) -> None:
    for result in executor.map(lambda _: Kept(), range(7), chunksize=chunksize):
        there = weakref.ref(result)
        del result
        end = time.monotonic() + TIMEOUT
        while there() is not None:  # its worker may still have the task in hand
            gc.collect()
            assert time.monotonic() < end
