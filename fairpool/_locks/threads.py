"""`ThreadEntry`: a thread, or a plain function on a worker, enters a lock and blocks meanwhile.

How much stack that may take, and why: `docs/protocols/room.md`.
"""

from __future__ import annotations

from typing import Any

from fairpool._core.errors import DeadlockError
from fairpool._core.here import here
from fairpool._core.room import need_stack
from fairpool._core.signals import acquire
from fairpool._core.threads import monotonic_ns, yield_cpu
from fairpool._core.waitgraph import check_lock_wait, enter_wait, leave_wait, waiting_tasks
from fairpool._locks.helping import LockHelp
from fairpool._locks.host import LockWorker
from fairpool._locks.owners import KeyLoan, current_owner
from fairpool._locks.waiters import ThreadWaiter
from fairpool._tasks.request import LockRequest

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

    def _enter_blocking(self, timeout: float | None, owner: Any) -> bool:
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

    def _wait_blocking(self, timeout: float | None, owner: Any) -> bool:
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
        task = owner.task
        waiter = ThreadWaiter(self, monotonic_ns(), owner)
        # What the task waits for already: this may be a `__del__` in the midst of that.
        outer = task.awaited if worker is None else waiting_tasks.get(task)
        try:
            if worker is None:
                if timeout is None:
                    task.awaited = waiter
                    waiter.helps = waiter.serves = self._may_lend(task)
                    if waiter.helps:
                        self.scheduler.helper_candidates[waiter] = None  # joining: list_candidate
                self.enqueue(waiter)
                if timeout is None:
                    self._check_wait(task, waiter)
                    if waiter.helps:
                        self.recruit_helper()
            else:
                if timeout is None:
                    waiter.serves = self._may_serve(worker)
                    enter_wait(task, worker.doing, (waiter,))
                self.enqueue(waiter)
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
                inside = task.inside if worker is None else 0
                self.end_section()  # it was granted, and nobody will leave
                if worker is None:
                    task.inside = inside  # `enter_blocking` sees to that
            raise
        finally:
            if worker is None:
                task.awaited = outer
                self.scheduler.helper_candidates.pop(waiter, None)
            elif timeout is None:
                leave_wait(task, outer)
        return not self._gave_up(waiter)

    def _enter_between_sections(self, timeout: float | None, owner: Any, loan: KeyLoan) -> bool:
        """Enter from foreign code that runs on a worker in the midst of a pass."""
        counts = owner.is_thread  # what `enter_blocking` has counted is counted again below
        if counts:
            owner.inside -= 1
            loan.inside = owner.inside
        entered = False
        try:
            entered = self.enter_blocking(timeout)
        finally:
            loan.end()
            if counts and not entered:
                owner.inside += 1
        return entered

    def _gave_up(self, waiter: ThreadWaiter) -> bool:
        """Whether the waiter was given up with this, and not granted."""
        while not self._try_to_give_up(waiter):
            if self.owner is waiter.owner:
                return False
            if waiter.lent:
                self._come_back(waiter)
            else:
                yield_cpu()  # it is just being granted, or lent
        return True

    def _try_to_give_up(self, waiter: ThreadWaiter) -> bool:
        while True:
            try:
                return waiter.give_up()
            except MemoryError:  # whether it was granted has to be known
                yield_cpu()

    def _park(self, waiter: ThreadWaiter, worker: LockWorker | None, timeout: float | None) -> None:
        if worker is None:
            acquire(waiter.parker, timeout)
        else:
            worker.park_for(waiter.parker, timeout, self)

    def _check_wait(self, task: Any, request: LockRequest) -> None:
        """Raise `DeadlockError` if `task`, whose request is queued here, would wait for ever."""
        owner = self.owner
        # An owner that waits for nothing will leave: the usual case, and a quick look.
        if owner is not None and (owner.awaited or owner.task in waiting_tasks):
            check_lock_wait(task, request)
