"""`Continuation`: the rest of a coroutine after a step, and the run of its next steps.

A coroutine yields *requests* to its worker: None (let others go first), a future (wait for it), or
an object of the package's with a method `_suspend(continuation)`.

Guarantee: one resumer. A continuation is queued by the thread that took the one item out of its
list `armed`, or by the worker that has just run its step. It is armed only after `send()` has
returned. Protocol and proof: `docs/protocols/tasks.md`.
"""

from __future__ import annotations

from contextvars import Context
from logging import CRITICAL, WARNING
from typing import Literal

from fairpool._core.errors import DeadlockError
from fairpool._core.foreign import describe, with_traceback, without_frame
from fairpool._core.report import log
from fairpool._core.threads import monotonic_ns
from fairpool._core.types import NativeCoroutine, Runnable
from fairpool._core.waitgraph import enter_wait, leave_wait
from fairpool._tasks import step
from fairpool._tasks.cancel import AnyCancellable, Suspension, may_hold_request
from fairpool._tasks.host import Worker
from fairpool._tasks.request import Leave, Request, Yielded
from fairpool._tasks.settling import fail, settle
from fairpool._tasks.state import CANCELLED, FINISHED, Status
from fairpool._tasks.step import close_coroutine, fail_step, settle_and_take_next
from fairpool._tasks.wrap import RUN_IT_THERE, is_future, wrap_future


