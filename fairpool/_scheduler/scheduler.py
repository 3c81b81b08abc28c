"""`Scheduler`: what the workers of one pool share.

It is not the pool itself, so that a pool which its users have dropped can be collected, and closed,
while its workers are still there: workers and tasks refer to the scheduler, the pool refers to it
too, and nothing refers to the pool.

Closing is described, with its proof, in `docs/protocols/shutdown.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from itertools import count
from logging import CRITICAL, ERROR, WARNING
from queue import Empty, SimpleQueue
from typing import Any
from weakref import ref

from fairpool._core.accounts import CURRENT, Principal, Shares
from fairpool._core.errors import BrokenFairPool
from fairpool._core.foreign import describe
from fairpool._core.here import here
from fairpool._core.hooks import at_exit, before_collection, in_child_after_fork
from fairpool._core.park import Parking
from fairpool._core.report import log
from fairpool._core.room import stack_is_deep
from fairpool._core.runqueue import RunQueue
from fairpool._core.signals import get
from fairpool._core.threads import (
    Thread,
    cpu_count,
    current_thread,
    enumerate_threads,
    main_thread,
    monotonic,
    new_thread,
    start_new_thread,
    yield_cpu,
)
from fairpool._core.timer import Timers
from fairpool._core.token import Latch, Token
from fairpool._locks.combiner import Combiner
from fairpool._scheduler.caller import Helper, LastCaller
from fairpool._scheduler.worker import Worker, adopt, blocking
from fairpool._tasks.chain import LINK, Closing, Handler, Link
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.coroutines import claim_coroutine, is_coroutine
from fairpool._tasks.future import Future
from fairpool._tasks.gather import Gather
from fairpool._tasks.task import Task

__all__ = ["Backlog", "Scheduler", "live"]

# How many workers a pool may have beyond `max_workers`, to stand in for those that wait. A thread
# costs about 100 KiB of memory that is really used; a thousand of them is the size of a large
# ThreadPoolExecutor, and with inline runs enough for some ten thousand nested waits.
SPARE_WORKERS_MAX = 1000

# After so long (s) it is tried again to start a worker where no thread could be started: some
# threads of others may have ended. Far above what an attempt costs, and not yet a hang.
START_AGAIN_AFTER = 0.05


# When so many locks are in use, those that nobody is in go out of use. To come into use again costs
# a lock some µs, and to be looked at 0.2.
LOCKS_IN_USE = 8


class Backlog:
    """Bounds the tasks of a pool that have not been started.

    A `SimpleQueue` of permits: its `put` and `get` may be entered again on the same thread in the
    middle of themselves (its documentation says so of `put`; `get` holds nothing while it waits).
    """

    def __init__(self, limit: int) -> None:
        self._fresh = count()  # permits are made as they are needed, not all at the start
        self._limit = limit
        self._permits: SimpleQueue[bool] = SimpleQueue()

    def enter(self, scheduler: Scheduler) -> Backlog | None:
        """Take a permit for a task, waiting for one if there is none; return who gets it back."""
        if next(self._fresh) < self._limit:  # A4
            return self
        try:
            permit = self._permits.get_nowait()
        except Empty:
            worker = here.worker
            if worker is not None and worker.scheduler is scheduler:
                # Nobody may be left to make room.
                if worker.initializes:
                    scheduler.warn_once("max_pending is exceeded, because an initializer submits")
                    return None
                if not scheduler.may_start():  # all spare workers wait, in `submit` perhaps
                    scheduler.warn_once("max_pending is exceeded, because all spare workers wait")
                    return None
            # No task is run inline to make room: it could wait for what the submitter does next. In
            # a worker the slot goes to another one, which starts what is queued.
            with blocking():
                permit = get(self._permits)
        if not permit:
            self._permits.put(False)  # closed: pass it on to whoever waits, too
            raise scheduler.closed_error()
        return self

    def leave(self) -> None:
        """Give the permit of a task back: it was claimed."""
        self._permits.put(True)

    def close(self) -> None:
        self._permits.put(False)


class Scheduler:
    """The queues, the workers and the state of one pool."""

    __slots__ = (
        "__weakref__",
        "_cancels_closings",
        "_cap",
        "_forked",
        "_initargs",
        "_initializer",
        "_numbers",
        "_prefix",
        "_starts_again",
        "_warned",
        "backlog",
        "broken",
        "cancels_all",
        "close_reason",
        "ending",
        "exited_workers",
        "free_slots",
        "generators",
        "helper_candidates",
        "idle_timeout",
        "injector",
        "lends",
        "locks",
        "locks_in_use",
        "max_workers",
        "mean_continuation",
        "parking",
        "pending_locks",
        "searching",
        "shares",
        "slot_count",
        "suspended",
        "threads",
        "timers",
        "workers",
    )

    def __init__(
        self,
        max_workers: int,
        prefix: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        max_pending: int | None,
        idle_timeout: float,
        lend: bool,
    ) -> None:
        self.max_workers = max_workers
        # What needs an initialized thread is not run on one that is not.
        self.lends = lend and initializer is None
        # The running mean of the continuations of critical sections (ns); 0: none was looked at.
        self.mean_continuation = 0
        # How many may be runnable, without callers if there are workers.
        self.slot_count = max_workers or cpu_count()
        self.idle_timeout = idle_timeout
        self._forked = False
        self.cancels_all = self._cancels_closings = False
        self._warned = False
        self.backlog = None if max_pending is None else Backlog(max_pending)
        self._cap = max_workers + SPARE_WORKERS_MAX
        self._initializer = initializer
        self._initargs = initargs
        self._prefix = prefix
        self._reset()
        _live.add(ref(self, _live.discard))
        if reasons := _exiting.copy():  # made by a thread that runs on while Python ends
            self.close(reasons[0])

    def _reset(self) -> None:
        self._numbers = count()
        self.broken: BrokenFairPool | None = None  # why nothing can be run any more
        self.close_reason = Latch()  # set with the reason when the pool is closed
        # Empty until the pool is closed, or dropped: workers then end when all is over.
        self.ending = Latch()
        self.injector = RunQueue()
        self.workers: list[Worker] = []
        self.locks: set[Any] = set()  # weak references to all of them
        # Those of them that somebody is in, or waits for, and some that are just out of use: what
        # looks whether there are such looks only at these. See `Combiner.take_unused_key`.
        self.locks_in_use: set[Any] = set()
        # Locks that lie in a queue to be served, or have done so; kept where there are no threads.
        self.pending_locks: set[Combiner] = set()
        self.shares = Shares()  # empty in most pools
        self.threads: list[Worker] = []  # all workers whose threads may not have ended yet
        # Threads that wait for a lock here, and may be lent (`Combiner.recruit_helper`).
        self.helper_candidates: dict[Any, None] = {}
        self.exited_workers = RunQueue()  # those of them that have left their loop
        self.parking = Parking(self.slot_count, self._start_worker, self._overlooks_server)
        self.free_slots = self.parking.free_slots  # at hand for the quick look of every submission
        self.searching = self.parking.searching
        # Weak references to the asynchronous generators that were first iterated here.
        self.generators: set[Any] = set()
        self.suspended: set[Any] = set()  # continuations of coroutines that have not ended
        self.timers = self._make_timers()
        self._starts_again = Token()  # taken while a timer is set for it

    def _make_timers(self) -> Timers:
        return Timers(f"{self._prefix}_timer", self.idle_timeout)

    # --- work --------------------------------------------------------------------------------

    def put(self, task: Any) -> None:
        """Queue a task, or a gather; raise if it will not be run."""
        worker = here.worker
        if self.shares and (principal := self.principal_of(task)) is not None:
            principal.append(task)  # S1
        elif worker is not None and worker.scheduler is self:
            worker.queue.append(task)  # S1
        else:
            self.injector.append(task)  # S1
        if self.close_reason and task.drop():  # S2: closed since the caller looked
            raise self.closed_error()
        if self.free_slots:  # S3
            if worker is not None and worker.item is None:
                worker.withdraw()  # a `__del__` has queued this: see "Foreign code"
            if self.searching:
                return
            try:
                self.parking.notify()
            except RecursionError:  # the task is queued: so a worker is woken from another stack
                start_new_thread(self.notify_or_abandon, ())
            except Exception as error:
                # No thread could be started. Any worker will run the task; if there is none, it
                # must not run later, behind the back of a caller that was told it failed. Nor may
                # those hang that others queued meanwhile, counting on the worker that was being
                # started.
                if not self.workers.copy():
                    dropped = task.drop()
                    self._abandon_queued(error)
                    if dropped:
                        raise
                else:
                    self._start_again_later()  # all of them may be blocked

    def _abandon_queued(self, error: Exception) -> None:
        """There is no worker, and none could be started: end what is queued."""
        reason = RuntimeError(f"no worker could be started: {error}")
        for continuation in self.drain(lambda task: task.abandon(reason), reason):
            continuation.abandon(reason)

    def make_task(self, coroutine: Any, name: str | None = None) -> Task[Any]:
        """A task that runs a coroutine object, to be queued with `put`."""
        task: Task[Any] = Task()
        task._pool = self
        task._status = [(copy_context(), coroutine, None, None, None)]
        task._coroutine_state = coroutine
        if name is not None:
            task.set_name(name)
        return task

    def spawn(self, coroutine: Any, name: str | None = None) -> Task[Any]:
        """A queued task that runs a coroutine object; raises if it will not be run."""
        task = self.make_task(coroutine, name)
        if self.close_reason:
            task.drop()
            raise self.closed_error()
        self.put(task)
        return task

    # --- asynchronous generators: docs/protocols/shutdown.md ---------------------------------

    def watch_generator(self, generator: Any) -> None:
        """An asynchronous generator is iterated for the first time, by one of the workers."""
        self.generators.add(ref(generator, self.generators.discard))

    def close_generator(self, generator: Any) -> None:
        """One is freed that was left early: let it clean up in a task.

        A finalizer: on any thread, at any moment.
        """
        if not self.close_reason:
            try:
                self.put(_make_closing(self, generator))
            except Exception:  # closed since, or there is no thread for it
                pass
            else:
                return
        closing = _make_closing(self, generator)
        self.injector.append(closing)  # S1
        # A worker that is listed now looks at the queues after it has been taken from the list.
        if self.workers.copy():
            self.notify_if_free()
        elif closing.drop():
            _close_now(generator)

    def _close_generators(self) -> bool:
        """Queue the closing of all that were left. The pool is closed, and nobody runs anything."""
        generators: list[Any] = []
        while True:
            try:
                generator = self.generators.pop()()
            except KeyError:
                break
            if generator is not None:
                generators.append(generator)
        if generators:
            self.injector.append(_make_closing(self, *generators))
        return bool(generators)

    def link(
        self,
        source: Future[Any],
        on_result: Callable[[Any], Any] | None,
        on_error: Callable[[BaseException], Any] | None,
        types: tuple[type[BaseException], ...],
        in_any_case: Callable[[], Any] | None,
        link: Link[Any] | None = None,
    ) -> Link[Any]:
        """A task that is queued when `source` is final; raises if the pool is closed."""
        if self.close_reason:
            raise self.closed_error()
        handler = None if on_error is None else Handler(on_error, types)
        if link is None:
            link = Link()
        link._pool = self
        context = copy_context()
        if self.shares:
            # A chain that is built outside of the share is charged to it all the same.
            principal = context.get(CURRENT) or source.__dict__.get("_principal")
            if principal is not None:
                context.run(CURRENT.set, principal)
                link.__dict__["_principal"] = principal
        link._status = [(context, on_result, source, LINK, None, handler, in_any_case)]
        source.register_for_now(link)
        return link

    def resume(self, item: Any) -> None:
        """Queue a continuation, or a task that has been accepted before. From any thread."""
        worker = here.worker
        if self.shares and (principal := self.principal_of(item)) is not None:
            principal.append(item)
        elif worker is not None and worker.scheduler is self:
            worker.queue.append(item)
        else:
            self.injector.append(item)
        try:
            if self.free_slots and self._nobody_searches(worker):
                self.notify()
        except RecursionError:  # it is queued: a worker is woken from another stack
            start_new_thread(self.notify_if_work, ())

    def _nobody_searches(self, worker: Worker | None) -> bool:
        """As a plain `not searching`, without `worker`, the calling one: see "Foreign code"."""
        if worker is not None and worker.item is None:
            worker.withdraw()
        return not self.searching

    def notify_if_free(self) -> None:
        """S3 of docs/protocols/parking.md: after something was queued."""
        if self.free_slots and not self.searching:
            self.notify()

    def notify(self) -> None:
        """`Parking.notify`, where there is no caller to tell that no worker could be started."""
        try:
            self.parking.notify()
        except RecursionError:
            start_new_thread(self.notify_if_work, ())
        except Exception:
            log(WARNING, "%s could not start a worker", self._prefix, exc_info=True)
            self._start_again_later()

    def _start_again_later(self) -> None:
        """No worker could be started, and nobody else may come to look at what is queued."""
        if not self._starts_again.take():  # the timer will see to it
            return
        try:
            self.timers.add(monotonic() + START_AGAIN_AFTER, self)
        except Exception:
            self._starts_again.put()
            log(CRITICAL, "%s could not start its timer thread, either", self._prefix)

    def wake(self) -> None:
        """On the timer thread: it is time to try to start a worker again."""
        self._starts_again.put()  # before the attempt, which may fail again
        self.notify_if_work()

    def notify_or_abandon(self, target: Worker | None = None) -> None:
        """As `notify_if_free`; what is queued ends where there is no worker to be had.

        `target`: where it was queued. That one may have looked for the last time before.
        """
        if target is not None and target.exited:
            target.give_back()
        if self.free_slots and self._nobody_searches(here.worker):
            try:
                self.parking.notify()
            except RecursionError:
                raise  # for the caller, who knows what to do again on another stack
            except Exception as error:
                log(WARNING, "%s could not start a worker", self._prefix, exc_info=True)
                if self.workers.copy():
                    self._start_again_later()
                else:
                    # All of it: others may have counted on the worker that was being started.
                    self._abandon_queued(error)

    def has_published(self) -> bool:
        """Whether any worker has continuations of critical sections that others may take."""
        return any(worker.published.copy() for worker in self.workers.copy())

    def take_out(self, lock: Combiner) -> bool:
        """Take a lock, with its key, out of the queue that it lies in; whether it was there."""
        for queue in self._own_queues():
            try:
                queue.remove(lock)
            except ValueError:
                continue
            self.pending_locks.discard(lock)
            return True
        return False

    def suspended_ended(self) -> None:
        """A coroutine that had been suspended has ended, and the pool is ending."""
        if not self.suspended:
            self.parking.unpark_all()  # those that parked until this was the last

    def has_work(self) -> bool:
        """Whether any queue holds a task: ordered against every `append`."""
        if self.injector.holds_work():
            return True
        # `copy`, here and below: a share that becomes active later has got its task later, too.
        if self.shares and any(each.queue.holds_work() for each in self.shares.active.copy()):
            return True
        # `copy` takes the list's mutex: a worker that is listed later started to queue tasks
        # after that, and sees what this thread did before it asked.
        return any(
            worker.queue.holds_work() or worker.home_queue.holds_work() or worker.published.copy()
            for worker in self.workers.copy()
        )

    def queues(self) -> list[RunQueue]:
        """All of the pool's queues, at one moment."""
        return [*self._own_queues(), *(principal.queue for principal in self.shares.copy())]

    def _own_queues(self) -> list[RunQueue]:
        """Those that are no share's: where locks lie that are to be served."""
        queues = [self.injector]
        for worker in self.workers.copy():
            queues += (worker.queue, worker.home_queue)
        return queues

    def share(self, name: str, weight: float) -> Principal:
        """The principal of that name, which may be a new one."""
        principal = self.shares.add(Principal(self, name, weight))
        if principal.weight != weight:
            raise ValueError(
                f"the share {name!r} is there, with a weight of {principal.weight:g}; "
                f"it cannot get another one ({weight:g})"
            )
        # Workers that look for work of locks look for that of shares, too: one test for both.
        self.locks.add(_no_lock)
        return principal

    def principal_of(self, item: Any) -> Principal | None:
        """Whom this task or continuation is charged to, if that is a share of this pool's.

        For who has it in hand and is about to queue it, or runs it: a context must not be looked
        at while another thread may be changing it.
        """
        kind = type(item)
        if kind is Continuation:
            context: Any = item.run_in.__self__
            principal = context.get(CURRENT)
        elif kind is Gather:
            principal = item._context.get(CURRENT)
        else:
            try:
                principal = item._status[0][0].get(CURRENT)
            except (AttributeError, IndexError, TypeError):  # a lock; or cancelled meanwhile
                return None
        return principal if principal is not None and principal.scheduler is self else None

    def distrust_searchers(self) -> None:
        """A thread has waited for a while. If there is work, those that search may be held up."""
        if self.free_slots and self.searching and self.has_work():
            self.searching.clear()
            self.notify()

    adopt = staticmethod(adopt)

    def notify_if_work(self) -> None:
        """What a worker does after it stopped searching or gave up its slot."""
        if self.free_slots and self.has_work():
            self.notify()

    # --- workers -----------------------------------------------------------------------------

    def _start_worker(self, slot: list[None]) -> None:
        """Start one more worker, which takes over the slot."""
        if not self.may_start():
            if self.max_workers:
                self.warn_once(f"{self._cap} workers are there, and no more are started")
            elif self.pending_locks and self.parking.is_empty(but=1):
                for lock in self.pending_locks.copy():
                    if lock.find_server(slot):
                        break
            return
        worker = Worker(self, f"{self._prefix}_{next(self._numbers)}")
        try:
            self.threads.append(worker)  # before `workers`: see `join`
            self.workers.append(worker)
            self.parking.searching.add(worker)
            worker.thread.start()
            slot.clear()
        except BaseException as error:
            # A KeyboardInterrupt may come when the thread has started: then it has the slot.
            if worker.claim_start():
                if not slot:  # the interrupt came after `clear`
                    slot.append(None)
                worker.ended.set()
                self.forget_thread(worker)
                try:
                    self.workers.remove(worker)
                except ValueError:  # not listed yet
                    pass
                self.parking.searching.discard(worker)
                if not isinstance(error, Exception):
                    # Callers do not handle that, and others may have counted on this worker.
                    self._start_again_later()
            else:
                slot.clear()
            raise
        for _ in range(len(self.exited_workers)):
            other = self.exited_workers.take()
            if other is None:
                break
            if other.thread.is_alive():  # it is about to end
                self.exited_workers.append(other)
            else:
                self.forget_thread(other)

    def _overlooks_server(self) -> bool:
        """Whether nobody is runnable, and a lock could be served by one that waits for it."""
        return (
            bool(self.pending_locks)
            and self.parking.is_empty()
            and any(lock.finds_server() for lock in self.pending_locks.copy())
        )

    def lies_in_queue(self, lock: Combiner) -> bool:
        """Whether a lock, with its key, lies in one of the pool's queues."""
        return any(queue.count(lock) for queue in self._own_queues())

    def warn_once(self, message: str) -> None:
        if not self._warned:
            self._warned = True  # two threads at once may both warn
            log(WARNING, "%s: %s", self._prefix, message)

    def may_start(self) -> bool:
        """Whether the cap on workers leaves room for another one."""
        return self.max_workers > 0 and len(self.workers) < self._cap

    def forget_thread(self, worker: Worker) -> None:
        """The worker is no longer to be waited for."""
        try:
            self.threads.remove(worker)
        except ValueError:  # somebody else did
            pass

    def caller_joins(self) -> None:
        """A caller has come. Where there are workers it is one more, with a slot of its own."""
        if not self.max_workers:
            self.parking.reclaim_slot()

    def caller_leaves(self) -> None:
        """A caller is not runnable any more. The slot that it has brought goes with it."""
        if not self.max_workers:
            self.parking.release_slot()

    def lend(self, stay: Any) -> None:
        """The calling thread, which waits with this stay, was recruited: let it help."""
        stay.helper = Helper(self, stay)
        stay.helper.work()
        self.check_same_process()

    def note_continuation(self, time: int) -> None:
        """One was timed (ns). Of two at the same time, one may not count."""
        mean = self.mean_continuation
        self.mean_continuation = mean + (time - mean) // 8 if mean else time

    @property
    def has_initializer(self) -> bool:
        return self._initializer is not None

    def initialize(self) -> bool:
        """Run the initializer on the calling worker's thread; False if the pool is broken now."""
        if self._initializer is None:
            return True
        try:
            result: Any = self._initializer(*self._initargs)
            if is_coroutine(result):
                claim_coroutine(result)
                result.close()
                raise TypeError("an initializer must be a plain function: it returned a coroutine")
        except BaseException:
            log(CRITICAL, "Exception in initializer:", exc_info=True)
            message = "A thread initializer failed, the thread pool is not usable anymore"
            self.broken = BrokenFairPool(message)
            self.close(BrokenFairPool(message))
            started = self.drain(lambda task: task.abandon(BrokenFairPool(message)), self.broken)
            started += [each for each in self.suspended.copy() if each.reclaim()]
            for continuation in started:
                continuation.abandon(BrokenFairPool(message))
            for lock in self.all_locks():
                lock.abandon_sections(self.broken)
            return False
        return True

    def __str__(self) -> str:
        state = "closed" if self.close_reason else "dropped" if self.ending else "open"
        queued = self.queued()
        return (
            f"{self._prefix}: {state}, {len(self.workers)} workers "
            f"(max_workers={self.max_workers}), {queued} tasks queued"
        )

    def queued(self) -> int:
        """How many tasks and continuations are queued, those of locks not counted."""
        return sum(map(len, self.queues()))

    # --- the end -----------------------------------------------------------------------------

    def closed_error(self) -> Exception:
        """The exception for a call that comes too late."""
        # `reason` waits for the `set` whose length the caller has seen (A3).
        error: Exception = self.close_reason.reason()
        return type(error)(*error.args)

    def is_open(self) -> bool:
        """A plain read: for the quick look at the start of a call."""
        return not self.close_reason

    def is_closed(self) -> bool:
        """Whether the pool was closed, ordered against `close` (A2)."""
        return self.close_reason.is_set()

    def is_ending(self) -> bool:
        """Whether the pool was closed or dropped, ordered against `close` and `drop` (A2)."""
        return self.ending.is_set()

    def is_waiting_to_close(self) -> bool:
        """Whether the pool is ending, and there are coroutines that are suspended."""
        self.suspended.discard(None)  # takes the set's mutex: ordered against `suspended_ended`
        return self.is_ending() and (
            bool(self.suspended)
            or any(lock.queue.holds_work() or lock.queue for lock in self.used_locks())
        )

    def forget_lock(self, entry: Any) -> None:
        """A lock has gone."""
        self.locks.discard(entry)
        self.locks_in_use.discard(entry)

    def used_locks(self) -> list[Any]:
        """All locks that somebody is in, or waits for, and perhaps some more."""
        return [lock for entry in self.locks_in_use.copy() if (lock := entry()) is not None]

    def all_locks(self) -> list[Any]:
        """The pool's locks that are still there."""
        return [lock for entry in self.locks.copy() if (lock := entry()) is not None]

    def is_in_section(self, task: Task[Any] | None) -> bool:
        """Whether this task, which runs on the calling thread, holds a lock of the pool."""
        # Who is inside has written it down itself, or was told by who let it in. And the lock came
        # into use before.
        used = self.used_locks()
        for lock in used:
            owner = lock.owner
            if owner is not None:
                if owner.task is task:
                    return True
            elif len(used) > LOCKS_IN_USE and not stack_is_deep():
                lock.go_out_of_use()
        return False

    def is_over(self) -> bool:
        """Whether the pool is ending, and nothing is left to be run."""
        return self.is_ending() and not self.is_waiting_to_close() and not self.has_work()

    def close(self, reason: Exception) -> None:
        """Take no more tasks; workers end when the queues are empty.

        May be called repeatedly, and is to be, where an interrupt may have cut it off before.
        """
        if not self.close_reason:
            self.close_reason.set(reason)
        if self.backlog is not None:
            self.backlog.close()
        self.drop()

    def drop(self) -> None:
        """Nobody holds the pool any more: its workers end when nothing is left to be run.

        What its tasks, their futures and its locks start until then, and later, is accepted.
        """
        self.ending.set()
        self.timers.close()
        self.parking.unpark_all()

    def drain(
        self, end: Callable[[Any], object], reason: BaseException | None = None
    ) -> list[Continuation]:
        """Take every queued task or gather, and end it; return the continuations.

        Those have been started, and are the caller's now. A `finally_` is not ended either, but
        stays in the queue. `reason`: why there is no worker, and nobody to serve the locks.
        """
        started = []
        kept: list[Any] = []
        for worker in self.workers.copy():
            try:
                while True:
                    started.append(worker.published.pop(0))
            except IndexError:
                pass
        for queue in self.queues():
            while (item := queue.take()) is not None:
                if type(item) is Continuation:
                    started.append(item)
                elif isinstance(item, Combiner):
                    if reason is None:
                        kept.append(item)
                    else:
                        item.fail(reason)
                elif type(item) in (Link, Closing) and item.is_clean_up():
                    kept.append(item)
                else:
                    end(item)
        for link in kept:
            self.resume(link)
        return started

    def cancel_all(self, closings: bool = False) -> None:
        """Ask every coroutine that has been started to end, also those in their first step.

        `closings`: also those that close asynchronous generators.
        """
        if closings:
            self._cancels_closings = True
        self.cancels_all = True
        # Whoever is suspended for the first time adds itself, and then looks at the flag.
        for continuation in self.suspended.copy():
            if self.cancels(continuation.task):
                continuation.task.interrupt("the pool is ending")

    def cancels(self, task: Task[Any]) -> bool:
        """Whether `cancel_all` is meant for this task."""
        return self._cancels_closings or type(task) is not Closing

    def join(self) -> None:
        """Wait until all workers have ended. The pool must be closed."""
        used: list[Timers] = []
        while True:
            over = self.is_over()
            if not over and not self.workers.copy():
                # Accepted by a `put` that has not come to its `notify`, or suspended: it is run to
                # its end before this returns.
                if not self.max_workers:
                    LastCaller(self).work()
                    continue
                try:
                    self.parking.notify()
                except Exception as error:
                    if not self.workers.copy():
                        self._abandon_queued(error)
                        raise
            # After the look at the queues: whoever has taken the last task is in `threads`.
            threads = self.threads.copy()
            if not threads:
                if not over and not here.notifying:
                    yield_cpu()  # a `put` has taken the slot, and is about to list its worker
                    continue
                if self._close_generators():
                    continue
                # What is run after this, a `put` that comes to its `notify` late or the link of a
                # chain, has timers of its own: whoever is listed later has seen the new ones
                # (A2), and nobody is left who has seen the old ones.
                used.append(self.timers)
                self.timers = self._make_timers()
                self.timers.close()
                self._starts_again.put()  # a second one does no harm
                if self.threads.copy():
                    continue
                for timers in used:
                    timers.stop()
                self.exited_workers.clear()  # which refer to this: no cycle
                return
            for worker in threads:
                with blocking():  # in a worker of another pool
                    worker.join()
                self.forget_thread(worker)

    def check_same_process(self) -> None:
        """Raise `BrokenFairPool` in a process to which the pool came through `os.fork`."""
        if self._forked:
            raise self.closed_error()

    def after_fork(self) -> None:
        """Start again from nothing, closed: the threads are in the parent process."""
        for lock in self.all_locks():
            lock.queue.clear()  # who waits there is in the parent process, and is served there
        self.injector.clear()  # the task that forked goes on here, and its worker holds this queue
        self._reset()
        self._forked = True
        self.ending.set()
        self.close_reason.set(
            BrokenFairPool(
                f"the pool {self._prefix} did not survive os.fork(): its threads are in the parent "
                "process; make a new FairPool in the child"
            )
        )


