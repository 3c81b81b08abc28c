"""`Lock`: the public face of a combiner, and its coroutine functions."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from itertools import count
from operator import attrgetter
from typing import ParamSpec, TypeVar

from fairpool._api.executor import TaskExecutor
from fairpool._core.errors import stays_here
from fairpool._core.foreign import plain_text
from fairpool._core.here import here
from fairpool._core.threads import monotonic_ns
from fairpool._locks.charging import Charging, ChargingQueue, ChargingTasks
from fairpool._locks.combiner import Combiner
from fairpool._locks.host import LockWorker
from fairpool._locks.owners import name_of_owner
from fairpool._locks.statistics import NANOSECOND
from fairpool._locks.tasks import GIVE_WAY
from fairpool._locks.usage import UsageQueue
from fairpool._locks.waiters import ExternalWaiter, Section
from fairpool._scheduler.scheduler import Scheduler
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.future import Future

P = ParamSpec("P")
T = TypeVar("T")

_numbers = count()


class Lock(Combiner, TaskExecutor):
    """A lock that runs critical sections, first come, first served.

    `pool.lock()` makes one. Four ways in, all of them in one line of waiting:

    - `async with lock:` in a task. Where nobody is inside or waits it is entered at once. Else the
      worker goes on with other work, and the task is resumed, inside, by the worker that serves the
      lock then. On leaving, the rest of the task may go on on any worker. (A coroutine of another
      pool, or of asyncio, may use it as well, and stays where it is.)
    - `lock.submit(fn, …)`: the lock is an `Executor` whose tasks are critical sections.
    - `future.then(fn, lock=lock)`: a step of a chain that is a critical section.
    - `with lock:` in a plain function, or in a thread that is no worker. It blocks its thread; a
      worker's place is taken by another one meanwhile. Also `acquire` and `release`.

    The lock belongs to the task, not to the thread: it may be held across an `await`, and is
    released by the same task on whatever worker. It is not reentrant. Where waiting for it would
    never end, `DeadlockError` is raised, which names the cycle. An exception inside releases it.
    All methods may be called from any thread.
    """

    scheduler: Scheduler

    __reduce_ex__ = stays_here("make one with pool.lock() where it is to be used")

    def __init__(self, scheduler: Scheduler, name: str | None) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r}")
        number = next(_numbers)
        super().__init__(scheduler, plain_text(name or "") or f"lock-{number}")
        self._number = number  # the order in which `all_of` takes locks
        self._closed = False

    def __repr__(self) -> str:
        owner = self.owner
        state = "unlocked" if owner is None else f"held by {name_of_owner(owner.task)}"
        waiting = self.how_many_wait()
        return f"<Lock {self.name} {state}{f', {waiting} waiting' if waiting else ''}>"

    # --- delegation ------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn(*args, **kwargs)` called as a critical section; return its Future.

        If it returns a coroutine, the lock is held until that has ended. Context and exceptions are
        as with `FairPool.submit`, and so is what this raises.
        """
        if not callable(fn):
            raise TypeError(f"submit() takes a callable first, not {fn!r}")
        scheduler = self.scheduler
        if scheduler.close_reason:
            raise scheduler.closed_error()
        if self._closed:
            raise self._closed_error()
        section: Section[T] = Section()
        section._pool = scheduler
        section._status = [(copy_context(), fn, args, kwargs or None, None)]
        section.lock = self
        section.ticket = monotonic_ns()
        self.line_up(section)
        if (scheduler.close_reason or self._closed) and section.drop():  # shutdown: recheck_closed
            raise scheduler.closed_error() if scheduler.close_reason else self._closed_error()
        self.see_to_queue()  # not before: it may start a worker, and nobody would join that
        return section

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more `submit`; with `wait`, return when the sections submitted so far have ended.

        With `cancel_futures`, those that have not been started are cancelled. The lock itself goes
        on working, and so does its pool.
        """
        self._closed = True
        if cancel_futures:
            self.cancel_sections(submitted_only=True)
        if wait:
            # Let in after all of them, it leaves at once.
            last = ExternalWaiter(self, None)
            self.enqueue(last)
            last._register(self.end_section_of)
            last.result()

    # --- threads --------------------------------------------------------------------------------

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Enter, blocking this thread; as `threading.Lock.acquire`.

        Waits for at most `timeout` seconds (-1: without end), or not at all if not `blocking`;
        returns whether the lock was entered. In a coroutine prefer `async with`, which blocks
        nobody. Without blocking it may also fail just when nobody is inside any more, while the
        lock is on its way to one that has given up.
        """
        if not blocking and timeout != -1:
            raise ValueError("a non-blocking acquire() takes no timeout")
        if timeout < 0 and timeout != -1:
            raise ValueError(f"timeout must be at least 0 seconds, or -1, not {timeout!r}")
        if not blocking:
            return self.enter_blocking(0.0)
        return self.enter_blocking(None if timeout == -1 else timeout)

    def release(self) -> None:
        """Leave. Raises RuntimeError where this task, or this thread, is not inside."""
        # No call of a Python function but the last one, as a rule: docs/protocols/room.md.
        owner, worker = self.owner, here.worker
        item = here.thread_owner if worker is None else worker.item
        if owner is None or not (
            owner is item or (type(item) is Continuation and item.task is owner)
        ):
            self.check_owner()
        self.end_section()

    def __enter__(self) -> Lock:
        self.enter_blocking(None)
        return self

    # Named parameters: a star makes a tuple, and the lock would stay held without memory for it.
    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.release()

    # --- coroutine functions ---------------------------------------------------------------------

    async def enter_later(self) -> None:
        """Let what was published go first.

        Without a request, which would make all that come meanwhile queue up behind it.
        """
        await GIVE_WAY
        await self.__aenter__()

    async def enter_external(self, worker: LockWorker | None) -> None:
        """Enter with a coroutine that this pool does not run, or not as a task."""
        self.scheduler.check_same_process()
        waiter = ExternalWaiter(self, None if worker is None else worker.task)
        self.enqueue(waiter)
        try:
            await waiter
        except BaseException:
            if not waiter.give_up():
                self.end_section()  # it was granted, and nobody will leave
            raise

    # --- looking in ------------------------------------------------------------------------------

    def locked(self) -> bool:
        """Whether anybody is inside, or about to be. True of one moment."""
        return self.key.locked()

    def expected_wait(self) -> float:
        """How long one that comes now would wait, in seconds: an estimate.

        The number of those before it times the mean section.
        """
        return (self.how_many_wait() + self.key.locked()) * self.mean_section() * NANOSECOND


