"""fairpool: a `concurrent.futures` executor for free-threaded Python.

    from fairpool import FairPool

    with FairPool() as pool:
        print(pool.submit(pow, 2, 10).result())

The house. A room imports only from the rooms of lower rank (tests/test_layering.py):

    0  _core       atomicity, threads and clock, parking, queues, timers, accounts, errors,
                   the wait-for graph, the observer seam
    1  _tasks      futures, tasks, chains, gather
    2  _locks      a lock's queue, its combiner, ticket and usage order
    3  _scheduler  workers, callers, and what the workers of one pool share
    4  _inspect    a pool's state in text
    5  _api        what users touch: FairPool, Share, Lock, TaskGroup, Queue, ...
       testing     runs under chosen schedules, for the package's tests and its users'

docs/architecture.md walks through the rooms.
"""

from __future__ import annotations

from asyncio import CancelledError

from fairpool._api.all_of import all_of
from fairpool._api.event import Event
from fairpool._api.guarded import Guarded
from fairpool._api.lock import Lock
from fairpool._api.pool import FairPool
from fairpool._api.publish import publish
from fairpool._api.queue import Queue, QueueEmpty, QueueFull, QueueShutDown
from fairpool._api.run import run
from fairpool._api.semaphore import BoundedSemaphore, Semaphore
from fairpool._api.share import Share
from fairpool._api.statistics import PoolStatistics
from fairpool._api.taskgroup import TaskGroup
from fairpool._api.tasks import create_task, current_task, gather, shield, sleep, yield_now
from fairpool._api.timeout import Timeout, timeout, timeout_at
from fairpool._core.errors import BrokenFairPool, DeadlockError
from fairpool._locks.statistics import LockStatistics
from fairpool._scheduler.blocking import blocking
from fairpool._tasks.future import Future
from fairpool._tasks.task import Task
from fairpool._tasks.wrap import wrap_future

__all__ = [
    "BoundedSemaphore",
    "BrokenFairPool",
    "CancelledError",
    "DeadlockError",
    "Event",
    "FairPool",
    "Future",
    "Guarded",
    "Lock",
    "LockStatistics",
    "PoolStatistics",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "Semaphore",
    "Share",
    "Task",
    "TaskGroup",
    "Timeout",
    "all_of",
    "blocking",
    "create_task",
    "current_task",
    "gather",
    "run",
    "shield",
    "sleep",
    "timeout",
    "timeout_at",
    "wrap_future",
    "yield_now",
]

__version__ = "0.1.0"

publish(map(globals().get, __all__))
del publish