# Weak references to all schedulers. A plain set of them, because one call adds, one discards and
# one copies (A1); a WeakSet does each in several steps.
_live: set[ref[Scheduler]] = set()


def live() -> list[Scheduler]:
    """All schedulers that exist, at one moment."""
    return [scheduler for entry in _live.copy() if (scheduler := entry()) is not None]


def _no_lock() -> None:
    """An entry of `Scheduler.locks` that stands for no lock."""


def _make_closing(scheduler: Scheduler, *generators: Any) -> Closing:
    """A task that closes asynchronous generators, to be queued."""
    task: Closing = Closing()
    task._pool = scheduler
    close = partial(_close_generators, generators)
    task._status = [(copy_context(), None, _DONE, LINK, None, None, close)]
    return task


_DONE: Future[None] = Future()
_DONE.set_result(None)


async def _close_generators(generators: tuple[Any, ...]) -> None:
    # One after the other: one may close another one itself (`contextlib.aclosing`), and no two
    # threads may be in that.
    for generator in generators:
        try:
            await generator.aclose()
        except Exception:
            name = describe(generator)
            log(
                ERROR,
                "error while the asynchronous generator %s was closed",
                name,
                exc_info=True,
            )


def _close_now(generator: Any) -> None:
    """Close one up to its first suspension: the pool has ended, and nothing would resume it.

    What it raises is the finalizer's, as it is where there are no hooks.
    """
    closing = generator.aclose()
    try:
        closing.send(None)
    except (StopIteration, StopAsyncIteration):
        return
    log(
        WARNING,
        "the asynchronous generator %s cannot clean up: its pool has ended",
        describe(generator),
    )
    closing.close()


