"""`shutdown` in all its forms, the context manager, the initializer, thread names."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor

import pytest
from contract.conftest import occupied
from kit import TIMEOUT

from fairpool import Share


def test_shutdown_runs_what_was_accepted(executor: Executor) -> None:
    calls: list[int] = []
    for i in range(50):
        executor.submit(calls.append, i)
    executor.shutdown()
    assert sorted(calls) == list(range(50))


def test_shutdown_may_be_called_again(executor: Executor) -> None:
    executor.submit(int)
    for wait in (False, True, True, False):
        executor.shutdown(wait=wait)


def test_shutdown_of_an_unused_executor(executor: Executor) -> None:
    executor.shutdown()


def test_shutdown_without_waiting_still_runs_all(
    executor: Executor, workers: int, gate: threading.Event
) -> None:
    with occupied(executor, workers, gate) as blocked:
        waiting = executor.submit(int, "5")
        executor.shutdown(wait=False)
        assert not any(future.done() for future in [*blocked, waiting])
    assert waiting.result(TIMEOUT) == 5
    executor.shutdown()


def test_shutdown_that_cancels(executor: Executor, workers: int, gate: threading.Event) -> None:
    with occupied(executor, workers, gate) as blocked:
        waiting = [executor.submit(int) for _ in range(3)]
        executor.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in waiting)
        assert not any(future.done() for future in blocked)
    executor.shutdown()
    assert all(future.result(0) for future in blocked)


def test_shutdown_waits_for_what_runs(executor: Executor, gate: threading.Event) -> None:
    with occupied(executor, 1, gate) as [future]:
        closed = threading.Event()
        thread = threading.Thread(target=lambda: (executor.shutdown(), closed.set()))
        thread.start()
        assert not closed.is_set()
    thread.join(TIMEOUT)
    assert closed.is_set()
    assert future.done()


@pytest.mark.parametrize("wait", [True, False])
def test_submit_and_map_after_shutdown(executor: Executor, wait: bool) -> None:
    executor.shutdown(wait=wait)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(int)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(int, [1])


def test_a_task_can_shut_down_without_waiting(executor: Executor) -> None:
    executor.submit(executor.shutdown, wait=False).result(TIMEOUT)
    with pytest.raises(RuntimeError):
        executor.submit(int)


def test_context_manager_waits(make_executor: Callable[..., Executor]) -> None:
    calls: list[int] = []
    with make_executor() as executor:
        assert isinstance(executor, Executor)
        for i in range(20):
            executor.submit(calls.append, i)
    assert len(calls) == 20
    with pytest.raises(RuntimeError):
        executor.submit(int)


def test_context_manager_passes_exceptions_on(make_executor: Callable[..., Executor]) -> None:
    calls: list[int] = []
    with pytest.raises(LookupError), make_executor() as executor:
        executor.submit(calls.append, 1)
        raise LookupError
    assert calls == [1]


def test_threads_are_gone_after_shutdown(make_executor: Callable[..., Executor]) -> None:
    executor = make_executor(thread_name_prefix="to-be-gone")
    if isinstance(executor, Share):
        pytest.skip("the threads are its pool's, which goes on")
    threads = {executor.submit(threading.current_thread).result(TIMEOUT) for _ in range(20)}
    assert all(thread.name.startswith("to-be-gone_") for thread in threads)
    executor.shutdown()
    assert not any(thread.is_alive() for thread in threads)


# --- the initializer --------------------------------------------------------------------------


def test_initializer_runs_first_in_each_worker(
    make_executor: Callable[..., Executor], workers: int
) -> None:
    local = threading.local()

    def initialize(value: int, *, _local: threading.local = local) -> None:
        _local.value = value

    meeting = threading.Barrier(workers)

    def read() -> int:
        meeting.wait(TIMEOUT)  # so that every worker takes one
        return local.value  # type: ignore[no-any-return]

    with make_executor(initializer=initialize, initargs=(7,)) as executor:
        futures = [executor.submit(read) for _ in range(workers)]
        assert [future.result(TIMEOUT) for future in futures] == [7] * workers


def test_initializers_may_meet(make_executor: Callable[..., Executor], workers: int) -> None:
    # A worker that is still in its initializer does not keep the next one from being started.
    meeting = threading.Barrier(workers)
    executor = make_executor(initializer=meeting.wait, initargs=(2,))
    futures = [executor.submit(int) for _ in range(workers)]
    assert [future.exception(TIMEOUT) for future in futures] == [None] * workers
    executor.shutdown()


def test_initializer_that_raises_breaks_the_executor(
    make_executor: Callable[..., Executor], caplog: pytest.LogCaptureFixture
) -> None:
    executor = make_executor(initializer=int, initargs=("x",))
    future = executor.submit(int)
    with pytest.raises(BrokenExecutor, match="initializer failed"):
        future.result(TIMEOUT)
    with pytest.raises(BrokenExecutor, match="initializer failed"):
        executor.submit(int)
    executor.shutdown()
    assert "Exception in initializer" in caplog.text


def test_what_runs_when_another_initializer_fails_still_ends(
    make_executor: Callable[..., Executor], workers: int, gate: threading.Event
) -> None:
    if workers == 1:
        pytest.skip("needs a second worker")
    numbers = itertools.count()
    runs = threading.Event()

    def initialize() -> None:
        if next(numbers) > 0:
            # Not before: a second worker may be started as soon as the first task is queued.
            assert runs.wait(TIMEOUT)
            raise LookupError

    executor = make_executor(initializer=initialize)
    with occupied(executor, 1, gate) as [running]:
        runs.set()
        with pytest.raises(BrokenExecutor):
            executor.submit(int).result(TIMEOUT)
        asked: list[object] = []
        thread = threading.Thread(target=lambda: asked.append(running.exception(TIMEOUT)))
        thread.start()
    thread.join(TIMEOUT)
    assert asked == [None]
    assert running.result() is True
    executor.shutdown()
