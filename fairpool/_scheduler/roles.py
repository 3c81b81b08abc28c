"""What the parts of this room know of one another where an import would close a circle.

A worker calls its scheduler, and the scheduler makes workers. So the modules of the scheduler
(`queues` to `lifecycle`) stand below those of the worker, and know a worker as a `PoolWorker`.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import Event, Thread
from fairpool._core.token import Token
from fairpool._core.types import Runnable
from fairpool._locks.combiner import Combiner
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.gather import Gather
from fairpool._tasks.request import Published
from fairpool._tasks.task import AnyTask

# What a worker runs, for a look at what that is.
Item: TypeAlias = AnyTask | Continuation | Gather | Combiner


class Unstarted(Runnable, Protocol):
    """A task or a gather, which is queued to be started."""

    def drop(self) -> bool: ...

    def abandon(self, error: BaseException) -> None: ...


class PoolWorker(Protocol):
    """A worker, as the scheduler sees it: a `Worker`, whose attributes say more."""

    queue: RunQueue[Runnable]
    home_queue: RunQueue[Combiner]
    published: list[Published]
    item: Item | None
    exited: bool
    start_token: Token
    ended: Event
    thread: Thread

    @property
    def scheduler(self) -> object: ...

    def withdraw(self) -> None: ...

    def give_back(self) -> None: ...

    def join(self) -> None: ...
