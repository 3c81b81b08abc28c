"""`map_calls`: `Executor.map` by any `submit`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from fairpool._api.types import AnyFuture, Function
from fairpool._core.threads import monotonic
from fairpool._tasks.coroutines import claim_coroutine, is_coroutine
from fairpool._tasks.future import Future

__all__ = ["map_calls"]

T = TypeVar("T")


def map_calls(
    submit: Callable[..., AnyFuture],
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[T]:
    """Return the results of `fn` over the iterables, in order, from calls made by `submit`."""
    if not callable(fn):
        raise TypeError(f"map() takes a callable first, not {fn!r}")
    if not isinstance(chunksize, int):
        raise TypeError(f"chunksize must be an integer, not {chunksize!r}")
    if chunksize < 1:
        raise ValueError(f"chunksize must be at least 1, not {chunksize!r}")
    if buffersize is not None:
        if not isinstance(buffersize, int):
            raise TypeError(f"buffersize must be an integer or None, not {buffersize!r}")
        if buffersize < 1:
            raise ValueError(f"buffersize must be None or > 0, not {buffersize!r}")
    deadline = None if timeout is None else monotonic() + timeout
    calls = zip(*iterables)  # noqa: B905 (as the built-in map, to the shortest)
    tasks: Iterator[AnyFuture]
    made: deque[list[Any]] | None = None
    if chunksize == 1:
        tasks = (submit(fn, *args) for args in calls)
    else:
        made = deque()
        chunks = iter(lambda: tuple(islice(calls, chunksize)), ())
        tasks = (submit(_call_each, fn, chunk, _put(made, [])) for chunk in chunks)
    ahead = None if buffersize is None else -(-buffersize // chunksize)
    pending = deque(islice(tasks, ahead))
    return _results(pending, made, tasks if ahead is not None else None, deadline)


def _put(made: deque[list[Any]], results: list[Any]) -> list[Any]:
    made.append(results)
    return results


def _call_each(fn: Function, calls: Iterable[tuple[Any, ...]], results: list[Any]) -> Any:
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
    fn: Function, rest: Iterator[tuple[Any, ...]], results: list[Any], first: Any
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
    made: deque[list[Any]] | None,
    more: Iterator[AnyFuture] | None,
    deadline: float | None,
) -> Iterator[Any]:
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
