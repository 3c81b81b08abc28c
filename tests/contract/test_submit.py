"""`submit` and `Future`: result, exception, timeout, cancel, callbacks."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import traceback
from concurrent.futures import CancelledError, Executor, Future

import pytest
from contract.conftest import occupied
from kit import TIMEOUT, Mishap


def fail(error: BaseException) -> None:
    raise error


def test_result(executor: Executor) -> None:
    future = executor.submit(pow, 2, 10)
    assert isinstance(future, Future)
    assert future.result(TIMEOUT) == 1024
    assert future.exception() is None
    assert future.done()
    assert not future.cancelled()
    assert not future.running()


def test_any_keyword_reaches_the_function(executor: Executor) -> None:
    def collect(*args: object, **kwargs: object) -> object:
        return args, kwargs

    future = executor.submit(collect, 1, 2, fn=3, self=4, task=5, timeout=6)
    expected = (1, 2), {"fn": 3, "self": 4, "task": 5, "timeout": 6}
    assert future.result(TIMEOUT) == expected


@pytest.mark.parametrize(
    "error", [Mishap("x"), SystemExit(3), KeyboardInterrupt(), StopIteration(4)]
)
def test_exception_is_the_one_that_was_raised(executor: Executor, error: BaseException) -> None:
    future = executor.submit(fail, error)
    with pytest.raises(type(error)) as caught:
        future.result(TIMEOUT)
    assert caught.value is error
    assert future.exception() is error
    assert future.done()
    assert not future.cancelled()


def test_traceback_leads_to_the_line_that_raised(executor: Executor) -> None:
    future = executor.submit(fail, Mishap())
    with pytest.raises(Mishap) as caught:
        future.result(TIMEOUT)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].line == "raise error"


@pytest.mark.parametrize("ask", [Future.result, Future.exception])
def test_timeout_leaves_the_task_alone(
    executor: Executor, gate: threading.Event, ask: object
) -> None:
    with occupied(executor, 1, gate) as [future]:
        for timeout in (0, 0.001, -1):
            with pytest.raises(concurrent.futures.TimeoutError):
                getattr(future, ask.__name__)(timeout)
        assert future.running()
        assert not future.done()
    assert future.result(TIMEOUT) is True


def test_result_from_many_threads(executor: Executor, gate: threading.Event) -> None:
    results: list[object] = []
    with occupied(executor, 1, gate) as [future]:
        threads = [
            threading.Thread(target=lambda: results.append(future.result(TIMEOUT)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert results == [True] * 4


def test_tasks_run_at_the_same_time_as_many_as_there_are_workers(
    executor: Executor, workers: int
) -> None:
    meeting = threading.Barrier(workers)
    for future in [executor.submit(meeting.wait, TIMEOUT) for _ in range(workers)]:
        future.result(TIMEOUT)


def test_each_task_is_called_once(executor: Executor) -> None:
    calls: list[int] = []
    futures = [executor.submit(calls.append, i) for i in range(500)]
    for future in futures:
        future.result(TIMEOUT)
    assert sorted(calls) == list(range(500))


def test_a_task_submits_a_task(executor: Executor) -> None:
    inner = executor.submit(executor.submit, int).result(TIMEOUT)
    assert inner.result(TIMEOUT) == 0


# --- cancel -----------------------------------------------------------------------------------


def test_cancel_before_the_start(executor: Executor, workers: int, gate: threading.Event) -> None:
    calls: list[object] = []
    told: list[object] = []
    with occupied(executor, workers, gate):
        future = executor.submit(calls.append, 1)
        future.add_done_callback(told.append)
        assert future.cancel()
        assert future.cancel()
        assert future.cancelled()
        assert future.done()
        assert not future.running()
        assert told == [future]
    for ask in (future.result, future.exception):
        with pytest.raises(CancelledError):
            ask(TIMEOUT)
    assert executor.submit(int).result(TIMEOUT) == 0
    assert calls == []


def test_cancel_of_a_running_task_does_nothing(executor: Executor, gate: threading.Event) -> None:
    with occupied(executor, 1, gate) as [future]:
        assert not future.cancel()
        assert future.running()
        assert not future.cancelled()
    assert future.result(TIMEOUT) is True


def test_cancel_of_a_finished_task_does_nothing(executor: Executor) -> None:
    future = executor.submit(int)
    assert future.result(TIMEOUT) == 0
    assert not future.cancel()
    assert not future.cancelled()
    assert future.result() == 0


# --- callbacks --------------------------------------------------------------------------------


def test_callbacks_are_called_in_order_with_the_future(
    executor: Executor, gate: threading.Event
) -> None:
    calls: list[object] = []
    last = threading.Event()
    with occupied(executor, 1, gate) as [future]:
        for i in range(5):
            future.add_done_callback(lambda future, i=i: calls.append((i, future, future.done())))
        future.add_done_callback(lambda _: last.set())
        assert calls == []
    assert last.wait(TIMEOUT)
    assert calls == [(i, future, True) for i in range(5)]


def test_a_callback_of_a_finished_task_is_called_at_once(executor: Executor) -> None:
    future = executor.submit(int)
    future.result(TIMEOUT)
    calls: list[object] = []
    future.add_done_callback(calls.append)
    assert calls == [future]


def test_a_callback_is_called_after_a_failure(executor: Executor) -> None:
    future = executor.submit(fail, Mishap())
    errors: list[object] = []
    called = threading.Event()
    future.add_done_callback(lambda future: (errors.append(future.exception()), called.set()))
    assert called.wait(TIMEOUT)
    assert isinstance(errors[0], Mishap)


def test_a_callback_that_raises_is_logged_and_harms_nobody(
    executor: Executor, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    called = threading.Event()
    with caplog.at_level(logging.ERROR), occupied(executor, 1, gate) as [future]:
        future.add_done_callback(lambda _: fail(Mishap()))
        future.add_done_callback(lambda _: called.set())
    assert called.wait(TIMEOUT)
    assert future.result() is True
    assert executor.submit(int).result(TIMEOUT) == 0
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [Mishap]


def test_a_callback_may_submit(executor: Executor) -> None:
    second: Future[Future[int]] = Future()
    executor.submit(int).add_done_callback(lambda _: second.set_result(executor.submit(int, "7")))
    assert second.result(TIMEOUT).result(TIMEOUT) == 7
