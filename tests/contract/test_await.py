"""`await`: what can be awaited where, and what comes of it. On real workers, and in asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import types
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from kit import TIMEOUT, Mishap

import fairpool
from fairpool import (
    CancelledError,
    DeadlockError,
    FairPool,
    Future,
    create_task,
    current_task,
    gather,
    shield,
    sleep,
    yield_now,
)


@pytest.fixture(params=[1, 2, 8])
def pool(request: pytest.FixtureRequest) -> Iterator[FairPool]:
    with FairPool(request.param) as pool:
        yield pool


@pytest.fixture
def standard() -> Iterator[concurrent.futures.Executor]:
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


def suspended(task: Any) -> None:
    """Return when the task's coroutine is suspended."""
    while not getattr(getattr(task, "_coroutine_state", None), "armed", None):
        assert not task.done()
        time.sleep(0)


def is_cancelled(future: Any) -> bool:
    try:
        future.result(TIMEOUT)
    except (CancelledError, concurrent.futures.CancelledError):
        return bool(future.cancelled())
    return False


async def wait_for(future: Any) -> Any:
    return await future


async def add(a: int, b: int) -> int:
    await yield_now()
    return a + b


async def fail(*args: object) -> None:
    await yield_now()
    raise Mishap(*args)


async def for_ever() -> None:
    await Future()


# --- what can be awaited --------------------------------------------------------------------------


class Wrapper:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __await__(self) -> Generator[Any, None, Any]:
        return self._inner.__await__()  # type: ignore[no-any-return]


@types.coroutine
def old_style(future: Any) -> Generator[Any, None, Any]:
    return (yield from future.__await__())


AWAITABLES: dict[str, Callable[[Any], Any]] = {
    "the future": lambda future: future,
    "an object with __await__": Wrapper,
    "a coroutine": wait_for,
    "a generator-based coroutine": old_style,
    "gather": lambda future: _first_of_gather(future),
    "shield": shield,
    "shield of a coroutine": lambda future: shield(wait_for(future)),
    "a task": lambda future: create_task(wait_for(future)),
    "a task of a generator-based coroutine": lambda future: create_task(old_style(future)),
}


# What takes another executor's future as it is.
TAKE_FOREIGN = {"gather", "shield"}


async def _first_of_gather(future: Any) -> Any:
    return (await gather(future))[0]


@pytest.mark.parametrize("early", [True, False], ids=["final first", "awaited first"])
@pytest.mark.parametrize("outcome", ["result", "error", "cancelled"])
@pytest.mark.parametrize("kind", AWAITABLES)
@pytest.mark.parametrize("make", [Future, concurrent.futures.Future])
def test_await(make: Any, kind: str, outcome: str, early: bool, pool: FairPool) -> None:
    future = make()
    wrap = kind not in TAKE_FOREIGN

    async def body() -> Any:
        return await AWAITABLES[kind](fairpool.wrap_future(future) if wrap else future)

    def end() -> None:
        if outcome == "result":
            future.set_result(5)
        elif outcome == "error":
            future.set_exception(Mishap())
        else:
            future.cancel()

    if early:
        end()
    task = pool.submit(body)
    if not early:
        suspended(task)
        end()
    if outcome == "result":
        assert task.result(TIMEOUT) == 5
    elif outcome == "error":
        assert isinstance(task.exception(TIMEOUT), Mishap)
    else:
        assert is_cancelled(task)


def test_await_what_other_pools_run(pool: FairPool, standard: concurrent.futures.Executor) -> None:
    async def body() -> list[Any]:
        gate = threading.Event()
        futures: list[Any] = [
            pool.submit(add, 1, 2),
            other.submit(add, 3, 4),
            standard.submit(pow, 2, 3),
            standard.submit(gate.wait, TIMEOUT),
        ]
        gate.set()
        results = [await fairpool.wrap_future(future) for future in futures]
        return results + await gather(*futures)

    with FairPool(1) as other:
        assert pool.submit(body).result(TIMEOUT) == [3, 7, 8, True] * 2


