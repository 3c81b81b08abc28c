"""The functions for tasks: `create_task`, `current_task`, `gather`, `shield`, `sleep`, `yield_now`.

Names and meanings are asyncio's, but for `yield_now`, which asyncio does not have.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from concurrent.futures import Future as _StdFuture
from contextvars import copy_context
from sys import getrefcount
from types import CoroutineType, coroutine
from typing import Any, TypeVar
from weakref import getweakrefcount

from fairpool._api.waiting import as_coroutine
from fairpool._core.here import here
from fairpool._core.room import need_stack
from fairpool._core.threads import monotonic
from fairpool._core.timer import TARGET, Timer
from fairpool._core.types import AnyCoroutine
from fairpool._scheduler.scheduler import Scheduler
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.coroutines import (
    HELD_BY_ARGUMENT,
    HELD_BY_TUPLE,
    HELD_BY_TUPLE_AND_LOCAL,
    claim_all,
    claim_coroutine,
    is_coroutine,
)
from fairpool._tasks.future import AnyFuture, Derived, Future
from fairpool._tasks.gather import Gather
from fairpool._tasks.settling import claim, outcome_of, settle
from fairpool._tasks.state import FINISHED
from fairpool._tasks.task import AnyTask, Task
from fairpool._tasks.wrap import is_future, wrap_future

T = TypeVar("T")


def current_scheduler(what: str) -> Scheduler:
    """Return the scheduler of the pool whose task calls; raise RuntimeError outside of tasks."""
    worker = here.worker
    if worker is None:
        raise RuntimeError(
            f"{what} is for tasks of a FairPool, and this thread runs none: call it in a function "
            "that was submitted to a pool"
        )
    scheduler: Scheduler = worker.scheduler
    return scheduler


def current_task() -> AnyTask | None:
    """Return the task that is running on this thread, or None. From any thread."""
    worker = here.worker
    return None if worker is None else worker.task


def create_task(coro: Coroutine[Any, Any, T], *, name: str | None = None) -> Task[T]:
    """Run a coroutine as a task of the current pool, and return the task.

    Raises TypeError for what is no coroutine, and RuntimeError outside of a pool's tasks or for a
    coroutine object that another task has.
    """
    if is_coroutine(coro):
        if getrefcount(coro) != HELD_BY_ARGUMENT or getweakrefcount(coro):
            claim_coroutine(coro)
    else:
        if not (hasattr(coro, "send") and hasattr(coro, "__await__")):
            raise TypeError(f"create_task() takes a coroutine, not {coro!r}")
        claim_coroutine(coro)
        coro = as_coroutine(coro)  # one that is not Python's own: Cython's, say
    return _spawn(coro, name)


def _spawn(coro: AnyCoroutine, name: str | None = None) -> AnyTask:
    """As `create_task`, of a coroutine that no other task can have."""
    try:
        scheduler = current_scheduler("create_task()")
    except BaseException:
        coro.close()
        raise
    return scheduler.spawn(coro, name)


# --- letting others go first ------------------------------------------------------------------


@coroutine
def yield_now() -> Generator[None, None, None]:
    """Let other tasks go first. Goes on at once if no task is queued. For tasks of a pool."""
    # A new generator each time: threads of a free-threaded build would contend for the reference
    # count of a shared object.
    yield None


class _SleepRequest(Timer):
    """The sleep request of a coroutine, which is its timer as well.

    One object, not two: a pool may have a million sleepers.
    """

    __slots__ = ()

    def _suspend(self, continuation: Continuation) -> None:
        self[TARGET] = continuation
        continuation.task._pool.timers.start(self)

    def cancel(self) -> None:
        """The coroutine stops sleeping: the timer must not keep it until the deadline."""
        continuation = self[TARGET]
        if continuation is not None:
            continuation.task._pool.timers.cancel(self)


@coroutine
def sleep(delay: float, result: T | None = None) -> Generator[Timer | None, None, T | None]:
    """Sleep for at least `delay` seconds, and return `result`. No thread waits meanwhile.

    With a `delay` of 0 or less, as `yield_now`. Raises ValueError for NaN, and RuntimeError outside
    of a pool's tasks.
    """
    if delay != delay:
        raise ValueError(f"delay must be a number of seconds, not {delay!r}")
    if delay <= 0:
        yield None
        return result
    current_scheduler("sleep()")
    deadline = float(monotonic() + delay)  # timers compare it
    del delay  # a million sleepers hold a million frames
    while True:
        request = _SleepRequest((deadline, None, None))
        try:
            yield request
        except BaseException:
            request.cancel()
            raise
        if monotonic() >= deadline:
            return result
        request.cancel()  # a wake-up is a hint


# --- several at once --------------------------------------------------------------------------


def _as_future(awaitable: Any, what: str) -> AnyFuture:
    if is_future(awaitable):
        return wrap_future(awaitable)
    if is_coroutine(awaitable):
        return create_task(awaitable)
    if hasattr(awaitable, "__await__"):
        return create_task(awaitable if hasattr(awaitable, "send") else as_coroutine(awaitable))
    raise TypeError(f"{what} takes coroutines and futures, not {awaitable!r}")


def _is_awaitable(what: object) -> bool:
    # `is_a`, written out: `_StdFuture` is a plain class, so none of the user's code is asked.
    return issubclass(type(what), _StdFuture) or is_coroutine(what) or hasattr(what, "__await__")


def _close_all(awaitables: tuple[object, ...]) -> None:
    """Close the coroutines among these that no other task has."""
    for each in awaitables:
        if is_coroutine(each):
            try:
                claim_coroutine(each)
            except RuntimeError:
                continue
            each.close()  # else Python warns that it was never awaited


def _are_new(awaitables: tuple[object, ...]) -> bool | None:
    """Whether nothing but this tuple, new to its caller, holds these coroutines.

    None if not all of them are coroutines.
    """
    if len(awaitables) < A_FEW:
        only_here = True
        for each in awaitables:
            if type(each) is not CoroutineType:
                return None
            if getrefcount(each) != HELD_BY_TUPLE_AND_LOCAL or getweakrefcount(each):
                only_here = False
        return only_here
    if {*map(id, map(type, awaitables))} != _COROUTINES_ONLY:
        return None
    references = sum(map(getrefcount, awaitables))
    return references == HELD_BY_TUPLE * len(awaitables) and not any(
        map(getweakrefcount, awaitables)
    )


# Of fewer than these, a loop makes less work than three passes in C.
A_FEW = 10


# Of types by their ids: their metaclass may have an `__eq__`, or no `__hash__`.
_COROUTINES_ONLY = {id(CoroutineType)}


def gather(
    *awaitables: Any, return_exceptions: bool = False, eager_start: bool = False
) -> Future[list[Any]]:
    """Return a future of the results of all of these, in their order. Coroutines become tasks.

    The first exception is raised at once, and the other tasks run on. With `return_exceptions`,
    exceptions count as results. A cancellation of the gather cancels all of them. An awaitable that
    is given several times runs once, and has its result in each place. Raises TypeError for what
    cannot be awaited, and RuntimeError outside of a pool's tasks, if the pool is closed, or for a
    coroutine object that another task has.

    With `eager_start`, and if all are coroutines, `await` does not suspend at once. First it starts
    each coroutine that no worker has taken, and runs it up to its first suspension. Small children
    cost about a third of what they cost else, as in a tree of forks and joins. The awaiting task
    goes on only when the child that it has started suspends or ends, even if another child fails.
    So no child may block its thread for something that the awaiting task does, and a time-out is
    seen late by as long as a child runs without a suspension.
    """
    future = Gather(len(awaitables), return_exceptions)
    if not awaitables:
        claim(future)
        settle(future, FINISHED, [])
    elif (are_new := _are_new(awaitables)) or (
        are_new is not None and len({*map(id, awaitables)}) == len(awaitables)
    ):
        try:
            scheduler = current_scheduler("gather()")
            if scheduler.close_reason:
                raise scheduler.closed_error()
        except BaseException:
            _close_all(awaitables)
            raise
        if not are_new:
            claim_all(awaitables)
        future.of_coroutines(awaitables, copy_context(), scheduler if eager_start else None)
        scheduler.put(future)
    else:
        for each in awaitables:
            if not _is_awaitable(each):
                _close_all(awaitables)
                raise TypeError(f"gather() takes coroutines and futures, not {each!r}")
        children: list[AnyFuture] = []
        made: dict[int, AnyFuture] = {}
        try:
            for each in awaitables:
                child = made.get(id(each))
                if child is None:
                    if (
                        is_coroutine(each)
                        and getrefcount(each) == HELD_BY_TUPLE_AND_LOCAL
                        and not getweakrefcount(each)
                    ):
                        child = _spawn(each)  # no other task can have it
                    else:
                        child = _as_future(each, "gather()")
                    made[id(each)] = child
                children.append(child)
        except BaseException:  # the pool takes no more
            _close_all(awaitables[len(children) :])
            raise
        future.of_futures(children)
    return future


class _Shield(Derived[T]):
    """The future of a `shield`: it has the outcome of another one, and does not cancel that."""

    __slots__ = ("_inner",)

    _inner: AnyFuture | None

    has_sources = True

    def sources(self) -> tuple[AnyFuture, ...]:
        inner = self._inner
        return () if inner is None else (inner,)

    def cancel(self) -> bool:
        """Cancel this future, and leave the other one alone."""
        inner = self._inner
        if inner is not None:
            inner._unregister(self)
        return super().cancel()

    def __call__(self, inner: AnyFuture) -> None:
        need_stack(8)
        self._inner = None
        if claim(self) is None:
            return
        settle(self, *outcome_of(inner, "shield()"))


def shield(awaitable: object) -> AnyFuture:
    """Return a future with the outcome of `awaitable`, whose cancellation does not cancel that.

    A coroutine becomes a task. Raises TypeError for what cannot be awaited. A coroutine can be
    given only in a task of a pool; else RuntimeError is raised.
    """
    inner = _as_future(awaitable, "shield()")
    outer: _Shield[object] = _Shield()
    outer._inner = inner
    inner.register_for_now(outer)
    return outer
