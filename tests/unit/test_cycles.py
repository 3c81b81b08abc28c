"""No path that an exception takes leaves a reference cycle: it goes when its last reader lets go.

The collector stops all threads, and does not come often. So what only it can free keeps its frames,
and all that they hold, for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, as_completed, wait
from concurrent.futures import Future as StdFuture
from typing import Any

import pytest
from kit import TIMEOUT, Mishap

import fairpool
from fairpool import FairPool, Future, TaskGroup, Timeout, gather, shield, timeout, yield_now
from fairpool._core.report import LOGGER, wait_for_log
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.failure import Failure


class Base(BaseException):
    pass


made: list[weakref.ref[BaseException]] = []


def fail(*_: object) -> Any:
    error = Mishap()
    made.append(weakref.ref(error))
    try:
        raise error
    finally:
        del error


async def fail_at_once(*_: object) -> Any:
    fail()


async def fail_later(*_: object) -> Any:
    await yield_now()
    fail()


async def fail_after_wait(pool: FairPool) -> Any:
    await pool.submit(int)
    fail()


async def awaits(futures: list[Any]) -> Any:
    return await futures.pop()  # no frame of this holds it


async def sleeps() -> None:
    await fairpool.sleep(TIMEOUT)


def new_error() -> BaseException:
    error = Mishap()
    made.append(weakref.ref(error))
    return error


def standard() -> StdFuture[Any]:
    future: StdFuture[Any] = StdFuture()
    future.set_exception(new_error())
    return future


def by_hand() -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(new_error())
    return future


async def in_gather(eager: bool, **options: Any) -> Any:
    return await gather(fail_at_once(), fail_later(), eager_start=eager, **options)


async def in_group(*, own: bool = False, nested: bool = False) -> None:
    async with TaskGroup() as group:
        if nested:
            group.create_task(in_group())
        else:
            group.create_task(fail_later())
            group.create_task(fail_at_once())
        if own:
            fail()
        await fairpool.sleep(TIMEOUT)


async def group_is_handled() -> None:
    try:
        await in_group()
    except* Mishap:
        pass


async def group_keeps(kept: list[Any]) -> None:
    group = TaskGroup()
    kept.append(group)
    async with group:
        kept.append(group.create_task(fail_later()))


async def in_timeout(*, handle: bool = False) -> None:
    async with timeout(0):
        try:
            await sleeps()
        except asyncio.CancelledError:
            if handle:
                fail()
            raise


async def in_timeout_of_failing() -> None:
    async with timeout(TIMEOUT):
        await fail_later()


async def inside(lock: Any, turns: int) -> None:
    async with lock:
        for _ in range(turns):
            await yield_now()
        fail()


async def enters(guards: list[Any]) -> None:
    async with guards.pop():
        pass


def inside_on_stack(lock: Any) -> None:
    with lock:
        fail()


async def granted(lock: Any) -> None:
    async def first() -> None:
        async with lock:
            await yield_now()
            await yield_now()

    async with TaskGroup() as group:
        group.create_task(first())
        await yield_now()
        group.create_task(inside(lock, 0))
        group.create_task(inside(lock, 1))


async def of_task() -> None:
    await fairpool.create_task(fail_later())


async def cancelled(what: Callable[[], Any]) -> None:
    tasks = [fairpool.create_task(what())]
    await yield_now()
    tasks[0].cancel()
    await tasks.pop()


async def cleans_up() -> None:
    try:
        await fairpool.sleep(TIMEOUT)
    finally:
        fail()


async def through_event() -> None:
    event = fairpool.Event()
    tasks = [fairpool.create_task(waits_then_fails(event))]
    await yield_now()
    event.set()
    await tasks.pop()


async def waits_then_fails(event: fairpool.Event) -> None:
    await event.wait()
    fail()


async def queue_is_shut() -> None:
    queue: fairpool.Queue[int] = fairpool.Queue()
    tasks = [fairpool.create_task(queue.get())]
    await yield_now()
    queue.shutdown()
    try:
        await tasks.pop()
    except fairpool.QueueShutDown:
        fail()


async def in_semaphore() -> None:
    async with fairpool.Semaphore():
        await fail_later()


async def iterates() -> None:
    async def items() -> Any:
        yield 1
        fail()

    async for _ in items():
        pass


async def in_asyncio(pool: FairPool) -> None:
    with contextlib.suppress(Mishap):
        await pool.submit(fail)
    with contextlib.suppress(Mishap):
        await pool.submit(fail_later)


class Bad:
    """Another executor's future, in the eyes of a task."""

    def __await__(self) -> Any:
        yield self

    def __getattr__(self, name: str) -> Any:
        return fail()


