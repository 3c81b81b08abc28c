"""Claim and settle: the step that gives a future to one thread, and the step that ends it.

Guarantees:

- Of all that try to claim a future (a worker, a thread that would run it inline, `cancel`), one
  gets the call: `list.pop(0)` decides.
- Every callback is called exactly once, after the future is final: `list.pop` decides. In the order
  of registration, but for callbacks that arrive at the very moment of completion.
- No step needs a lock. So all of this may be called from any thread, from inside a callback, from
  a signal handler or from `__del__` in the midst of itself.

Module-level functions, because they are on every task's path. Protocol and proof:
`docs/protocols/future.md`.
"""

from __future__ import annotations

from logging import ERROR
from sys import getrefcount
from types import CoroutineType

from fairpool._core.foreign import traceback_of
from fairpool._core.here import here
from fairpool._core.report import log
from fairpool._core.room import SHORT_OF_ROOM, need_stack
from fairpool._core.threads import start_new_thread
from fairpool._tasks.failure import Failure
from fairpool._tasks.state import FAILED, AnyState, Call, Callback, Final, Outcome, Status


def claim(future: AnyState) -> Call | None:
    """Take the call of `future`: it goes to the first that asks, and None to all others."""
    status = future._status
    if type(status) is not list:
        return None
    try:
        # Once claimed, it stays so: then no callback is taken out, which might be looked for.
        if type(status[0]) is not tuple:
            return None
        first = status.pop(0)  # claim
    except IndexError:
        return None  # claimed, and without a callback
    except MemoryError:  # for the IndexError, or for a list that shrinks: then it is as it was
        return claim(future)
    if type(first) is tuple:
        return first
    put_back(future, status, first)
    return None


def put_back(future: AnyState, status: Status, callback: Callback) -> None:
    """A claim took a callback out of `status`: the future had been claimed before.

    From here on the callback is like any that arrives late, and `recheck` follows.
    """
    status.insert(0, callback)  # put_back
    if type(future._status) is not list:  # recheck
        run_late(future, status, callback)
    else:
        future.put_back(callback)


def settle(future: AnyState, state: Final, value: object) -> None:
    """End a claimed future in this final state, once, and call its callbacks.

    The only place where a result is published, but for the copies on hot paths in `Task.run`,
    `Task.end_first_step`, `Link.run` and `settle_and_take_next`: one call less is 2 % of a small
    task. A test holds them equal.
    """
    status: Status = future._status  # type: ignore[assignment]  # it is claimed
    future._value = value  # publish_value
    future._status = state  # publish_state
    # publish_fence: `reverse` takes the list's mutex. A `recheck` whose `append` comes after it
    # sees the final state. It also makes `pop` take the oldest callback first.
    status.reverse()
    if status:
        try:
            run_callbacks(future, status)
        except SHORT_OF_ROOM:  # none was called
            start_new_thread(run_callbacks, (future, status))


def fail(future: AnyState, error: BaseException, source: object) -> None:
    """End a claimed future with an exception that `source` (a function, say) raised."""
    try:
        failure = Failure(error, source)
    except SHORT_OF_ROOM:
        start_new_thread(fail, (future, error, source))
    else:
        settle(future, FAILED, failure)


def outcome_of(future: AnyState, source: object = None) -> Outcome:
    """How a final future has ended: its state, and its result or Failure, for another future.

    `source`: the new Failure's; by default the same.
    """
    if future._status is FAILED:
        return FAILED, future._value.handed_on(source)
    return future._status, future._value  # type: ignore[return-value]  # it is final


class UserCallback:
    """A callback that calls a user's function; what it raises is logged.

    An object of our own, because callbacks are compared when one is taken out again, and a
    function of the user's may have an `__eq__`.
    """

    __slots__ = ("_fn",)

    def __init__(self, fn: Callback) -> None:
        self._fn = fn

    def __call__(self, future: AnyState) -> None:
        result = self._fn(future)
        if type(result) is CoroutineType:
            if getrefcount(result) <= 2:  # else it is held elsewhere, too
                result.close()
            raise TypeError("a callback returned a coroutine, which nobody runs: use then()")


def run_callbacks(future: AnyState, status: Status) -> None:
    """Call the callbacks of a final future, those of users last. Several threads may do so at once.

    Those for which this stack has no room are called on another one.
    """
    user_callbacks: list[Callback] = []
    interrupt = None
    while status or user_callbacks:
        callback: Callback | None = None
        try:
            if status:
                callback = status.pop()  # run_callbacks: one thread gets each
                if type(callback) is UserCallback:
                    user_callbacks.append(callback)
                    continue
            else:
                # Last: one may take long, or need the next step of a waiter.
                if future.holds_lock:
                    future.hand_on(user_callbacks)
                    user_callbacks = []
                    continue
                callback = user_callbacks.pop(0)
            run_callback(future, callback)
        except IndexError:
            continue
        except KeyboardInterrupt as error:  # the others must not suffer from it
            interrupt = error
        except SHORT_OF_ROOM:
            if callback is None:
                user_callbacks.reverse()
                status.extend(user_callbacks)  # the caller, or another stack, begins again
                raise
            start_new_thread(run_callback, (future, callback))
    if interrupt is not None:
        raise interrupt


def run_user_callbacks(future: AnyState, callbacks: list[Callback]) -> None:
    """Call these callbacks of a final future."""
    for callback in callbacks:
        run_callback(future, callback)


def run_callback(future: AnyState, callback: Callback) -> None:
    """Call a callback of a final future. Raises only the Ctrl-C of a thread of the user's."""
    try:
        callback(future)
    except BaseException as error:
        # SystemExit too: a callback has no say over the thread that it happens to run on. Only
        # Ctrl-C is meant for the thread, if it is one of the user's.
        if issubclass(type(error), KeyboardInterrupt) and here.worker is None:
            raise
        if issubclass(type(error), SHORT_OF_ROOM):
            trace = traceback_of(error)
            # Ours do all or nothing. A user's function may have begun, if it was called at all.
            if type(callback) is not UserCallback or trace is None or trace.tb_next is None:
                del trace
                start_new_thread(run_callback, (future, callback))
                return
            del trace
        try:
            need_stack()
            _log_error_in_callback(future, error)
        except SHORT_OF_ROOM:
            start_new_thread(_log_error_in_callback, (future, error))


def _log_error_in_callback(future: AnyState, error: BaseException) -> None:
    exc_info = (type(error), error, traceback_of(error))
    log(ERROR, "exception calling callback for %r", future, exc_info=exc_info)


def run_late(future: AnyState, status: Status, callback: Callback) -> None:
    """Call a callback that came into the list when the future was final already, or nearly so."""
    try:
        status.remove(callback)  # run_late; `run_callbacks` may have popped it
    except ValueError:
        return
    run_callback(future, callback)
