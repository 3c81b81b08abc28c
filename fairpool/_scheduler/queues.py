"""`Queues`: where the work of one pool lies, and which of its locks are in use.

`has_work` is the ordered look at all of it that the proof of `docs/protocols/parking.md` rests on:
it takes the mutex of every queue, after it has copied the list of workers under that list's mutex.
"""

from __future__ import annotations

from typing import Any

from fairpool._core.accounts import CURRENT, Principal, Shares
from fairpool._core.room import stack_is_deep
from fairpool._core.runqueue import RunQueue
from fairpool._core.types import Runnable
from fairpool._locks.combiner import Combiner
from fairpool._locks.host import LockEntry
from fairpool._scheduler.roles import PoolWorker
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.gather import Gather

# When so many locks are in use, those that nobody is in go out of use. To come into use again costs
# a lock some µs, and to be looked at 0.2.
LOCKS_IN_USE = 8


def no_lock() -> None:
    """An entry of `Scheduler.locks` that stands for no lock."""


class Queues:
    """The queues, the shares and the locks of one pool."""

    __slots__ = (
        "displaced",
        "injector",
        "locks",
        "locks_in_use",
        "mean_continuation",
        "pending_locks",
        "shares",
        "workers",
    )

    def _reset(self) -> None:
        """Begin with nothing: a new pool, or the child of a fork."""
        self.injector: RunQueue[Runnable] = RunQueue()
        # Tasks from the run queues of workers that combine.
        self.displaced: RunQueue[Runnable] = RunQueue()
        # The running mean of the continuations of critical sections (ns); 0: none was looked at.
        self.mean_continuation = 0
        self.workers: list[PoolWorker] = []
        self.locks: set[LockEntry] = set()  # all of them
        # Those of them that somebody is in, or waits for, and some that are just out of use: what
        # looks whether there are such looks only at these. See `KeyedLock.take_unused_key`.
        self.locks_in_use: set[LockEntry] = set()
        # Locks that lie in a queue to be served, or have done so; kept where there are no threads.
        self.pending_locks: set[Combiner] = set()
        self.shares = Shares()  # empty in most pools

    def has_work(self) -> bool:
        """Whether any queue holds a task: ordered against every `append`."""
        if self.injector.holds_work() or self.displaced.holds_work():
            return True
        # `copy`, here and below: a share that becomes active later has got its task later, too.
        if self.shares and any(each.queue.holds_work() for each in self.shares.active.copy()):
            return True
        # `copy` takes the list's mutex: a worker that is listed later started to queue tasks
        # after that, and sees what this thread did before it asked.
        return any(
            worker.queue.holds_work() or worker.home_queue.holds_work() or worker.published.copy()
            for worker in self.workers.copy()
        )

    def has_published(self) -> bool:
        """Whether any worker has continuations of critical sections that others may take."""
        return any(worker.published.copy() for worker in self.workers.copy())

    def queues(self) -> list[RunQueue[Any]]:
        """All of the pool's queues, at one moment."""
        return [*self._own_queues(), *(principal.queue for principal in self.shares.copy())]

    def queued(self) -> int:
        """How many tasks and continuations are queued, those of locks not counted."""
        return sum(map(len, self.queues()))

    def _own_queues(self) -> list[RunQueue[Any]]:
        """Those that are no share's: where locks lie that are to be served."""
        queues: list[RunQueue[Any]] = [self.injector, self.displaced]
        for worker in self.workers.copy():
            queues += (worker.queue, worker.home_queue)
        return queues

    def lies_in_queue(self, lock: Combiner) -> bool:
        """Whether a lock, with its key, lies in one of the pool's queues."""
        return any(queue.count(lock) for queue in self._own_queues())

    def take_out(self, lock: Combiner) -> bool:
        """Take a lock, with its key, out of the queue that it lies in; whether it was there."""
        for queue in self._own_queues():
            try:
                queue.remove(lock)
            except ValueError:
                continue
            self.pending_locks.discard(lock)
            return True
        return False

    def note_continuation(self, time: int) -> None:
        """One was timed (ns). Of two at the same time, one may not count."""
        mean = self.mean_continuation
        self.mean_continuation = mean + (time - mean) // 8 if mean else time

    # --- shares ---------------------------------------------------------------------------------

    def principal_of(self, item: Any) -> Principal | None:
        """Whom this task or continuation is charged to, if that is a share of this pool's.

        For who has it in hand and is about to queue it, or runs it: a context must not be looked
        at while another thread may be changing it.
        """
        kind = type(item)
        if kind is Continuation:
            context: Any = item.run_in.__self__
            principal = context.get(CURRENT)
        elif kind is Gather:
            principal = item._context.get(CURRENT)
        else:
            try:
                principal = item._status[0][0].get(CURRENT)
            except (AttributeError, IndexError, TypeError):  # a lock; or cancelled meanwhile
                return None
        return principal if principal is not None and principal.scheduler is self else None

    # --- locks ----------------------------------------------------------------------------------

    def used_locks(self) -> list[Combiner]:
        """All locks that somebody is in, or waits for, and perhaps some more."""
        return [lock for entry in self.locks_in_use.copy() if (lock := entry()) is not None]

    def all_locks(self) -> list[Any]:
        """The pool's locks that are still there."""
        return [lock for entry in self.locks.copy() if (lock := entry()) is not None]

    def forget_lock(self, entry: LockEntry) -> None:
        """A lock has gone."""
        self.locks.discard(entry)
        self.locks_in_use.discard(entry)

    def is_in_section(self, task: object) -> bool:
        """Whether this task, which runs on the calling thread, holds a lock of the pool."""
        # A task that is inside has written it down itself, or was told by the thread that let it
        # in. And the lock came into use before.
        used = self.used_locks()
        for lock in used:
            owner = lock.owner
            if owner is not None:
                if owner.task is task:
                    return True
            elif len(used) > LOCKS_IN_USE and not stack_is_deep():
                lock.go_out_of_use()
        return False