# Why no pool is open any more, once the program has ended.
_exiting: list[Exception] = []


def _threads_of_the_program() -> list[Any]:
    """The threads that the interpreter waits for, but for the main thread and those of pools."""
    # First: a pool's thread that is among them was listed there before, or has ended since.
    threads = enumerate_threads()
    ours: list[Any] = [current_thread(), main_thread()]
    for scheduler in live():
        ours += [each.thread for each in scheduler.threads.copy() if type(each) is Worker]
        ours += scheduler.timers.threads()
    known = set(map(id, ours))  # a class of the user's may have an `__eq__`
    return [each for each in threads if not each.daemon and id(each) not in known]


def _when_the_main_thread_has_ended() -> None:
    """The program goes on for as long as it has threads that are not daemons; so do the pools."""
    if _threads_of_the_program():
        try:
            new_thread(_wait_and_close_all, "FairPool_exit", daemon=False).start()
        except RuntimeError:  # no more threads
            pass
        else:
            return
    _close_all()


def _wait_and_close_all() -> None:
    while threads := _threads_of_the_program():
        for thread in threads:
            try:
                Thread.join(thread)  # that of its own class may be what tells it to stop
            except RuntimeError:  # it is just being started
                yield_cpu()
    _close_all()


def _close_all() -> None:
    error = RuntimeError("cannot schedule new futures after interpreter shutdown")
    _exiting.append(error)
    for scheduler in live():
        if scheduler.is_open():
            scheduler.close(error)
        # A coroutine that waits for something which nobody is left to bring would keep the process.
        scheduler.cancel_all(closings=True)
    for scheduler in live():
        if not scheduler.max_workers and not scheduler.is_over():
            LastCaller(scheduler).work()  # nobody else will


def _before_collection() -> None:
    """The collector is about to call finalizers on this thread, which may take long."""
    worker = here.worker
    if worker is not None and worker.item is None:  # it searches, or is about to park
        worker.withdraw()
        worker.scheduler.notify_if_work()


def _after_fork() -> None:
    here.caller = None
    if here.worker is not None:
        here.worker.queue.clear()
        here.worker = None
    for scheduler in live():
        scheduler.after_fork()


at_exit(_when_the_main_thread_has_ended)
in_child_after_fork(_after_fork)
before_collection(_before_collection)