async def awaits_what_raises() -> None:
    await Bad()


def callers_only(work: Any) -> None:
    with FairPool(0) as pool:
        pool.run(work)


def waits_for_first(pool: FairPool) -> None:
    done = wait([pool.submit(fail)], TIMEOUT, FIRST_EXCEPTION).done
    done.pop().result()


def completes(pool: FairPool) -> None:
    futures = [*as_completed([pool.submit(fail), pool.submit(fail_later)], TIMEOUT)]
    try:
        while futures:
            futures.pop().exception()
            raise KeyError
    finally:
        del futures


def shows(pool: FairPool) -> None:
    error = pool.submit(fail).exception(TIMEOUT)
    try:
        assert error is not None
        raise error
    finally:
        del error


def calls_back(pool: FairPool) -> None:
    future = pool.submit(int)
    future.add_done_callback(fail)
    future.result(TIMEOUT)
    future.add_done_callback(fail)


def dropped(pool: FairPool) -> None:
    pool.submit(fail)
    pool.submit(fail_later)


def keeps_iterator(pool: FairPool, **options: Any) -> None:
    results = pool.map(fail, range(5), **options)
    try:
        next(results)
    finally:
        kept.append(results)


kept: list[Any] = []


def inline(pool: FairPool, depth: int = 1, callers: bool = False) -> None:
    """One worker alone: what it waits for runs on top of the task that waits."""

    def nest(depth: int) -> object:
        if not depth:
            return fail()
        return alone.submit(nest, depth - 1).result()

    with FairPool(0 if callers else 1) as alone:
        if callers:
            alone.run(nest, depth)
        else:
            alone.submit(nest, depth).result(TIMEOUT)


