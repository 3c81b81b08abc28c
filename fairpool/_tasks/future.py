"""`Future`: one result, awaited by any number of threads, settled exactly once.

A `concurrent.futures.Future` in all that can be seen from outside, without the `Condition` that
the standard one makes at birth (three quarters of its cost). Protocol and proof:
`docs/protocols/future.md`.

The whole state is one attribute, `_cell`:

- a list: not final. Its first item is a tuple (the *work*) until someone claims it; the other items
  are *registrants*, callables that want to be called with the future once it is final.
- `FINISHED`, `FAILED` or `CANCELLED`: final, and `_value` holds the result or the `Failure`.

Guarantees:

- Of all that try to claim a future (a worker, a waiter that would run it inline, `cancel`), one
  gets the work: `list.pop(0)` is the arbiter.
- Every registrant is called exactly once, after the future is final: `list.pop` is the arbiter. In
  registration order, but for registrants that arrive at the very moment of completion.
- No step needs a lock, so every method may be called from any thread, from inside a callback, from
  a signal handler or from `__del__` in the middle of itself.
"""

from __future__ import annotations

import atexit
import gc
from asyncio import CancelledError as _TaskCancelledError
from asyncio import _get_running_loop, wrap_future
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures import Future as _StdFuture
from concurrent.futures import TimeoutError as _TimeoutError
from functools import partial
from logging import ERROR
from sys import getrefcount
from types import CoroutineType
from typing import Any, TypeVar

from fairpool._core.errors import stays_here
from fairpool._core.foreign import is_a, traceback_of, type_name, with_traceback
from fairpool._core.here import here
from fairpool._core.hooks import in_child_after_fork
from fairpool._core.report import log, log_failure, log_failure_now, wait_for_log
from fairpool._core.room import SHORT_OF_ROOM, need_stack
from fairpool._core.signals import acquire
from fairpool._core.threads import (
    FREE_THREADED,
    Condition,
    Lock,
    RLock,
    monotonic_ns,
    start_new_thread,
    yield_cpu,
)

__all__ = [
    "CANCELLED",
    "FAILED",
    "FINISHED",
    "LOOKS_BEFORE_PARKING",
    "Crowd",
    "Derived",
    "Failure",
    "Future",
    "Waiter",
    "call",
    "call_all",
    "call_registrants",
    "claim",
    "fail",
    "is_claimed",
    "is_final",
    "outcome_of",
    "publish_final",
    "put_back",
    "settle",
    "spin_wait",
    "wait",
    "wait_watchfully",
]

T = TypeVar("T")

# How often a thread looks at a future before it parks on it. A look with its `yield_cpu` is about
# 0.5 µs and a wake-up 30 to 100 µs (design notes), so this spends at most about one wake-up to save
# one. With the GIL, a thread that looks keeps the one it waits for from running.
LOOKS_BEFORE_PARKING = 60 if FREE_THREADED else 0

# So many registrants a future keeps in one list, from which one is taken out the slower the longer
# it is. What may be taken out again, and comes when there are more, goes into a `Crowd`.
CROWDED = 64

# Nanoseconds. A parked thread that is woken before this has waited for little more than its own
# wake-up, and would have seen the end while it looked.
SHORT_WAIT = 100_000


# Seconds. After so long, far more than a wake-up takes, a thread that waits looks once whether the
# worker that was woken is held up: see "Foreign code" in docs/protocols/parking.md.
TRUST = 0.002