class Continuation(Suspension):
    """The rest of a task after a suspension."""

    __slots__ = ("coroutine", "run_in", "send", "ticket")

    is_task = True
    is_thread: Literal[False] = False
    lock_in_hand = None

    # ticket: when its request for a lock arrived; written by the worker that runs its step, before
    #         it is published.

    def __init__(self, task: AnyCancellable, context: Context, coroutine: NativeCoroutine) -> None:
        self.task = task
        self.run_in = context.run
        self.coroutine = coroutine
        self.send = coroutine.send
        self.armed = []
        self.request = None
        self.awaited = None
        self._waits = self._refused = self._requested = self._attention = False
        self._error = self._passed_on = None
        pool = task._pool
        pool.suspended.add(self)  # before the look at `cancels_all`: see `Scheduler.cancel_all`
        task._coroutine_state = self  # show_continuation
        if pool.cancels_all and pool.cancels(task):
            task.interrupt("the pool is ending")
        # recheck_first: a call on the list that `request` appends to. A request that is not in it
        # yet is made after `show_continuation`, and its `read_state` sees this.
        entries = task._status.copy()  # type: ignore[union-attr]
        if entries and may_hold_request(entries) and task.cancel_requests():
            self._requested = self._attention = True

    def run(self, worker: Worker) -> Runnable | None:
        """Run the next step. Returns as `Task.run`, or itself if the coroutine has only yielded."""
        worker.item = self
        if self._attention:
            if self._attend():
                following = self._throw(worker)
                del self, worker  # as below: a frame leads to the one that has called it
                return following
            # Without a local for it, so no cycle: an error below leads to this frame.
            if type(self.awaited) is Request and self.awaited.door is None:
                return self._ask_again(self.awaited, worker)
        try:
            request = self.run_in(self.send, None)
        except BaseException as raised:
            following = self.end(raised)
            del self, worker  # what was raised leads back to this frame: no cycle
            return following
        if request is None:
            return self
        if type(request) is Request:  # `suspend`, without a call
            return self._queue_up(request, worker)
        following = self.suspend(request, worker)
        del self, worker, request  # likewise
        return following

    def sample(self, now: int) -> None:
        """Let the lock that this comes from count how long it took to come so far."""
        request = self.request
        if request is not None:
            stats = request.lock.stats
            # Its own combiner's, if it has entered without the request.
            kind = stats.others if request.ticket == self.ticket else stats.own
            kind.append(now - self.ticket)

    def suspended(self, request: Yielded, worker: Worker) -> Runnable | None:
        """A combiner has run a step, and this is what the coroutine has yielded. As `run`."""
        following = self if request is None else self.suspend(request, worker)
        if following is self:
            worker.requeue(self)
            return None
        return following

    def suspend(self, request: Yielded, worker: Worker) -> Runnable | None:
        """The coroutine has yielded `request`, and `send` has returned. Returns as `run`."""
        kind = type(request)
        if kind is Request:
            return self._queue_up(request, worker)
        if kind is Leave:
            return request.after_leave(self, worker)  # type: ignore[no-any-return]
        if self._arm(request):
            return None
        following = self._throw(worker)
        del self, worker, request  # no cycle: see `run`
        return following

    def _queue_up(self, request: Request, worker: Worker) -> Runnable | None:
        """Wait for a lock. Returns as `run`."""
        self.ticket = request.ticket
        self.request = self.awaited = request
        # It is not armed: only the claim of the request can resume it.
        request.append(self)  # fill_request
        lock = request.lock
        try:
            following = lock.queue_up(request, worker)
        except DeadlockError as error:
            self.request = self.awaited = None
            self._error = with_traceback(error, None)
            return self._throw(worker)
        # touch_armed: a call on `armed`, as `disarm` is. A `note` that came before is seen here. A
        # canceller that comes after it sees what this waits for. (The call changes nothing: the
        # next step may run elsewhere.)
        self.armed.reverse()
        if self._requested and request.give_up():  # recheck_lock
            if following is not None:
                lock.dispatch()
            return self._throw(worker) if self._attend() else self._ask_again(request, worker)
        return following

    def _ask_again(self, request: Request, worker: Worker) -> Runnable | None:
        """The request was given up for a cancellation that was taken back. Returns as `run`."""
        given_up = request
        request = Request()
        request.lock = given_up.lock
        request.share = getattr(given_up, "share", None)  # unset where the lock charges nobody
        request.ticket = monotonic_ns()
        return self._queue_up(request, worker)

    def _throw(self, worker: Worker) -> Runnable | None:
        """Run a step that begins with `_error`. Returns as `run`."""
        while True:
            try:
                # The error must be in no variable of this frame, which its traceback will hold.
                request = self.run_in(self.coroutine.throw, self._take_error())
            except BaseException as raised:
                following = self.end(raised)
                del self, worker  # no cycle: see `run`
                return following
            if request is None:
                return self
            if type(request) in (Request, Leave):
                return self.suspend(request, worker)
            if self._arm(request):
                return None

    def _take_error(self) -> BaseException:
        error, self._error = self._error, None
        assert error is not None
        return error

    def _arm(self, request: Yielded) -> bool:
        """Suspend (True); or False: `_error` is to be thrown into the coroutine at once."""
        try:
            suspend = getattr(request, "_suspend", None)
            waits_for_future = is_future(request)
            if suspend is None:
                if not waits_for_future:
                    raise _foreign(request)
                request = wrap_future(request)  # a generator has yielded another executor's
                suspend = request._suspend
        except BaseException as error:  # it is foreign, and may raise anything
            self._error = without_frame(error)
            del self, request  # its frames lead to this one: no cycle
            return False
        self.awaited = request if waits_for_future else None
        if waits_for_future and (request._pool is not None or request.has_sources):
            # Before `arm`: after it another worker may have resumed the coroutine already.
            try:
                enter_wait(self.task, self.coroutine, (request,))
            except DeadlockError as error:
                self._error = with_traceback(error, None)
                return False
            self._waits = self._attention = True
        self.armed.append(None)  # arm
        while self._requested and self.disarm():  # recheck
            # A canceller that comes after `arm` wakes the continuation; one that came before it is
            # seen here. As in `interrupt`, the awaited future is cancelled first.
            if waits_for_future and self.task.undelivered() and self._cancel(request):
                self._pass_on()
                self.armed.append(None)
                break
            if self._attend():
                return False
            self.armed.append(None)
        try:
            suspend(self)
        except BaseException as error:
            if self.disarm():
                self._error = without_frame(error)
                del self, request, suspend  # likewise
                return False
            # Woken meanwhile: it is resumed, asks again, and gets the error then.
        return True

    def end(self, raised: BaseException) -> Runnable | None:
        """The step has ended the coroutine."""
        task, coroutine = self.task, self.coroutine
        pool = task._pool
        status: Status = task._status  # type: ignore[assignment]  # it is claimed
        if self._waits:
            leave_wait(task)
        returned = type(raised) is StopIteration
        if returned and self._refused and task.cancelling():
            log(WARNING, "%r was cancelled, and ended as if it had not been", task)
        task._coroutine_state = coroutine.__qualname__  # no cycle is left behind
        self.coroutine = self.send = self.run_in = self.awaited = None  # type: ignore[assignment]
        self.drop_request()
        pool.suspended.discard(self)
        following = None
        if returned and status and may_hold_request(status) and task.undelivered():
            settle(task, CANCELLED, None)  # asked for in its last step
        elif returned:
            following = settle_and_take_next(task, FINISHED, raised.value, pool)  # type: ignore[attr-defined]
        else:
            fail_step(task, raised, coroutine)
        if pool.ending:
            pool.suspended_ended()
        return following

    def drop_request(self) -> None:
        """The next one is to be a new one."""
        if self.request is not None:
            self.request.door = None  # they refer to each other
            self.request = None

    def abandon(self, error: BaseException) -> None:
        """End the task without running it. Called after taking this out of a queue, or `disarm`."""
        close_coroutine(self.coroutine)
        self.end(error)


