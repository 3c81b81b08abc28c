"""`wait_in`: how a task waits in a `WaitList`."""

from __future__ import annotations

from typing import Any

from fairpool._tasks.future import Future
from fairpool._tasks.waitlist import WaitList

__all__ = ["wait_in"]


async def wait_in(waiters: WaitList, waiter: Future[Any]) -> Any:
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
