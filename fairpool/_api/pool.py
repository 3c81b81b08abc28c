"""`FairPool`: the public face, a `concurrent.futures.Executor`."""

from __future__ import annotations

import sys
from asyncio import _get_running_loop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from inspect import iscoroutinefunction
from itertools import count
from typing import Any, ParamSpec, TextIO, TypeVar
from weakref import finalize, ref

import fairpool._api.waiting  # noqa: F401  (gives links their coroutine functions)
from fairpool._api.executor import TaskExecutor
from fairpool._api.guarded import Guarded
from fairpool._api.lock import Lock, make_lock
from fairpool._api.share import Share
from fairpool._api.statistics import PoolStatistics
from fairpool._core.accounts import WEIGHT_MAX, WEIGHT_MIN
from fairpool._core.errors import stays_here
from fairpool._core.foreign import plain_text
from fairpool._core.here import here
from fairpool._core.threads import cpu_count, monotonic_ns
from fairpool._core.timer import Timers
from fairpool._inspect.dump import dump
from fairpool._scheduler.caller import Caller
from fairpool._scheduler.scheduler import Scheduler
from fairpool._tasks.future import Future
from fairpool._tasks.task import AnyTask, Task

P = ParamSpec("P")
T = TypeVar("T")

_pool_numbers = count()

# Seconds without work after which a worker's thread ends. tokio's blocking pool and trio's thread
# cache use ten, too, far above the cost of a new thread. ThreadPoolExecutor's threads never end.
IDLE_TIMEOUT = 10.0

# More threads than any system starts: a larger number is a mistake (a size in bytes, say).
MAX_WORKERS_LIMIT = 100_000