class ChargedLock(Charging, Lock):
    """A lock whose sections are charged to shares."""


class UsageLock(ChargedLock):
    """One that serves first the share that has used it least."""

    publish_of = attrgetter("publish_to_share")


class TaskUsageLock(ChargingTasks, Lock):
    """One that serves first the task that has used it least."""

    publish_of = attrgetter("publish_to_share")


def make_lock(
    scheduler: Scheduler, name: str | None, order: str, strict: bool, charge: str | None
) -> Lock:
    """What `FairPool.lock` returns."""
    if order not in ("ticket", "usage"):
        raise ValueError(f'order must be "ticket" or "usage", not {order!r}')
    if not isinstance(strict, bool):
        raise TypeError(f"strict must be a bool, not {strict!r}")
    if strict and order != "usage":
        raise ValueError('only a lock with order="usage" can be strict')
    if charge not in (None, "share", "task"):
        raise ValueError(f'charge must be "share" or "task", not {charge!r}')
    if charge is not None and order != "usage":
        raise ValueError('charge is for a lock with order="usage"')
    lock: Lock
    if order == "usage":
        by_task = charge == "task"
        kind = TaskUsageLock if by_task else UsageLock
        lock = kind(scheduler, name)
        lock.keep_requests_in(UsageQueue(lock, strict, by_task))
    elif scheduler.shares:
        lock = ChargedLock(scheduler, name)
        lock.keep_requests_in(ChargingQueue())
    else:
        lock = Lock(scheduler, name)
    scheduler.locks.add(lock.entry)  # last: from here on others look at it
    return lock
