"""`LockHelp`: a thread that waits for a lock helps meanwhile.

It runs one continuation that the combiner has published, or serves the lock where nobody else is
there to do so. Protocol and proof: `docs/protocols/joining.md`.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Sized
from typing import Any, Protocol

from fairpool._core.room import stack_is_deep
from fairpool._core.threads import LockType
from fairpool._locks.exit import LockExit
from fairpool._locks.host import AnyLock, LockHost, LockWorker
from fairpool._locks.owners import ThreadOwner
from fairpool._locks.waiters import ThreadWaiter

__all__ = ["LockHelp"]


class HelpHost(LockHost, Protocol):
    """The scheduler, to a thread that waits for a lock and helps meanwhile."""

    # lends:             whether threads that wait help at all
    # mean_continuation: the running mean of the continuations of sections (ns)
    # helper_candidates: the waiters whose threads may help
    lends: bool
    mean_continuation: int
    helper_candidates: dict[ThreadWaiter, None]

    @property
    def shares(self) -> Sized: ...

    def has_published(self) -> bool:
        """Whether any worker has published continuations."""

    def lies_in_queue(self, lock: AnyLock, /) -> bool:
        """Whether a lock lies in a queue to be served."""

    def take_out(self, lock: AnyLock, /) -> bool:
        """Take it out of there, with its key; whether it was there."""

    def lend(self, waiter: ThreadWaiter, /) -> None:
        """Let the calling thread help, which waits with this waiter."""


class LockHelp(LockExit):
    """How a waiting thread is lent, and comes back."""

    __slots__ = ()

    scheduler: HelpHost

    def _may_lend(self, owner: ThreadOwner) -> bool:
        """Whether the calling thread, no worker, may run a step of others while it waits here."""
        return (
            self.scheduler.lends
            and owner.inside == 1
            and self.ledger is None  # with shares, no thread knows its own turn
            and _get_running_loop() is None  # a step would take that loop for its own
            and not stack_is_deep()
        )

    def _may_serve(self, worker: LockWorker) -> bool:
        """Whether the calling worker, in a task of a pool without threads, may serve this lock."""
        scheduler = self.scheduler
        return bool(
            scheduler.lends
            and not scheduler.max_workers
            and worker.scheduler is scheduler
            and self.ledger is None
            and worker.may_run_inline()
            and _get_running_loop() is None
        )

    def _notify(self) -> None:
        """Have published work taken by a parked worker, a waiting thread, or a new worker."""
        scheduler = self.scheduler
        if not scheduler.parking.parked:
            self.recruit_helper()
        scheduler.notify()  # returns at once where one is on its way

    def recruit_helper(self) -> None:
        """Have a waiting thread help: the one with the longest expected wait, if it is any use.

        That is: if something was published, there is a slot, no worker is looking for work, and the
        wait is expected to be longer than what the thread is lent for.
        """
        scheduler = self.scheduler
        if (
            not scheduler.lends
            or scheduler.parking.searching
            or not scheduler.parking.free_slots
            or scheduler.shares
        ):
            return
        # A helper does `list_candidate`, then looks here for published continuations; a combiner
        # publishes, and then comes here. Both take the mutex of `published`: one sees the other.
        if not any(waiter.lock is self for waiter in scheduler.helper_candidates.copy()):
            return
        if not scheduler.has_published():
            return
        section, least = self.mean_section(), scheduler.mean_continuation
        waiting: list[Any] = self.queue.items()
        while waiting and len(waiting) * section >= least:
            waiter = waiting.pop()
            # joining: claim_helper. None: it was granted, given up or lent.
            if not waiter.helps or (parker := waiter.claim()) is None:
                continue
            if scheduler.parking.take_slot(waiter):  # joining: take_slot
                waiter.lent = True
                parker.release()  # joining: wake_helper
            else:
                self._put_back(waiter, parker)
            return

    def finds_server(self) -> bool:
        """Whether `find_server` would find one, and something to do for it."""
        waiting = self.queue.items()
        return (
            bool(waiting)
            and (not waiting[0].needs_worker or any(each.serves and each for each in waiting))
            and self.scheduler.lies_in_queue(self)
        )

    def find_server(self, slot: list[None]) -> bool:
        """No worker is there to serve this lock, which lies in a queue: let a blocked waiter do it.

        That one gets the slot. If the first in line needs no worker, it is let in. Returns whether
        there was anything to do.
        """
        scheduler = self.scheduler
        waiting: list[Any] = self.queue.items()
        if waiting and not waiting[0].needs_worker:
            if scheduler.take_out(self):
                self.hand_over_key_safely()
                return True
            return False
        for waiter in reversed(waiting):
            if not waiter.serves or (parker := waiter.claim()) is None:  # joining: claim_helper
                continue
            if scheduler.take_out(self):  # joining: take_slot
                waiter.assigned_lock = self
                scheduler.parking.searching.add(waiter)
                slot.clear()
                waiter.lent = True
                parker.release()  # joining: wake_helper
                return True
            self._put_back(waiter, parker)
            return False
        return False

    def _lend(self, waiter: ThreadWaiter) -> None:
        """Help, on this thread, which waits here."""
        try:
            self.scheduler.lend(waiter)
        finally:
            self._come_back(waiter)

    def _come_back(self, waiter: ThreadWaiter) -> None:
        """Wait again with a waiter that was lent."""
        waiter.lent = False
        waiter.helper = None
        scheduler = self.scheduler
        scheduler.parking.searching.discard(waiter)
        if waiter.assigned_lock is not None:  # an interrupt has come before it could begin
            waiter.assigned_lock = None
            self.hand_over_key_safely()
        self._put_back(waiter, waiter.make_parker())
        scheduler.parking.release_slot()  # joining: leave_slots
        scheduler.notify_if_work()  # joining: last_look

    def _put_back(self, waiter: ThreadWaiter, parker: LockType) -> None:
        """Let a waiter be claimed again; the first in line if its turn has come meanwhile."""
        queue = self.queue
        waiter.append(parker)  # joining: claimable_again
        if waiter.passed_over:  # joining: look_passed_over
            waiter.passed_over = waiter.helps = waiter.serves = False  # it is passed over once
            queue.appendleft(waiter)  # joining: stand_first_again
            if self.key.acquire(False):  # combining: try_key
                self.hand_over_key_safely()
