"""`map_calls`: `Executor.map` over any `submit`."""

from __future__ import annotations

from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from fairpool._foreign import is_a
from fairpool._future import Future
from fairpool._sync import here, monotonic
from fairpool._task import claim_coroutine, is_coroutine

__all__ = ["map_calls"]

T = TypeVar("T")


def map_calls(
    submit: Callable[..., Future[Any]],
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[T]:
    """The results of `fn` over the iterables, in order, from calls made by `submit`."""
    if not callable(fn):
        raise TypeError(f"map() takes a callable first, not {fn!r}")
    if not isinstance(chunksize, int):
        raise TypeError(f"chunksize must be an integer, not {chunksize!r}")
    if chunksize < 1:
        raise ValueError(f"chunksize must be at least 1, not {chunksize!r}")
    if buffersize is not None:
        if not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
    deadline = None if timeout is None else monotonic() + timeout
    calls = zip(*iterables)  # noqa: B905 (as the built-in map, to the shortest)
    tasks: Iterator[Future[Any]]
    if chunksize == 1:
        tasks = (submit(fn, *args) for args in calls)
    else:
        chunks = iter(lambda: tuple(islice(calls, chunksize)), ())
        tasks = (submit(_call_each, fn, chunk) for chunk in chunks)
    ahead = None if buffersize is None else -(-buffersize // chunksize)
    pending = deque(islice(tasks, ahead))
    results = _results(pending, tasks if ahead is not None else None, deadline)
    if chunksize == 1:
        return results
    return _unpack(results)


def _call_each(fn: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Any:
    """The results of a chunk, up to the first call that raises, and what it raised.

    Or a coroutine that returns this, from the first call on that gives a coroutine.
    """
    results: list[Any] = []
    rest = iter(calls)
    try:
        for args in rest:
            result = fn(*args)
            if is_coroutine(result):
                claim_coroutine(result)
                return _await_each(fn, rest, results, result)
            results.append(result)
    except BaseException as error:
        return [results, error]
    return [results, None]


async def _await_each(
    fn: Callable[..., Any], rest: Iterator[tuple[Any, ...]], results: list[Any], first: Any
) -> list[Any]:
    try:
        results.append(await first)
        for args in rest:
            result = fn(*args)
            if is_coroutine(result):
                claim_coroutine(result)
                result = await result
            results.append(result)
    except GeneratorExit:
        raise
    except BaseException as error:
        if is_a(error, CancelledError) and here.worker.task.cancelling():
            raise  # it is the chunk that is cancelled, and not one of its calls
        return [results, error]
    return [results, None]


def _unpack(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    try:
        for chunk in chunks:
            results, error = chunk
            chunk.clear()  # frames of the error's may lead to it: no cycle
            yield from results
            if error is not None:
                raise error
    finally:
        chunks.close()  # type: ignore[attr-defined]
        error = None  # its traceback holds this frame


def _results(
    pending: deque[Future[Any]], more: Iterator[Future[Any]] | None, deadline: float | None
) -> Iterator[Any]:
    try:
        while pending:
            timeout = None if deadline is None else deadline - monotonic()
            result = [pending[0].result(timeout)]
            pending.popleft()
            if more is not None:
                try:
                    pending.extend(islice(more, 1))  # before the consumer has its turn, not after
                except Exception as error:  # of the input: it is raised where it comes
                    pending.append(Future())
                    pending[-1].set_exception(error)
                    more = None
            yield result.pop()  # and what is yielded is the consumer's alone
    finally:
        # What is raised holds this frame, so this holds no future: no cycle.
        more = None
        while pending:
            pending.popleft().cancel()
