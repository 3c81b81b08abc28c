"""What takes the place of `threading` and of the clock while a run lasts.

Only the lowest floor is replaced: locks, RLocks, threads, the clock. What stands on it, `Event`,
`Condition`, `Semaphore`, `Barrier`, the queues of `queue`, is the standard library's own code. Each
name is replaced in every module of the package that has imported it, so the package pays nothing
for being tested; and in `threading` and `time`, for the code under test. Of `threading.Thread` the
methods are replaced, and not the class, which has subclasses by then. Threads that do not belong
to the run get the real things, also from the replaced names.
"""

from __future__ import annotations

import _thread
import concurrent.futures._base
import logging
import queue
import random as random_
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from itertools import count
from math import inf
from types import ModuleType
from typing import Any

import fairpool._api.pool
import fairpool._api.taskgroup
import fairpool._core.here
import fairpool._core.report
import fairpool._core.signals
import fairpool._core.threads
import fairpool._core.waitgraph
import fairpool._locks.combiner
import fairpool._locks.exit
import fairpool._locks.tasks
import fairpool._scheduler.find_work
import fairpool._scheduler.generators
import fairpool._scheduler.intake
import fairpool._scheduler.lifecycle
import fairpool._scheduler.process
import fairpool._scheduler.queues
import fairpool._scheduler.scheduler
import fairpool._scheduler.worker
import fairpool._tasks.future
from fairpool.testing._machine import Machine
from fairpool.testing._ordered import OrderedSet
from fairpool.testing._run import Abandoned, Run

_run: Run | Machine | None = None

_real_get_ident = _thread.get_ident
_real_lock: Callable[[], Any] = _thread.allocate_lock
_real_rlock: Callable[[], Any] = threading.RLock
_real_monotonic = time.monotonic
_real_monotonic_ns = time.monotonic_ns
_real_sleep = time.sleep
_real_random = random_.random
_real_yield_cpu = fairpool._core.threads.yield_cpu
_real_init = threading.Thread.__init__
_real_start = threading.Thread.start
_real_join = threading.Thread.join
_real_is_alive = threading.Thread.is_alive


def _here() -> Run | Machine | None:
    """The run that the calling thread belongs to."""
    run = _run
    return run if run is not None and run.controls() else None


def _me() -> object:
    """The calling thread, as an object that tells it from others."""
    run = _here()
    return _real_get_ident() if run is None else run.current


def get_ident() -> int:
    """The calling thread's number, also where it shares a thread of the system with others."""
    run = _here()
    ident = None if run is None else run.current.ident
    return _real_get_ident() if ident is None else ident


def reached() -> None:
    """The calling thread is about to run an instruction that is a point."""
    run = _run
    if run is not None:
        run.reached()


def _check_timeout(blocking: bool, timeout: float) -> None:
    """Raise as the real locks do."""
    if timeout == -1:
        return
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    if threading.TIMEOUT_MAX < timeout < inf:  # for ever is what SHRUNK has in places
        raise OverflowError("timeout value is too large")


class Lock:
    """A lock of a run. `threading.Lock`, with points."""

    __slots__ = ("__weakref__", "_held")

    def __init__(self) -> None:
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        run = _here()
        if run is None:
            return self._acquire_outside(blocking)
        _check_timeout(blocking, timeout)
        run.point()
        deadline = run.now + timeout if timeout >= 0 else inf
        while not self._take():
            if not blocking or run.now >= deadline:
                return False
            run.wait(self, deadline)
        return True

    def _take(self) -> bool:
        if self._held:
            return False
        self._held = True
        return True

    def _acquire_outside(self, blocking: bool) -> bool:
        if self._take():
            return True
        if blocking:
            raise RuntimeError("this lock was made, and is held, in an explored run")
        return False

    def release(self) -> None:
        run = _here()
        if run is not None:
            run.point()
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False
        if run is not None:
            run.wake(self)

    def locked(self) -> bool:
        run = _here()
        if run is not None:
            run.point()
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        self._held = False

    # The older names of the three.
    acquire_lock = acquire
    release_lock = release
    locked_lock = locked


def new_lock() -> Any:
    return _real_lock() if _here() is None else Lock()


class RLock:
    """An RLock of a run."""

    __slots__ = ("__weakref__", "_count", "_lock", "_owner")

    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: object = 0
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = _me()
        _check_timeout(blocking, timeout)
        if self._owner == me:
            self._count += 1
            return True
        if not self._lock.acquire(blocking, timeout):
            return False
        self._owner = me
        self._count = 1
        return True

    def release(self) -> None:
        if self._owner != _me():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = 0
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()
        self._count = self._owner = 0

    # What `Condition` uses.

    def _is_owned(self) -> bool:
        return self._owner == _me()

    def _recursion_count(self) -> int:
        return self._count if self._is_owned() else 0

    def _release_save(self) -> tuple[int, object]:
        if not self._count:
            raise RuntimeError("cannot release un-acquired lock")
        state = self._count, self._owner
        self._count = self._owner = 0
        self._lock.release()
        return state

    def _acquire_restore(self, state: tuple[int, object]) -> None:
        self._lock.acquire()
        self._count, self._owner = state


