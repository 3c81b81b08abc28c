"""A task is cancelled when what it waits for was just claimed by the one that ends the wait.

Then the request must not be swallowed: the task gets it, and what it was given goes to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any

import pytest
from kit import TIMEOUT, until

from fairpool import Event, FairPool, Queue, Semaphore, TaskGroup
from fairpool._tasks.settling import claim, settle
from fairpool._tasks.state import FINISHED


async def acquire() -> None:
    await Semaphore(0).acquire()


async def get() -> None:
    await Queue[int]().get()


async def put() -> None:
    queue: Queue[int] = Queue(1)
    queue.put_nowait(1)
    await queue.put(2)


async def join() -> None:
    queue: Queue[int] = Queue()
    queue.put_nowait(1)
    await queue.join()


async def group() -> None:
    async with TaskGroup() as group:
        group.create_task(wait())


async def wait() -> None:
    await Event().wait()


@pytest.mark.parametrize("waits", [acquire, get, put, join, group, wait])
def test_a_wait_that_ends_at_that_moment_swallows_no_request(
    waits: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        await waits()
        await Event().wait()  # without the request, for ever

    with FairPool(2) as pool:
        task = pool.submit(main)
        until(lambda: task.awaited is not None)  # type: ignore[attr-defined]
        waiter: Any = task.awaited  # type: ignore[attr-defined]
        assert claim(waiter) is not None  # as one does that ends the wait
        assert task.cancel()
        settle(waiter, FINISHED, True)
        with pytest.raises(CancelledError):
            task.result(TIMEOUT)


def test_what_it_was_given_goes_to_the_next() -> None:
    semaphore = Semaphore(1)

    async def use() -> None:
        async with semaphore:
            await Event().wait()

    with FairPool(2) as pool:
        assert pool.run(semaphore.acquire)
        task = pool.submit(use)
        until(lambda: task.awaited is not None)  # type: ignore[attr-defined]
        waiter: Any = task.awaited  # type: ignore[attr-defined]
        assert claim(waiter) is not None
        assert task.cancel()
        settle(waiter, FINISHED, True)
        with pytest.raises(CancelledError):
            task.result(TIMEOUT)
        assert pool.submit(semaphore.acquire).result(TIMEOUT)
