"""`Semaphore` and `BoundedSemaphore`: a number of permits, for which tasks wait.

Names and meanings are asyncio's, with one difference: a primitive belongs to no loop and no pool.
Tasks of several pools may share one, and so may the coroutines of asyncio loops.
First come, first served: see `Permits`.
"""

from __future__ import annotations

from fairpool._api.arguments import check_int
from fairpool._api.permits import BoundedPermits, Permits
from fairpool._api.waiting import wait_in
from fairpool._core.errors import stays_here
from fairpool._core.foreign import type_name
from fairpool._tasks.future import Derived


class Semaphore:
    """A number of permits; `acquire` waits while none is free. As `asyncio.Semaphore`.

    First come, first served. `async with semaphore:` acquires a permit and releases it. `value` is
    the number of permits, 1 by default. Raises TypeError for a `value` that is no integer, and
    ValueError for a negative one. `acquire` is for tasks and asyncio coroutines; all else may be
    called from any thread, from a callback and from a signal handler.
    """

    __slots__ = ("__weakref__", "_permits")

    __reduce_ex__ = stays_here("make a Semaphore in each process that needs one")

    _kind = Permits

    def __init__(self, value: int = 1) -> None:
        check_int("value", value, least=0)
        self._permits = self._kind(value)

    def __repr__(self) -> str:
        state = "locked" if self.locked() else "unlocked"
        waiting = self._permits.waiting()
        more = f", waiters:{waiting}" if waiting else ""
        return f"<{type_name(self)} at {id(self):#x} [{state}{more}]>"

    def locked(self) -> bool:
        """Whether `acquire` would wait at this moment. From any thread."""
        return self._permits.is_locked()

    async def acquire(self) -> bool:
        """Take a permit, after waiting for one; return True. A cancelled call has taken none."""
        if self._permits.take_at_once():
            return True
        # No call after the wait: without memory for it the permit would be lost.
        taken: bool = await wait_in(self._permits, Derived())
        return taken

    def release(self) -> None:
        """Give a permit back: to the task that has waited longest, if any. From any thread."""
        self._permits.give()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self.release()


class BoundedSemaphore(Semaphore):
    """A `Semaphore` that is never released more often than it was acquired."""

    __slots__ = ()

    _kind = BoundedPermits

    def release(self) -> None:
        """As `Semaphore.release`. Raises ValueError if no permit is taken."""
        if not self._permits.give():
            raise ValueError(
                f"{self!r} was released more often than acquired: call release() once for each "
                "acquire()"
            )
