"""What a lock asks of its host, the room above: one protocol for each role.

`LockHost` is the scheduler of the pool, and `LockWorker` one of its workers, as locks see them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from fairpool._core.park import Parking
from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import LockType, Thread
from fairpool._core.timer import Timers
from fairpool._core.types import AnyWorker, Runnable
from fairpool._tasks.host import ForkingPool, Worker
from fairpool._tasks.request import Once, Published
from fairpool._tasks.task import AnyTask

# A lock in the hands of its host: a `Combiner`, which stands on this module.
AnyLock: TypeAlias = Any

# A weak reference to a lock.
LockEntry: TypeAlias = Callable[[], AnyLock | None]


class LockHost(ForkingPool, Protocol):
    """The scheduler, as a lock sees it; `HelpHost` (`threads.py`) is more of it."""

    # locks_in_use:  the locks that may have an owner or a waiter
    # pending_locks: locks that lie in a queue to be served, where the pool has no threads
    # injector:      a lock in here is served by any worker
    # broken:        the error, where no worker will serve a lock any more
    max_workers: int
    workers: list[AnyWorker]
    locks_in_use: set[LockEntry]
    pending_locks: set[AnyLock]
    injector: RunQueue[Runnable]
    parking: Parking
    timers: Timers

    @property
    def broken(self) -> Exception | None: ...

    def forget_lock(self, entry: LockEntry, /) -> None:
        """A lock has gone."""

    def notify(self) -> None:
        """Wake a worker, if a slot is free and none searches."""

    def notify_if_work(self) -> None:
        """The same, after this thread has stopped to look for work."""

    def notify_or_abandon(self, target: AnyWorker | None = None, /) -> None:
        """The same, for a lock that was put into a queue: `target`'s, or the injector."""


class Loan(Protocol):
    """The key of a pass that was lent: see `KeyLoan`."""

    inside: int

    def end(self) -> None:
        """The wait is over."""


class PassWorker(Worker, Protocol):
    """A worker that runs a pass, or is asked to run one."""

    # queue:      its run queue
    # published:  its published continuations
    # home_queue: the locks that it is to serve
    # leaving:    whether it is to end its pass
    # stays:      whether it is a pool thread, which can be a home worker
    # exited:     whether it has left its loop
    queue: RunQueue[Runnable]
    published: list[Published]
    home_queue: RunQueue[AnyLock]
    leaving: bool
    stays: bool
    exited: bool
    thread: Thread

    def publish_to_share(self, item: Published, /) -> None:
        """Queue what follows a section of a lock in usage order. The caller notifies."""

    def publish(self, item: Published, /) -> None:
        """Publish a continuation, and wake a worker for it."""

    def displace(self) -> None:
        """Let others take what lies in its run queue."""

    def may_stand_in(self, lock: AnyLock, /) -> bool:
        """Whether it may serve a lock in the place of its home worker."""


class TaskWorker(Protocol):
    """A worker whose task enters a lock, at once or by blocking its thread."""

    # ready: what a task awaits that enters at once
    # consecutive_acquires: how often its task has gone before what is published here
    ready: Once
    consecutive_acquires: int

    @property
    def task(self) -> AnyTask | None:
        """The task that it runs; made now, if that is a child of a gather without one."""

    @property
    def doing(self) -> object:
        """What it does, for whoever looks at a deadlock."""

    def may_go_first(self) -> bool:
        """Whether its task may enter once more before what is published here."""

    def may_run_inline(self) -> bool:
        """Whether it may run other tasks on top of the blocked one."""

    def check_initializer(self, awaited: object, /) -> None:
        """Raise where its initializer would wait for ever."""

    def lend_key(self, awaited: object, /) -> Loan | None:
        """Lend the key of its pass, if it has one."""

    def park_for(self, parker: LockType, timeout: float | None, reason: object, /) -> bool:
        """Block for a parker, without a slot."""


class LockWorker(PassWorker, TaskWorker, Protocol):
    """A worker, as a lock sees it."""