def test_a_cancelled_standard_future_cancels_the_task_that_awaits_it(
    pool: FairPool, standard: concurrent.futures.Executor
) -> None:
    gate = threading.Event()
    holding = standard.submit(gate.wait, TIMEOUT)
    queued = standard.submit(int)
    task = pool.submit(wait_for, fairpool.wrap_future(queued))
    suspended(task)
    assert queued.cancel()
    assert is_cancelled(task)
    gate.set()
    holding.result(TIMEOUT)


@pytest.mark.parametrize("what", [5, None, "text", object()])
def test_what_is_no_awaitable_is_a_type_error(what: object, pool: FairPool) -> None:
    assert isinstance(pool.submit(wait_for, what).exception(TIMEOUT), TypeError)


def test_an_asyncio_future_is_refused_with_advice(pool: FairPool) -> None:
    loop = asyncio.new_event_loop()
    try:
        future: asyncio.Future[int] = loop.create_future()
        error = pool.submit(wait_for, future).exception(TIMEOUT)
        assert isinstance(error, TypeError)
        assert "asyncio.run_coroutine_threadsafe" in str(error)
        future.cancel()
    finally:
        loop.close()


def test_the_advice_works(pool: FairPool) -> None:
    async def there() -> str:
        await asyncio.sleep(0)
        return "from the loop"

    async def body(loop: asyncio.AbstractEventLoop) -> str:
        future = asyncio.run_coroutine_threadsafe(there(), loop)
        return await fairpool.wrap_future(future)

    async def main() -> str:
        return await pool.submit(body, asyncio.get_running_loop())

    assert asyncio.run(main()) == "from the loop"


def test_a_foreign_yield_is_refused_and_the_worker_lives(pool: FairPool) -> None:
    class Evil:
        def __repr__(self) -> str:
            raise Mishap

    @types.coroutine
    def foreign() -> Generator[object, None, None]:
        yield Evil()

    async def body() -> None:
        await yield_now()
        await foreign()

    assert isinstance(pool.submit(body).exception(TIMEOUT), TypeError)
    assert pool.submit(add, 1, 2).result(TIMEOUT) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: sleep(0.001, 5),
        lambda: add(2, 3),
        lambda: shield(sleep(0.001, 5)),
        lambda: _first_of_gather(sleep(0.001, 5)),
        lambda: create_task(sleep(0.001, 5)),
    ],
)
def test_sleep_is_a_coroutine_like_others(make: Callable[[], Any], pool: FairPool) -> None:
    async def body() -> Any:
        return await make()

    assert pool.submit(body).result(TIMEOUT) == 5


def test_functions_that_return_coroutines_are_tasks(pool: FairPool) -> None:
    assert pool.submit(lambda: add(1, 2)).result(TIMEOUT) == 3
    assert pool.submit(sleep, 0.001, 5).result(TIMEOUT) == 5
    assert list(pool.map(add, range(5), range(5))) == [0, 2, 4, 6, 8]


def test_async_iterators_and_contexts(pool: FairPool) -> None:
    log: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for i in range(3):
                yield await pool.submit(add, i, 1)
        finally:
            await sleep(0.001)
            log.append("closed")

    @asynccontextmanager
    async def context() -> AsyncIterator[str]:
        await yield_now()
        try:
            yield "inside"
        finally:
            await sleep(0.001)
            log.append("left")

    async def body() -> list[int]:
        async with context() as where:
            assert where == "inside"
            return [number async for number in numbers()]

    assert pool.submit(body).result(TIMEOUT) == [1, 2, 3]
    assert log == ["closed", "left"]


def test_deep_coroutines(pool: FairPool) -> None:
    async def deep(depth: int) -> int:
        if depth == 0:
            await yield_now()
            return 0
        return await deep(depth - 1) + 1

    assert pool.submit(deep, 200).result(TIMEOUT) == 200


