"""`Task`: a future together with the work that will end it.

One object, not a future and a work item: what is never made is never freed. A task is queued, is
claimed by one worker (or cancelled), and is run in its own copy of the submitter's context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any, TypeVar

from fairpool._future import CANCELLED, FAILED, Failure, Future, claim, conclude, describe, fail, finish

__all__ = ["Task", "make_task", "run_claimed"]

T = TypeVar("T")


class Task(Future[T]):
    """What `FairPool.submit` returns."""

    __slots__ = ()

    # `make_task` sets the slots itself: a call of a Python-level `__init__` costs as much as
    # all of its stores.
    __init__ = object.__init__  # type: ignore[assignment]

    def cancel(self) -> bool:
        """Cancel the task if it has not been started; return whether it is cancelled."""
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
            return describe(cell[0][1])  # type: ignore[index]
        except (IndexError, TypeError):
            return ""


def make_task(
    pool: Any,
    backlog: Any,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Task[Any]:
    """A task of `pool` that is to call `fn`, in a copy of the current context."""
    task: Task[Any] = Task()
    task._pool = pool
    task._cell = [(copy_context(), fn, args, kwargs, backlog)]
    return task


def run_claimed(task: Task[Any], work: tuple[Any, ...]) -> None:
    """Run a task that the calling worker has claimed, to its end. Raises nothing of the task's."""
    context, fn, args, kwargs, backlog = work
    if backlog is not None:
        backlog.leave()
    try:
        result = context.run(fn, *args, **kwargs) if kwargs else context.run(fn, *args)
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: they belong to the task
        # The frame of this function is of no use to whoever reads the traceback, and holds `work`.
        trace = error.__traceback__
        error.__traceback__ = trace.tb_next if trace is not None else None
        del trace
        fail(task, error, fn)
    else:
        finish(task, result)