PATHS: dict[str, Callable[[FairPool], object]] = {
    "result": lambda pool: pool.submit(fail).result(TIMEOUT),
    "result, twice": lambda pool: asks_twice(pool.submit(fail)),
    "exception": shows,
    "never asked": dropped,
    "callback": calls_back,
    "coroutine": lambda pool: pool.submit(fail_at_once).result(TIMEOUT),
    "coroutine later": lambda pool: pool.submit(fail_later).result(TIMEOUT),
    "coroutine after a wait": lambda pool: pool.submit(fail_after_wait, pool).result(TIMEOUT),
    "nested": lambda pool: pool.submit(lambda: pool.submit(fail).result()).result(TIMEOUT),
    "nested, inline": inline,
    "nested twice, inline": lambda pool: inline(pool, 2),
    "nested in a caller, inline": lambda pool: inline(pool, 1, callers=True),
    "nested coroutine": lambda pool: pool.submit(lambda: pool.submit(fail_later).result()).result(
        TIMEOUT
    ),
    "nested, with a time-out": lambda pool: pool.submit(
        lambda: pool.submit(fail_later).result(TIMEOUT)
    ).result(TIMEOUT),
    "await": lambda pool: pool.submit(awaits, [pool.submit(fail)]).result(TIMEOUT),
    "await of a running one": lambda pool: pool.submit(awaits, [pool.submit(fail_later)]).result(
        TIMEOUT
    ),
    "await of another executor's": lambda pool: pool.submit(
        awaits, [fairpool.wrap_future(standard())]
    ).result(TIMEOUT),
    "await of what raises": lambda pool: pool.submit(awaits_what_raises).result(TIMEOUT),
    "then": lambda pool: pool.submit(int).then(fail).result(TIMEOUT),
    "then, coroutine": lambda pool: pool.submit(int).then(fail_later).result(TIMEOUT),
    "then, future": lambda pool: pool.submit(int).then(lambda _: pool.submit(fail)).result(TIMEOUT),
    "past then": lambda pool: pool.submit(fail).then(int).then(int).result(TIMEOUT),
    "catch": lambda pool: pool.submit(fail).catch(type).then(fail).result(TIMEOUT),
    "catch, again": lambda pool: pool.submit(fail).catch(reraise).result(TIMEOUT),
    "past catch": lambda pool: pool.submit(fail).catch(int, KeyError).result(TIMEOUT),
    "finally_": lambda pool: pool.submit(int).finally_(fail).result(TIMEOUT),
    "finally_, coroutine": lambda pool: pool.submit(int).finally_(fail_later).result(TIMEOUT),
    "past finally_": lambda pool: pool.submit(fail).finally_(int).result(TIMEOUT),
    "past finally_, coroutine": lambda pool: pool.submit(fail).finally_(nothing).result(TIMEOUT),
    "gather": lambda pool: pool.submit(in_gather, False).result(TIMEOUT),
    "gather, eager": lambda pool: pool.submit(in_gather, True).result(TIMEOUT),
    "gather, exceptions": lambda pool: pool.submit(in_gather, False, return_exceptions=True).result(
        TIMEOUT
    ),
    "gather of futures": lambda pool: gather(pool.submit(fail), pool.submit(int)).result(TIMEOUT),
    "gather of another executor's": lambda pool: gather(standard()).result(0),
    "group": lambda pool: pool.submit(in_group).result(TIMEOUT),
    "group, of its own": lambda pool: pool.submit(lambda: in_group(own=True)).result(TIMEOUT),
    "group, nested": lambda pool: pool.submit(lambda: in_group(nested=True)).result(TIMEOUT),
    "group, handled": lambda pool: pool.submit(group_is_handled).result(TIMEOUT),
    "group that is kept": lambda pool: pool.submit(group_keeps, kept).result(TIMEOUT),
    "timeout": lambda pool: pool.submit(in_timeout).result(TIMEOUT),
    "timeout, handled": lambda pool: pool.submit(lambda: in_timeout(handle=True)).result(TIMEOUT),
    "timeout of what fails": lambda pool: pool.submit(in_timeout_of_failing).result(TIMEOUT),
    "shield": lambda pool: shield(pool.submit(fail)).result(TIMEOUT),
    "shield of a running one": lambda pool: shield(pool.submit(fail_later)).result(TIMEOUT),
    "shield of another executor's": lambda pool: shield(standard()).result(0),
    "lock.submit": lambda pool: pool.lock().submit(fail).result(TIMEOUT),
    "lock.submit, coroutine": lambda pool: pool.lock().submit(fail_later).result(TIMEOUT),
    "lock.map": lambda pool: list(pool.lock().map(fail, range(3))),
    "then, lock": lambda pool: pool.submit(int).then(fail, lock=pool.lock()).result(TIMEOUT),
    "async with": lambda pool: pool.submit(inside, pool.lock(), 0).result(TIMEOUT),
    "async with, later": lambda pool: pool.submit(inside, pool.lock(), 1).result(TIMEOUT),
    "async with, granted": lambda pool: pool.submit(granted, pool.lock()).result(TIMEOUT),
    "with": lambda pool: pool.submit(inside_on_stack, pool.lock()).result(TIMEOUT),
    "with, here": lambda pool: inside_on_stack(pool.lock()),
    "all_of": lambda pool: pool.submit(inside, fairpool.all_of(pool.lock(), pool.lock()), 1).result(
        TIMEOUT
    ),
    "guarded": lambda pool: pool.submit(inside, pool.guarded(0), 1).result(TIMEOUT),
    "guarded.submit": lambda pool: pool.guarded(0).submit(fail).result(TIMEOUT),
    "guarded, born": lambda pool: pool.guarded(fail).submit(int).result(TIMEOUT),
    "guarded, born, entered": lambda pool: pool.submit(enters, [pool.guarded(fail)]).result(
        TIMEOUT
    ),
    "lock by usage": lambda pool: (
        pool.share("a").submit(inside, pool.lock(order="usage"), 1).result(TIMEOUT)
    ),
    "map": lambda pool: list(pool.map(fail, range(5))),
    "map, coroutine": lambda pool: list(pool.map(fail_later, range(5))),
    "map that is kept": keeps_iterator,
    "map in chunks": lambda pool: list(pool.map(fail, range(5), chunksize=2)),
    "map in chunks that is kept": lambda pool: keeps_iterator(pool, chunksize=2),
    "map with a buffer": lambda pool: list(pool.map(fail, range(5), buffersize=2)),
    "map of an input that fails": lambda pool: list(
        pool.map(int, (fail() if i else i for i in range(3)), buffersize=1)
    ),
    "share": lambda pool: pool.share("a").submit(fail_later).result(TIMEOUT),
    "share.map": lambda pool: list(pool.share("a").map(fail, range(3))),
    "run": lambda pool: pool.run(fail),
    "run, coroutine": lambda pool: pool.run(fail_later),
    "run in a task": lambda pool: pool.submit(pool.run, fail).result(TIMEOUT),
    "fairpool.run": lambda pool: fairpool.run(fail_later()),
    "fairpool.run, at once": lambda pool: fairpool.run(fail_at_once()),
    "callers only": lambda pool: callers_only(fail_later),
    "create_task": lambda pool: pool.submit(of_task).result(TIMEOUT),
    "cancelled": lambda pool: pool.submit(cancelled, sleeps).result(TIMEOUT),
    "cancelled, and cleans up": lambda pool: pool.submit(cancelled, cleans_up).result(TIMEOUT),
    "event": lambda pool: pool.submit(through_event).result(TIMEOUT),
    "queue": lambda pool: pool.submit(queue_is_shut).result(TIMEOUT),
    "semaphore": lambda pool: pool.submit(in_semaphore).result(TIMEOUT),
    "generator": lambda pool: pool.submit(iterates).result(TIMEOUT),
    "set_exception": lambda pool: by_hand().result(0),
    "asyncio": lambda pool: asyncio.run(in_asyncio(pool)),
    "wait": waits_for_first,
    "as_completed": completes,
    "as_completed in a task": lambda pool: pool.submit(completes, pool).result(TIMEOUT),
}


