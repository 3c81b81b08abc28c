"""`Backlog`: a bound on the tasks of a pool that have not been started."""

from __future__ import annotations

from itertools import count
from queue import Empty, SimpleQueue

from fairpool._core.here import here
from fairpool._core.signals import get
from fairpool._scheduler.blocking import blocked
from fairpool._scheduler.intake import Intake

__all__ = ["Backlog"]


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