def test_tasks_nest_without_recursion(pool: FairPool) -> None:
    async def nested(depth: int) -> int:
        return await create_task(nested(depth - 1)) + 1 if depth else 0

    assert pool.submit(nested, 10_000).result(TIMEOUT) == 10_000


def test_a_final_future_is_not_waited_for(pool: FairPool) -> None:
    async def body() -> int:
        future: Future[int] = Future()
        future.set_result(1)
        total = 0
        for _ in range(10_000):
            total += await future
        return total

    assert pool.submit(body).result(TIMEOUT) == 10_000


def test_blocking_and_awaiting_mix(pool: FairPool) -> None:
    async def nested(depth: int) -> int:
        if depth == 0:
            await yield_now()
            return 0
        child = create_task(nested(depth - 1))
        if depth % 2:
            return child.result() + 1
        return await child + 1

    assert pool.submit(nested, 40).result(TIMEOUT) == 40


# --- gather and shield ------------------------------------------------------------------------


def test_gather(pool: FairPool) -> None:
    async def body() -> list[Any]:
        future: Future[int] = Future()
        future.set_result(9)
        return await gather(add(1, 2), future, pool.submit(add, 3, 4), gather(add(1, 1)), future)

    assert pool.submit(body).result(TIMEOUT) == [3, 9, 7, [2], 9]

    async def nothing() -> list[Any]:
        return await gather()

    assert pool.submit(nothing).result(TIMEOUT) == []


def test_gather_raises_the_first_failure_and_the_others_run_on(pool: FairPool) -> None:
    held: Future[int] = Future()

    async def body() -> bool:
        other = create_task(wait_for(held))
        with pytest.raises(Mishap):
            await gather(other, fail())
        running = not other.done()
        held.set_result(3)
        return running and await other == 3

    assert pool.submit(body).result(TIMEOUT) is True


def test_gather_with_exceptions_as_results(pool: FairPool) -> None:
    async def body() -> list[Any]:
        cancelled = create_task(for_ever())
        cancelled.cancel()
        return await gather(add(1, 2), fail(7), cancelled, return_exceptions=True)

    three, mishap, cancelled = pool.submit(body).result(TIMEOUT)
    assert three == 3
    assert (type(mishap), mishap.args) == (Mishap, (7,))
    assert isinstance(cancelled, CancelledError)


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_to_cancel_a_gather_is_to_cancel_all(return_exceptions: bool, pool: FairPool) -> None:
    tasks: list[Any] = []

    async def body() -> None:
        tasks.extend(create_task(for_ever()) for _ in range(3))
        await gather(*tasks, gather(*tasks), return_exceptions=return_exceptions)

    task = pool.submit(body)
    suspended(task)
    assert task.cancel()
    assert is_cancelled(task)
    assert all(is_cancelled(child) for child in tasks)


def test_a_shielded_task_survives(pool: FairPool) -> None:
    held: Future[int] = Future()
    inner: list[Any] = []

    async def body() -> None:
        inner.append(create_task(wait_for(held)))
        await shield(inner[0])

    task = pool.submit(body)
    suspended(task)
    assert task.cancel()
    assert is_cancelled(task)
    held.set_result(4)
    assert inner[0].result(TIMEOUT) == 4


# --- cancelling -------------------------------------------------------------------------------


def _blocked_in(kind: str, log: list[str]) -> Callable[[], Coroutine[Any, Any, object]]:
    async def body() -> object:
        try:
            if kind == "a future":
                return await Future()
            if kind == "a task":
                return await create_task(for_ever())
            if kind == "a sleep":
                return await sleep(1000)
            if kind == "a gather":
                return await gather(for_ever(), sleep(1000), for_ever())
            if kind == "a shield":
                return await shield(inner)
            if kind == "a chain":
                return await inner.then(int).finally_(int)  # type: ignore[arg-type]
            if kind == "a standard future":
                standard: concurrent.futures.Future[int] = concurrent.futures.Future()
                return await fairpool.wrap_future(standard)
            if kind == "a nested coroutine":
                return await wait_for(Future())
            assert kind == "nothing"
            while True:
                await yield_now()
        finally:
            log.append("cleaned")

    inner: Future[int] = Future()
    return body


