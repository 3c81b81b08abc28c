"""`Scheduler`: what the workers of one pool share.

It is not the pool itself, so that a pool which its users have dropped can be collected, and closed,
while its workers are still there: workers and tasks refer to the scheduler, the pool refers to it
too, and nothing refers to the pool.

It is one object, so that a submission finds all it needs with one look at each attribute. Its parts
stand on one another, lowest first: `Queues`, `Threads`, `Intake`, `Generators`, `LifeCycle`.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import ref

from fairpool._core.threads import cpu_count
from fairpool._locks.waiters import ThreadWaiter
from fairpool._scheduler.caller import Helper, LastCaller
from fairpool._scheduler.intake import Backlog
from fairpool._scheduler.lifecycle import LifeCycle
from fairpool._scheduler.process import exiting, live_entries
from fairpool._scheduler.threads import SPARE_WORKERS_MAX
from fairpool._scheduler.worker import Worker


class Scheduler(LifeCycle):
    """The queues, the workers and the state of one pool."""

    __slots__ = ("__weakref__", "helper_candidates", "lends")

    workers: list[Worker]  # type: ignore[assignment]  # all that `_make_worker` makes, and callers

    def __init__(
        self,
        max_workers: int,
        prefix: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[object, ...],
        max_pending: int | None,
        idle_timeout: float,
        lend: bool,
    ) -> None:
        self.max_workers = max_workers
        # What needs an initialized thread is not run on one that is not.
        self.lends = lend and initializer is None
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
        live_entries.add(ref(self, live_entries.discard))
        if reasons := exiting.copy():  # made by a thread that runs on while Python ends
            self.close(reasons[0])

    def _reset(self) -> None:
        super()._reset()
        # Threads that wait for a lock here, and may be lent (`ThreadEntry.recruit_helper`).
        self.helper_candidates: dict[ThreadWaiter, None] = {}

    def _make_worker(self, name: str) -> Worker:
        return Worker(self, name)

    def run_what_is_left(self) -> None:
        """As that of `LifeCycle`."""
        LastCaller(self).run()

    def lend(self, waiter: ThreadWaiter) -> None:
        """The calling thread, which waits with this waiter, was recruited: let it help."""
        helper = waiter.helper = Helper(self, waiter)
        helper.run()
        self.check_same_process()

    def __str__(self) -> str:
        state = "closed" if self.close_reason else "dropped" if self.ending else "open"
        queued = self.queued()
        return (
            f"{self._prefix}: {state}, {len(self.workers)} workers "
            f"(max_workers={self.max_workers}), {queued} tasks queued"
        )
