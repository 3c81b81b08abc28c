"""`Task`: a future together with the work that will end it.

One object, not a future and a work item: what is never made is never freed. A task is queued, is
claimed by one worker (or cancelled), and is run in its own copy of the submitter's context.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fairpool._future import (
    CANCELLED,
    FAILED,
    FINISHED,
    Failure,
    Future,
    claim,
    conclude,
    describe,
    fail,
    put_back,
    settle,
)

__all__ = ["Task"]

T = TypeVar("T")


class Task(Future[T]):
    """What `FairPool.submit` returns."""

    __slots__ = ()

    # Whoever makes a task sets its slots, once, before it is published:
    #   _pool  the scheduler
    #   _cell  [(context, fn, args, kwargs or None, backlog or None)]
    # A Python-level `__init__` would cost as much as all of its stores.
    __init__ = object.__init__

    def run(self, worker: Any) -> bool:
        """Claim this task and run it to its end, on the calling worker; False if it was claimed
        before.

        Raises nothing of the task's. What follows is `claim` and `finish` of `_future`, written
        out: this is the path of every task.
        """
        cell = self._cell
        try:
            work = cell.pop(0)  # type: ignore[union-attr]
        except (IndexError, AttributeError):  # claimed, or final
            return False
        if type(work) is not tuple:
            put_back(self, cell, work)  # type: ignore[arg-type]
            return False
        context, fn, args, kwargs, backlog = work
        worker.task = self
        worker.fn = fn
        if backlog is not None:
            backlog.leave()
        try:
            if kwargs is not None:
                result = context.run(fn, *args, **kwargs)
            elif args:
                result = context.run(fn, *args)
            else:  # without a star it is half the price
                result = context.run(fn)
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: they are the task's
            # This frame is of no use to whoever reads the traceback, and holds `work`.
            trace = error.__traceback__
            error.__traceback__ = trace.tb_next if trace is not None else None
            del trace
            fail(self, error, fn)
            del self, work, args, kwargs  # what `error` holds leads back to this frame: no cycle
        else:
            self._value = result
            self._cell = FINISHED
            cell.reverse()  # type: ignore[union-attr]
            if cell:
                settle(self, cell)  # type: ignore[arg-type]
        return True

    def cancel(self) -> bool:
        """Cancel the task if it has not been started; return whether it is cancelled.

        Of two calls at the very same time, one may return False although the other is about to
        cancel.
        """
        work = claim(self)
        if work is None:
            return self.cancelled()
        if work[4] is not None:
            work[4].leave()
        conclude(self, CANCELLED, None)
        return True

    def abandon(self, error: BaseException) -> None:
        """End the task with an error that has been reported, if it has not been started."""
        work = claim(self)
        if work is not None:
            if work[4] is not None:
                work[4].leave()
            failure = Failure(error, work[1])
            failure.retrieved = True
            conclude(self, FAILED, failure)

    def _describe(self) -> str:
        cell = self._cell
        try:
            work = cell[0]  # type: ignore[index]
        except (IndexError, TypeError):
            return ""
        return describe(work[1]) if type(work) is tuple else ""
