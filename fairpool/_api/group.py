"""`TaskGroup`, `timeout` and `timeout_at`: what cancels a task from within, and takes it back.

Names and meanings are asyncio's (of Python 3.13). Both ask a task to end that may be in the midst
of a step on another worker, and both must be sure, when their block is left, that no such request
of theirs comes later, in code that it is not meant for. So:

- A group is not left before each of its children has been taken out of `_children`, and a child
  that fails is taken out after it has asked the parent to end.
- A timeout is not left before the deadline has been called off (`_undecided` is the arbiter) or
  has asked the task to end (`_landed`).
- Each then takes back its own request and no other.

Assumes: atomic call, mutex order (`_core.atomicity`).
"""

from __future__ import annotations

from asyncio import CancelledError, _get_running_loop
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from logging import CRITICAL, ERROR
from math import inf
from sys import getrefcount
from types import CoroutineType
from typing import Any, TypeVar
from weakref import getweakrefcount

from fairpool._api.tasks import current_task, shield
from fairpool._core.errors import DeadlockError, stays_here
from fairpool._core.foreign import (
    context_of,
    exceptions_of,
    is_a,
    set_cause,
    set_context,
    type_name,
)
from fairpool._core.report import log
from fairpool._core.room import SHORT_OF_ROOM, need_stack
from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import monotonic, start_new_thread
from fairpool._core.token import Token
from fairpool._scheduler.scheduler import Scheduler
from fairpool._tasks.cancel import CancelRequest
from fairpool._tasks.coroutines import HELD_BY_ARGUMENT, claim_coroutine
from fairpool._tasks.future import Future
from fairpool._tasks.settling import claim, settle
from fairpool._tasks.state import FAILED, FINISHED
from fairpool._tasks.task import Task

__all__ = ["TaskGroup", "Timeout", "timeout", "timeout_at"]

T = TypeVar("T")


def _task_that_enters(what: str) -> Task[Any]:
    task = current_task()
    if task is None or _get_running_loop() is not None:
        raise RuntimeError(f"{what} is for tasks of a FairPool; in an asyncio loop, use asyncio's")
    return task


def _interrupt(task: Task[Any], request: CancelRequest) -> None:
    """`Task.interrupt`, with a request that can be taken back whatever this raises."""
    cell = task._status
    if type(cell) is list:
        cell.append(request)  # X1 of docs/protocols/tasks.md
        task._signal()


def _delivered(task: Task[Any]) -> int:
    """How many of the requests to `task` were thrown already. To be called by the task itself."""
    return sum(request.delivered for request in task.cancel_requests())


def _deliver_again(task: Task[Any]) -> None:
    """Have the latest request of somebody else, which was swallowed here, thrown once more.

    The same one, not another in its place: whoever made it may want to take it back. To be called
    by the task itself; it is thrown at the next `await` that suspends.
    """
    requests = task.cancel_requests()
    if requests:
        requests[-1].delivered = False
        task._signal()


async def _await(awaitable: Any) -> Any:
    return await awaitable


# --- groups of tasks ------------------------------------------------------------------------------

# Why a group takes no more tasks.
_SHUTTING_DOWN = "shutting down"
_FINISHED = "finished"


class _Completion(Future[None]):
    """What the parent waits for at the end of its block: it ends after the children."""

    __slots__ = ("_children",)

    has_sources = True

    def __init__(self, children: set[Task[Any]]) -> None:
        super().__init__()
        self._children = children

    def sources(self) -> tuple[Future[Any], ...]:
        return tuple(self._children.copy())