class _Final:
    """A final state; compares by identity."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


FINISHED = _Final("FINISHED")
FAILED = _Final("FAILED")
CANCELLED = _Final("CANCELLED")

# The work of a future that no pool runs: somebody calls `set_running_or_notify_cancel` and
# `set_result` by hand.
_BY_HAND = ()


class Failure:
    """An exception on its way to whoever asks for the result; logged if nobody ever does.

    The traceback is kept beside the exception, because `raise` adds to `exception.__traceback__`
    each time: every `result()` starts again from the one kept here, so it does not grow.
    """

    __slots__ = ("exception", "retrieved", "source", "traceback")

    def __init__(self, exception: BaseException, source: object) -> None:
        self.retrieved = False
        self.exception = exception
        self.source = source
        self.traceback = traceback_of(exception)
        if not _failed:
            _failed.append(None)

    def __del__(self) -> None:
        if not getattr(self, "retrieved", True):  # unset: __init__ was interrupted
            log_failure(self.source, self.exception, self.traceback)

    @classmethod
    def handed_on(cls, future: Future[Any], source: object) -> Failure:
        """The failure of `future`, for another future that fails with it.

        With the traceback that it had there: `exception.__traceback__` may have grown in a thread
        that has just raised it, by frames which still run, and must not be looked at from another
        thread.
        """
        first = future._failure()
        failure = cls(first.exception, source)
        failure.traceback = first.traceback
        return failure


# Not empty once there was a failure.
_failed: list[None] = []


def log_at_exit() -> None:
    """Log the exceptions that nobody has retrieved while it was possible, nor will.

    At the end of the interpreter, because afterwards the modules are taken apart, and a finalizer
    finds nothing to log with.
    """
    if _failed:
        for each in gc.get_referrers(Failure):  # its instances among them
            if type(each) is Failure and not getattr(each, "retrieved", True):
                each.retrieved = True
                log_failure_now(each.source, each.exception, each.traceback)
    wait_for_log()


atexit.register(log_at_exit)
in_child_after_fork(_failed.clear)  # those are the parent's


class Waiter:
    """A registrant that wakes one thread. Made, and waited on, by the thread that will park."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()

    def __call__(self, future: Future[Any]) -> None:
        self._lock.release()

    def park(self, timeout: float | None, pool: Any) -> bool:
        """Park until called (True) or until `timeout` seconds have passed (False)."""
        began = monotonic_ns()
        woken = wait_watchfully(partial(acquire, self._lock), timeout, pool)
        # The next wait is likely to be as long as this one was.
        short = monotonic_ns() - began < SHORT_WAIT
        here.spin_limit = LOOKS_BEFORE_PARKING if short else here.spin_limit >> 1
        return woken


class _Callback:
    """A registrant that calls a user's function; what it raises is logged.

    An object of our own, because registrants are compared when one is taken out again, and a
    function of the user's may have an `__eq__` (A1).
    """

    __slots__ = ("_fn",)

    def __init__(self, fn: Callable[[Any], object]) -> None:
        self._fn = fn

    def __call__(self, future: Future[Any]) -> None:
        result = self._fn(future)
        if type(result) is CoroutineType:
            if getrefcount(result) <= 2:  # else somebody else has it, too
                result.close()
            raise TypeError("a callback returned a coroutine, which nobody runs: use then()")


class Crowd(dict[Callable[[Any], object], None]):
    """A registrant for many: those of one future that may be taken out again, beyond `CROWDED`.

    To join it: J1 item assignment; J2 if the future is final by now, take oneself out, and call
    late. It is called after the future has become final (D0): D1 `copy`, and whoever takes one of
    those out calls it. Either J1 was before D1, or D0 was before J2.
    """

    __slots__ = ("registered",)

    # Compared by identity, although it is a dict. All six, so that it is done in C (A1).
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __lt__, __le__ = object.__lt__, object.__le__  # type: ignore[operator]
    __gt__, __ge__ = object.__gt__, object.__ge__  # type: ignore[operator]

    def __init__(self) -> None:
        self.registered = False

    def leave(self, registrant: Callable[[Any], object]) -> bool:
        """Take this one out; False if it is not in here."""
        return self.pop(registrant, self) is None

    def __call__(self, future: Future[Any]) -> None:
        interrupt = None
        while self:
            for registrant in self.copy():  # D1
                if self.leave(registrant):
                    try:
                        call(future, registrant)
                    except KeyboardInterrupt as error:  # the others must not suffer from it
                        interrupt = error
        if interrupt is not None:
            raise interrupt


class _View:
    """What `concurrent.futures.wait` and `as_completed` look at: `_condition` and `_waiters`.

    They read `_state` and install a waiter while they hold `_condition`, and rely on it that the
    state does not become final meanwhile. So once a view exists, `_state` says that the future is
    final only after the view was told so, under its condition (`__call__`: a view is a registrant).
    """

    __slots__ = ("condition", "heard", "registered", "told", "waiters")

    def __init__(self, future: Future[Any]) -> None:
        self.condition = Condition(_ViewLock())  # type: ignore[arg-type]
        self.heard: list[Any] = []  # the waiters that were told
        self.waiters = _Waiters(future)
        self.registered = False
        self.told = False

    def __call__(self, future: Future[Any]) -> None:
        if future._cell is CANCELLED and future._pool is None and not future._is_notified():
            return  # who works the future by hand is still to notify: as in the standard library
        lock: Any = self.condition._lock  # type: ignore[attr-defined]
        if lock._is_owned():
            # A signal handler cancels the future, in the midst of a `wait` on the same thread.
            lock.on_release = partial(self, future)
            return
        need_stack()
        # Not `with self.condition`, which needs memory to leave. What fails in here is done again.
        lock.acquire()
        try:
            if self.told:
                return
            for waiter in self.waiters:
                if waiter not in self.heard:
                    _tell(waiter, future)
                    self.heard.append(waiter)
            self.told = True
            self.heard.clear()  # no cycle is left behind
            self.waiters.future = None
        finally:
            lock.release()


