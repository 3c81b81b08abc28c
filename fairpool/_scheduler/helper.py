"""`Helper`: a thread that waits for a lock, and runs one step of somebody else's meanwhile.

Protocol and proof: "Threads that wait are lent" in `docs/protocols/joining.md`.
"""

from __future__ import annotations

from fairpool._core.foreign import is_a
from fairpool._core.threads import monotonic_ns
from fairpool._locks.waiters import ThreadWaiter
from fairpool._scheduler.caller import Caller
from fairpool._scheduler.lifecycle import LifeCycle
from fairpool._tasks.request import Published

__all__ = ["Helper"]


class _NeverEmpty(list[Published]):
    """What a helper publishes. Never taken for empty, because somebody waits on its stack.

    So what it runs does not enter one section after the other without being suspended in between,
    as it might on a worker with nothing published.
    """

    def __bool__(self) -> bool:
        return True


class Helper(Caller):
    """A thread that waits for a lock (`LockHelp.recruit_helper`), for one step of somebody else's.

    It has come with a slot, and is in `searching`, as its waiter.
    """

    __slots__ = ("_waiter",)

    stays = False

    def __init__(self, scheduler: LifeCycle, waiter: ThreadWaiter) -> None:
        super().__init__(scheduler, None)
        self._waiter = waiter
        self.published = _NeverEmpty()

    def _do_what_it_came_for(self) -> None:
        scheduler = self.scheduler
        waiter = self._waiter
        assigned_lock, waiter.assigned_lock = waiter.assigned_lock, None
        item = assigned_lock or self._take_published()
        scheduler.searching.discard(waiter)  # parking: stop_searching
        scheduler.notify_if_work()  # parking: look_for_more
        if item is None:
            return
        began = monotonic_ns()
        try:
            following = item.run(self)
        except BaseException as error:
            self.rescue(item, error)
            if is_a(error, KeyboardInterrupt):
                raise
            return
        if assigned_lock is None:
            scheduler.note_continuation(monotonic_ns() - began)
        if following is not None:
            self.requeue(following)

    def withdraw(self) -> None:
        """As that of `Worker`; it is in `searching` as its waiter."""
        super().withdraw()
        self.scheduler.searching.discard(self._waiter)

    def is_done(self) -> bool:
        """Whether there is no reason to go on, in a wait of what it runs."""
        return self.interrupted if self.awaited is None else super().is_done()

    def _take_slot(self) -> None:
        """It has a slot."""

    def _free_slot(self) -> None:
        """Nothing: its thread gives the slot back when it waits again (`LockHelp._come_back`)."""
