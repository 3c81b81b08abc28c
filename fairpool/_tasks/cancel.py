"""Cancellation: how a request reaches a coroutine, and what that waits for.

Guarantees:

- A wake-up is a hint. What suspends a coroutine looks again when it is resumed, and suspends it
  again if it must. So a wake-up that comes too late, or for another reason, does no harm.
- A cancellation request is never lost: the step that runs sees it, or it wakes the continuation.

Protocol and proof: `docs/protocols/tasks.md` ("Cancellation").
"""

from __future__ import annotations

from asyncio import CancelledError
from logging import ERROR
from typing import Any

from fairpool._core.foreign import is_a, type_name
from fairpool._core.here import here
from fairpool._core.report import log
from fairpool._core.room import SHORT_OF_ROOM, need_stack
from fairpool._core.threads import start_new_thread
from fairpool._core.types import Runnable, T
from fairpool._core.waitgraph import leave_wait
from fairpool._tasks.future import AnyFuture, Future
from fairpool._tasks.host import Pool, Worker
from fairpool._tasks.request import Request
from fairpool._tasks.state import CANCELLED, Callback, Status, is_final


class CancelRequest:
    """An item in the status of a task that was asked to end. As a callback, it does nothing."""

    __slots__ = ("delivered", "msg", "withdrawn")

    def __init__(self, msg: str | None) -> None:
        self.msg = msg
        self.delivered = False
        self.withdrawn = False

    def __call__(self, task: AnyFuture) -> None:
        pass


def may_hold_request(status: Status) -> bool:
    """A quick look, for the usual case of one callback, that is none."""
    try:
        return len(status) > 1 or type(status[0]) is CancelRequest
    except IndexError:  # a claim holds it for a moment
        return True