class _ViewLock:
    """An RLock that makes one call when it has been released for good.

    All else is the RLock's own, whatever the version of Python gives it (`locked` from 3.14 on).
    """

    __slots__ = ("_is_owned", "_lock", "acquire", "on_release")

    def __init__(self) -> None:
        self._lock = RLock()
        self.acquire = self._lock.acquire
        self._is_owned: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]
        self.on_release: Callable[[], object] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)

    def release(self) -> None:
        self._lock.release()
        if self.on_release is not None and not self._is_owned():
            self._released()

    def _release_save(self) -> Any:
        state = self._lock._release_save()  # type: ignore[attr-defined]
        if self.on_release is not None:
            self._released()
        return state

    def _released(self) -> None:
        call, self.on_release = self.on_release, None
        if call is not None:
            call()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


def _tell(waiter: Any, future: Future[Any]) -> None:
    """Tell a waiter of `concurrent.futures._base` that `future` is final."""
    if future._cell is FINISHED:
        waiter.add_result(future)
    elif future._cell is FAILED:
        waiter.add_exception(future)
    else:
        waiter.add_cancelled(future)


class _Waiters(list[Any]):
    """`Future._waiters`. A worker that installs a waiter is about to wait: it must not starve."""

    __slots__ = ("future",)

    def __init__(self, future: Future[Any]) -> None:
        self.future: Future[Any] | None = future

    def append(self, waiter: Any) -> None:
        if self.future is not None:
            host = self.future._pool if here.worker is None else here.worker
            if host is not None:
                host.adopt(waiter, self.future)
        list.append(self, waiter)


