"""`Future`: one result, awaited by any number of threads, settled exactly once.

A `concurrent.futures.Future` in all that can be seen from outside, without the `Condition` that
the standard one makes at birth (three quarters of its cost). Its state is in `state`, its claim and
its end in `settling`, its callbacks in `callbacks`. Protocol and proof: `docs/protocols/future.md`.
"""

from __future__ import annotations

from asyncio import CancelledError as _TaskCancelledError
from asyncio import _get_running_loop, wrap_future
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures import TimeoutError as _TimeoutError
from typing import Any

from fairpool._core.errors import stays_here
from fairpool._core.foreign import is_a, type_name, with_traceback
from fairpool._core.here import here
from fairpool._core.room import need_stack
from fairpool._core.threads import Condition
from fairpool._core.types import T
from fairpool._tasks.callbacks import CallbackFuture
from fairpool._tasks.condition import StdWaiters, adapter_of
from fairpool._tasks.failure import Failure
from fairpool._tasks.host import Pool, Worker
from fairpool._tasks.settling import UserCallback, claim, fail, settle
from fairpool._tasks.state import (
    BY_HAND,
    CANCELLED,
    FAILED,
    FINISHED,
    Callback,
    Final,
    is_unclaimed,
)
from fairpool._tasks.thread_wait import wait


