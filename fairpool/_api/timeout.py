"""`timeout` and `timeout_at`: a block that is cancelled at a deadline.

Names and meanings are asyncio's (of Python 3.13). A block is not left before its deadline has been
called off (`_undecided` is the arbiter) or has asked the task to end (`_landed`). So when the
block is left, the request was made, and the block takes it back: none comes later, in code for
which it is not meant.

Assumes *atomic call* and *mutex order*.
"""

from __future__ import annotations

from asyncio import CancelledError
from math import inf
from types import TracebackType

from fairpool._api.cancelling import deliver_again, delivered, interrupt, task_that_enters
from fairpool._api.tasks import shield
from fairpool._core.errors import stays_here
from fairpool._core.foreign import (
    context_of,
    exceptions_of,
    is_a,
    set_cause,
    set_context,
    type_name,
)
from fairpool._core.threads import monotonic
from fairpool._core.timer import Timer
from fairpool._core.token import Token
from fairpool._tasks.cancel import CancelRequest
from fairpool._tasks.future import Derived
from fairpool._tasks.settling import claim, settle
from fairpool._tasks.state import FINISHED
from fairpool._tasks.task import AnyTask


class _Deadline(Token):
    """One deadline of a timeout: taken by the timer when it comes, or to call it off."""

    __slots__ = ("_timeout", "timer")

    def __init__(self, timeout: Timeout) -> None:
        self.append(None)
        self._timeout: Timeout | None = timeout
        self.timer: Timer | None = None

    def wake(self) -> None:
        if self.take():
            timeout, self._timeout, self.timer = self._timeout, None, None  # no cycle
            if timeout is not None:
                timeout._expire()


class Timeout:
    """The block of `timeout` and `timeout_at`. As `asyncio.Timeout`."""

    # The deadline and the end of the block both take `_undecided`: the first one has decided. A
    # deadline that comes first asks the task to end, and then finishes `_landed`. The block is not
    # left before that, so its end finds the request, and takes it back.

    # With a `__dict__`, for attributes of the program's own.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_deadline",
        "_delivered",
        "_landed",
        "_request",
        "_state",
        "_task",
        "_undecided",
        "_when",
    )

    __reduce_ex__ = stays_here("call timeout() in the task that needs it")

    def __init__(self, when: float | None) -> None:
        self._when = _check_seconds("when", when)
        self._state = "created"
        self._task: AnyTask | None = None
        self._delivered = 0
        self._deadline: _Deadline | None = None
        self._undecided = Token()
        self._request = CancelRequest(None)
        self._landed: Derived[None] = Derived()

    def __repr__(self) -> str:
        when = f" when={self._when:.3f}" if self._state == "active" and self._when else ""
        return f"<{type_name(self)} [{self._state}]{when}>"

    def when(self) -> float | None:
        """The deadline in seconds of `time.monotonic`; None if there is none. From any thread."""
        return self._when

    def expired(self) -> bool:
        """Whether the deadline came before the end of the block. From any thread."""
        return self._state in ("expiring", "expired")

    def reschedule(self, when: float | None) -> None:
        """Set another deadline, in seconds of `time.monotonic`; None for no deadline.

        Raises RuntimeError if the block was not entered, was left, or has expired; TypeError for
        what is no number, and ValueError for NaN. May be called from any thread, but not from two
        at once.
        """
        when = _check_seconds("when", when)
        if self._state != "active":
            raise RuntimeError(f"cannot reschedule {self!r}: it is {self._state}")
        task = self._task
        old = self._deadline
        if task is None or (old is not None and not old.take()):
            raise RuntimeError(f"cannot reschedule {self!r}: it has just expired, or was left")
        if old is not None and old.timer is not None:
            task._pool.timers.cancel(old.timer)
        self._when = when
        self._deadline = None
        if when is not None:
            self._set_deadline(task, when)

    def _set_deadline(self, task: AnyTask, when: float) -> None:
        self._deadline = deadline = _Deadline(self)
        if when <= monotonic():
            deadline.wake()
        elif when != inf:
            try:
                deadline.timer = task._pool.timers.add(when, deadline)
            except BaseException:  # no thread could be started
                deadline.take()
                raise

    async def __aenter__(self) -> Timeout:
        if self._state != "created":
            raise RuntimeError(f"{self!r} has been entered before")
        self._task = task = task_that_enters("a timeout")
        self._delivered = delivered(task)
        self._state = "active"
        self._undecided.put()
        if self._when is not None:
            self._set_deadline(task, self._when)
        return self

    def _expire(self) -> None:
        """The deadline has come. Raises nothing: it runs on the timer thread, as a rule."""
        task = self._task
        if not self._undecided.take():  # the block was left
            return
        self._state = "expiring"
        try:
            assert task is not None
            interrupt(task, self._request, self)
        finally:
            if claim(self._landed) is not None:
                settle(self._landed, FINISHED, None)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, deadline = self._task, self._deadline
        assert task is not None
        if deadline is not None and deadline.take() and deadline.timer is not None:
            task._pool.timers.cancel(deadline.timer)
        if self._undecided.take():
            self._state = "finished"
            self._task = self._deadline = None
            return
        try:
            await self._leave(task, error)
        finally:
            del self, task, deadline, error, trace  # what is raised holds this frame: no cycle

    async def _leave(self, task: AnyTask, error: BaseException | None) -> None:
        if is_a(error, GeneratorExit):  # the coroutine is being closed: it cannot wait
            return
        before = delivered(task) - self._request.delivered
        while not self._landed.done():
            try:
                await shield(self._landed)
            except CancelledError:
                pass
        task.withdraw(self._request)
        after = delivered(task)
        self._state = "expired"
        self._task = self._deadline = None
        is_cancelled = is_a(error, CancelledError)
        # A request of somebody else that was thrown into the block goes before the time-out. (One
        # that was not thrown yet is thrown at the next `await`.)
        if after <= self._delivered:
            if is_cancelled:
                try:
                    raise TimeoutError from error
                finally:
                    del self, task, error  # likewise
            if error is not None:
                _insert_timeout_error(error)
                if is_a(error, BaseExceptionGroup):
                    for each in exceptions_of(error):
                        _insert_timeout_error(each)
        elif after > before and not is_cancelled:
            deliver_again(task)  # it was delivered above, and not to the block


def _insert_timeout_error(error: BaseException) -> None:
    """Put a TimeoutError before the cancellation that an error of the block has as its context."""
    while (context := context_of(error)) is not None:
        if is_a(context, CancelledError):
            timeout_error = TimeoutError()
            set_context(timeout_error, context)
            set_cause(timeout_error, context)
            set_context(error, timeout_error)
            break
        error = context


def _check_seconds(name: str, seconds: float | None) -> float | None:
    if seconds is None:
        return None
    if not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {seconds!r}")
    if seconds != seconds:
        raise ValueError(f"{name} must be a number of seconds or None, not NaN")
    return seconds


def timeout(delay: float | None) -> Timeout:
    """Cancel the block after `delay` seconds, and raise TimeoutError at its end.

        async with timeout(1.5) as limit:
            await something()

    With None there is no deadline until `limit.reschedule` sets one. Raises TypeError for a `delay`
    that is no number, and ValueError for NaN. `async with` raises RuntimeError outside of a pool's
    tasks.
    """
    delay = _check_seconds("delay", delay)
    return Timeout(None if delay is None else monotonic() + delay)


def timeout_at(when: float | None) -> Timeout:
    """As `timeout`, with the deadline `when` in seconds of `time.monotonic`."""
    return Timeout(when)