class Future(_StdFuture[T]):
    """The result of a computation that may not have happened yet.

    Has all that `concurrent.futures.Future` has, and can be used with `concurrent.futures.wait` and
    `as_completed` and with `asyncio.wrap_future`, also mixed with the standard library's futures.
    All methods may be called from any thread, from inside tasks and callbacks, and reentrantly.
    """

    __slots__ = ("_cell", "_pool", "_value")

    # _cell:  see the module. Written by whoever claimed the future, once, after `_value`.
    # _value: the result or the Failure. Written before `_cell` becomes final by the same thread; a
    #         reader sees the final `_cell` first, and CPython stores attributes with release order.
    # _pool:  what runs the work, or None. Written before the future is published.

    _cell: list[Any] | _Final
    _pool: Any
    _value: Any

    __reduce_ex__ = stays_here("pass on what its result() returns instead")

    def __init__(self) -> None:  # the base class's would make its Condition
        self._cell = [_BY_HAND]
        self._pool = None

    # --- asking ------------------------------------------------------------------------------

    def done(self) -> bool:
        """True if the future is final: finished, failed or cancelled."""
        return type(self._cell) is _Final

    def cancelled(self) -> bool:
        """True if the future was cancelled."""
        return self._cell is CANCELLED

    def running(self) -> bool:
        """True if the work has been started and has not ended."""
        cell = self._cell
        return type(cell) is list and not _unclaimed(cell)

    def result(self, timeout: float | None = None) -> T:
        """Return the result, or raise the exception, that the work ended with.

        Waits for at most `timeout` seconds (None: for ever), then raises `TimeoutError`. Raises
        `CancelledError` if the future was cancelled. In a worker it never starves the pool: the
        work is run right here if it has not been started, else another worker takes this one's
        place for the time being; and it raises `DeadlockError` where it would wait for itself.
        """
        if self._cell is FINISHED:
            return self._value  # type: ignore[no-any-return]
        self._wait(timeout)
        if self._cell is FINISHED:
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
        if self._cell is FINISHED:
            return None
        return self._failure().exception

    def _failure(self) -> Failure:
        if self._cell is CANCELLED:
            raise CancelledError()
        failure: Failure = self._value
        failure.retrieved = True
        return failure

    def _wait(self, timeout: float | None) -> None:
        if type(self._cell) is _Final:
            return
        worker = here.worker
        wait_for = wait if worker is None else worker.wait_for
        try:
            if not wait_for(self, timeout):
                raise _TimeoutError()
        finally:
            del self  # what it raises may lead to this frame: no cycle

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result without blocking: in a task of a pool, or in an asyncio loop.

        Raises what the work raised, and `asyncio.CancelledError` if the future was cancelled.
        """
        if type(self._cell) is list:
            loop = _get_running_loop()
            if loop is not None:
                wrapped = [wrap_future(self, loop=loop)]
                del self  # no cycle: see below
                return (yield from wrapped.pop().__await__())
            while type(self._cell) is list:  # a wake-up is a hint
                yield self
        if self._cell is CANCELLED:
            raise _TaskCancelledError
        try:
            return self.result()
        finally:
            del self  # what is raised holds this frame: no cycle

    def _suspend(self, continuation: Any) -> None:
        """Called by the worker of a coroutine that has yielded this future."""
        self.register_for_now(continuation)

    def put_back(self, registrant: Any) -> None:
        """Called when a claim has taken out `registrant` and put it back."""

    # --- as a node of the wait-for graph (`_core.waitgraph`) -----------------------------------

    # Whether this is a kind of future that cannot be final before others are, its `sources()`.
    has_sources = False

    @property
    def relation(self) -> str:
        return " waits for "

    def waits_at(self, awaited: object) -> str:
        """Where in its code it waits for `awaited`: a coroutine knows."""
        return ""

    # Whether its callbacks would be called with a lock in the hands of the calling worker, and are
    # to be handed on instead.
    holds_lock = False

    def hand_on(self, callbacks: list[_Callback]) -> None:
        """Have these called by a worker that holds nothing."""
        raise NotImplementedError

    def sources(self) -> tuple[Future[Any], ...]:
        """The futures that all have to be final before this one can be, as far as is known."""
        return ()

    # --- chains ------------------------------------------------------------------------------

    def then(
        self,
        on_result: Callable[[T], Any],
        on_error: Callable[[BaseException], Any] | None = None,
        *,
        lock: Any = None,
    ) -> Future[Any]:
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
        self, on_error: Callable[[BaseException], Any], *types: type[BaseException]
    ) -> Future[Any]:
        """As `then`, but called only if this future fails, with one of `types` (Exception)."""
        if not callable(on_error):
            raise TypeError(f"catch() takes a callable, not {on_error!r}")
        for kind in types:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"catch() takes exception types after the function, not {kind!r}")
        return self._link(None, on_error, types or (Exception,), None)

    def finally_(self, fn: Callable[[], Any]) -> Future[T]:
        """Have `fn()` called once this future is final, however; the new future has its outcome.

        If `fn` raises, or the future or the coroutine that it returns fails, that is the outcome.
        """
        if not callable(fn):
            raise TypeError(f"finally_() takes a callable, not {fn!r}")
        return self._link(None, None, (), fn)

    def _link(
        self,
        on_result: Callable[[T], Any] | None,
        on_error: Callable[[BaseException], Any] | None,
        types: tuple[type[BaseException], ...],
        in_any_case: Callable[[], Any] | None,
        lock: Any = None,
    ) -> Future[Any]:
        if lock is not None:
            make = getattr(lock, "link", None)
            if make is None:
                raise TypeError(f"then() takes a lock of a FairPool, not {lock!r}")
            made: Future[Any] = make(self, on_result, on_error)
            return made
        pool = self._pool
        if pool is None:
            worker = here.worker
            if worker is None:
                raise RuntimeError(
                    f"no pool to run this on: {self!r} belongs to none; use it in a task"
                )
            pool = worker.scheduler
        link: Future[Any] = pool.link(self, on_result, on_error, types, in_any_case)
        return link

    # --- being told --------------------------------------------------------------------------

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Have `fn(future)` called once the future is final: at once if it is already.

        Callbacks are called in the order of their registration, by the thread that ended the work.
        One that raises, whatever it raises, is logged and harms nobody else.
        """
        if not callable(fn):
            raise TypeError(f"add_done_callback() takes a callable, not {fn!r}")
        self._register(_Callback(fn))

    def _register(self, registrant: Callable[[Any], object]) -> None:
        cell = self._cell
        if type(cell) is list:
            cell.append(registrant)  # R1
            if type(self._cell) is list:  # R2: see docs/protocols/future.md
                return
            _call_late(self, cell, registrant)
        else:
            call(self, registrant)

    def register_for_now(self, registrant: Callable[[Any], object]) -> None:
        """As `_register`, for one that may be taken out again, and is not in there yet."""
        cell = self._cell
        if type(cell) is not list:
            call(self, registrant)
        elif len(cell) > CROWDED:
            self._join_crowd(registrant)
        else:
            cell.append(registrant)  # R1
            if type(self._cell) is not list:  # R2
                _call_late(self, cell, registrant)

    def _join_crowd(self, registrant: Callable[[Any], object]) -> None:
        crowd: Crowd = self.__dict__.setdefault("_crowd", Crowd())  # A1: one for all
        crowd[registrant] = None  # J1
        if type(self._cell) is not list:  # J2
            if crowd.leave(registrant):
                call(self, registrant)
        elif not crowd.registered:
            # Not only whoever made it does this: that thread may have been interrupted in between.
            self._register(crowd)
            crowd.registered = True

    def _unregister(self, registrant: Callable[[Any], object]) -> None:
        """Forget a registrant that has not been called yet, if it is still there."""
        cell = self._cell
        if type(cell) is not list:
            return
        if len(cell) > CROWDED and self._leave_crowd(registrant):
            return
        try:
            cell.remove(registrant)
        except ValueError:
            self._leave_crowd(registrant)

    def _leave_crowd(self, registrant: Callable[[Any], object]) -> bool:
        crowd: Crowd | None = self.__dict__.get("_crowd")
        return crowd is not None and crowd.leave(registrant)

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
            view = self.__dict__.get("_view")
            if view is not None:
                view(self)
            return False
        raise RuntimeError(f"future in unexpected state: {self!r} has been started before")

    def set_result(self, result: T) -> None:
        """End the future with a result, by hand. Raises `InvalidStateError` if it is final."""
        self._end_by_hand()
        settle(self, FINISHED, result)

    def set_exception(self, exception: BaseException | None) -> None:
        """End the future with an exception, by hand. Raises `InvalidStateError` if it is final."""
        if exception is None:  # the standard library takes None for "no exception"
            self._end_by_hand()
            settle(self, FINISHED, None)
            return
        if not is_a(exception, BaseException):
            raise TypeError(f"set_exception() takes an exception, not {exception!r}")
        self._end_by_hand()
        fail(self, exception, "a future that was set by hand")  # not `self`: that were a cycle

    def _begin(self, how: object) -> object:
        """Start the future by hand, or cancel it: the first decides, and all see its `how`."""
        return self.__dict__.setdefault("_begun", how)  # A1: the arbiter

    def _end_by_hand(self) -> None:
        """Win the right to settle this future, or raise."""
        self._refuse()
        first = self.__dict__.setdefault("_ended", token := object())  # A1: the arbiter
        if first is not token or self._begin(token) == "cancelled":
            raise InvalidStateError(f"{self._state}: {self!r}")
        claim(self)

    def _refuse(self) -> None:
        """Raise where it is not for users to end this future."""
        if self._pool is not None:
            raise InvalidStateError(f"{self!r} belongs to a pool, which alone sets its result")

    def _is_notified(self) -> bool:
        return "_notified" in self.__dict__

    # --- what concurrent.futures.wait and as_completed use ---------------------------------------

    def _get_view(self) -> _View:
        if type(self._cell) is list and self._pool is not None:
            self._pool.check_same_process()
        view: _View | None = self.__dict__.get("_view")
        if view is None:
            view = self.__dict__.setdefault("_view", _View(self))  # A1: one view for all
        if not view.registered:
            # Not only whoever made the view registers it: that thread may have been interrupted in
            # between. Telling a view twice is harmless.
            self._register(view)
            view.registered = True
        return view

    @property
    def _condition(self) -> Any:  # type: ignore[override]
        return self._get_view().condition

    @property
    def _waiters(self) -> Any:  # type: ignore[override]
        return self._get_view().waiters

    @property
    def _state(self) -> str:  # type: ignore[override]
        cell = self._cell
        if type(cell) is list:
            return "PENDING" if _unclaimed(cell) else "RUNNING"
        if cell is CANCELLED and self._pool is None and not self._is_notified():
            return "CANCELLED"
        view = self.__dict__.get("_view")
        if view is not None and not view.told:
            return "RUNNING"  # final, but whoever holds the condition must not see that yet
        return "CANCELLED_AND_NOTIFIED" if cell is CANCELLED else "FINISHED"

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """(done, cancelled, result, exception), for `asyncio` from 3.15 on."""
        cell = self._cell
        if type(cell) is list:
            return False, False, None, None
        if cell is FINISHED:
            return True, False, self._value, None
        if cell is CANCELLED:
            return True, True, None, None
        return True, False, None, self._failure().exception

    # --- showing it --------------------------------------------------------------------------

    def _describe(self) -> str:
        return ""

    def __repr__(self) -> str:
        cell = self._cell
        if type(cell) is list:
            state = "pending" if _unclaimed(cell) else "running"
        elif cell is FINISHED:
            state = f"finished returned {type_name(self._value)}"
        elif cell is FAILED:
            state = f"finished raised {type_name(self._value.exception)}"
        else:
            state = "cancelled"
        what = self._describe()
        return f"<{type_name(self)} at {id(self):#x} {what + ' ' if what else ''}state={state}>"