KINDS = [
    "a future",
    "a task",
    "a sleep",
    "a gather",
    "a shield",
    "a chain",
    "a standard future",
    "a nested coroutine",
    "nothing",
]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_cancel_while_it_waits_for(kind: str, times: int, pool: FairPool) -> None:
    log: list[str] = []
    task: Any = pool.submit(_blocked_in(kind, log))
    if kind == "nothing":
        while not hasattr(task, "_coroutine_state"):
            time.sleep(0)
    else:
        suspended(task)
    for _ in range(times):
        task.cancel()
    assert is_cancelled(task)
    assert log == ["cleaned"]
    assert task.cancel()


@pytest.mark.parametrize("kind", KINDS)
def test_cancel_at_any_time(kind: str, pool: FairPool) -> None:
    # No state is waited for: all that matters is that it ends, and that it cleans up if it began.
    log: list[str] = []
    tasks: list[Any] = [pool.submit(_blocked_in(kind, log)) for _ in range(50)]
    for task in tasks:
        while not task.cancel():  # False: its function is just being called
            pass
    assert all(is_cancelled(task) for task in tasks)
    assert len(log) <= 50


def test_cancelling_itself_in_the_last_step_counts(pool: FairPool) -> None:
    async def body() -> int:
        task = current_task()
        assert task is not None
        assert task.cancel()
        return 1

    assert is_cancelled(pool.submit(body))


def test_an_error_while_cleaning_up_is_the_outcome(pool: FairPool) -> None:
    async def body() -> None:
        try:
            await Future()
        except CancelledError:
            raise Mishap

    task = pool.submit(body)
    suspended(task)
    task.cancel()
    assert isinstance(task.exception(TIMEOUT), Mishap)


def test_a_task_whose_child_refuses_waits_for_it(
    pool: FairPool, caplog: pytest.LogCaptureFixture
) -> None:
    held: Future[str] = Future()

    async def stubborn() -> str:
        while True:
            try:
                return await shield(held)
            except CancelledError:
                pass

    children: list[Any] = []

    async def parent() -> str:
        children.append(create_task(stubborn()))
        return await children[0]  # type: ignore[no-any-return]

    task = pool.submit(parent)
    suspended(task)
    suspended(children[0])  # else its cancellation would come before its first step
    task.cancel()
    held.set_result("at last")
    assert task.result(TIMEOUT) == "at last"  # as in asyncio: the cancellation was the child's
    assert children[0].result(TIMEOUT) == "at last"
    pool.shutdown()
    assert "was cancelled" in caplog.text


# --- contexts, errors ---------------------------------------------------------------------------


def test_each_task_has_a_context_of_its_own_on_whatever_worker(pool: FairPool) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    threads: set[int] = set()

    async def body(number: int) -> bool:
        assert variable.get() == -1
        variable.set(number)
        for _ in range(50):
            await yield_now()
            threads.add(threading.get_ident())
            if variable.get() != number:
                return False
        child = await create_task(wait_for_variable(variable))
        return child == number and variable.get() == number

    variable.set(-1)
    assert all(list(pool.map(body, range(40))))
    assert variable.get() == -1


async def wait_for_variable(variable: contextvars.ContextVar[int]) -> int:
    await yield_now()
    value = variable.get()
    variable.set(1000)
    return value


