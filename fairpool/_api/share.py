"""`Share`: a view of a pool, whose work is charged to one principal."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait as wait_for_all
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from fairpool._api.executor import TaskExecutor, submit_in
from fairpool._core.accounts import CURRENT, Principal
from fairpool._core.errors import stays_here
from fairpool._core.token import Latch
from fairpool._scheduler.scheduler import Scheduler
from fairpool._tasks.future import AnyFuture, Future
from fairpool._tasks.task import Task

P = ParamSpec("P")
T = TypeVar("T")


class Share(TaskExecutor):
    """A view of a pool, whose work is charged to one principal with a weight.

    `pool.share(name, weight)` makes one. What is submitted here is charged to the share, and so is
    all that it submits, chains or hands to a lock: the principal follows the `contextvars` context.
    Workers serve the share first whose tasks have used the least time for its weight. Work without
    a share gets every other turn. A lock with `order="usage"` does the same with the time in it.

    All methods may be called from any thread, from inside tasks and callbacks, and reentrantly.
    """

    __slots__ = ("_closed", "_pending", "_pool", "_principal", "_scheduler")

    __reduce_ex__ = stays_here("call pool.share(name, weight) of a pool in the other process")

    def __init__(self, pool: TaskExecutor, scheduler: Scheduler, principal: Principal) -> None:
        self._pool = pool
        self._scheduler = scheduler
        self._principal = principal
        self._pending: set[AnyFuture] = set()
        self._closed = Latch()

    @property
    def name(self) -> str:
        """The name that `pool.share` was given."""
        return self._principal.name

    @property
    def weight(self) -> float:
        """The weight that `pool.share` was given: twice the weight gets twice the time."""
        return self._principal.weight

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `FairPool.submit`, charged to this share. RuntimeError also after its `shutdown`."""
        if self._closed:
            raise self._closed_error()
        context = copy_context()  # so that nothing of the caller's has to be put back
        context.run(CURRENT.set, self._principal)
        future = submit_in(context, self._scheduler, fn, args, kwargs)
        future.__dict__["_principal"] = self._principal  # for its chains: see `Scheduler.link`
        self._pending.add(future)
        future._register(self._pending.discard)
        if self._closed.is_set() and future.cancel():  # after the `add`: see `shutdown`
            raise self._closed_error()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work through this view; with `wait`, return when all its work is done.

        With `cancel_futures`, work that was not started is cancelled. The pool goes on, and so does
        the principal: `pool.share` gives another view of it.
        """
        self._closed.set()  # a `submit` that does not see this has added its future before
        pending = self._pending.copy()
        if cancel_futures:
            for future in pending:
                if isinstance(future, Task):
                    future.drop()
        if wait:
            wait_for_all(pending)

    def __repr__(self) -> str:
        return f"<Share {self.name}, weight {self.weight:g}, of {self._pool!r}>"