class Derived(Future[T]):
    """A future that the package ends, out of others: nobody works it by hand."""

    __slots__ = ()

    def cancel(self) -> bool:
        """Cancel this future; return whether it is cancelled.

        Of two calls at the very same time, one may return False although the other is about to
        cancel it.
        """
        need_stack(6)  # what follows the claim takes
        if claim(self) is None:
            return self._cell is CANCELLED
        settle(self, CANCELLED, None)
        return True

    def _refuse(self) -> None:
        raise InvalidStateError(f"{self!r} ends when what it waits for does, and not by hand")

    def _is_notified(self) -> bool:
        return True  # a cancellation is final at once: nobody else is to be told


# --- the protocol: module-level functions, because they are on every task's path ------------------


def is_final(future: Future[Any]) -> bool:
    """`future.done()` without a method call."""
    return type(future._cell) is _Final


def is_claimed(future: Future[Any]) -> bool:
    """Whether somebody has claimed the future, or it is final."""
    cell = future._cell
    return type(cell) is not list or not _unclaimed(cell)


def _unclaimed(cell: list[Any]) -> bool:
    try:
        return type(cell[0]) is tuple
    except IndexError:
        return False


def outcome_of(future: Future[Any], source: object) -> tuple[_Final, Any]:
    """How a final future has ended: its state, and its result or Failure.

    `source`: what the Failure is one of.
    """
    if future._cell is FAILED:
        return FAILED, Failure.handed_on(future, source)
    state: Any = future._cell
    return state, future._value