@pytest.mark.parametrize(
    "kind", [Mishap, KeyboardInterrupt, SystemExit, GeneratorExit, StopAsyncIteration]
)
def test_any_exception_arrives_where_it_is_awaited(
    kind: type[BaseException], pool: FairPool
) -> None:
    async def failing() -> None:
        await yield_now()
        raise kind("it")

    async def body() -> tuple[object, ...]:
        try:
            await create_task(failing())
        except BaseException as error:
            return type(error), error.args
        return ()

    assert pool.submit(body).result(TIMEOUT) == (kind, ("it",))
    assert pool.submit(add, 1, 2).result(TIMEOUT) == 3


def test_tracebacks_do_not_grow_with_each_await(pool: FairPool) -> None:
    async def body() -> set[int]:
        task = create_task(fail())
        lengths = set()
        for _ in range(20):
            try:
                await task
            except Mishap as error:
                lengths.add(len(traceback.extract_tb(error.__traceback__)))
        return lengths

    lengths = pool.submit(body).result(TIMEOUT)
    assert len(lengths) <= 2  # the first await suspends, the others need not
    assert max(lengths) <= 6


def test_a_cycle_of_awaits_is_named(pool: FairPool) -> None:
    box: list[Any] = []

    async def left() -> None:
        await both_are_made()
        await box[1]

    async def right() -> None:
        await both_are_made()
        await box[0]

    async def both_are_made() -> None:
        while len(box) < 2:
            await yield_now()

    def make() -> None:
        box.append(create_task(left()))
        box.append(create_task(right()))

    pool.submit(make).result(TIMEOUT)
    errors = [task.exception(TIMEOUT) for task in box if not task.cancelled()]
    messages = [str(error) for error in errors if isinstance(error, DeadlockError)]
    assert messages
    assert "left" in messages[0]
    assert "right" in messages[0]


@pytest.mark.parametrize("first", ["await", "result"])
@pytest.mark.parametrize("second", ["await", "result", "gather", "then", "shield"])
def test_mixed_cycles_are_errors(first: str, second: str, pool: FairPool) -> None:
    box: list[Any] = []
    made = threading.Event()

    async def wait_in(kind: str, number: int) -> None:
        made.wait(TIMEOUT)
        other = box[number]
        if kind == "result":
            other.result()
        elif kind == "await":
            await other
        elif kind == "gather":
            await gather(other, Future())
        elif kind == "then":
            await other.then(int)
        else:
            await shield(other)

    box.append(pool.submit(wait_in, first, 1))
    box.append(pool.submit(wait_in, second, 0))
    made.set()
    errors = [task.exception(TIMEOUT) for task in box]
    assert any(isinstance(error, DeadlockError) for error in errors)


def test_no_cycle_is_seen_where_there_is_none(pool: FairPool) -> None:
    async def node(children: list[Any]) -> int:
        results = await gather(*children, return_exceptions=True)
        assert not any(isinstance(result, BaseException) for result in results), results
        return sum(results) + 1

    tasks: list[Any] = []
    for i in range(200):
        tasks.append(pool.submit(node, tasks[max(0, i - 3) :][:2]))
    assert tasks[-1].result(TIMEOUT) > 0


# --- asyncio ----------------------------------------------------------------------------------


def test_await_in_a_loop(pool: FairPool) -> None:
    async def main() -> list[Any]:
        with pytest.raises(Mishap):
            await pool.submit(fail)
        final = pool.submit(add, 1, 2)
        final.result(TIMEOUT)
        gathered = await asyncio.gather(*(pool.submit(add, i, 1) for i in range(5)))
        return [await pool.submit(add, 1, 1), await final, *gathered]

    assert asyncio.run(main()) == [2, 3, 1, 2, 3, 4, 5]


def test_a_loop_in_a_worker(pool: FairPool) -> None:
    async def main() -> int:
        return await pool.submit(add, 1, 2) + await asyncio.sleep(0, 10)

    def loop() -> int:
        with fairpool.blocking():  # the pool cannot see that it waits
            return asyncio.run(main())

    assert [pool.submit(loop).result(TIMEOUT) for _ in range(3)] == [13] * 3