def _foreign(request: object) -> TypeError:
    """The error for a coroutine that yielded something that no worker can wait for."""
    if hasattr(type(request), "_asyncio_future_blocking"):
        request._asyncio_future_blocking = False  # type: ignore[attr-defined]  # fit for its own loop
        return TypeError(f"a fairpool task cannot await {describe(request)}, {RUN_IT_THERE}")
    # Not the `repr` of just anything: it may be long, and may raise.
    short = repr(request) if type(request) in (int, str, float) else object.__repr__(request)
    return TypeError(
        f"a fairpool task cannot await what yields {short}; it can await coroutines, "
        "futures of fairpool, fairpool.wrap_future(...) of another executor's, and what fairpool "
        "offers (sleep, Event, Queue, ...)"
    )


def suspend_first(
    task: AnyCancellable,
    context: Context,
    coroutine: NativeCoroutine,
    request: Yielded,
    worker: Worker,
) -> Runnable | None:
    """A coroutine has yielded `request` in its first step on `worker`. Returns as `Task.run`."""
    try:
        continuation = Continuation(task, context, coroutine)
    except BaseException as error:
        end_suspended(task, coroutine, request, error)
        return None
    following = None if request is None else continuation.suspend(request, worker)
    if request is None or following is continuation:  # it has only yielded
        worker.requeue(continuation)
        return None
    del task, continuation  # it may have ended with an error: no cycle
    return following


def end_suspended(
    task: AnyCancellable, coroutine: NativeCoroutine, request: Yielded, error: BaseException
) -> None:
    """There was no memory for the continuation of a coroutine: so this is the end of its task.

    Here and not in `Worker.rescue`, which knows neither the child of a gather nor a lock's section.
    """
    log(CRITICAL, "%s cannot be suspended", describe(coroutine), exc_info=True)
    # It may have come so far as to be in there.
    task._pool.suspended.discard(getattr(task, "_coroutine_state", None))
    task._coroutine_state = coroutine.__qualname__
    if type(request) is Leave:
        request.end_section()
    close_coroutine(coroutine)
    fail(task, with_traceback(error, None), coroutine)  # whose frames lead to the task: no cycle


step.continuation_class = Continuation
