"""The end of a step: its task is settled, and the worker may go on with what waited for it."""

from __future__ import annotations

from asyncio import CancelledError
from logging import WARNING

from fairpool._core.foreign import describe, traceback_of, with_traceback
from fairpool._core.report import log
from fairpool._core.room import SHORT_OF_ROOM
from fairpool._core.types import NativeCoroutine, Runnable, T
from fairpool._tasks.cancel import AnyCancellable
from fairpool._tasks.coroutines import is_coroutine
from fairpool._tasks.future import AnyFuture, Derived
from fairpool._tasks.host import Pool
from fairpool._tasks.request import Leave
from fairpool._tasks.settling import fail, run_callback, run_callbacks, settle
from fairpool._tasks.state import CANCELLED, Final, Status


class Aggregate(Derived[T]):
    """A future that is a callback of tasks, and whose end may be the end of one of them."""

    __slots__ = ()

    def child_ended(self, child: AnyFuture, pool: Pool) -> Runnable | None:
        """A task of `pool` is final. Returns as `take_next`."""
        raise NotImplementedError


def settle_and_take_next(
    future: AnyFuture, state: Final, value: object, pool: Pool
) -> Runnable | None:
    """As `settle`, at the end of a step on a worker of `pool`. Returns as `take_next`."""
    # `settle`, written out.
    status: Status = future._status  # type: ignore[assignment]  # it is claimed
    future._value = value  # publish_value
    future._status = state  # publish_state
    status.reverse()  # publish_fence
    return take_next(future, status, pool) if status else None


# What a worker can run next: set once, by the modules that define these classes.
link_class: type | None = None
continuation_class: type | None = None


def take_next(future: AnyFuture, status: Status, pool: Pool) -> Runnable | None:
    """Call what waits for a final future; or return it, if it is one thing that can run next.

    It stays with this worker of `pool`, whose caches hold what it is about, and no other one is
    woken for it. Nothing of a user's runs between here and its step, so it is not kept waiting.
    """
    if len(status) > 1:
        run_callbacks(future, status)
        return None
    try:
        callback = status.pop()
    except IndexError:
        return None
    if status:  # recheck_others: one more has come, and `callback` may be that
        status.append(callback)
        run_callbacks(future, status)
        return None
    kind = type(callback)
    if kind is link_class:
        if callback._pool is pool:
            return callback  # type: ignore[no-any-return]
    elif kind is continuation_class:
        if callback.task._pool is pool:
            return callback if callback.disarm() else None
    elif issubclass(kind, Aggregate):
        return callback.child_ended(future, pool)  # type: ignore[no-any-return]
    elif future.holds_lock:
        status.append(callback)
        run_callbacks(future, status)
        return None
    run_callback(future, callback)
    return None


def fail_step(task: AnyCancellable, error: BaseException, source: object) -> None:
    """What a step of `task` has raised ends it."""
    if issubclass(type(error), SHORT_OF_ROOM):
        _release_locks(task)
    if issubclass(type(error), CancelledError) and is_coroutine(source):
        settle(task, CANCELLED, None)
        return
    # Without the frame of `run`: it is of no use in a traceback, and holds the arguments.
    trace = traceback_of(error)  # `without_frame`, written out: it needs no frame
    with_traceback(error, trace.tb_next if trace is not None else None)
    del trace
    fail(task, error, source)


def _release_locks(task: AnyCancellable) -> None:
    """Leave what a task is inside of that has ended without coming to its `__aexit__`.

    A coroutine is resumed from outside to inside, and where there is no room for an inner one, that
    ends without running any of its code.
    """
    for lock in task._pool.all_locks():
        owner = lock.owner
        if owner is not None and owner.task is task and not task.has_sources:
            lock.end_section()


def close_coroutine(coroutine: NativeCoroutine) -> None:
    """`coroutine.close()`, for one that takes locks.

    It may leave one on its way, and close in the next step.
    """
    try:
        while type(leave := coroutine.throw(GeneratorExit)) is Leave:
            leave.end_section()
    except BaseException:  # GeneratorExit, as a rule; nobody asks what it ends with
        pass
    else:
        log(WARNING, "%s ignored that it was to end", describe(coroutine))