class TaskGroup:
    """Tasks that end before the block does. As `asyncio.TaskGroup`.

        async with TaskGroup() as group:
            task = group.create_task(some_coroutine())

    The first that fails cancels the others, and what the block itself waits for. When all have
    ended, their exceptions are raised as one `ExceptionGroup` (`BaseExceptionGroup`, if it must
    be); SystemExit and KeyboardInterrupt as themselves. To cancel the task that the block is in is
    to cancel the group's tasks: they are waited for, and CancelledError goes on. Where the group's
    tasks wait for the end of that task, `DeadlockError` is among the exceptions.

    Its tasks run on the pool of the task that has entered it. `create_task` may be called from any
    thread.
    """

    # The parent waits while there are children. A child that ends, on whatever thread: E1 takes
    # itself out of `_children`, E2 looks for a completion to finish. The parent: V1 puts a
    # completion in, V2 looks for children. `create_task`: C1 puts a child in, C2 looks whether the
    # group is closed; who closes it: B1 writes the reason, B2 looks for children. The first steps
    # and the second ones of each pair are calls on `_children` and one other container: one of the
    # two sees the other.

    __reduce_ex__ = stays_here("enter a TaskGroup where its tasks are to be made")

    def __init__(self) -> None:
        self._parent: Task[Any] | None = None
        self._entered = False
        self._children: set[Any] = set()
        self._closed: list[str] = []
        self._completions = RunQueue()
        self._errors: list[BaseException] = []
        self._base_errors: list[BaseException] = []
        self._first = Token()  # taken by the first that shuts the group down
        self._request: CancelRequest | None = None  # the group's own, to its parent
        # One bound method for all tasks. Not the group itself, because callbacks are compared,
        # and a subclass may have an `__eq__`.
        self._callback: Callable[[Any], None] | None = None
        self._given_up = False  # see `_give_up`

    def __repr__(self) -> str:
        state = self._closed[-1:] or (["entered"] if self._entered else ["not entered"])
        return f"<{type_name(self)} tasks={len(self._children)} {state[0]}>"

    async def __aenter__(self) -> TaskGroup:
        if self._entered:
            raise RuntimeError(f"{self!r} has been entered before")
        self._parent = _task_that_enters("a TaskGroup")
        self._callback = self._child_ended
        self._entered = True
        return self

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> Task[T]:
        """Have a coroutine run as a task of this group, in a copy of the current context.

        `context`: a context to run in instead. Raises RuntimeError, and closes the coroutine, if
        the group was not entered, is being shut down, or is finished, or the pool is closed; also
        for a coroutine object that is a task's already. From any thread.
        """
        if not hasattr(coro, "send") or not hasattr(coro, "throw"):
            raise TypeError(f"create_task() takes a coroutine, not {coro!r}")
        if (
            type(coro) is not CoroutineType
            or getrefcount(coro) != HELD_BY_ARGUMENT
            or getweakrefcount(coro)
        ):
            claim_coroutine(coro)
        parent = self._parent
        if parent is None:
            coro.close()
            if self._closed:
                raise RuntimeError(f"{self!r} takes no more tasks: it is {self._closed[-1]}")
            raise RuntimeError(f"{self!r} takes no tasks: enter it with `async with` first")
        if type(coro) is not CoroutineType:  # a generator that is one (`sleep`), or Cython's
            coro = _await(coro)
        task: Task[T] = Task()
        pool: Scheduler = parent._pool  # type: ignore[assignment]
        task._pool = pool
        context = copy_context() if context is None else context
        task._status = [(context, coro, None, None, None), self._callback or self._child_ended]
        task._coroutine_state = coro
        if name is not None:
            task.set_name(name)
        self._children.add(task)  # C1
        try:
            if reasons := self._closed.copy():  # C2
                raise RuntimeError(f"{self!r} takes no more tasks: it is {reasons[-1]}")
            if pool.close_reason:
                raise pool.closed_error()
            pool.put(task)
        except BaseException:
            try:
                task.cancel()  # which closes the coroutine, and takes it out
            except SHORT_OF_ROOM:
                start_new_thread(task.cancel, ())
            del self, parent, task, coro  # what is raised holds this frame: no cycle
            raise
        return task

    def _child_ended(self, task: Task[Any]) -> None:
        """A callback of the group's tasks: one of them has ended."""
        if task._status is FAILED and not self._given_up:
            need_stack(14)  # so that what follows in here does not fail half-way
            error = task.exception()
            assert error is not None
            self._errors.append(error)
            if is_a(error, SystemExit) or is_a(error, KeyboardInterrupt):
                self._base_errors.append(error)
            if self._shut_down():
                # Before this task is taken out: the parent sees it when it sees that no child is
                # left.
                self._request = CancelRequest(None)
                assert self._parent is not None
                try:
                    _interrupt(self._parent, self._request)
                except BaseException:  # of a foreign future's `cancel`, say
                    log(
                        ERROR,
                        "%r could not cancel what its block waits for",
                        self,
                        exc_info=True,
                    )
        self._take_out(task)

    def _take_out(self, task: Task[Any]) -> None:
        self._children.discard(task)  # E1: may be done again, where there is no stack for E2
        if not self._children:
            need_stack(12)
            completion = self._completions.take()  # E2
            if completion is not None and claim(completion) is not None:
                settle(completion, FINISHED, None)

    def _shut_down(self) -> bool:
        """Cancel all children, and take no more; True to the first that does."""
        if not self._first.take():
            return False
        self._closed.append(_SHUTTING_DOWN)  # B1
        for child in self._children.copy():  # B2
            try:
                child.cancel()
            except BaseException:  # of a foreign future's `cancel`, say: the others are to end
                log(ERROR, "%r could not cancel what %r waits for", self, child, exc_info=True)
        return True

    def _has_children(self) -> bool:
        self._children.discard(None)  # takes the set's mutex
        return bool(self._children)

    def _finish(self) -> bool:
        """Close the group for good, unless it has children."""
        if self._has_children():
            return False
        self._closed.append(_FINISHED)  # B1
        if not self._has_children():  # B2
            return True
        # Of a thread that is no child of the group: it takes it out, or the group goes on.
        self._closed.remove(_FINISHED)
        return False

    def _give_up(self) -> None:
        """The block is left although there are children, which have been cancelled."""
        self._given_up = True
        self._closed.append(_FINISHED)

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        parent = self._parent
        assert parent is not None
        cancelled = error if is_a(error, CancelledError) else None
        if is_a(error, SystemExit) or is_a(error, KeyboardInterrupt):
            self._base_errors.append(error)
        if error is not None:
            self._shut_down()
        if is_a(error, GeneratorExit):  # the coroutine is being closed: it cannot wait
            self._give_up()
            return
        deadlocks = 0
        while not self._finish():
            completion = _Completion(self._children)
            self._completions.append(completion)  # V1
            try:
                if self._has_children():  # V2
                    await completion
            except CancelledError as raised:
                if self._shut_down():
                    cancelled = raised
            except DeadlockError as raised:
                deadlocks += 1
                if self._shut_down():
                    self._errors.append(raised)
                if deadlocks > 1:
                    # The children were cancelled, but wait for this very task: its end frees them.
                    self._give_up()
                    break
            except GeneratorExit:
                self._shut_down()
                self._give_up()
                raise
            finally:
                try:
                    self._completions.remove(completion)
                except ValueError:
                    pass

        errors, self._errors = self._errors, []
        base_errors, self._base_errors = self._base_errors, []
        try:
            if self._request is not None and parent.withdraw(self._request) == 0:
                cancelled = None
            if base_errors:
                raise base_errors[0]
            if cancelled is not None and not errors:
                raise cancelled
            if error is not None and not is_a(error, CancelledError):
                errors.append(error)
            if errors:
                _deliver_again(parent)
                raise BaseExceptionGroup("unhandled errors in a TaskGroup", errors) from None
        finally:
            # The exceptions hold frames that hold all this: no cycle.
            self._request = self._callback = self._parent = None
            del kind, trace, errors, base_errors, error, cancelled, parent