class FairPool(TaskExecutor, ThreadPoolExecutor):
    """An executor for free-threaded Python: work stealing, and no deadlock from waiting.

    It can stand wherever a `concurrent.futures.ThreadPoolExecutor` stands. It is an instance of it,
    because `asyncio.loop.set_default_executor` insists, but shares no code with it.

    - `max_workers`: how many tasks may run at once, from 0 to 100,000. The default is
      `os.process_cpu_count()`. Threads are started as they are needed. While tasks wait (in
      `result()`, `concurrent.futures.wait` or `fairpool.blocking()`), other workers take their
      places, so there may be more threads. With 0 the pool starts no thread: its workers are the
      callers of `run`.
    - `thread_name_prefix`: the beginning of the workers' thread names.
    - `initializer(*initargs)` is called once in each new worker. If it raises, the pool is broken,
      and every future gets `BrokenFairPool`.
    - `max_pending`: the most tasks that may wait to be started; `submit` then waits for room. By
      default there is no limit.
    - `idle_timeout`: seconds without work after which a worker's thread ends, from 0 to 1e6.
    - `lend`: whether a thread of the program that waits for one of the pool's locks may run a step
      of a coroutine meanwhile. It does so in `with lock`, without a time-out and outside any other
      section, and only a step of a coroutine that has left its section and finds no worker. By
      default it is on with `max_workers=0`, where the callers are all the workers, and off
      otherwise: the thread may hold a `threading.Lock`, and deadlocks if the step takes it.

    Raises TypeError or ValueError for an argument of the wrong type or size. All methods may be
    called from any thread, from inside tasks and callbacks, and reentrantly.
    """

    __slots__ = ("_close", "_scheduler")

    __reduce_ex__ = stays_here("its threads are here; make a FairPool in the other process")

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[object, ...] = (),
        *,
        max_pending: int | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        lend: bool | None = None,
    ) -> None:
        # ThreadPoolExecutor.__init__ is not called: nothing of it is used.
        if max_workers is None:
            max_workers = cpu_count()
        _check_count("max_workers", max_workers, MAX_WORKERS_LIMIT, least=0)
        if max_pending is not None:
            _check_count("max_pending", max_pending, sys.maxsize)
        if not isinstance(thread_name_prefix, str):
            raise TypeError(f"thread_name_prefix must be a str, not {thread_name_prefix!r}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        if iscoroutinefunction(initializer):
            raise TypeError(f"initializer must be a plain function, not {initializer!r}")
        if initializer is not None and not max_workers:
            raise ValueError("a pool with max_workers=0 has no threads to call an initializer in")
        if not isinstance(idle_timeout, (int, float)) or isinstance(idle_timeout, bool):
            raise TypeError(f"idle_timeout must be a number of seconds, not {idle_timeout!r}")
        if not 0 <= idle_timeout <= 1e6:
            raise ValueError(f"idle_timeout must be from 0 to 1e6 seconds, not {idle_timeout!r}")
        if lend is None:
            lend = not max_workers
        elif not isinstance(lend, bool):
            raise TypeError(f"lend must be a bool or None, not {lend!r}")
        self._scheduler = Scheduler(
            max_workers,
            plain_text(thread_name_prefix) or f"FairPool-{next(_pool_numbers)}",
            initializer,
            tuple(initargs),
            max_pending,
            float(idle_timeout),
            lend,
        )
        # A pool dropped without a shutdown runs what it has accepted, and what that submits.
        self._close = finalize(self, _close, ref(self._scheduler), self._scheduler.timers)
        self._close.atexit = False

    @property
    def _max_workers(self) -> int:  # type: ignore[override]
        """For programs that read this attribute of a `ThreadPoolExecutor`."""
        return self._scheduler.max_workers

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `fn(*args, **kwargs)` on a worker; return the Future of its result.

        The call is made in a copy of the current `contextvars` context. If `fn` returns a
        coroutine, the worker runs it, and its result is the result. With `max_pending`, this waits
        for room.

        Raises `TypeError` if `fn` is not callable; `RuntimeError` after `shutdown`, or if no worker
        could be started; `BrokenFairPool` after a failed initializer or in a forked child. Then the
        call is not made.
        """
        if not callable(fn):
            raise TypeError(f"submit() takes a callable first, not {fn!r}")
        scheduler = self._scheduler
        if scheduler.close_reason:
            raise scheduler.closed_error()
        backlog = scheduler.backlog
        if backlog is not None:
            backlog = backlog.enter(scheduler)
        try:
            task: Task[T] = Task()
            task._pool = scheduler
            task._status = [(copy_context(), fn, args, kwargs or None, backlog)]
        except BaseException:  # a MemoryError
            if backlog is not None:
                backlog.leave()
            raise
        scheduler.put(task)
        return task

    def run(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call `fn(*args, **kwargs)` as a task, and work for the pool until that has ended.

        Returns what the task returns (if `fn` returns a coroutine, that is run as well), or raises
        what it raises. Meanwhile the calling thread is one more worker. It runs what was queued
        before, takes part in the other work, and leaves as soon as its own task has ended. `fn`
        itself may be run by another thread. With `max_workers=0` such callers are all the workers
        of the pool. In a pool with an initializer, or in a task of the pool, the thread only waits.

        Ctrl-C on the main thread, with Python's own handler installed, raises KeyboardInterrupt in
        the task's code or wait if the thread is there. Otherwise it cancels the task and lets it
        clean up; then KeyboardInterrupt is raised. Work for others is not cut off by the first
        Ctrl-C, but by the second. Other signal handlers are left alone.

        Raises as `submit`. Outside of the pool's tasks, raises `RuntimeError` in a thread that runs
        an asyncio loop, and inside one of the pool's locks.
        """
        if not callable(fn):
            raise TypeError(f"run() takes a callable first, not {fn!r}")
        scheduler = self._scheduler
        if scheduler.close_reason:
            raise scheduler.closed_error()
        worker = here.worker
        task: AnyTask = Task()
        task._pool = scheduler
        task._status = [(copy_context(), fn, args, kwargs or None, None)]
        try:
            if scheduler.has_initializer or (worker is not None and worker.scheduler is scheduler):
                scheduler.put(task)
            elif _get_running_loop() is not None:
                raise RuntimeError(
                    "run() would block the asyncio loop that runs in this thread; "
                    "await pool.submit(...) instead"
                )
            elif scheduler.is_in_section(here.thread_owner):
                raise RuntimeError(
                    "run() inside a critical section would run the tasks of others in there; "
                    "leave the lock first, or use submit"
                )
            else:
                Caller(scheduler, task).run()
            return task.result()
        finally:
            del task  # what it raises holds this frame: no cycle

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; run what was accepted; with `wait`, return when all of it is done.

        With `cancel_futures`, work that was not started is cancelled. May be called again. In a
        pool with `max_workers=0` the calling thread runs the work that is left. Without `wait`, the
        present callers of `run` do so, or a later `shutdown`, or the end of the program. With
        `wait`, raises `RuntimeError` in a worker of the pool, which would wait for itself.
        """
        scheduler = self._scheduler
        worker = here.worker
        if wait and worker is not None and worker.scheduler is scheduler:
            raise RuntimeError(
                "shutdown(wait=True) in one of the pool's own workers would wait for itself; "
                "use shutdown(wait=False) here"
            )
        self._close()
        scheduler.close(RuntimeError("cannot schedule new futures after shutdown"))
        if cancel_futures:
            for continuation in scheduler.drain(lambda task: task.drop()):
                scheduler.resume(continuation)
            for lock in scheduler.all_locks():
                lock.cancel_sections()
        if wait:
            scheduler.join()

    def lock(
        self,
        name: str | None = None,
        *,
        order: str = "ticket",
        strict: bool = False,
        charge: str | None = None,
    ) -> Lock:
        """Make a lock whose critical sections are run by the workers of this pool: see `Lock`.

        `name` is for error messages, `repr` and `dump`. `order` is "ticket" (first come, first
        served) or "usage": the waiting share that has used the lock least for its weight is served
        first, and no request is passed over for ever. With `strict=True` a share that is ahead of
        the others is held back for a while even if the lock is free. Then a share that comes back
        for one short section after the other gets as much of the lock's time; the lock is idle
        meanwhile. With `charge="task"` the order is fair among tasks, each with weight 1, and needs
        no shares; "share" is the default in usage order, and in ticket order `charge` is an error.
        `docs/protocols/usage.md` has the rules, the bounds and the cost.
        """
        return make_lock(self._scheduler, name, order, strict, charge)

    def guarded(
        self,
        factory_or_value: object,
        /,
        *,
        name: str | None = None,
        order: str = "ticket",
        strict: bool = False,
        charge: str | None = None,
    ) -> Guarded[Any]:
        """Make state that can be reached only inside its lock: see `Guarded`, and `lock`.

        A callable is called once, on the lock's home worker, and returns the state (or a coroutine
        that does). So one thread makes, uses and frees the state, as far as possible. Anything else
        is the state itself.
        """
        return Guarded(make_lock(self._scheduler, name, order, strict, charge), factory_or_value)

    def share(self, name: str, weight: float = 1) -> Share:
        """Return a view of this pool whose work is charged to one principal: see `Share`.

        `weight` is from 1e-6 to 1e6: twice the weight gets twice the time. The same name gives the
        same principal again, and must come with the same weight. The pool keeps its principals.
        Raises TypeError for a `name` that is no str or a `weight` that is no number, and ValueError
        for a weight out of range or one that differs from the principal's.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r}")
        if not isinstance(weight, (int, float)) or isinstance(weight, bool):
            raise TypeError(f"weight must be a number, not {weight!r}")
        if not WEIGHT_MIN <= weight <= WEIGHT_MAX:  # not a number: neither
            raise ValueError(
                f"weight must be between {WEIGHT_MIN:g} and {WEIGHT_MAX:g}, not {weight!r}: only "
                "the ratio between the weights of one pool counts"
            )
        scheduler = self._scheduler
        return Share(self, scheduler, scheduler.share(plain_text(name), float(weight)))

    def statistics(self) -> PoolStatistics:
        """Return what has happened in the pool so far: see `PoolStatistics`. From any thread."""
        scheduler = self._scheduler
        workers, shares = scheduler.workers.copy(), scheduler.shares
        shares.settle(shares.active.copy(), monotonic_ns())
        usage = shares.ledger.usage()
        return PoolStatistics(
            workers=len(workers),
            searching=len(scheduler.searching),
            parked=len(scheduler.parking.parked),
            queued=scheduler.queued(),
            suspended=len(scheduler.suspended),
            steps=sum(worker.steps + worker.extra_steps for worker in workers),
            steals=sum(worker.steals for worker in workers),
            worker_time={each.name: usage.get(each.name, 0.0) for each in shares.copy()},
            jain=shares.ledger.jain(),
            locks=tuple([lock.statistics() for lock in scheduler.all_locks()]),
        )

    def dump(self, file: TextIO | None = None) -> None:
        """Print what each worker does, the backlog, the tasks that wait, and the locks in use.

        Prints to `sys.stderr` by default. Takes no lock, so it works on a pool that hangs, in a
        debugger or a signal handler, too. Each line is true of one moment, not all of the same one.
        """
        dump(self._scheduler, sys.stderr if file is None else file)

    def __repr__(self) -> str:
        return f"<FairPool {self._scheduler}>"


def _check_count(name: str, value: object, limit: int, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    if value > limit:
        raise ValueError(f"{name} must be at most {limit}, not {value!r}")


def _close(scheduler: ref[Scheduler], timers: Timers) -> None:
    # By a weak reference: a scheduler holds the initializer, which may be a method of what holds
    # the pool. Where the collector frees both at once there is no worker, and the reference is dead
    # by now. But the timer thread may be there, which holds only the timers.
    if (alive := scheduler()) is not None:
        alive.drop()
    else:
        timers.close()
