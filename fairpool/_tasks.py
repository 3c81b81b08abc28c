"""What tasks use: `run`, `create_task`, `current_task`, `gather`, `shield`, `sleep`, `yield_now`.

Names and meanings are asyncio's, where asyncio has the thing.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Coroutine, Generator
from concurrent.futures import Future as _StdFuture
from itertools import count
from types import CoroutineType, coroutine
from typing import Any, TypeVar

from fairpool._future import CANCELLED, FAILED, FINISHED, Failure, Future, claim, conclude, finish
from fairpool._sync import here, monotonic
from fairpool._task import Task, is_coroutine

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
    """Have a coroutine run as a task of the current pool. Raises RuntimeError outside of tasks."""
    if not is_coroutine(coro):
        if not (hasattr(coro, "send") and hasattr(coro, "__await__")):
            raise TypeError(f"create_task() takes a coroutine, not {coro!r}")
        coro = _await(coro)  # one that is not Python's own: Cython's, say
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


class _Nap:
    """The request of a coroutine that wants to sleep."""

    __slots__ = ("_deadline",)

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def _suspend(self, continuation: Any) -> None:
        continuation.task._pool.timers.add(self._deadline, continuation)


@coroutine
def sleep(delay: float, result: T | None = None) -> Generator[Any, None, T | None]:
    """Sleep for `delay` seconds, at least; returns `result`. No thread sleeps meanwhile."""
    if delay != delay:
        raise ValueError(f"invalid delay: {delay!r} (not a number)")
    if delay <= 0:
        yield None
        return result
    current_scheduler("sleep()")
    deadline = monotonic() + delay
    nap = _Nap(deadline)
    while True:
        yield nap
        if monotonic() >= deadline:  # a wake-up is a hint
            return result


# --- several at once --------------------------------------------------------------------------


def _as_future(awaitable: Any, what: str) -> Future[Any] | _StdFuture[Any]:
    if isinstance(awaitable, _StdFuture):
        return awaitable
    if is_coroutine(awaitable):
        return create_task(awaitable)
    if hasattr(awaitable, "__await__"):
        return create_task(_await(awaitable))
    raise TypeError(f"{what} takes coroutines and futures, not {awaitable!r}")


def _is_awaitable(what: object) -> bool:
    return isinstance(what, _StdFuture) or is_coroutine(what) or hasattr(what, "__await__")


def _close_all(awaitables: tuple[Any, ...]) -> None:
    for each in awaitables:
        if is_coroutine(each):
            each.close()  # else Python warns that it was never awaited


async def _await(awaitable: Any) -> Any:
    return await awaitable


class _Gather(Future[list[Any]]):
    """The future of a `gather`. A registrant of each of its children."""

    __slots__ = ("_all", "_children", "_count", "_ended", "_requested")

    has_sources = True

    def __init__(self, size: int, return_exceptions: bool) -> None:
        super().__init__()
        self._children: list[Any] = []
        self._count = size
        self._all = return_exceptions
        self._ended = count(1).__next__
        self._requested = False

    def __call__(self, child: Future[Any]) -> None:
        last = self._ended() == self._count  # A4
        if child._cell is FINISHED and not last:
            return
        self._child_ended(child, child._cell is FINISHED, last)

    def standard_child_ended(self, child: _StdFuture[Any]) -> None:
        self._child_ended(child, _succeeded(child), self._ended() == self._count)

    def _child_ended(self, child: Any, succeeded: bool, last: bool) -> None:
        if not succeeded and not self._all:
            if claim(self) is not None:
                self._fail_with(child)
        elif last and claim(self) is not None:
            # One that failed was counted before it came so far as to claim: look for it.
            failed = [] if self._all else [each for each in self._children if not _succeeded(each)]
            if self._requested:
                conclude(self, CANCELLED, None)
            elif failed:
                self._fail_with(failed[0])
            else:
                finish(self, [_outcome(each) for each in self._children])

    def _fail_with(self, child: Any) -> None:
        if child.cancelled():
            conclude(self, CANCELLED, None)
        else:
            conclude(self, FAILED, Failure.handed_on(child, "gather()"))

    def cancel(self) -> bool:
        """Cancel all children; the gather is cancelled when they have ended."""
        if self.done():
            return self.cancelled()
        self._requested = True  # before: the last child may end at once
        answers = [child.cancel() for child in self._children]  # all of them, not only the first
        self._requested = any(answers)
        return self._requested

    def sources(self) -> tuple[Future[Any], ...]:
        if self.done():
            return ()
        return tuple([child for child in self._children if isinstance(child, Future)])


def _succeeded(child: Any) -> bool:
    if isinstance(child, Future):
        return child._cell is FINISHED
    return not child.cancelled() and child.exception() is None


def _outcome(child: Any) -> Any:
    if isinstance(child, Future) and child._cell is FINISHED:
        return child._value
    if child.cancelled():
        return CancelledError()
    error = child.exception()
    return child.result() if error is None else error


def gather(*awaitables: Any, return_exceptions: bool = False) -> Future[list[Any]]:
    """A future of the results of all of these, in their order. Coroutines become tasks.

    The first that fails is raised at once, and the others run on; with `return_exceptions`,
    exceptions are results like others. To cancel the gather is to cancel all of them.
    """
    future = _Gather(len(awaitables), return_exceptions)
    if not awaitables:
        future.set_result([])
    elif all(type(each) is CoroutineType for each in awaitables):
        try:
            current_scheduler("gather()").spawn_all(awaitables, future, future._children)
        except BaseException:
            _close_all(awaitables[len(future._children) :])
            raise
    else:
        for each in awaitables:
            if not _is_awaitable(each):
                _close_all(awaitables)
                raise TypeError(f"gather() takes coroutines and futures, not {each!r}")
        future._children = [_as_future(each, "gather()") for each in awaitables]
        for child in future._children:
            if isinstance(child, Future):
                child._register(future)
            else:
                child.add_done_callback(future.standard_child_ended)
    return future


class _Shield(Future[T]):
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
        self._inner = None
        if claim(self) is None:
            return
        if inner.cancelled():
            conclude(self, CANCELLED, None)
        elif inner.exception() is not None:
            conclude(self, FAILED, Failure.handed_on(inner, "shield()"))
        else:
            finish(self, inner.result())


def shield(awaitable: Any) -> Future[Any]:
    """A future that has the outcome of this one, but whose cancellation does not cancel it."""
    inner = _as_future(awaitable, "shield()")
    outer: _Shield[Any] = _Shield()
    outer._inner = inner if isinstance(inner, Future) else None
    if isinstance(inner, Future):
        inner._register(outer)
    else:
        inner.add_done_callback(outer)
    return outer
