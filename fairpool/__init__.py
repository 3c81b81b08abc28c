"""fairpool: a `concurrent.futures` executor for free-threaded Python.

    from fairpool import FairPool

    with FairPool() as pool:
        print(pool.submit(pow, 2, 10).result())

The house (private modules; imports only point down the ranks):

    0  _sync       the door to threading and the clock; what is taken for atomic
    0  _errors     the exceptions
    0  _foreign    what is asked of the user's objects, without running their code
    1  _report     the log
    2  _future     one result, settled once
    1  _runqueue   runnable tasks, first in, first out
    1  _park       seats, searching, park and unpark
    2  _timer      what is to be woken at which time
    2  _share      whom work is charged to, how much each has used, who is next
    2  _request    what a coroutine yields at the door of a lock
    3  _wrap       another executor's future, as one of ours
    3  _waits      who waits for whom; cycles
    4  _task       a future together with its work, and the steps of coroutines
    5  _combiner   a lock's queue, a pass, home and hand-off
    5  _gather     several children, started as they are met
    5  _map        `Executor.map` over any `submit`
    6  _usage      a lock that charges its sections, and serves who has used least
    6  _worker     next task, run, steal, park; waiting in a task
    7  _caller     a thread of the user's that works for a pool
    8  _scheduler  what the workers of one pool share
    9  _dump       a pool's state in text
    9  _lock       the public faces of locks
    9  _tasks      gather, sleep and the like
    10 _group      TaskGroup and timeout
    10 _primitives Event, Semaphore, Queue
    10 _pool       the public face
    11 __init__    re-exports
    12 testing     runs under chosen schedules, for the package's tests and its users'
"""

from __future__ import annotations

from asyncio import CancelledError

from fairpool._errors import BrokenFairPool, DeadlockError
from fairpool._future import Future
from fairpool._group import TaskGroup, Timeout, timeout, timeout_at
from fairpool._lock import Guarded, Lock, LockStatistics, all_of
from fairpool._pool import FairPool, PoolStatistics, Share, run
from fairpool._primitives import (
    BoundedSemaphore,
    Event,
    Queue,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    Semaphore,
)
from fairpool._task import Task
from fairpool._tasks import create_task, current_task, gather, shield, sleep, yield_now
from fairpool._worker import blocking
from fairpool._wrap import wrap_future

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
