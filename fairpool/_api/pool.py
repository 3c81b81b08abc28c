"""`FairPool`: the public face, a `concurrent.futures.Executor`."""

from __future__ import annotations

import sys
from asyncio import _get_running_loop
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_all
from contextvars import copy_context
from dataclasses import dataclass
from inspect import iscoroutinefunction
from itertools import count
from typing import Any, TextIO, TypeVar
from weakref import finalize, ref

import fairpool._api.outcomes  # noqa: F401  (gives links their coroutine functions)
from fairpool._api.guarded import Guarded
from fairpool._api.lock import Lock, make_lock
from fairpool._api.map import map_calls
from fairpool._core.accounts import CURRENT, WEIGHT_MAX, WEIGHT_MIN, Principal
from fairpool._core.errors import stays_here
from fairpool._core.foreign import plain_text
from fairpool._core.here import here
from fairpool._core.signals import handle_ctrl_c
from fairpool._core.threads import cpu_count, monotonic_ns
from fairpool._core.timer import Timers
from fairpool._core.token import Latch
from fairpool._inspect.dump import dump
from fairpool._locks.statistics import LockStatistics
from fairpool._scheduler.caller import AwaitingCaller, Caller
from fairpool._scheduler.ctrl_c import may_be_cut_off
from fairpool._scheduler.scheduler import Scheduler
from fairpool._tasks.coroutines import claim_coroutine, is_coroutine
from fairpool._tasks.future import Future
from fairpool._tasks.task import Task
from fairpool._tasks.thread_wait import wait

__all__ = ["FairPool", "PoolStatistics", "Share", "run"]

T = TypeVar("T")

_pool_numbers = count()

# After this long without work a worker's thread ends. ThreadPoolExecutor's never do; ten seconds is
# what tokio's blocking pool and trio's thread cache use, and far above the cost of a new thread.
IDLE_TIMEOUT = 10.0

# More threads than any system starts; a number above it is a mistake (a size in bytes, say).
MAX_WORKERS_LIMIT = 100_000


@dataclass(frozen=True)
class PoolStatistics:
    """What has happened in a pool up to a moment. Times are in seconds.

    Reading it disturbs nobody: each number is true of a moment, together they may be of slightly
    different ones.
    """

    workers: int
    """Threads that are there now; of them, …"""
    searching: int
    """… those that look for work, …"""
    parked: int
    """… and those that sleep."""
    queued: int
    """Tasks and continuations that could run now and do not, those at locks not counted."""
    suspended: int
    """Coroutines that have been started, and have not ended."""
    steps: int
    """Steps that the workers which are there now have run. Lags behind by up to 61 for each."""
    steals: int
    """How often they have taken tasks from another one's run queue."""
    worker_time: Mapping[str, float]
    """What the steps of each share have taken, without the time that they were blocked."""
    jain: float
    """Jain's index of that, by weight: 1 if it is even, 1/n if one of n has had everything."""
    locks: tuple[LockStatistics, ...]
    """The statistics of the pool's locks."""


