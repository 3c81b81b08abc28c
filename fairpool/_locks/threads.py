"""`ThreadEntry`: a thread, or a plain function on a worker, enters a lock and blocks meanwhile.

A thread that waits for a lock helps meanwhile: it runs one continuation that the combiner has
published, or serves the lock where nobody else is there to do so. Protocol and proof:
`docs/protocols/joining.md`. How much stack all of that may take, and why: `docs/protocols/room.md`.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Sized
from typing import Any, Protocol

from fairpool._core.errors import DeadlockError
from fairpool._core.here import here
from fairpool._core.room import need_stack, stack_is_deep
from fairpool._core.signals import acquire
from fairpool._core.threads import LockType, monotonic_ns, yield_cpu
from fairpool._core.waitgraph import Node, check_lock_wait, enter_wait, leave_wait, waiting_tasks
from fairpool._locks.exit import LockExit
from fairpool._locks.host import AnyLock, Loan, LockHost, LockWorker
from fairpool._locks.owners import Owner, ThreadOwner, current_owner
from fairpool._locks.waiters import ThreadWaiter
from fairpool._tasks.request import Request


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


class ThreadEntry(LockExit):
    """Entry with the calling thread, which may be lent while it waits."""

    __slots__ = ()

    scheduler: HelpHost

    # --- entering ---------------------------------------------------------------------------------

    def enter_blocking(self, timeout: float | None) -> bool:
        """Enter with the calling thread; wait for at most `timeout` seconds (None: for ever)."""
        owner = current_owner()
        if not owner.is_thread:
            return self._enter_blocking(timeout, owner)
        entered = False
        owner.inside += 1
        try:
            entered = self._enter_blocking(timeout, owner)
        finally:
            if not entered:
                owner.inside -= 1
        return entered

    def _enter_blocking(self, timeout: float | None, owner: Owner) -> bool:
        now = monotonic_ns()  # before the key is taken: it may raise
        if not self.queue and (
            self.take_key(False) or (not self.in_use and self.take_unused_key())
        ):
            self.owner = owner
            self.began = now
            return True
        if timeout is not None and timeout <= 0:
            return False
        return self._wait_blocking(timeout, owner)

    def _wait_blocking(self, timeout: float | None, owner: Owner) -> bool:
        """Wait with the calling thread until it has entered, or the time is up."""
        need_stack()
        self.scheduler.check_same_process()
        worker: LockWorker | None = here.worker
        if worker is not None:
            if timeout is None:
                worker.check_initializer(self)
            loan = worker.lend_key(self if timeout is None else None)
            if loan is not None:
                return self._enter_between_sections(timeout, owner, loan)
        thread: ThreadOwner | None = here.thread_owner if worker is None else None
        task = owner.task
        waiter = ThreadWaiter(self, monotonic_ns(), owner)
        # What is waited for already: this may be a `__del__` in the midst of that.
        awaited = None if thread is None else thread.awaited
        edge = waiting_tasks.get(task)
        try:
            if thread is not None and timeout is None:
                thread.awaited = waiter
                waiter.helps = waiter.serves = self._may_lend(thread)
                if waiter.helps:
                    self.scheduler.helper_candidates[waiter] = None  # joining: list_candidate
            elif worker is not None and timeout is None:
                waiter.serves = self._may_serve(worker)
                enter_wait(task, worker.doing, (waiter,))
            self.enqueue(waiter)
            if thread is not None and timeout is None:
                self._check_wait(thread, waiter)
                if waiter.helps:
                    self.recruit_helper()
            if self.scheduler.pending_locks:
                self.scheduler.notify_if_work()
            if here.notifying:  # as in `blocked`
                self.scheduler.distrust_searchers()
            self._park(waiter, worker, timeout)
            while waiter.lent:
                self._lend(waiter)
                self._park(waiter, worker, timeout)
        except DeadlockError:
            waiter.give_up()  # if it was not given up before this was raised
            raise
        except BaseException:
            if not self._gave_up(waiter):
                inside = 0 if thread is None else thread.inside
                self.end_section()  # it was granted, and nobody will leave
                if thread is not None:
                    thread.inside = inside  # `enter_blocking` sees to that
            raise
        finally:
            if thread is not None:
                thread.awaited = awaited
                self.scheduler.helper_candidates.pop(waiter, None)
            elif timeout is None:
                leave_wait(task, edge)
        return not self._gave_up(waiter)

    def _enter_between_sections(self, timeout: float | None, owner: Owner, loan: Loan) -> bool:
        """Enter from foreign code that runs on a worker in the midst of a pass."""
        thread = owner if owner.is_thread else None
        if thread is not None:  # what `enter_blocking` has counted is counted again below
            thread.inside -= 1
            loan.inside = thread.inside
        entered = False
        try:
            entered = self.enter_blocking(timeout)
        finally:
            loan.end()
            if thread is not None and not entered:
                thread.inside += 1
        return entered

    def _gave_up(self, waiter: ThreadWaiter) -> bool:
        """Whether the waiter was given up with this, and not granted."""
        while True:
            try:
                if waiter.give_up():
                    return True
            except MemoryError:  # whether it was granted has to be known
                yield_cpu()
                continue
            if self.owner is waiter.owner:
                return False
            if waiter.lent:
                self._come_back(waiter)
            else:
                yield_cpu()  # it is just being granted, or lent

    def _park(self, waiter: ThreadWaiter, worker: LockWorker | None, timeout: float | None) -> None:
        if worker is None:
            acquire(waiter.parker, timeout)
        else:
            worker.park_for(waiter.parker, timeout, self)

    def _check_wait(self, task: Node, request: ThreadWaiter | Request) -> None:
        """Raise `DeadlockError` if `task`, whose request is queued here, would wait for ever."""
        owner = self.owner
        # An owner that waits for nothing will leave: the usual case, and a quick look.
        if owner is not None and (owner.awaited or owner.task in waiting_tasks):
            check_lock_wait(task, request)

    # --- helping meanwhile ------------------------------------------------------------------------

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