def new_rlock() -> Any:
    return _real_rlock() if _here() is None else RLock()


# --- threads: methods of `threading.Thread`, and so of its subclasses, too ------------------------


def thread_init(self: Any, *args: Any, **kwargs: Any) -> None:
    run = _here()
    if run is None:
        _real_init(self, *args, **kwargs)
        return
    run.silent = True  # its own events are real ones
    try:
        _real_init(self, *args, **kwargs)
    finally:
        run.silent = False


def thread_start(self: Any) -> None:
    run = _here()
    if run is None:
        _real_start(self)
        return
    run.point()
    if getattr(self, "_context", self) is None:  # from 3.14 on
        inherits = sys.flags.thread_inherit_context  # type: ignore[attr-defined]
        self._context = copy_context() if inherits else Context()
    me: Any = run.new_thread(self.name, self.daemon)
    self._explored = run, me  # a thread without it is a real one
    if me.ident is not None:  # a virtual one
        _register(self, me.ident)
    # Not the real `start`: the locks that it takes are dear where other programs run as well (see
    # `Controlled`). And should the thread never unwind, the interpreter still ends.
    try:
        run.launch(me, partial(_run_thread, self), partial(_live, self))
    except BaseException:
        threading._active.pop(me.ident, None)  # type: ignore[attr-defined]
        raise
    run.started(me)


def _register(self: Any, ident: int) -> None:
    self._ident = self._native_id = ident
    threading._active[ident] = self  # type: ignore[attr-defined]
    self._started.set()


def _live(self: Any, begun: Any) -> None:
    _, me = self._explored
    if me.ident is None:
        me.ident = _real_get_ident()
        _register(self, me.ident)
    begun.put(None)
    _run_thread(self)


def _run_thread(self: Any) -> None:
    run, me = self._explored
    try:
        run.begin(me)
        run.trace_thread()
        context = getattr(self, "_context", None)  # from 3.14 on
        if context is None:
            self.run()
        else:
            context.run(self.run)
    except SystemExit:  # as in `threading`
        pass
    except BaseException as error:
        run.thread_failed(error)
    finally:
        run.untrace_thread()
        # Before the others go on: they may count the threads.
        threading._active.pop(me.ident, None)  # type: ignore[attr-defined]
        run.end(me)


def thread_join(self: Any, timeout: float | None = None) -> None:
    run, (_, me) = _here(), getattr(self, "_explored", (None, None))
    if run is None or me is None:
        _real_join(self, timeout)
        return
    run.point()
    deadline = inf if timeout is None else run.now + max(timeout, 0.0)
    while not me.ended and run.now < deadline:
        run.wait(me, deadline)


def thread_is_alive(self: Any) -> bool:
    run, (_, me) = _here(), getattr(self, "_explored", (None, None))
    if run is None or me is None:
        return _real_is_alive(self)
    return not me.ended


THREAD = {
    "__init__": thread_init,
    "start": thread_start,
    "join": thread_join,
    "is_alive": thread_is_alive,
}


def monotonic() -> float:
    run = _here()
    return _real_monotonic() if run is None else run.now


def monotonic_ns() -> int:
    """By this clock the package measures what threads do, so it goes on while they do something."""
    run = _here()
    return _real_monotonic_ns() if run is None else run.clock


def sleep(seconds: float) -> None:
    run = _here()
    if run is None:
        _real_sleep(seconds)
        return
    run.pause()
    end = run.now + seconds
    while run.now < end:
        run.wait(end, end)


def yield_cpu() -> None:
    run = _here()
    if run is None:
        _real_yield_cpu()
    else:
        run.pause()


def random() -> float:
    run = _here()
    return _real_random() if run is None else run.random()


def new_set(items: Iterable[Any] = ()) -> Any:
    return set(items) if _here() is None else OrderedSet(items)


def number_of(thing: object) -> int:
    """Instead of `id`: in the order of asking, and the same in each run."""
    run = _here()
    return id(thing) if run is None else run.number_of(thing)


class _Logger(logging.Logger):
    """Keeps what is logged in a run, and writes it to no handler: those have real locks."""

    def isEnabledFor(self, level: int) -> bool:
        return _here() is not None or logging.Logger.isEnabledFor(self, level)

    def handle(self, record: logging.LogRecord) -> None:
        run = _here()
        if run is None:
            logging.Logger.handle(self, record)
            return
        run.silent = True
        try:
            run.logged(record)
        finally:
            run.silent = False


def _is_of_interest(record: logging.LogRecord) -> bool:
    """False for what is said of a thread that was unwound, perhaps long after the run."""
    return not (record.exc_info and record.exc_info[0] is Abandoned)


fairpool._core.report.LOGGER.addFilter(_is_of_interest)


# What stands for what, and values of names: see `world`.
Lowest = Sequence[tuple[Any, Any]]
Values = dict[tuple[ModuleType, str], Any]