class Future(CallbackFuture[T]):
    """The result of a computation that may not have happened yet.

    Has all that `concurrent.futures.Future` has, and can be used with `concurrent.futures.wait` and
    `as_completed` and with `asyncio.wrap_future`, also mixed with the standard library's futures.
    All methods may be called from any thread, from inside tasks and callbacks, and reentrantly.
    """

    __slots__ = ()

    __reduce_ex__ = stays_here("pass on what its result() returns instead")

    def __init__(self) -> None:  # the base class's would make its Condition
        self._status = [BY_HAND]
        self._pool = None

    # --- asking ------------------------------------------------------------------------------

    def done(self) -> bool:
        """True if the future is final: finished, failed or cancelled."""
        return type(self._status) is Final

    def cancelled(self) -> bool:
        """True if the future was cancelled."""
        return self._status is CANCELLED

    def running(self) -> bool:
        """True if the work has been started and has not ended."""
        status = self._status
        return type(status) is list and not is_unclaimed(status)

    def result(self, timeout: float | None = None) -> T:
        """Return the result, or raise the exception, that the work ended with.

        Waits for at most `timeout` seconds (None: for ever), then raises `TimeoutError`. Raises
        `CancelledError` if the future was cancelled. In a worker it never starves the pool: the
        call is run right here if it has not been started, else another worker takes this one's
        place for the time being; and it raises `DeadlockError` where it would wait for itself.
        """
        if self._status is FINISHED:
            return self._value  # type: ignore[no-any-return]
        self._wait(timeout)
        if self._status is FINISHED:
            return self._value  # type: ignore[no-any-return]
        failure = self._failure()
        try:
            raise with_traceback(failure.exception, failure.traceback)
        finally:
            # The exception's traceback holds this frame: no reference back to it may stay.
            del failure
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception that the work ended with, or None. Waits and raises as `result`."""
        self._wait(timeout)
        if self._status is FINISHED:
            return None
        return self._failure().exception

    def _failure(self) -> Failure:
        if self._status is CANCELLED:
            raise CancelledError()
        failure: Failure = self._value
        failure.retrieved = True
        return failure

    def _wait(self, timeout: float | None) -> None:
        if type(self._status) is Final:
            return
        worker: Worker | None = here.worker
        wait_for = wait if worker is None else worker.wait_for
        try:
            if not wait_for(self, timeout):
                raise _TimeoutError()
        finally:
            del self  # what it raises may lead to this frame: no cycle

    def __await__(self) -> Generator[object, None, T]:
        """Wait for the result without blocking: in a task of a pool, or in an asyncio loop.

        Raises the exception of the work, and `asyncio.CancelledError` if the future was cancelled.
        """
        if type(self._status) is list:
            loop = _get_running_loop()
            if loop is not None:
                wrapped = [wrap_future(self, loop=loop)]
                del self  # no cycle: see below
                return (yield from wrapped.pop().__await__())
            while type(self._status) is list:  # a wake-up is a hint
                yield self
        if self._status is FINISHED:
            return self._value  # type: ignore[no-any-return]
        if self._status is CANCELLED:
            raise _TaskCancelledError
        try:
            return self.result()
        finally:
            del self  # the traceback holds this frame: no cycle

    def _suspend(self, continuation: Callback) -> None:
        """Called by the worker of a coroutine that has yielded this future."""
        self.register_for_now(continuation)

    # --- chains ------------------------------------------------------------------------------

    def then(
        self,
        on_result: Callable[[T], object],
        on_error: Callable[[BaseException], object] | None = None,
        *,
        lock: object = None,
    ) -> AnyFuture:
        """Have `on_result(result)` called by a worker, and return the Future of what it returns.

        If this future fails, `on_error(exception)` is called instead, if it is given; else the new
        future fails likewise, and if this one is cancelled, so is the new one. What is called may
        return a future or a coroutine: the new future then has the outcome of that. It runs on the
        pool of this future (or of the current task), in a copy of the current context.
        `lock`: makes this step a critical section of that lock, on the lock's pool.
        """
        if not callable(on_result):
            raise TypeError(f"then() takes a callable, not {on_result!r}")
        if on_error is not None and not callable(on_error):
            raise TypeError(f"then() takes a callable as on_error, not {on_error!r}")
        return self._link(on_result, on_error, (BaseException,), None, lock)

    def catch(
        self, on_error: Callable[[BaseException], object], *types: type[BaseException]
    ) -> AnyFuture:
        """As `then`, but called only if this future fails, with one of `types` (Exception)."""
        if not callable(on_error):
            raise TypeError(f"catch() takes a callable, not {on_error!r}")
        for kind in types:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"catch() takes exception types after the function, not {kind!r}")
        return self._link(None, on_error, types or (Exception,), None)

    def finally_(self, fn: Callable[[], object]) -> Future[T]:
        """Have `fn()` called once this future is final, however; the new future has its outcome.

        If `fn` raises, or the future or the coroutine that it returns fails, that is the outcome.
        """
        if not callable(fn):
            raise TypeError(f"finally_() takes a callable, not {fn!r}")
        return self._link(None, None, (), fn)

    def _link(
        self,
        on_result: Callable[[T], object] | None,
        on_error: Callable[[BaseException], object] | None,
        types: tuple[type[BaseException], ...],
        in_any_case: Callable[[], object] | None,
        lock: object = None,
    ) -> AnyFuture:
        if lock is not None:
            make = getattr(lock, "link", None)
            if make is None:
                raise TypeError(f"then() takes a lock of a FairPool, not {lock!r}")
            made: AnyFuture = make(self, on_result, on_error)
            return made
        pool: Pool | None = self._pool
        if pool is None:
            worker: Worker | None = here.worker
            if worker is None:
                raise RuntimeError(
                    f"no pool to run this on: {self!r} belongs to none; use it in a task"
                )
            pool = worker.scheduler
        link: AnyFuture = pool.link(self, on_result, on_error, types, in_any_case)
        return link

    # --- being told --------------------------------------------------------------------------

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Have `fn(future)` called once the future is final: at once if it is already.

        Callbacks are called in the order of their registration, by the thread that ended the work.
        One that raises, whatever it raises, is logged and harms nobody else.
        """
        if not callable(fn):
            raise TypeError(f"add_done_callback() takes a callable, not {fn!r}")
        self._register(UserCallback(fn))

    # --- ending it ---------------------------------------------------------------------------

    # These are for futures that are worked by hand, and are made by calling the class. What pools
    # make is a Task, which overrides `cancel`, and has its result set by its worker alone.

    def cancel(self) -> bool:
        """Cancel the work if it has not been started; return whether the future is cancelled."""
        if self._begin("cancelled") == "cancelled":
            if claim(self) is not None:
                settle(self, CANCELLED, None)
            return True
        return False

    def set_running_or_notify_cancel(self) -> bool:
        """Claim the work by hand. False if the future was cancelled, and so is not to be run."""
        self._refuse()
        if self._begin(token := object()) is token:
            claim(self)
            return True
        if self._begin(None) == "cancelled" and not self._is_notified():
            self.__dict__["_notified"] = True
            adapter = self.__dict__.get("_adapter")
            if adapter is not None:
                adapter(self)
            return False
        raise RuntimeError(f"future in unexpected state: {self!r} has been started before")

    def set_result(self, result: T) -> None:
        """End the future with a result, by hand. Raises `InvalidStateError` if it is final."""
        self._end_by_hand()
        settle(self, FINISHED, result)

    def set_exception(self, exception: BaseException | None) -> None:
        """End the future with an exception, by hand. Raises `InvalidStateError` if it is final."""
        if exception is not None and not is_a(exception, BaseException):
            raise TypeError(f"set_exception() takes an exception, not {exception!r}")
        self._end_by_hand()
        if exception is None:  # the standard library takes None for "no exception"
            settle(self, FINISHED, None)
        else:
            fail(self, exception, "a future that was set by hand")  # not `self`: that were a cycle

    def _begin(self, how: object) -> object:
        """Start the future by hand, or cancel it: the first decides, and all see its `how`."""
        return self.__dict__.setdefault("_begun", how)  # decides

    def _end_by_hand(self) -> None:
        """Win the right to settle this future, or raise."""
        self._refuse()
        first = self.__dict__.setdefault("_ended", token := object())  # decides
        if first is not token or self._begin(token) == "cancelled":
            raise InvalidStateError(f"{self._state}: {self!r}")
        claim(self)

    def _refuse(self) -> None:
        """Raise where it is not for users to end this future."""
        if self._pool is not None:
            raise InvalidStateError(f"{self!r} belongs to a pool, which alone sets its result")

    # --- what concurrent.futures.wait and as_completed use ---------------------------------------

    @property
    def _condition(self) -> Condition:  # type: ignore[override]
        return adapter_of(self).condition

    @property
    def _waiters(self) -> StdWaiters:  # type: ignore[override]
        return adapter_of(self).waiters

    @property
    def _state(self) -> str:  # type: ignore[override]
        status = self._status
        if type(status) is list:
            return "PENDING" if is_unclaimed(status) else "RUNNING"
        if status is CANCELLED and self._pool is None and not self._is_notified():
            return "CANCELLED"
        adapter = self.__dict__.get("_adapter")
        if adapter is not None and not adapter.told:
            return "RUNNING"  # final, but the holder of the condition must not see that yet
        return "CANCELLED_AND_NOTIFIED" if status is CANCELLED else "FINISHED"

    def _get_snapshot(self) -> tuple[bool, bool, T | None, BaseException | None]:
        """(done, cancelled, result, exception), for `asyncio` from 3.15 on."""
        status = self._status
        if type(status) is list:
            return False, False, None, None
        if status is FAILED:
            return True, False, None, self._failure().exception
        return True, status is CANCELLED, self._value, None

    # --- showing it --------------------------------------------------------------------------

    def __repr__(self) -> str:
        status = self._status
        if type(status) is list:
            state = "pending" if is_unclaimed(status) else "running"
        elif status is FINISHED:
            state = f"finished returned {type_name(self._value)}"
        elif status is FAILED:
            state = f"finished raised {type_name(self._value.exception)}"
        else:
            state = "cancelled"
        what = self._describe()
        return f"<{type_name(self)} at {id(self):#x} {what + ' ' if what else ''}state={state}>"


# Where the type of the result does not matter.
AnyFuture = Future[Any]


class Derived(Future[T]):
    """A future that the package ends: nobody works it by hand."""

    __slots__ = ()

    def cancel(self) -> bool:
        """Cancel this future; return whether it is cancelled.

        Of two calls at the very same time, one may return False although the other is about to
        cancel it.
        """
        need_stack(6)  # what follows the claim takes
        if claim(self) is None:
            return self._status is CANCELLED
        settle(self, CANCELLED, None)
        return True

    def _refuse(self) -> None:
        raise InvalidStateError(f"{self!r} ends when what it waits for does, and not by hand")

    def _is_notified(self) -> bool:
        return True  # a cancellation is final at once: nobody else is to be told