def claim(future: Future[Any]) -> tuple[Any, ...] | None:
    """The work of `future`, to the first who asks; None to everyone else."""
    cell = future._cell
    if type(cell) is not list:
        return None
    try:
        first = cell.pop(0)
    except IndexError:
        return None  # claimed, and nobody has registered
    if type(first) is tuple:
        return first
    put_back(future, cell, first)
    return None


def put_back(future: Future[Any], cell: list[Any], registrant: Any) -> None:
    """What a claim took was a registrant: the future had been claimed before.

    From here it is like any registrant that arrives late, and gets the same second look (R2).
    """
    cell.insert(0, registrant)
    if type(future._cell) is not list:
        _call_late(future, cell, registrant)
    else:
        future.put_back(registrant)


def publish_final(future: Future[Any], state: _Final, value: Any) -> list[Any]:
    """Make a claimed future final, once; return what is to be called for it.

    The only place where this is done, but for the copies on hot paths in `Task.run`, `Link.run` and
    `settle_and_take_next` (two calls less are 5 % of a submit). A test holds them equal.
    """
    cell: Any = future._cell
    future._value = value  # publish_value
    future._cell = state  # publish_state
    # publish_fence: `reverse` takes the list's mutex. A `recheck` whose `append` comes after it
    # sees the final state. It also makes `pop` take the oldest registrant first.
    cell.reverse()
    return cell  # type: ignore[no-any-return]