# --- timeouts -------------------------------------------------------------------------------------


class _Deadline(Token):
    """One deadline of a timeout: taken by the timer when it comes, or by what calls it off."""

    __slots__ = ("_timeout", "timer")

    def __init__(self, timeout: Timeout) -> None:
        self.append(None)
        self._timeout: Any = timeout
        self.timer: Any = None

    def wake(self) -> None:
        if self.take():
            timeout, self._timeout, self.timer = self._timeout, None, None  # no cycle
            timeout._expire()


class Timeout:
    """The block of `timeout` and `timeout_at`. As `asyncio.Timeout`."""

    # The deadline and the end of the block meet at `_undecided`: who takes it first has
    # decided. If it was the deadline, it asks the task to end, and then finishes `_landed`; the
    # block is not left before that, so that the request is there to be taken back.

    __reduce_ex__ = stays_here("call timeout() where it is to be used")

    def __init__(self, when: float | None) -> None:
        self._when = _check_seconds("when", when)
        self._state = "created"
        self._task: Task[Any] | None = None
        self._delivered = 0
        self._deadline: _Deadline | None = None
        self._undecided = Token(False)
        self._request = CancelRequest(None)
        self._landed: Future[None] = Future()

    def __repr__(self) -> str:
        when = f" when={self._when:.3f}" if self._state == "active" and self._when else ""
        return f"<{type_name(self)} [{self._state}]{when}>"

    def when(self) -> float | None:
        """The deadline, in seconds of `time.monotonic`, or None."""
        return self._when

    def expired(self) -> bool:
        """Whether the deadline came before the end of the block."""
        return self._state in ("expiring", "expired")

    def reschedule(self, when: float | None) -> None:
        """Set another deadline, in seconds of `time.monotonic`; None for none.

        Raises RuntimeError if the block was not entered, was left, or has just expired. May be
        called from any thread, but not from two at once.
        """
        when = _check_seconds("when", when)
        if self._state != "active":
            raise RuntimeError(f"cannot reschedule {self!r}: it is {self._state}")
        task = self._task
        old = self._deadline
        if task is None or (old is not None and not old.take()):
            raise RuntimeError(f"cannot reschedule {self!r}: it has just expired, or was left")
        if old is not None and old.timer is not None:
            task._pool.timers.cancel(old.timer)  # type: ignore[attr-defined]
        self._when = when
        self._deadline = None
        if when is not None:
            self._set_deadline(task, when)

    def _set_deadline(self, task: Task[Any], when: float) -> None:
        self._deadline = deadline = _Deadline(self)
        if when <= monotonic():
            deadline.wake()
        elif when != inf:
            try:
                deadline.timer = task._pool.timers.add(when, deadline)  # type: ignore[attr-defined]
            except BaseException:  # no thread could be started
                deadline.take()
                raise

    async def __aenter__(self) -> Timeout:
        if self._state != "created":
            raise RuntimeError(f"{self!r} has been entered before")
        self._task = task = _task_that_enters("a timeout")
        self._delivered = _delivered(task)
        self._state = "active"
        self._undecided.put()
        if self._when is not None:
            self._set_deadline(task, self._when)
        return self

    def _expire(self) -> None:
        """The deadline has come. Mostly on the timer thread: raises nothing."""
        task = self._task
        if not self._undecided.take():  # the block was left
            return
        self._state = "expiring"
        try:
            assert task is not None
            _interrupt(task, self._request)
        except BaseException:  # of a foreign future's `cancel`, or a MemoryError
            log(CRITICAL, "%r could not cancel what its task waits for", self, exc_info=True)
        finally:
            if claim(self._landed) is not None:
                settle(self._landed, FINISHED, None)

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        task, deadline = self._task, self._deadline
        assert task is not None
        if deadline is not None and deadline.take() and deadline.timer is not None:
            task._pool.timers.cancel(deadline.timer)  # type: ignore[attr-defined]
        if self._undecided.take():
            self._state = "finished"
            self._task = self._deadline = None
            return
        try:
            await self._leave(task, error)
        finally:
            del self, task, deadline, error, trace  # what is raised holds this frame: no cycle

    async def _leave(self, task: Task[Any], error: BaseException | None) -> None:
        if is_a(error, GeneratorExit):  # the coroutine is being closed: it cannot wait
            return
        before = _delivered(task) - self._request.delivered
        while not self._landed.done():
            try:
                await shield(self._landed)
            except CancelledError:
                pass
        task.withdraw(self._request)
        after = _delivered(task)
        self._state = "expired"
        self._task = self._deadline = None
        is_cancelled = is_a(error, CancelledError)
        # What somebody else has asked for and the block has got goes before the time-out. (What it
        # has not got yet, it will get at its next `await`.)
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
            _deliver_again(task)  # it was delivered above, and not to the block


def _insert_timeout_error(error: BaseException) -> None:
    """An error that was raised while the block was being cancelled tells that it was a timeout."""
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
    """Cancel what the block does after `delay` seconds, and raise TimeoutError then. In tasks.

        async with timeout(1.5) as limit:
            await something()

    None: no deadline, until `reschedule` sets one. Raises TypeError if it is no number, ValueError
    if it is NaN, and RuntimeError when it is entered outside of tasks.
    """
    delay = _check_seconds("delay", delay)
    return Timeout(None if delay is None else monotonic() + delay)


def timeout_at(when: float | None) -> Timeout:
    """As `timeout`, with a deadline in seconds of `time.monotonic`."""
    return Timeout(when)
