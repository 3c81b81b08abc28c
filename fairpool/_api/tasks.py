"""What tasks use: `run`, `create_task`, `current_task`, `gather`, `shield`, `sleep`, `yield_now`.

Names and meanings are asyncio's, where asyncio has the thing.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from concurrent.futures import Future as _StdFuture
from contextvars import copy_context
from sys import getrefcount
from types import CoroutineType, coroutine
from typing import Any, TypeVar
from weakref import getweakrefcount

from fairpool._core.here import here
from fairpool._core.room import need_stack
from fairpool._core.threads import monotonic
from fairpool._core.timer import TARGET, Timer
from fairpool._tasks.coroutines import (
    HELD_BY_ARGUMENT,
    HELD_BY_TUPLE,
    HELD_BY_TUPLE_AND_LOCAL,
    claim_all,
    claim_coroutine,
    is_coroutine,
)
from fairpool._tasks.future import Derived, Future
from fairpool._tasks.gather import Gather
from fairpool._tasks.settling import claim, outcome_of, settle
from fairpool._tasks.state import FINISHED
from fairpool._tasks.task import Task
from fairpool._tasks.wrap import is_future, wrap_future

__all__ = ["create_task", "current_task", "gather", "shield", "sleep", "yield_now"]

T = TypeVar("T")


def current_scheduler(what: str) -> Any:
    """The scheduler of the pool whose task is calling; RuntimeError outside of tasks."""
    worker = here.worker
    if worker is None:
        raise RuntimeError(f"{what} is for tasks of a FairPool, and this thread runs none")
    return worker.scheduler


def current_task() -> Task[Any] | None:
    """The task that is running on this thread, or None."""
    worker = here.worker
    return None if worker is None else worker.task


def create_task(coro: Coroutine[Any, Any, T], *, name: str | None = None) -> Task[T]:
    """Have a coroutine run as a task of the current pool.

    Raises RuntimeError outside of tasks, and for a coroutine object that is a task's already.
    """
    if is_coroutine(coro):
        if getrefcount(coro) != HELD_BY_ARGUMENT or getweakrefcount(coro):
            claim_coroutine(coro)
    else:
        if not (hasattr(coro, "send") and hasattr(coro, "__await__")):
            raise TypeError(f"create_task() takes a coroutine, not {coro!r}")
        claim_coroutine(coro)
        coro = _await(coro)  # one that is not Python's own: Cython's, say
    return _spawn(coro, name)


def _spawn(coro: Any, name: str | None = None) -> Task[Any]:
    """As `create_task`, of a coroutine that is the caller's."""
    try:
        scheduler = current_scheduler("create_task()")
    except BaseException:
        coro.close()
        raise
    return scheduler.spawn(coro, name)  # type: ignore[no-any-return]


# --- letting others go first ------------------------------------------------------------------


@coroutine
def yield_now() -> Generator[None, None, None]:
    """Let other tasks go first; goes on at once if there are none."""
    # A new generator each time, not one object for all: on a free-threaded build the threads would
    # take turns at its reference count.
    yield None


class _Nap(Timer):
    """The request of a coroutine that wants to sleep, which is its timer as well.

    One object, and not two: a pool may have a million sleepers.
    """

    __slots__ = ()

    def _suspend(self, continuation: Any) -> None:
        self[TARGET] = continuation
        continuation.task._pool.timers.start(self)

    def cancel(self) -> None:
        """Its coroutine does not sleep any more: the timer is not to keep it until the deadline."""
        continuation = self[TARGET]
        if continuation is not None:
            continuation.task._pool.timers.cancel(self)


@coroutine
def sleep(delay: float, result: T | None = None) -> Generator[Any, None, T | None]:
    """Sleep for `delay` seconds, at least; returns `result`. No thread sleeps meanwhile."""
    if delay != delay:
        raise ValueError(f"invalid delay: {delay!r} (not a number)")
    if delay <= 0:
        yield None
        return result
    current_scheduler("sleep()")
    deadline = float(monotonic() + delay)  # timers compare it
    del delay  # a million sleepers hold a million frames
    while True:
        nap = _Nap((deadline, None, None))
        try:
            yield nap
        except BaseException:
            nap.cancel()
            raise
        if monotonic() >= deadline:
            return result
        nap.cancel()  # a wake-up is a hint