class FairPool(ThreadPoolExecutor):
    """An executor for free-threaded Python: work stealing, and no deadlock from waiting.

    It can stand wherever a `concurrent.futures.ThreadPoolExecutor` stands, and is an instance of it
    (for `asyncio.loop.set_default_executor`, which insists), but shares no code with it.

    `max_workers`: how many tasks may run at once; default `os.process_cpu_count()`; 0 for a pool
    whose workers are the callers of `run`, and which starts no thread. Threads are started as they
    are needed. While tasks wait (in `result()`, in `concurrent.futures.wait`, in
    `fairpool.blocking()`), other workers take their places, so there may be more threads than that.
    `thread_name_prefix`: of the workers' thread names. `initializer(*initargs)`: called once in
    each new worker; if it raises, the pool is broken and every future gets `BrokenFairPool`.
    `max_pending`: bounds the tasks that wait to be started; `submit` then waits for room.
    `idle_timeout`: seconds without work after which a worker's thread ends. `lend`: whether a
    thread of the program's that waits for one of the pool's locks (`with lock`, without a time-out,
    outside any other of its sections) may run a step of a coroutine meanwhile: one that has left
    its section, and for which no worker is there. Off by default in a pool with workers, because
    such a thread may hold locks of `threading`, and deadlocks if the step takes one of those. On by
    default with `max_workers=0`, where the callers are all that the pool has.

    All methods may be called from any thread, from inside tasks and callbacks, and reentrantly.
    """

    __slots__ = ("_close", "_scheduler")

    __reduce_ex__ = stays_here("its threads are here; make a FairPool where it is to be used")

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
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
        # A pool that is dropped without a shutdown runs what it has accepted, and what that starts.
        self._close = finalize(self, _close, ref(self._scheduler), self._scheduler.timers)
        self._close.atexit = False

    @property
    def _max_workers(self) -> int:  # type: ignore[override]
        """What programs that look into a `ThreadPoolExecutor` look for most."""
        return self._scheduler.max_workers

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have `fn(*args, **kwargs)` called by a worker; return its Future.

        It is called in a copy of the current `contextvars` context. Raises `TypeError` if `fn` is
        not callable, `RuntimeError` after `shutdown` or where no worker could be started, and
        `BrokenFairPool` after a failed initializer or in a forked child; the call then does not
        happen. With `max_pending`, waits for room.
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

    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call `fn(*args, **kwargs)` as a task, and work for the pool until it has ended.

        Returns what the task returns (if `fn` returns a coroutine, that is run as well), or raises
        what it raises. Meanwhile the calling thread is one more worker: it runs what was queued
        before, takes its part in what others do, and leaves as soon as its own task has ended. `fn`
        itself may be run by another thread. Threads may come and go; with `max_workers=0` they are
        all that the pool has.

        Ctrl-C on the main thread, where Python's own handler is installed, raises KeyboardInterrupt
        in the task's code or wait if that is there; else it cancels the task, lets it clean up, and
        raises then. What the thread runs for others is not cut off, except by a second Ctrl-C.
        Other signal handlers are left alone. Raises as `submit`; also `RuntimeError` in a thread in
        which an asyncio loop runs, or inside one of the pool's locks (but in a task of the pool it
        may be called like that, and waits). In a pool with an initializer the thread only waits.
        """
        if not callable(fn):
            raise TypeError(f"run() takes a callable first, not {fn!r}")
        scheduler = self._scheduler
        if scheduler.close_reason:
            raise scheduler.closed_error()
        worker = here.worker
        task: Task[Any] = Task()
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

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Like the built-in `map`, with the calls made by the workers; results in input order.

        The input is read at once, or with `buffersize` only as far ahead of the consumer as that
        many calls. `timeout`: seconds from this call until `TimeoutError`. `chunksize`: how many
        calls make one task, one after the other. An exception is raised where its result would have
        come; closing the iterator cancels what was not started.
        """
        return map_calls(self.submit, fn, iterables, timeout, chunksize, buffersize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; run what was accepted; with `wait`, return when all of it is done.

        With `cancel_futures`, what was not started is cancelled. May be called again. In a pool
        with `max_workers=0` the calling thread runs what is left; without `wait` that is left to
        the callers of `run` that are there, to a later `shutdown`, or to the end of the
        program. With `wait` it raises `RuntimeError` in one of the pool's own workers, which it
        would wait for.
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

    def lock(self, name: str | None = None, *, order: str = "ticket", strict: bool = False) -> Lock:
        """A lock whose critical sections are run by the workers of this pool: see `Lock`.

        `name`: for error messages, `repr` and `dump`.

        `order="usage"`: of those that wait, the share is served first that has used the lock least,
        for its weight. No request is passed over for ever. With `strict=True` a share that is ahead
        of the others is held back for a while even when the lock is free, so that one which comes
        back for one short section after the other gets as much of the lock's time; the lock is idle
        meanwhile. `docs/protocols/usage.md` has the rules, the bounds and the cost.
        """
        return make_lock(self._scheduler, name, order, strict)

    def guarded(
        self,
        factory_or_value: Any,
        /,
        *,
        name: str | None = None,
        order: str = "ticket",
        strict: bool = False,
    ) -> Guarded[Any]:
        """State that can be reached only inside its lock: see `Guarded`; and `lock`.

        A callable is called, once, on the worker that the lock calls home, so that the state is
        born, used and freed by one thread as far as possible (if it returns a coroutine, that gives
        the state). Anything else is the state itself.
        """
        return Guarded(make_lock(self._scheduler, name, order, strict), factory_or_value)

    def share(self, name: str, weight: float = 1) -> Share:
        """A view of this pool whose work is charged to one principal: see `Share`.

        `weight`: twice the weight, twice the time; from 0.000,001 to 1,000,000. The same name gives
        the same principal again, and must come with the same weight. It is kept for as long as the
        pool is. Raises TypeError where these are of another type, and ValueError for another weight
        than that.
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
        return Share(self, self._scheduler.share(plain_text(name), float(weight)))

    def statistics(self) -> PoolStatistics:
        """What has happened here so far. From any thread."""
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
        """Print what each worker does, the backlog, what waits or is suspended, and locks in use.

        To `sys.stderr` by default. Takes no lock, so it works on a pool that hangs. Each line is
        true of a moment; together they may be of slightly different moments.
        """
        dump(self._scheduler, sys.stderr if file is None else file)

    def __repr__(self) -> str:
        return f"<FairPool {self._scheduler}>"


class Share(Executor):
    """A view of a pool whose work is charged to one principal, with a weight.

    `pool.share(…)` makes one. What is submitted here, and what that submits, chains or has done by
    locks in its turn, is charged to the share: it follows the context. The workers serve the share
    first whose tasks have taken the least of their time, for its weight; work without a share has
    every other turn. So has a lock with `order="usage"`, with the time spent inside it.

    All methods may be called from any thread, from inside tasks and callbacks, and reentrantly.
    """

    __slots__ = ("_closed", "_pending", "_pool", "_principal")

    __reduce_ex__ = stays_here("make one with pool.share(name, weight) where it is to be used")

    def __init__(self, pool: FairPool, principal: Principal) -> None:
        self._pool = pool
        self._principal = principal
        self._pending: set[Future[Any]] = set()
        self._closed = Latch()

    @property
    def name(self) -> str:
        """What `pool.share` was given."""
        return self._principal.name

    @property
    def weight(self) -> float:
        """Twice the weight, twice the time."""
        return self._principal.weight

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As `FairPool.submit`, charged to this share. RuntimeError also after `shutdown`."""
        if self._closed:
            raise self._closed_error()
        token = CURRENT.set(self._principal)
        try:
            future = self._pool.submit(fn, *args, **kwargs)
        finally:
            CURRENT.reset(token)
        future.__dict__["_principal"] = self._principal  # for its chains: see `Scheduler.link`
        self._pending.add(future)
        future._register(self._pending.discard)
        if self._closed.is_set() and future.cancel():  # after the `add`: see `shutdown`
            raise self._closed_error()
        return future

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As `FairPool.map`, charged to this share."""
        return map_calls(self.submit, fn, iterables, timeout, chunksize, buffersize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work through this view; with `wait`, return when all that it took is done.

        With `cancel_futures`, what was not started is cancelled. The pool goes on, and so does the
        share: `pool.share` gives another view of it.
        """
        self._closed.set()  # a `submit` that does not see this has added its future before
        pending = self._pending.copy()
        if cancel_futures:
            for future in pending:
                if isinstance(future, Task):
                    future.drop()
        if wait:
            wait_for_all(pending)

    def _closed_error(self) -> RuntimeError:
        return RuntimeError(f"cannot schedule new futures after shutdown of {self!r}")

    def __repr__(self) -> str:
        return f"<Share {self.name}, weight {self.weight:g}, of {self._pool!r}>"


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


def run(coro: Coroutine[Any, Any, T], *, max_workers: int | None = None, **options: Any) -> T:
    """Run a coroutine in a pool of its own, and return its result: the one-line entry point.

    `options` are those of `FairPool`. With `max_workers=0` the calling thread runs it. Ctrl-C
    cancels the coroutine, lets it clean up, and is raised then. Raises RuntimeError in a task, and
    for a coroutine object that is a task's already.
    """
    if not is_coroutine(coro):
        raise TypeError(f"run() takes a coroutine, not {coro!r}")
    claim_coroutine(coro)
    if here.worker is not None:
        coro.close()
        raise RuntimeError("run() makes a pool of its own; in a task, await the coroutine")
    try:
        pool = FairPool(max_workers, **options)
    except BaseException:
        coro.close()
        raise
    scheduler = pool._scheduler
    task: Task[T] = scheduler.make_task(coro)
    pressed: list[None] = []

    def on_ctrl_c(signum: int, frame: Any) -> None:
        # At first the coroutine alone is cancelled, which may need others to clean up: were all
        # cancelled at once, one that ends at once could let it into its clean-up before its own
        # turn comes. The second time, and each time after that, it ends a wait.
        pressed.append(None)
        if len(pressed) == 1:
            task.cancel()
        elif may_be_cut_off(frame):
            raise KeyboardInterrupt

    def finish() -> None:
        if scheduler.max_workers:
            wait(task, None)
        else:  # this thread is all that the pool has
            AwaitingCaller(scheduler, task, None).run()

    def body() -> None:
        try:
            try:
                scheduler.put(task)
                finish()
            except BaseException:  # what a signal handler of the program's own has raised
                if not pressed:
                    task.cancel()
                    finish()
                raise
        finally:
            # What it has left behind is cancelled, as asyncio.run does.
            pool.shutdown(wait=False, cancel_futures=True)
            scheduler.cancel_all()
            pool.shutdown()

    handle_ctrl_c(on_ctrl_c, body)
    if pressed:
        raise KeyboardInterrupt
    try:
        return task.result()
    finally:
        task = coro = None  # type: ignore[assignment]  # what is raised holds this frame: no cycle