def asks_twice(future: Any) -> None:
    try:
        for _ in range(2):
            with contextlib.suppress(Mishap):
                future.result(TIMEOUT)
    finally:
        del future


def reraise(error: BaseException) -> Any:
    try:
        raise error
    finally:
        del error


async def nothing() -> None:
    await yield_now()


@pytest.fixture
def collector_off() -> Iterator[None]:
    gc.collect()
    assert wait_for_log(TIMEOUT)
    gc.disable()
    LOGGER.disabled = True  # what is logged is kept by pytest
    yield
    LOGGER.disabled = False
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def left_behind(path: Callable[[FairPool], object]) -> list[str]:
    """What only the collector finds of the errors, and of what the package has made for a task."""
    made.clear()
    kept.clear()
    pool = FairPool(2)
    try:
        path(pool)
    except BaseException as error:
        if isinstance(error, AssertionError):
            raise
    pool.shutdown()
    assert wait_for_log(TIMEOUT)
    # What another thread has made may be freed late; a collection finds out, and does not count
    # what is only late. (The pool is still there, and what is kept.)
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    kinds = {*map(type, gc.garbage)}
    gc.garbage.clear()
    return sorted(
        kind.__qualname__
        for kind in kinds
        if kind is not RuntimeError  # why a pool is closed
        and issubclass(kind, (BaseException, Failure, StdFuture, Continuation, TaskGroup, Timeout))
    )


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("path", PATHS)
def test_no_path_of_an_error_leaves_a_cycle(path: str) -> None:
    assert left_behind(PATHS[path]) == []
    kept.clear()
    gc.collect()
    assert [error for ref in made if (error := ref()) is not None] == []
