"""`WaitingWorker`: what a worker runs, and the waits of that.

A wait of a task does not starve the pool (`docs/protocols/waiting.md`): a task that nobody has
started is run inline, on top of the one that waits for it; else the worker is `blocked`, and
another one takes its place.

Guarantees:

- Nobody else's task runs on a stack that is inside a critical section.
- A wait that would never end raises `DeadlockError`: see `enter_wait`.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from sys import exception
from typing import Any, cast

from fairpool._core.errors import DeadlockError
from fairpool._core.room import need_stack, stack_is_deep
from fairpool._core.signals import acquire
from fairpool._core.threads import LockType
from fairpool._core.waitgraph import enter_wait, leave_wait, waiting_tasks, write_wait
from fairpool._locks.owners import KeyLoan
from fairpool._scheduler.adopted import AdoptedEvent, adopt
from fairpool._scheduler.blocking import SlotWaiter, blocked
from fairpool._scheduler.find_work import WorkFinder
from fairpool._scheduler.lifecycle import LifeCycle
from fairpool._scheduler.roles import Item
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.future import AnyFuture, Future
from fairpool._tasks.gather import FORKED_MAX, Fork, Gather
from fairpool._tasks.state import is_final
from fairpool._tasks.task import AnyTask, Task
from fairpool._tasks.thread_wait import spin_wait

# How many gathers may start their children on top of one another: three Python frames for each.
FORKS_MAX = 32


class WaitingWorker(WorkFinder):
    """The task that a worker runs, and how that waits. All methods are for the worker's thread."""

    __slots__ = (
        "blocked_since",
        "blocked_time",
        "fn",
        "fork_until",
        "forks",
        "has_slot",
        "initializes",
        "wait",
    )

    def __init__(self, scheduler: LifeCycle) -> None:
        super().__init__(scheduler)
        self.fn: Any = None  # the function, if `item` is a task
        self.forks: list[Fork] = []  # the tasks on this stack on top of which children are started
        self.fork_until = 0  # when others are to go first again, at the latest (ns)
        self.initializes = False
        self.has_slot = True
        self.wait: blocked | None = None  # the innermost one
        self.blocked_since = 0  # when it gave up its slot for a wait (ns)
        self.blocked_time = 0  # how long it has been without its slot, in waits (ns)

    # --- what runs -------------------------------------------------------------------------------

    @property
    def task(self) -> AnyTask | None:
        """The task that this worker runs, or has run last."""
        item = self.item
        if item is None:
            return None
        if type(item) is Gather:  # its child becomes a task when somebody asks for it
            index = self.fn
            task: AnyTask = item.make_task(index, self.scheduler)
            self.turn_to(task, item.child(index))
            for fork in self.forks:
                self._write_fork(fork)
            return task
        return item.task  # type: ignore[return-value]  # it is one

    def _write_fork(self, fork: Fork) -> None:
        """Write down that a task waits whose children are started on top of it.

        One of them has become a task in its first step: it may be about to wait itself.
        """
        if fork.written:
            return
        if type(fork.item) is Gather:
            index = fork.fn
            fork.fn = fork.item.child(index)
            fork.item = fork.item.make_task(index, self.scheduler)
        task = fork.item.task
        what = fork.item.coroutine if type(fork.item) is Continuation else fork.fn
        fork.outer = waiting_tasks.get(task)
        fork.written = write_wait(task, what, (fork.gather,))

    def turn_to(self, item: Item | None, fn: object) -> None:
        """This worker runs these now.

        What it has run may be freed by this, and a `__del__` ask for the current task: it must not
        find the one with what belongs to the other.
        """
        self.item = None
        self.fn = fn
        self.item = item

    @property
    def doing(self) -> object:
        """The function or the coroutine that this worker runs, or has run last."""
        item, fn = self.item, self.fn
        if type(item) is Continuation:
            return item.coroutine
        return item.child(fn) if type(item) is Gather else fn

    # --- on top of the one that waits -------------------------------------------------------------

    def may_run_inline(self) -> bool:
        """Whether a task may be run on top of the current one.

        Not without a slot. Not inside a critical section, which would take as long as that task,
        and might be what that waits for. Not deep in the stack, where it would have less of it than
        it needs, unless there can be no other worker to run it.
        """
        scheduler = self.scheduler
        if not self.has_slot or (scheduler.locks_in_use and scheduler.is_in_section(self.task)):
            return False
        if not stack_is_deep():
            return True
        if scheduler.may_start():
            return False
        need_stack(100)  # it is raised here rather than in what is run
        return True

    def may_fork(self, scheduler: object) -> bool:
        """Whether the children of a gather of this pool may be started on top of the current task.

        As `may_run_inline`, but never deep in the stack: a child that is not started here has one
        of its own. Not where somebody's `except` or asyncio loop would be taken for the child's
        own, either. What the children have to do is bounded: see `FORKED_MAX`.
        """
        if self.forked >= FORKED_MAX:
            if not self.forks:  # this one goes through the queue, and others go first
                self.forked = 0
                if (outside := self._take_outside()) is not None:
                    self.queue.appendleft(outside)
                    self.scheduler.notify_if_free()  # it was in no queue for a moment
            return False
        return (
            scheduler is self.scheduler
            and self.has_slot
            and len(self.forks) < FORKS_MAX
            and _get_running_loop() is None
            and exception() is None
            and not stack_is_deep()
            and not (scheduler.locks_in_use and scheduler.is_in_section(self.task))
        )

    def run_inline(self, future: AnyFuture) -> bool:
        """Run `future`'s task on top of the current one, if possible; True if it is final now."""
        # Only a task of the same pool: another pool's has another initializer and another limit.
        if (
            type(future) is not Task
            or future._pool is not self.scheduler
            or not self.may_run_inline()
            or _get_running_loop() is not None  # an `await` in the task would take it for its own
        ):
            return False
        task = cast("AnyTask", future)
        outer = self.item, self.fn
        self._inline += 1
        try:
            following = task.run(self)
            if following is not None:
                self.requeue(following)
            return is_final(task)
        finally:
            self._inline -= 1
            self.turn_to(*outer)
            del future, task, outer  # what the task has raised leads to this frame: no cycle

    # --- waits ------------------------------------------------------------------------------------

    def wait_for(self, future: AnyFuture, timeout: float | None) -> bool:
        """Wait for a future; return whether it is final. Never starves the pool."""
        if timeout is not None:
            return self._block_on(future, timeout) if timeout > 0 else is_final(future)
        task = self.task
        if task is None:  # in the initializer, or in a `__del__` between two steps
            self.check_initializer(future)
            return self._block_on(future, None)
        outer = enter_wait(task, self.doing, (future,))
        try:
            return self.run_inline(future) or self._block_on(future, None)
        finally:
            leave_wait(task, outer)
            del task, outer, future  # what is raised in here leads to this frame: no cycle

    def check_initializer(self, awaited: object) -> None:
        """Raise `DeadlockError` where an initializer is about to wait for its own pool.

        `awaited`: a future, or a lock that is taken.
        """
        if not self.initializes or (isinstance(awaited, Future) and is_final(awaited)):
            return
        lock = getattr(awaited, "lock", awaited)  # that of a section, or of an external waiter
        if self.scheduler in (getattr(lock, "scheduler", None), getattr(awaited, "_pool", None)):
            raise DeadlockError("an initializer must not wait for its own pool")

    def wait_for_futures(self, adopted: AdoptedEvent, timeout: float | None) -> bool:
        """Wait in `concurrent.futures.wait` or `as_completed`; return whether the event is set."""
        futures = adopted.futures
        if self.task is None:
            if timeout is None:
                for future in futures:
                    self.check_initializer(future)
        elif timeout is None and adopted.needs_all:
            return self._wait_for_all(tuple(futures), adopted)
        elif timeout is None and not self.scheduler.may_start():
            # There can be no other worker to run them. Better on top of this task than never.
            for future in futures:
                if adopted.event.is_set():
                    break
                self.run_inline(future)
        return self.wait_for_event(adopted, timeout)

    def _wait_for_all(self, futures: tuple[AnyFuture, ...], adopted: AdoptedEvent) -> bool:
        """Wait for the event that is set when all of `futures` are final."""
        assert self.task is not None
        task = self.task
        outer = enter_wait(task, self.doing, futures)
        try:
            for future in futures:
                self.run_inline(future)
            return self.wait_for_event(adopted, None)
        finally:
            leave_wait(task, outer)
            del task  # likewise

    def wait_for_event(self, adopted: AdoptedEvent, timeout: float | None) -> bool:
        """Wait for an event of a `concurrent.futures` waiter; return whether it is set."""
        with blocked("event", adopted, lends_key=True):
            return adopted.wait_watchfully(timeout)

    def park_for(self, parker: LockType, timeout: float | None, lock: object) -> bool:
        """Park on a lock in the midst of a task."""
        with blocked("lock", lock):
            return acquire(parker, timeout)

    def _block_on(self, future: AnyFuture, timeout: float | None) -> bool:
        if spin_wait(future):
            return True
        need_stack()
        if (loan := self.lend_key(future if timeout is None else None)) is not None:
            try:
                return self._block_on(future, timeout)
            finally:
                loan.end()
        with blocked("future", future) as wait:
            waiter = SlotWaiter(wait)
            try:
                future.register_for_now(waiter)
                return waiter.park(timeout, future._pool) or is_final(future)
            finally:
                future._unregister(waiter)

    def lend_key(self, awaited: object) -> KeyLoan | None:
        """Give away the key of this worker's pass, if that is between two sections.

        The worker is about to wait, so it is foreign code that does: see "Foreign code" in
        docs/protocols/combining.md. Returns what is to be told at the end of the wait, or None.
        `awaited`: the lock or the future; None where there is a time-out.
        """
        item = self.item
        lock = None if item is None else item.lock_in_hand
        # A lock is a `Combiner`, and this a `Worker`.
        return None if lock is None else lock.lend(self, awaited)  # type: ignore[arg-type, union-attr]

    adopt = staticmethod(adopt)