def settle(future: Future[Any], state: _Final, value: Any) -> None:
    """End a claimed future in this final state, and call its registrants."""
    registrants = publish_final(future, state, value)
    if registrants:
        try:
            call_registrants(future, registrants)
        except SHORT_OF_ROOM:  # none was called
            start_new_thread(call_registrants, (future, registrants))


def fail(future: Future[Any], error: BaseException, source: object) -> None:
    """End a claimed future with an exception that `source` (a function, say) raised."""
    settle(future, FAILED, Failure(error, source))


def call_registrants(future: Future[Any], cell: list[Any]) -> None:
    """Call the registrants of a final future, callbacks last. Several threads may do so at once.

    Those for which there is no room on this stack are called on another one.
    """
    callbacks: list[_Callback] = []
    interrupt = None
    while cell or callbacks:
        registrant: Any = None
        try:
            if cell:
                registrant = cell.pop()  # the arbiter: each registrant is called by one thread
                if type(registrant) is _Callback:
                    callbacks.append(registrant)
                    continue
            else:
                # Last, because a callback may take long, or need what a waiter does next.
                if future.holds_lock:
                    future.hand_on(callbacks)
                    callbacks = []
                    continue
                registrant = callbacks.pop(0)
            call(future, registrant)
        except IndexError:
            continue
        except KeyboardInterrupt as error:  # the others must not suffer from it
            interrupt = error
        except SHORT_OF_ROOM:
            if registrant is None:
                raise
            start_new_thread(call, (future, registrant))
    if interrupt is not None:
        raise interrupt


def call_all(future: Future[Any], callbacks: list[_Callback]) -> None:
    """Call these callbacks of a final future."""
    for callback in callbacks:
        call(future, callback)


def call(future: Future[Any], registrant: Callable[[Any], object]) -> None:
    try:
        registrant(future)
    except BaseException as error:
        # SystemExit too: a callback has no say over the thread that it happens to run on. Only
        # Ctrl-C is meant for the thread, if it is one of the user's.
        if issubclass(type(error), KeyboardInterrupt) and here.worker is None:
            raise
        if issubclass(type(error), SHORT_OF_ROOM):
            trace = traceback_of(error)
            # Ours do all or nothing. A user's function may have begun, if it was called at all.
            if type(registrant) is not _Callback or trace is None or trace.tb_next is None:
                del trace
                start_new_thread(call, (future, registrant))
                return
            del trace
        try:
            need_stack()
            _log_error_in_callback(future, error)
        except SHORT_OF_ROOM:
            start_new_thread(_log_error_in_callback, (future, error))


def _log_error_in_callback(future: Future[Any], error: BaseException) -> None:
    exc_info = (type(error), error, traceback_of(error))
    log(ERROR, "exception calling callback for %r", future, exc_info=exc_info)


def _call_late(future: Future[Any], cell: list[Any], registrant: Any) -> None:
    """A registrant that went into the list when the future was final already, or nearly so."""
    try:
        cell.remove(registrant)  # against whoever settles: one of the two gets it
    except ValueError:
        return
    call(future, registrant)


def spin_wait(future: Future[Any]) -> bool:
    """Look at a future for a while, before parking on it; return whether it is final.

    A thread whose last waits were long looks for a shorter while (see `Waiter.park`): where tasks
    are long, it would only take the processor from those that run them.
    """
    for _ in range(min(here.spin_limit, LOOKS_BEFORE_PARKING)):
        if type(future._cell) is _Final:
            return True
        yield_cpu()
    return False


def wait_watchfully(wait: Callable[[float | None], bool], timeout: float | None, pool: Any) -> bool:
    """`wait(timeout)`, with a look in between whether a worker of `pool` is held up."""
    if pool is None or (timeout is not None and timeout <= TRUST):
        return wait(timeout)
    if wait(TRUST):
        return True
    pool.distrust_searchers()
    return wait(None if timeout is None else timeout - TRUST)


def wait(future: Future[Any], timeout: float | None) -> bool:
    """Wait on a thread that is no worker; return whether the future is final."""
    if timeout is None or timeout > 0:
        if spin_wait(future):
            return True
    elif type(future._cell) is list:
        return False
    if future._pool is not None:
        future._pool.check_same_process()
    waiter = Waiter()
    future.register_for_now(waiter)
    try:
        return waiter.park(timeout, future._pool) or type(future._cell) is _Final
    finally:
        future._unregister(waiter)
