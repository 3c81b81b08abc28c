"""`Intake`: how a task comes into a pool: submitted, resumed, or linked to a future.

A pool may bound those that have not been started (`Backlog`).
`put` is the submitter's side of `docs/protocols/parking.md` and of `docs/protocols/shutdown.md`.
"""

from __future__ import annotations

from contextvars import copy_context
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from fairpool._core.accounts import CURRENT, Principal
from fairpool._core.here import here
from fairpool._core.signals import get
from fairpool._core.threads import start_new_thread
from fairpool._core.token import Latch
from fairpool._core.types import AnyCoroutine, Function, Runnable
from fairpool._scheduler.blocking import blocked
from fairpool._scheduler.queues import no_lock
from fairpool._scheduler.roles import PoolWorker, Unstarted
from fairpool._scheduler.threads import Threads
from fairpool._tasks.chain import Link
from fairpool._tasks.future import AnyFuture
from fairpool._tasks.task import AnyTask, Task


class Backlog:
    """Bounds the tasks of a pool that have not been started.

    A `SimpleQueue` of permits: its `put` and `get` may be entered again on the same thread in the
    middle of themselves (its documentation says so of `put`; `get` holds nothing while it waits).
    """

    def __init__(self, limit: int) -> None:
        self._fresh = count()  # permits are made as they are needed, not all at the start
        self._limit = limit
        self._permits: SimpleQueue[bool] = SimpleQueue()

    def enter(self, scheduler: Intake) -> Backlog | None:
        """Take a permit for a task, waiting for one if there is none; return who gets it back."""
        if next(self._fresh) < self._limit:  # unique count
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
            with blocked("backlog", self, lends_key=True):
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


class Intake(Threads):
    """What takes in tasks, and refuses them when the pool is closed."""

    __slots__ = ("close_reason",)

    def _reset(self) -> None:
        super()._reset()
        self.close_reason = Latch()  # set with the reason when the pool is closed

    def put(self, task: Unstarted) -> None:
        """Queue a task, or a gather; raise if it will not be run."""
        worker: PoolWorker | None = here.worker
        if self.shares and (principal := self.principal_of(task)) is not None:
            principal.append(task)  # parking: enqueue
        elif worker is not None and worker.scheduler is self:
            worker.queue.append(task)  # parking: enqueue
        else:
            self.injector.append(task)  # parking: enqueue
        if self.close_reason and task.drop():  # shutdown: recheck_closed
            raise self.closed_error()
        if self.free_slots:  # parking: notify
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

    def make_task(self, coroutine: AnyCoroutine, name: str | None = None) -> AnyTask:
        """A task that runs a coroutine object, to be queued with `put`."""
        task: AnyTask = Task()
        task._pool = self  # type: ignore[assignment]  # `Scheduler` is all of a `Pool`
        task._status = [(copy_context(), coroutine, None, None, None)]
        task._coroutine_state = coroutine
        if name is not None:
            task.set_name(name)
        return task

    def spawn(self, coroutine: AnyCoroutine, name: str | None = None) -> AnyTask:
        """A queued task that runs a coroutine object; raises if it will not be run."""
        task = self.make_task(coroutine, name)
        if self.close_reason:
            task.drop()
            raise self.closed_error()
        self.put(task)
        return task

    def link(
        self,
        source: AnyFuture,
        on_result: Function | None,
        on_error: Function | None,
        types: tuple[type[BaseException], ...],
        in_any_case: Function | None,
        link: Link[Any] | None = None,
    ) -> Link[Any]:
        """A task that is queued when `source` is final; raises if the pool is closed."""
        if self.close_reason:
            raise self.closed_error()
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
        link._status = [(context, on_result, source, types, None, on_error, in_any_case)]
        source.register_for_now(link)
        return link

    def share(self, name: str, weight: float) -> Principal:
        """The principal of that name, which may be a new one."""
        principal = self.shares.add(Principal(self, name, weight))
        if principal.weight != weight:
            raise ValueError(
                f"the share {name!r} is there, with a weight of {principal.weight:g}; "
                f"it cannot get another one ({weight:g})"
            )
        # Workers that look for work of locks look for that of shares, too: one test for both.
        self.locks.add(no_lock)
        return principal

    def resume(self, item: Runnable) -> None:
        """Queue a continuation, or a task that has been accepted before. From any thread."""
        worker: PoolWorker | None = here.worker
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

    def closed_error(self) -> Exception:
        """The exception for a call that comes too late."""
        # `reason` waits for the `set` whose length the caller has seen (plain read).
        error: Exception = self.close_reason.reason()
        return type(error)(*error.args)

    def is_open(self) -> bool:
        """A plain read: for the quick look at the start of a call."""
        return not self.close_reason

    def is_closed(self) -> bool:
        """Whether the pool was closed, ordered against `close` (mutex order)."""
        return self.close_reason.is_set()
