"""`TaskExecutor`: what a pool, a share and a lock have in common, `map` above all.

`submit_in`: how a share submits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextvars import Context
from itertools import islice
from typing import Any, ParamSpec, TypeVar

from fairpool._api.arguments import check_int, check_optional_int
from fairpool._core.threads import monotonic
from fairpool._core.types import AnyCoroutine, Function
from fairpool._scheduler.scheduler import Scheduler
from fairpool._tasks.coroutines import claim_coroutine, is_coroutine
from fairpool._tasks.future import AnyFuture, Future
from fairpool._tasks.task import Task

P = ParamSpec("P")
T = TypeVar("T")


class TaskExecutor(Executor):
    """An executor whose futures are fairpool's."""

    __slots__ = ()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        raise NotImplementedError

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[object],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As the built-in `map`, with calls made as by `submit`; results in the order of the input.

        The input is read at once, or with `buffersize` at most that many calls ahead of the
        consumer. `timeout`: seconds from this call until `TimeoutError`. `chunksize`: the number of
        calls that one task makes, one after the other; of a lock, in one critical section. An
        exception is raised in the place of its result. Closing the iterator cancels the calls that
        were not started.
        """
        if not callable(fn):
            raise TypeError(f"map() takes a callable first, not {fn!r}")
        check_int("chunksize", chunksize, least=1)
        check_optional_int("buffersize", buffersize)
        deadline = None if timeout is None else monotonic() + timeout
        submit: Callable[..., AnyFuture] = self.submit
        calls = zip(*iterables)  # noqa: B905 (as the built-in map, to the shortest)
        made: deque[list[T]] | None = None
        if chunksize == 1:
            tasks = (submit(fn, *args) for args in calls)
        else:
            made = deque()
            chunks = iter(lambda: tuple(islice(calls, chunksize)), ())
            tasks = (submit(_call_each, fn, chunk, _put(made, [])) for chunk in chunks)
        ahead = None if buffersize is None else -(-buffersize // chunksize)
        pending = deque(islice(tasks, ahead))
        return _results(pending, made, tasks if ahead is not None else None, deadline)

    def _closed_error(self) -> RuntimeError:
        return RuntimeError(f"cannot schedule new futures after shutdown of {self!r}")


def submit_in(
    context: Context,
    scheduler: Scheduler,
    fn: Callable[..., T],
    args: tuple[object, ...],
    kwargs: dict[str, Any],
) -> Task[T]:
    """As `FairPool.submit`, in this context. That has it written out: a call is 2 % of it."""
    if not callable(fn):
        raise TypeError(f"submit() takes a callable first, not {fn!r}")
    if scheduler.close_reason:
        raise scheduler.closed_error()
    backlog = scheduler.backlog
    if backlog is not None:
        backlog = backlog.enter(scheduler)
    try:
        task: Task[T] = Task()
        task._pool = scheduler
        task._status = [(context, fn, args, kwargs or None, backlog)]
    except BaseException:  # a MemoryError
        if backlog is not None:
            backlog.leave()
        raise
    scheduler.put(task)
    return task


def _put(made: deque[list[T]], results: list[T]) -> list[T]:
    made.append(results)
    return results


def _call_each(
    fn: Function, calls: Iterable[tuple[object, ...]], results: list[T]
) -> AnyCoroutine | None:
    """Put the results of a chunk into the list, up to the first call that raises.

    The task ends with that exception. Where a call returns a coroutine, this returns one that
    awaits it and makes the other calls; else None.
    """
    rest = iter(calls)
    for args in rest:
        result = fn(*args)
        if is_coroutine(result):
            claim_coroutine(result)
            return _await_each(fn, rest, results, result)
        results.append(result)
    return None


async def _await_each(
    fn: Function, rest: Iterator[tuple[object, ...]], results: list[T], first: Awaitable[T]
) -> None:
    results.append(await first)
    for args in rest:
        result = fn(*args)
        if is_coroutine(result):
            claim_coroutine(result)
            result = await result
        results.append(result)


def _results(
    pending: deque[AnyFuture],
    made: deque[list[T]] | None,
    more: Iterator[AnyFuture] | None,
    deadline: float | None,
) -> Iterator[T]:
    """Yield what the tasks return. Of chunks: the results that each `made`, then its exception."""
    future: AnyFuture | None = None
    try:
        while pending:
            timeout = None if deadline is None else deadline - monotonic()
            if made is None:
                results = [pending[0].result(timeout)]
            else:
                pending[0]._wait(timeout)
                results = made.popleft()
                results.reverse()
            # No reference is kept to a result that is yielded, nor to a future that has it.
            future = None if made is None else pending[0]
            pending.popleft()
            if more is not None:
                try:
                    pending.extend(islice(more, 1))  # before the consumer goes on, not after
                except Exception as error:  # of the input: raised at its place in the results
                    pending.append(Future())
                    pending[-1].set_exception(error)
                    if made is not None:
                        made.append([])
                    more = None
            while results:
                yield results.pop()
            if future is not None:
                future.result()
    finally:
        # What is raised holds this frame, so this holds no future: no cycle.
        more = future = None
        while pending:
            pending.popleft().cancel()
