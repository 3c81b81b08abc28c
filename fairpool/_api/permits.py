"""`Permits`: a number of permits, and the tasks that wait for one.

Under `Semaphore`, and under `Queue` for its items and its places.

Guarantees: first come, first served. A permit goes to the task that has waited longest, and no task
overtakes another. A permit that was given to a task which is cancelled at this very moment goes to
the next one: none is lost, and none is given twice. One exception: what Ctrl-C cuts off outside of
`pool.run` and `fairpool.run` may be lost, the permit and the task that it would have woken; but no
other permit, and no later one.

All waiting is in a `WaitList`, whose module has the protocol (`enqueue`, `recheck`, `change`,
`wake`), its proof and what it assumes of `fairpool._core.atomicity`.
"""

from __future__ import annotations

from collections import deque
from itertools import count

from fairpool._core.room import SHORT_OF_ROOM
from fairpool._core.threads import start_new_thread
from fairpool._tasks.waitlist import WaitList, wake


class Permits(WaitList):
    """A number of permits, and the tasks that wait for one."""

    __slots__ = ("_closed", "_dry", "_fresh", "_last", "free")

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._last = limit - 1
        # Permits that were never taken are not stored: there may be very many.
        self._fresh = count()
        self._dry = limit <= 0  # a hint: once it is set, no fresh permit is left
        self.free: deque[None] = deque()  # those that came back
        self._closed = False

    def is_locked(self) -> bool:
        """Whether a task that comes now would wait."""
        return bool(self) or (self._dry and not self.free)

    def _pop(self) -> bool:
        try:
            self.free.pop()
        except IndexError:
            if self._dry:
                return False
            number = next(self._fresh)  # unique count
            if number >= self._last:  # (no sum here: it might need memory, with the permit taken)
                self._dry = True
            return number <= self._last
        return True

    def take_at_once(self) -> bool:
        """Take a permit if one is free and no task is queued."""
        return not self and self._pop()

    def try_take(self) -> bool:
        """Take a permit if there is one for which no task waits."""
        if self:
            self.serve()  # tasks that have given up do not count
            if self:
                return False
        return self._pop()

    def give(self) -> bool:
        """Give a permit back, or add one; False if it is refused: see `BoundedPermits`."""
        try:
            self.free.append(None)  # change
        except MemoryError:
            start_new_thread(self.give, ())
            return True
        try:
            self.serve()  # wake
        except SHORT_OF_ROOM:
            start_new_thread(self.serve, ())
        return True

    def reclaim(self) -> None:
        self.give()

    def _put_back(self) -> None:
        """Free a permit that was taken for a task which waits no more."""
        self.free.append(None)

    def close(self) -> None:
        """Wake all that wait, now and later, with False: no permit."""
        self._closed = True  # change
        self.serve_anyhow()  # wake

    def offers(self) -> bool:
        return bool(self.free or not self._dry or self._closed)

    def hand_out(self) -> None:
        """One permit for each task, oldest first."""
        while self and (self._closed or ((self.free or not self._dry) and self._pop())):
            waiter = self.take()
            try:
                while waiter is not None and not wake(waiter, not self._closed):
                    waiter = self.take()  # that one was cancelled
            except SHORT_OF_ROOM:  # it was not claimed
                assert waiter is not None
                self.appendleft(waiter)
                if not self._closed:
                    self._put_back()
                raise
            if waiter is None and not self._closed:
                self._put_back()  # change


class BoundedPermits(Permits):
    """Permits that come back only as often as they were taken."""

    __slots__ = ("_taken",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        # One item for each permit that is taken, or given to a task that has waited, from the
        # moment at which it is promised.
        self._taken: deque[None] = deque()

    def _pop(self) -> bool:
        if not Permits._pop(self):
            return False
        self._taken.append(None)
        return True

    def _put_back(self) -> None:
        try:
            self._taken.pop()
        except IndexError:  # it was released by another task meanwhile
            return
        self.free.append(None)

    def give(self) -> bool:
        """Give a permit back; False if none is taken: another task has released it, perhaps."""
        try:
            self._taken.pop()  # atomic: of two that give the last one back, one gets False
        except IndexError:
            return False
        self.free.append(None)  # change
        try:
            self.serve()  # wake
        except SHORT_OF_ROOM:
            start_new_thread(self.serve, ())
        return True