class Suspension:
    """What can resume a suspended coroutine, or cancel what it waits for."""

    __slots__ = (
        "_attention",
        "_error",
        "_passed_on",
        "_refused",
        "_requested",
        "_waits",
        "armed",
        "awaited",
        "request",
        "task",
    )

    # armed:      holds one item while the coroutine is suspended for something. The thread that
    #             takes it out resumes the coroutine. Empty while a step runs or is queued.
    # awaited:    the future or the lock request that it waits for, if it is one
    # request:    the request with which it asks for locks, once it has asked. For the task itself
    # _requested: set by the canceller, read after `armed` was emptied or filled
    # _attention: whether the next step has something to do first: set with either of the others
    # _waits:     whether `enter_wait` was called
    # _refused:   whether it got a cancellation, and did not end
    # _error:     what the next step throws into the coroutine
    # _passed_on: the request that `awaited` has agreed to end for. What that ends with comes out

    task: AnyCancellable
    armed: list[None]
    awaited: Any
    request: Request | None
    _requested: bool
    _attention: bool
    _waits: bool
    _refused: bool
    _error: BaseException | None
    _passed_on: CancelRequest | None

    def disarm(self) -> bool:
        """Take the item out of `armed`: True to the one caller that resumes the continuation."""
        try:
            self.armed.pop()
        except IndexError:
            return False
        except MemoryError:  # for the IndexError, or for a list that shrinks: then it is as it was
            return bool(self.armed) and self.disarm()
        return True

    def reclaim(self) -> bool:
        """As `disarm`, and if it waits for a lock, give that up. For cancellations and time-outs.

        Not for a callback: it may be called late, for a future that is not waited for any more,
        and a coroutine that waits for a lock would take that for its grant.
        """
        if self.disarm():
            return True
        awaited = self.awaited
        return type(awaited) is Request and awaited.give_up()

    def wake(self, future: object = None) -> None:
        """Resume, if armed. May be called from any thread, and too often. A callback of futures."""
        try:
            self.armed.pop()
        except IndexError:
            return
        except MemoryError:  # as above
            if not self.disarm():
                return
        pool = self.task._pool
        try:
            pool.resume(self)
        except SHORT_OF_ROOM:  # it is in no queue
            start_new_thread(pool.resume, (self,))

    def _resume(self) -> None:
        """The end of `wake`, after `disarm`."""
        pool = self.task._pool
        try:
            pool.resume(self)
        except SHORT_OF_ROOM:  # it is in no queue
            start_new_thread(pool.resume, (self,))

    __call__ = wake

    def run(self, worker: Worker) -> Runnable | None:
        """Run the next step: see `Continuation`."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """A cancellation was requested (`request` is done)."""
        need_stack(12)  # what follows a claim takes
        suspension = self
        while True:
            suspension._requested = True  # note
            suspension._attention = True
            if not suspension.reclaim():
                return  # its step runs, or is queued
            # Suspended, and nobody else can resume it now. What it waits for is cancelled first.
            awaited = suspension.awaited
            waits_on, following = False, None
            try:
                state = getattr(awaited, "_coroutine_state", None)
                if is_a(state, Suspension) and awaited.add_request(CancelRequest(None)):
                    # Another coroutine: the same again with that. A loop: such chains may be long.
                    waits_on, following = True, state
                elif is_a(awaited, Future):
                    waits_on = self._cancel(awaited)
            finally:
                if waits_on:
                    suspension._wait_on(awaited)
                else:
                    suspension._resume()
            if following is None:
                return
            suspension = following

    def _cancel(self, awaited: AnyFuture) -> bool:
        try:
            return bool(awaited.cancel())
        except BaseException as error:  # it may be anybody's
            log(ERROR, "error in the cancel() of a %s", type_name(awaited), exc_info=True)
            if is_a(error, KeyboardInterrupt) and here.worker is None:
                raise
            return False

    def _wait_on(self, awaited: AnyFuture) -> None:
        """`awaited` has agreed to end. After `disarm`; if that fails, it is resumed."""
        try:
            self._pass_on()
            self._rearm(awaited)
        except MemoryError:  # it is not armed
            self._resume()
            raise

    def _pass_on(self) -> None:
        """`awaited` has agreed to end. Between `disarm` and `rearm`."""
        for request in self.task.undelivered():
            request.delivered = True
            self._passed_on = request
        self._attention = True

    def _rearm(self, awaited: AnyFuture) -> None:
        """Go on waiting for `awaited`; its call may have come when nothing was in `armed`."""
        self.armed.append(None)  # rearm
        try:
            is_done = awaited.done()
        except BaseException:  # it may be anybody's; the coroutine asks again, and gets the error
            is_done = True
        if is_done:  # recheck_awaited
            self.wake()

    def _attend(self) -> bool:
        """Do what comes before the next step; return whether that begins with `_error`."""
        self._attention = False
        if self._waits:
            self._waits = False
            leave_wait(self.task)
        awaited, passed_on = self.awaited, self._passed_on
        if not self._requested and passed_on is None:
            return False
        self._requested = False
        news = self.task.undelivered()
        if not news:
            if passed_on is None:
                return False
            try:
                is_done, was_cancelled = awaited.done(), awaited.cancelled()
            except BaseException:  # as in `_rearm`
                is_done, was_cancelled = True, False
            if not is_done:  # a wake-up is a hint
                self._attention = True
                return False
            self._passed_on = None
            if not was_cancelled:
                return False
            news.append(passed_on)  # for its message
        for request in news:
            request.delivered = True
        self._refused = True
        self._passed_on = None
        if type(awaited) is Request:
            if awaited.door is None:
                self.request = self.awaited = None
        elif is_a(awaited, Future):  # it is given up, and need not keep this task alive
            awaited._unregister(self)
        msg = news[0].msg
        self._error = CancelledError() if msg is None else CancelledError(msg)
        return True


class CancellableTask(Future[T]):
    """A task's cancellation requests. They are in its state, among the callbacks."""

    __slots__ = ("_coroutine_state",)

    # _coroutine_state: unset at first. Then the coroutine, until its first suspension; then its
    #     Continuation; its name at the end. Written by the worker that runs the task, or before the
    #     task is published if its call is a coroutine object.
    _coroutine_state: Any
    _pool: Pool

    def interrupt(self, msg: str | None = None) -> CancelRequest | None:
        """Ask a task that has been started to end; the request, or None if the task has ended."""
        request = CancelRequest(msg)
        if not self.add_request(request):
            return None
        self._signal()
        # It may have been delivered at once, and the task have ended of it.
        return None if is_final(self) and self._status is not CANCELLED else request

    def add_request(self, request: CancelRequest) -> bool:
        """As `interrupt`, but the caller signals the continuation; False if it has ended."""
        status = self._status
        if type(status) is not list:
            return False
        status.append(request)  # request
        return True

    def _signal(self) -> None:
        state = getattr(self, "_coroutine_state", None)  # read_state
        if is_a(state, Suspension):
            state.interrupt()

    def put_back(self, callback: Callback) -> None:
        """Called when a claim has taken out `callback` and put it back."""
        # A request may have been looked for in between, and missed: as if it had just been made.
        if type(callback) is CancelRequest:
            self._signal()

    def withdraw(self, request: CancelRequest) -> int:
        """Take back a cancellation request; return how many are left."""
        request.withdrawn = True
        status = self._status
        if type(status) is list:
            try:
                status.remove(request)
            except ValueError:  # a claim holds it for a moment
                pass
        return self.cancelling()

    def cancelling(self) -> int:
        """The number of cancellation requests that were not taken back."""
        return len(self.cancel_requests())

    def uncancel(self) -> int:
        """Take back the oldest cancellation request; return how many are left."""
        requests = self.cancel_requests()
        return self.withdraw(requests[0]) if requests else 0

    def cancel_requests(self) -> list[CancelRequest]:
        """The cancellation requests that were not taken back, oldest first."""
        status = self._status
        if type(status) is not list:
            return []
        # `copy` takes the list's mutex: ordered against `request`.
        return [
            each for each in status.copy() if type(each) is CancelRequest and not each.withdrawn
        ]

    def undelivered(self) -> list[CancelRequest]:
        """Those of them that the coroutine has not got yet."""
        return [request for request in self.cancel_requests() if not request.delivered]


# Where the type of the result does not matter.
AnyCancellable = CancellableTask[Any]
