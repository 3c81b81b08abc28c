"""`ThreadEntry`: a thread, or a plain function on a worker, enters a lock and blocks meanwhile.

How much stack that may take, and why: `docs/protocols/room.md`.
"""

from __future__ import annotations

from fairpool._core.errors import DeadlockError
from fairpool._core.here import here
from fairpool._core.room import need_stack
from fairpool._core.signals import acquire
from fairpool._core.threads import monotonic_ns, yield_cpu
from fairpool._core.waitgraph import Node, check_lock_wait, enter_wait, leave_wait, waiting_tasks
from fairpool._locks.helping import LockHelp
from fairpool._locks.host import Loan, LockWorker
from fairpool._locks.owners import Owner, ThreadOwner, current_owner
from fairpool._locks.waiters import ThreadWaiter
from fairpool._tasks.request import Request

__all__ = ["ThreadEntry"]


class ThreadEntry(LockHelp):
    """Entry with the calling thread."""

    __slots__ = ()

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