# --- several at once --------------------------------------------------------------------------


def _as_future(awaitable: Any, what: str) -> Future[Any]:
    if is_future(awaitable):
        return wrap_future(awaitable)
    if is_coroutine(awaitable):
        return create_task(awaitable)
    if hasattr(awaitable, "__await__"):
        return create_task(awaitable if hasattr(awaitable, "send") else _await(awaitable))
    raise TypeError(f"{what} takes coroutines and futures, not {awaitable!r}")


def _is_awaitable(what: object) -> bool:
    # `is_a`, written out: `_StdFuture` is a plain class, so none of the user's code is asked.
    return issubclass(type(what), _StdFuture) or is_coroutine(what) or hasattr(what, "__await__")


def _close_all(awaitables: tuple[Any, ...]) -> None:
    """Close the coroutines among these, but for those that are somebody else's."""
    for each in awaitables:
        if is_coroutine(each):
            try:
                claim_coroutine(each)
            except RuntimeError:
                continue
            each.close()  # else Python warns that it was never awaited


def _are_new(awaitables: tuple[Any, ...]) -> bool | None:
    """Whether only this tuple, which its caller has just got, holds these coroutines.

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


async def _await(awaitable: Any) -> Any:
    return await awaitable


# Of types by their ids: their metaclass may have an `__eq__`, or no `__hash__`.
_COROUTINES_ONLY = {id(CoroutineType)}


def gather(
    *awaitables: Any, return_exceptions: bool = False, eager_start: bool = False
) -> Future[list[Any]]:
    """A future of the results of all of these, in their order. Coroutines become tasks.

    The first that fails is raised at once, and the others run on; with `return_exceptions`,
    exceptions are results like others. To cancel the gather is to cancel all of them. What is given
    several times runs once, and has its result in each place. Raises RuntimeError for a coroutine
    object that is another task's already.

    With `eager_start`, and if all are coroutines, `await` starts those that no worker has taken
    itself, each up to its first suspension, before it suspends: about a third of the cost where
    they are small, as in a tree of forks and joins. The awaiting task goes on, even if one of them
    fails, when the one has let go that has been started like this. So none may block its thread for
    something that the awaiting task does, and time-outs are seen later by as long as a child runs
    without a suspension.
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
        children: list[Any] = []
        made: dict[int, Any] = {}
        try:
            for each in awaitables:
                child = made.get(id(each))
                if child is None:
                    if (
                        is_coroutine(each)
                        and getrefcount(each) == HELD_BY_TUPLE_AND_LOCAL
                        and not getweakrefcount(each)
                    ):
                        child = _spawn(each)  # nobody else has it
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
    """The future of a `shield`: has the outcome of another one, and does not cancel it."""

    __slots__ = ("_inner",)

    _inner: Future[Any] | None

    has_sources = True

    def sources(self) -> tuple[Future[Any], ...]:
        inner = self._inner
        return () if inner is None else (inner,)

    def cancel(self) -> bool:
        """Cancel this future only, and leave the other one alone."""
        inner = self._inner
        if inner is not None:
            inner._unregister(self)
        return super().cancel()

    def __call__(self, inner: Any) -> None:
        need_stack(8)
        self._inner = None
        if claim(self) is None:
            return
        settle(self, *outcome_of(inner, "shield()"))


def shield(awaitable: Any) -> Future[Any]:
    """A future that has the outcome of this one, but whose cancellation does not cancel it."""
    inner = _as_future(awaitable, "shield()")
    outer: _Shield[Any] = _Shield()
    outer._inner = inner
    inner.register_for_now(outer)
    return outer
