"""What a lock asks of its host, the room above: one protocol for each role.

`LockHost` is the scheduler of the pool, and `LockWorker` one of its workers, as locks see them.
"""

from __future__ import annotations

from typing import Any, Protocol
from weakref import ref

from fairpool._core.park import Parking
from fairpool._core.runqueue import RunQueue

__all__ = [
    "Blocker",
    "Entrant",
    "HelpHost",
    "LockHost",
    "LockWorker",
    "PassWorker",
    "Registry",
    "ServingHost",
]


class Registry(Protocol):
    """Where the pool's locks are written down."""

    # locks_in_use: weak references to the locks that may have an owner or a waiter
    # ending:       true when the pool was closed or dropped
    # broken:       the error, where no worker will serve a lock any more
    locks_in_use: set[Any]
    ending: Any
    broken: Any
    timers: Any

    def forget_lock(self, entry: ref[Any], /) -> None:
        """A lock has gone."""

    def check_same_process(self) -> None:
        """Raise in the child of a fork."""

    def link(
        self,
        source: Any,
        on_result: Any,
        on_error: Any,
        handled: Any,
        in_any_case: Any,
        link: Any,
        /,
    ) -> Any:
        """Make a step of a chain."""


class ServingHost(Protocol):
    """By whom a lock is served, and which workers are told of it."""

    # pending_locks: locks that lie in a queue to be served, where the pool has no threads
    # injector:      a lock in here is served by any worker
    max_workers: int
    pending_locks: set[Any]
    injector: RunQueue[Any]
    parking: Parking

    def notify(self) -> None:
        """Wake a worker, if a slot is free and none searches."""

    def notify_if_work(self) -> None:
        """The same, after this thread has stopped to look for work."""

    def notify_or_abandon(self, target: Any = None, /) -> None:
        """The same, for a lock that was put into a queue: `target`'s, or the injector."""

    def distrust_searchers(self) -> None:
        """A thread is about to block: those that search may wait for it."""


class HelpHost(Protocol):
    """How a thread that waits for a lock helps meanwhile."""

    # lends:             whether threads that wait help at all
    # mean_continuation: the running mean of the continuations of sections (ns)
    # helper_candidates: the waiters whose threads may help
    lends: bool
    mean_continuation: int
    helper_candidates: dict[Any, None]
    searching: Any
    free_slots: Any
    shares: Any
    workers: list[Any]

    def has_published(self) -> bool:
        """Whether any worker has published continuations."""

    def lies_in_queue(self, lock: Any, /) -> bool:
        """Whether a lock lies in a queue to be served."""

    def take_out(self, lock: Any, /) -> bool:
        """Take it out of there, with its key; whether it was there."""

    def lend(self, waiter: Any, /) -> None:
        """Let the calling thread help, which waits with this waiter."""


class LockHost(Registry, ServingHost, HelpHost, Protocol):
    """The scheduler, as a lock sees it."""


class PassWorker(Protocol):
    """A worker that runs a pass, or is asked to run one."""

    # item:       what it runs
    # queue:      its run queue
    # published:  its published continuations
    # home_queue: the locks that it is to serve
    # leaving:    whether it is to end its pass
    # stays:      whether it is a pool thread, which can be a home worker
    # exited:     whether it has left its loop
    item: Any
    scheduler: Any
    queue: RunQueue[Any]
    published: list[Any]
    home_queue: RunQueue[Any]
    leaving: bool
    stays: bool
    exited: bool
    thread: Any

    def publish(self, item: Any, /) -> None:
        """Publish a continuation, and wake a worker for it."""

    def displace(self) -> None:
        """Let others take what lies in its run queue."""

    def may_stand_in(self, lock: Any, /) -> bool:
        """Whether it may serve a lock in the place of its home worker."""


class Entrant(Protocol):
    """A worker whose task enters a lock."""

    # task:  the task that it runs, if any
    # ready: what a task awaits that enters at once
    # consecutive_acquires: how often its task has gone before what is published here
    ready: Any
    consecutive_acquires: int

    @property
    def task(self) -> Any:
        """The task that it runs; made now, if that is a child of a gather without one."""

    def may_go_first(self) -> bool:
        """Whether its task may enter once more before what is published here."""


class Blocker(Protocol):
    """A worker whose task blocks its thread for a lock."""

    @property
    def doing(self) -> Any:
        """What it does, for whoever looks at a deadlock."""

    def may_run_inline(self) -> bool:
        """Whether it may run other tasks on top of the blocked one."""

    def check_initializer(self, awaited: Any, /) -> None:
        """Raise where its initializer would wait for ever."""

    def lend_key(self, awaited: Any, /) -> Any:
        """Lend the key of its pass, if it has one: a `KeyLoan`, or None."""

    def park_for(self, parker: Any, timeout: float | None, reason: Any, /) -> bool:
        """Block for a parker, without a slot."""


class LockWorker(PassWorker, Entrant, Blocker, Protocol):
    """A worker, as a lock sees it."""