def test_a_task_that_is_waited_for_in_a_loop_does_not_run_in_that_loop(pool: FairPool) -> None:
    # It is not run inline, on top of the loop, where its `await` would mean the loop's.
    async def inner() -> int:
        return await pool.submit(add, 1, 2)

    async def main() -> int:
        return pool.submit(inner).result()

    def loop() -> int:
        return asyncio.run(main())

    assert pool.submit(loop).result(TIMEOUT) == 3


def test_cancellation_crosses_from_the_loop(pool: FairPool) -> None:
    log: list[str] = []
    tasks: list[Any] = []

    async def work() -> None:
        try:
            await Future()
        finally:
            log.append("cleaned")

    async def main() -> None:
        tasks.append(pool.submit(work))
        waiter = asyncio.ensure_future(wait_for(tasks[0]))
        suspended(tasks[0])
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(main())
    assert is_cancelled(tasks[0])
    assert log == ["cleaned"]


def test_cancellation_crosses_into_the_loop(pool: FairPool) -> None:
    async def main() -> bool:
        task = pool.submit(for_ever)
        waiter = asyncio.ensure_future(wait_for(task))
        suspended(task)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        return waiter.cancelled()

    assert asyncio.run(main())


def test_contexts_cross_into_the_pool(pool: FairPool) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def main() -> tuple[int, int]:
        variable.set(5)
        return await pool.submit(wait_for_variable, variable), variable.get()

    assert asyncio.run(main()) == (5, 5)


def test_a_loop_that_is_gone_is_no_error(pool: FairPool, caplog: pytest.LogCaptureFixture) -> None:
    held: Future[int] = Future()
    tasks: list[Any] = []

    async def main() -> None:
        tasks.append(pool.submit(wait_for, held))
        # The loop ends with this still waiting; it is cancelled, and so is what it waits for.
        waiters.append(asyncio.ensure_future(wait_for(shielded)))
        await asyncio.sleep(0)

    waiters: list[object] = []
    shielded = pool.submit(wait_for, held)
    asyncio.run(main())
    with suppress(concurrent.futures.InvalidStateError):  # it may be cancelled at this moment
        held.set_result(1)
    for task in (*tasks, shielded):
        assert is_cancelled(task) or task.result(TIMEOUT) == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# --- run --------------------------------------------------------------------------------------


def test_run() -> None:
    assert fairpool.run(add(1, 2)) == 3
    assert fairpool.run(add(1, 2), max_workers=1) == 3
    assert fairpool.run(sleep(0.001, "rested")) == "rested"
    with pytest.raises(Mishap):
        fairpool.run(fail())
    with pytest.raises(TypeError):
        fairpool.run(5)  # type: ignore[arg-type]


def test_run_in_a_task_is_an_error_and_leaves_no_coroutine(pool: FairPool) -> None:
    def body() -> None:
        with pytest.raises(RuntimeError):
            fairpool.run(add(1, 2))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool.submit(body).result(TIMEOUT)
        gc.collect()


def test_run_ends_what_the_main_coroutine_has_left() -> None:
    log: list[str] = []

    async def left() -> None:
        try:
            await Future()
        finally:
            log.append("cancelled")

    async def main() -> str:
        tasks = [create_task(left()) for _ in range(3)]
        await yield_now()
        while not all(getattr(getattr(t, "_coroutine_state", None), "armed", None) for t in tasks):
            await yield_now()
        return "done"

    assert fairpool.run(main(), max_workers=2) == "done"
    assert log == ["cancelled"] * 3


# --- the end ----------------------------------------------------------------------------------


