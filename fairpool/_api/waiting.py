"""The coroutine functions that wait on the package's own behalf.

`wait_in`: how a task waits in a `WaitList`. The others are run by links, and by a pool that closes
asynchronous generators: see `Coroutines` in `_tasks/host.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from concurrent.futures import Future as _StdFuture
from logging import ERROR
from typing import TypeVar

from fairpool._core.foreign import describe
from fairpool._core.report import log
from fairpool._core.types import AnyGenerator
from fairpool._tasks import host
from fairpool._tasks.future import Derived, Future
from fairpool._tasks.waitlist import WaitList
from fairpool._tasks.wrap import wrap_future

T = TypeVar("T")


async def wait_in(waiters: WaitList, waiter: Derived[T]) -> T:
    """Wait in `waiters` until `waiter`, a new future, is finished; return its result.

    If this is cancelled, what the future was finished with at this very moment goes to `reclaim`.
    """
    waiters.append(waiter)  # enqueue
    try:
        waiters.serve()  # recheck
        return await waiter
    except BaseException:
        if waiters.abandon(waiter):
            waiters.reclaim()
        raise
    finally:
        del waiters, waiter  # what is raised holds this frame: no cycle


async def as_coroutine(awaitable: Awaitable[T]) -> T:
    """A coroutine of Python's own that awaits this."""
    return await awaitable


class _Coroutines:
    @staticmethod
    async def wait_for(future: _StdFuture[T]) -> T:
        try:
            return await wrap_future(future)
        finally:
            del future  # no cycle, as above

    @staticmethod
    async def pass_through(source: Future[T], outcome: Awaitable[object]) -> T:
        try:
            await outcome
            return await source
        finally:
            del source, outcome  # no cycle, as above

    @staticmethod
    async def close_generators(generators: Iterable[AnyGenerator]) -> None:
        # One after the other: one may close another one itself (`contextlib.aclosing`), and no two
        # threads may be in that.
        for generator in generators:
            try:
                await generator.aclose()
            except Exception:
                message = "error while the asynchronous generator %s was closed"
                log(ERROR, message, describe(generator), exc_info=True)


host.coroutines = _Coroutines()
