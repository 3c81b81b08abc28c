"""What the parts of this room ask of one another where an import would close a circle.

A worker calls its scheduler, and the scheduler makes workers. So a worker knows the scheduler by
these roles only; `Scheduler` plays all of them.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

from fairpool._core.accounts import Principal, Shares
from fairpool._core.park import Parking
from fairpool._core.runqueue import RunQueue
from fairpool._core.types import AnyGenerator, AnyWorker, Runnable
from fairpool._locks.combiner import Combiner
from fairpool._locks.host import LockEntry
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.gather import Gather
from fairpool._tasks.host import Pool
from fairpool._tasks.task import AnyTask

__all__ = ["Host", "Item", "Unstarted"]

# What a worker runs, for a look at what that is.
Item: TypeAlias = AnyTask | Continuation | Gather | Combiner


class Unstarted(Runnable, Protocol):
    """A task or a gather, which is queued to be started."""

    def drop(self) -> bool: ...

    def abandon(self, error: BaseException) -> None: ...


class Sources(Protocol):
    """Where work lies, and the calls that tell workers of it."""

    injector: RunQueue[Runnable]
    displaced: RunQueue[Runnable]
    workers: list[AnyWorker]
    locks: set[LockEntry]
    shares: Shares

    def principal_of(self, item: Runnable) -> Principal | None: ...

    def has_work(self) -> bool: ...

    def notify(self) -> None: ...

    def notify_if_free(self) -> None: ...

    def notify_if_work(self) -> None: ...

    def note_continuation(self, time: int) -> None: ...


class Slots(Protocol):
    """How many workers may run, search or exist, and what they may do on top of a task."""

    max_workers: int
    slot_count: int
    parking: Parking
    searching: set[object]
    locks_in_use: set[LockEntry]

    def may_start(self) -> bool: ...

    def is_in_section(self, task: object) -> bool: ...

    def distrust_searchers(self) -> None: ...

    def warn_once(self, message: str) -> None: ...


class Life(Protocol):
    """How a pool thread begins and ends."""

    idle_timeout: float
    exited_workers: RunQueue[AnyWorker]

    @property
    def has_initializer(self) -> bool: ...

    def initialize(self) -> bool: ...

    def is_ending(self) -> bool: ...

    def is_over(self) -> bool: ...

    def is_waiting_to_close(self) -> bool: ...

    def watch_generator(self, generator: AnyGenerator) -> None: ...

    def close_generator(self, generator: AnyGenerator) -> None: ...


class Joined(Protocol):
    """How callers come and go."""

    threads: list[AnyWorker]

    def is_closed(self) -> bool: ...

    def closed_error(self) -> Exception: ...

    def caller_joins(self) -> None: ...

    def caller_leaves(self) -> None: ...

    def forget_thread(self, worker: AnyWorker) -> None: ...


class Host(Sources, Slots, Life, Joined, Pool, Protocol):
    """The scheduler, as a worker sees it."""
