"""`ThreadOwner`: a thread as the owner of locks; `KeyLoan`: a pass's key, lent to foreign code.

The owner of a lock is a task, the continuation of one, an `ExternalWaiter`, or a `ThreadOwner`.
`current_owner` says which of them the calling code is. Proof: "Foreign code" in
`docs/protocols/combining.md`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from fairpool._core.here import here
from fairpool._core.room import put_in_any_case
from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import this_thread, yield_cpu
from fairpool._core.waitgraph import Node
from fairpool._locks.host import AnyLock, LockWorker
from fairpool._locks.waiters import ExternalWaiter, ThreadWaiter
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.future import Future
from fairpool._tasks.task import AnyTask


class ThreadOwner(Future[None]):
    """A thread that is no worker, as the owner of locks, and as a node of a cycle of waits."""

    __slots__ = ("_name", "awaited", "inside", "loans")

    # awaited: the waiter with which it waits for a lock without end. Like a coroutine, it writes it
    #          down itself: a place where all threads wrote it down would make them wait for one
    #          another, with the lock in their hands.
    # inside:  how many locks, of all pools, it is inside of, or about to enter. Counted before it
    #          tries; a count that an interrupt has left too high only keeps it from being lent.
    # loans:   the keys of its passes that it has lent, the latest last

    has_sources = True
    is_thread: Literal[True] = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.awaited: ThreadWaiter | None = None
        self.inside = 0
        self.loans: list[KeyLoan] = []

    def sources(self) -> tuple[Node, ...]:
        waiter = self.awaited
        return (waiter,) if waiter else ()

    @property
    def task(self) -> ThreadOwner:
        return self

    def take_back(self) -> None:
        """Take back the keys that are not lent any more."""
        loans = self.loans
        while loans and loans[-1].may_end(self.inside):
            loans.pop().take_back()

    def _describe(self) -> str:
        return self._name


# What is inside of a lock. A section, too, is a task.
Owner: TypeAlias = AnyTask | Continuation | ExternalWaiter | ThreadOwner


class KeyLoan:
    """The key of a pass, given away while foreign code waits between two of its sections.

    The thread takes it back when that wait is over and the foreign code is inside of no lock: its
    pass goes on when that has returned.
    """

    __slots__ = ("_is_over", "_owner", "_state", "_waiter", "_worker", "inside", "no_loans")

    # _state:   the pass's, as it was
    # inside:   of how many locks its thread was inside then
    # no_loans: the thread's list of loans while it leaves a lock

    # Made before the key is given away: it must come back, whatever there is no room for then.

    def __init__(self, lock: AnyLock, worker: LockWorker, owner: ThreadOwner) -> None:
        self._waiter = ThreadWaiter(lock, 0, lock.owner)
        self._state = lock.began, lock.served, worker.item
        self._worker = worker
        self._owner, self.inside = owner, owner.inside
        self._is_over = False
        self.no_loans: list[KeyLoan] = []

    def end(self) -> None:
        """The wait is over."""
        self._is_over = True
        self._owner.take_back()

    def may_end(self, inside: int) -> bool:
        """Whether to take it back where the thread is inside of so many locks."""
        return self._is_over and inside <= self.inside

    def take_back(self) -> None:
        """Have the key again. At the head of the queue, so that nobody is served twice before."""
        waiter, worker = self._waiter, self._worker
        lock: AnyLock = waiter.lock
        parker = waiter.parker
        put_in_any_case(RunQueue.appendleft, lock.queue, waiter)  # combining: enqueue
        lock.see_to_queue()
        try:
            if lock.scheduler.pending_locks:
                lock.scheduler.notify_if_work()
            worker.park_for(parker, None, lock)
        except BaseException:  # Ctrl-C, say: not before the key is there
            while waiter:
                yield_cpu()
            parker.acquire(timeout=1)  # its granter is about to release it, or it was acquired
            raise
        finally:
            lock.began, lock.served, worker.item = self._state


def current_owner() -> Owner:
    """What runs on this thread: a task, its continuation, or a thread that is no worker."""
    worker: LockWorker | None = here.worker
    if worker is not None and worker.task is not None:
        item: Owner = worker.item
        return item
    thread: ThreadOwner | None = here.thread_owner
    return thread or thread_owner()


def thread_owner() -> ThreadOwner:
    """The calling thread, whatever it runs."""
    thread: ThreadOwner | None = here.thread_owner
    if thread is None:
        thread = here.thread_owner = ThreadOwner(f"the thread {this_thread().name}")
    return thread


def name_of_owner(task: Node) -> str:
    """The owner of a lock, for people to read. `dump` shows tasks with the same address."""
    name: str | None = getattr(task, "owner_name", None) or task._describe()
    return name or f"the task {id(task):#x}"  # a plain function has no name here