# Searching and spinning only delay what the schedule decides; the rest makes rare ways common.
SHRUNK: Values = {
    (fairpool._locks.tasks, "LOOKS_BEFORE_QUEUEING"): 1,
    (fairpool._locks.combiner, "PASS_SECTIONS"): 2,
    (fairpool._locks.exit, "SECTIONS_BETWEEN_REVIEWS"): 2,
    (fairpool._tasks.thread_wait, "SPIN_LIMIT"): 0,
    (fairpool._scheduler.worker, "LOOKS_WHILE_SEARCHING"): 1,
    (fairpool._scheduler.find_work, "STEPS_BETWEEN_SCANS"): 5,
    (fairpool._scheduler.worker, "STEPS_BETWEEN_SCANS"): 5,
    (fairpool._scheduler.find_work, "MAX_CONSECUTIVE_ACQUIRES"): 2,
    (fairpool._scheduler.find_work, "STEAL_MAX"): 2,
    (fairpool._core.signals, "LONGEST_BLIND_WAIT"): inf,
}


def _replacements(more: Lowest, values: Values) -> Iterator[tuple[Any, str, Any]]:
    threads = fairpool._core.threads
    # By what they are, under whatever name a module has them.
    lowest = [
        (threads.Lock, new_lock),
        (threads.RLock, new_rlock),
        (threads.monotonic, monotonic),
        (threads.monotonic_ns, monotonic_ns),
        (threads.yield_cpu, yield_cpu),
        *more,
    ]
    for name, module in list(sys.modules.items()):
        if name.startswith("fairpool._"):
            for attribute, value in list(vars(module).items()):
                for real, ours in lowest:
                    if value is real:
                        yield module, attribute, ours
    yield fairpool._scheduler.find_work, "random", random
    yield fairpool._tasks.failure, "log_failure", fairpool._core.report.log_failure_now
    yield fairpool._scheduler.queues, "set", new_set
    yield fairpool._scheduler.generators, "set", new_set
    yield fairpool._scheduler.lifecycle, "set", new_set
    yield fairpool._api.taskgroup, "set", new_set
    yield concurrent.futures._base, "set", new_set
    yield concurrent.futures._base, "id", number_of
    yield fairpool._scheduler.intake, "SimpleQueue", queue._PySimpleQueue  # type: ignore[attr-defined]
    yield threading, "Lock", new_lock
    yield threading, "_allocate_lock", new_lock
    yield threading, "RLock", new_rlock
    for method, ours in THREAD.items():
        yield threading.Thread, method, ours
    yield threading, "_time", monotonic
    yield time, "monotonic", monotonic
    yield time, "monotonic_ns", monotonic_ns
    yield time, "sleep", sleep
    yield queue, "time", monotonic
    yield queue, "SimpleQueue", queue._PySimpleQueue  # type: ignore[attr-defined]
    for (module, name), value in values.items():
        if name not in vars(module):  # it was renamed, and would be set for nobody
            raise AttributeError(f"{module.__name__} has no {name} to replace")
        yield module, name, value


@contextmanager
def world(more: Lowest = (), values: Values = SHRUNK) -> Iterator[None]:
    """Put everything in its place, and back.

    `more`: what else is replaced wherever the package has it, as pairs of the real and the new.
    `values`: of names in modules.
    """
    missing = object()
    before = []
    logger = fairpool._core.report.LOGGER
    kind = logger.__class__
    try:
        for module, name, value in list(_replacements(more, values)):
            before.append((module, name, vars(module).get(name, missing)))
            setattr(module, name, value)
        logger.__class__ = _Logger
        yield
    finally:
        logger.__class__ = kind
        for module, name, value in reversed(before):
            if value is missing:
                delattr(module, name)
            else:
                setattr(module, name, value)


@contextmanager
def running(run: Run | Machine) -> Iterator[None]:
    """Make `run` the one that threads belong to."""
    global _run
    if _run is not None:
        raise RuntimeError("explored runs cannot be nested")
    # Names are numbered anew in each run, so that its history is the same again. For the same end
    # this thread is nothing to the package yet, no lock was made, and nobody waits. A run that is
    # unwound leaves all of these behind: a thread that is a worker, or inside a lock, for ever.
    counters = fairpool._api.pool._pool_numbers, threading._counter  # type: ignore[attr-defined]
    fairpool._api.pool._pool_numbers = count()
    threading._counter = count(1).__next__  # type: ignore[attr-defined]
    own, locks = vars(fairpool._core.here.here), fairpool._core.waitgraph.locks
    waiting = fairpool._core.waitgraph.waiting_tasks
    before = own.copy(), locks[:], waiting.copy()
    for each in (own, locks, waiting):
        each.clear()
    _run = run
    try:
        yield
    finally:
        _run = None
        fairpool._api.pool._pool_numbers, threading._counter = counters  # type: ignore[attr-defined]
        waiting.clear()
        own.clear()
        locks[:] = before[1]
        own.update(before[0])
        waiting.update(before[2])
        _forget_pools()


def _forget_pools() -> None:
    """Those that a failed run has left: nobody can end them, but the process would try, at exit."""
    live = fairpool._scheduler.process.live_entries
    for entry in live.copy():
        scheduler = entry()
        lock: object = None if scheduler is None else scheduler.timers._lock
        if isinstance(lock, Lock):
            live.discard(entry)