def test_shutdown_waits_for_what_is_suspended() -> None:
    held: Future[int] = Future()
    pool = FairPool(2)
    tasks = [pool.submit(wait_for, held) for _ in range(5)]
    for task in tasks:
        suspended(task)
    ended = threading.Event()

    def end() -> None:
        pool.shutdown()
        assert all(task.done() for task in tasks)
        ended.set()

    thread = threading.Thread(target=end)
    thread.start()
    assert not ended.is_set()
    held.set_result(1)
    assert ended.wait(TIMEOUT)
    thread.join()


def test_a_sleeper_outlives_the_idle_workers() -> None:
    pool = FairPool(2, idle_timeout=0.0)
    tasks = [pool.submit(sleep_and_add, 0.02 * i) for i in range(5)]
    assert [task.result(TIMEOUT) for task in tasks] == [1] * 5
    pool.shutdown()


async def sleep_and_add(delay: float) -> int:
    await sleep(delay + 0.001)
    return await create_task(add(0, 1))


def test_a_pool_that_is_dropped_runs_what_it_has_accepted() -> None:
    held: Future[int] = Future()
    pool = FairPool(2)
    tasks = [pool.submit(wait_for, held) for _ in range(5)]
    for task in tasks:
        suspended(task)
    del pool
    gc.collect()
    held.set_result(7)
    assert [task.result(TIMEOUT) for task in tasks] == [7] * 5


def test_cancel_futures_ends_what_was_not_started_and_the_rest_goes_on() -> None:
    pool = FairPool(1)
    turns: list[int] = []
    gate = threading.Event()

    async def started() -> str:
        while not gate.is_set():
            turns.append(1)
            await yield_now()
        return "ended"

    tasks = [pool.submit(started) for _ in range(3)]
    while len(turns) < 10:
        time.sleep(0)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    pool.shutdown()
    assert all(task.done() for task in tasks)


def test_a_broken_pool_ends_its_suspended_tasks() -> None:
    calls: list[int] = []

    def initializer() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise Mishap

    pool = FairPool(1, initializer=initializer, idle_timeout=0.0)
    held: Future[int] = Future()
    task = pool.submit(wait_for, held)
    suspended(task)
    while pool._scheduler.workers.copy():  # until the idle worker has ended
        time.sleep(0)
    held.set_result(1)
    concurrent.futures.wait([task], TIMEOUT)
    assert task.done()
    pool.shutdown()


def program(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "error,default::DeprecationWarning"}
    root = os.path.dirname(os.path.dirname(fairpool.__file__))
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


PROGRAMS = {
    "suspended": """
        import fairpool, time
        async def for_ever():
            try:
                await fairpool.Future()
            finally:
                print("cleaned")
        pool = fairpool.FairPool(1)
        task = pool.submit(for_ever)
        while not getattr(getattr(task, "_coroutine_state", None), "armed", None):
            time.sleep(0)
    """,
    "queued, and suspended only afterwards": """
        import fairpool, threading, time
        async def for_ever():
            try:
                await fairpool.Future()
            finally:
                print("cleaned")
        pool = fairpool.FairPool(1)
        main = threading.main_thread()
        pool.submit(lambda: (main.join(), time.sleep(0.1)))
        pool.submit(for_ever)
    """,
    "sleeping": """
        import fairpool, time
        async def nap():
            try:
                await fairpool.sleep(1000)
            finally:
                print("cleaned")
        pool = fairpool.FairPool(2, idle_timeout=0.0)
        task = pool.submit(nap)
        while not getattr(getattr(task, "_coroutine_state", None), "armed", None):
            time.sleep(0)
    """,
    "gathering": """
        import fairpool, time
        async def for_ever():
            await fairpool.Future()
        async def main():
            try:
                await fairpool.gather(for_ever(), for_ever(), fairpool.sleep(1000))
            finally:
                print("cleaned")
        pool = fairpool.FairPool(2)
        task = pool.submit(main)
        while not getattr(getattr(task, "_coroutine_state", None), "armed", None):
            time.sleep(0)
    """,
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_interpreter_ends_whatever_is_suspended(kind: str) -> None:
    done = program(PROGRAMS[kind])
    assert done.stdout == "cleaned\n"
    assert "never awaited" not in done.stderr
    assert done.returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_cancels_what_run_runs() -> None:
    done = program(
        """
        import fairpool, os, signal, time
        async def child(started):
            started.set_result(None)
            try:
                await fairpool.sleep(1000)
            finally:
                print("child cleaned")
        async def main():
            started = fairpool.Future()
            task = fairpool.create_task(child(started))
            await started
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await task
            finally:
                await fairpool.sleep(0.01)
                print("main cleaned")
        try:
            fairpool.run(main(), max_workers=2)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert done.stdout.splitlines() == ["child cleaned", "main cleaned", "interrupted"]
    assert done.returncode == 0


@pytest.mark.parametrize("held_up", [False, True])
def test_ctrl_c_cancels_each_coroutine_once_so_that_no_clean_up_is_struck(held_up: bool) -> None:
    # If `run` asked all coroutines at once to end, each child would be asked twice: for itself, and
    # by the gather that `main` waits for. In whatever order, the second request would strike a
    # clean-up: each cancellation here waits until the one before it has led to the clean-up.
    # `held_up`: the interrupt comes when `run` has queued the coroutine, and does no more yet.
    done = program(
        """
        import concurrent.futures, fairpool, itertools, os, signal, sys, threading, time
        from fairpool._scheduler.scheduler import Scheduler
        CHILDREN = 5
        arrivals = itertools.count(1)
        all_wait = fairpool.Future()
        cleaned = []
        class Held(concurrent.futures.Future):
            cancelled_before = []
            def __init__(self):
                super().__init__()
                self.led_to_clean_up = threading.Event()
            def cancel(self):
                if self.cancelled_before:
                    assert self.cancelled_before[-1].led_to_clean_up.wait(30)
                self.cancelled_before.append(self)
                return super().cancel()
            def add_done_callback(self, fn):
                super().add_done_callback(fn)
                if next(arrivals) == CHILDREN:
                    all_wait.set_result(None)
        async def child():
            held = Held()
            try:
                await fairpool.wrap_future(held)
            finally:
                held.led_to_clean_up.set()
                await fairpool.sleep(0.01)
                cleaned.append("child")
        async def main():
            children = [child() for _ in range(CHILDREN)]
            ended = fairpool.gather(*children, return_exceptions=True)
            await all_wait
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await ended
            finally:
                await fairpool.sleep(0.01)
                cleaned.append("main")
        put = Scheduler.put
        def put_and_be_held_up(scheduler, task):
            put(scheduler, task)
            while threading.current_thread() is threading.main_thread() and not task.cancelling():
                time.sleep(0.001)
        if "held up" in sys.argv:
            Scheduler.put = put_and_be_held_up
        try:
            fairpool.run(main(), max_workers=2)
        except KeyboardInterrupt:
            print(*cleaned)
        """,
        *["held up"] * held_up,
    )
    assert done.stdout.split() == ["child"] * 5 + ["main"]
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_told_and_has_no_coroutine_left() -> None:
    done = program(
        """
        import fairpool, gc, os, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        pool = fairpool.FairPool(1)
        gate, made = threading.Event(), threading.Event()
        async def child():
            pass
        tasks = []
        def hold():
            tasks.append(fairpool.create_task(child()))
            made.set()
            gate.wait()
        holding = pool.submit(hold)
        made.wait()
        pid = os.fork()
        if pid == 0:
            try:
                tasks[0].result(5)
            except fairpool.BrokenFairPool:
                os.write(1, b"told\\n")
            tasks.clear()
            gc.collect()
            os._exit(0)
        os.waitpid(pid, 0)
        gate.set()
        holding.result()
        pool.shutdown()
        assert tasks[0].done()
        """
    )
    assert done.stdout == "told\n"
    assert "never awaited" not in done.stderr
    assert done.returncode == 0
