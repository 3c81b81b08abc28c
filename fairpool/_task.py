"""`Task`: a future together with the work that will end it; and how its steps are run.

One object, not a future and a work item: what is never made is never freed. A task is queued, is
claimed by one worker (or cancelled), and is run in its own copy of the submitter's context. If its
function returns a coroutine, that is run as well, step by step, and its result is the task's.

What is left of a coroutine after a step is a `Continuation`. Guarantees, with the proofs in
`docs/protocols/tasks.md`:

- One resumer. A continuation is queued by whoever took the one item out of its list `armed`, or
  by the worker that has just run its step; and it is armed only after `send()` has returned.
- A wake-up is a hint. What suspends a coroutine looks again when it is resumed, and suspends it
  again if it must. So a wake-up that comes too late, or for another reason, does no harm.
- A cancellation request is never lost: it is seen by the step that runs, or wakes the continuation.

A coroutine yields *requests* to its worker: None (let others go first), a future (wait for it), or
an object of the package's with a method `_suspend(continuation)`.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import Future as _StdFuture
from contextvars import Context
from types import CoroutineType
from typing import Any, TypeVar

from fairpool._future import (
    CANCELLED,
    FAILED,
    FINISHED,
    LOGGER,
    Failure,
    Future,
    call,
    claim,
    conclude,
    describe,
    fail,
    is_final,
    put_back,
    settle,
)
from fairpool._waits import enter_wait, leave_wait

__all__ = ["Continuation", "Handler", "Link", "Task"]

T = TypeVar("T")


class Task(Future[T]):
    """What `FairPool.submit` returns."""

    __slots__ = ("_machine",)

    # Whoever makes a task sets its slots, once, before it is published:
    #   _pool  the scheduler
    #   _cell  [(context, fn, args, kwargs or None, backlog or None)]
    # A Python-level `__init__` would cost as much as all of its stores.
    #   _machine  unset at first. The coroutine, from when it is there until its first suspension;
    #             then its Continuation; None at the end. Written by the worker that runs the task.
    __init__ = object.__init__

    _machine: Any

    def run(self, worker: Any) -> Any:
        """Claim this task and run it, on the calling worker. Raises nothing of the task's.

        Returns what the worker is to run next, if this has made one thing runnable, else None. What
        follows is `claim` and `finish` of `_future`, written out: this is the path of every task.
        """
        cell = self._cell
        try:
            work = cell.pop(0)  # type: ignore[union-attr]
        except (IndexError, AttributeError):  # claimed, or final
            return None
        if type(work) is not tuple:
            put_back(self, cell, work)  # type: ignore[arg-type]
            return None
        context, fn, args, kwargs, backlog = work
        worker.item = self
        worker.fn = fn
        if backlog is not None:
            backlog.leave()
        try:
            if args is None:  # a coroutine object
                result = fn
            elif kwargs is not None:
                result = context.run(fn, *args, **kwargs)
            elif args:
                result = context.run(fn, *args)
            else:  # without a star it is half the price
                result = context.run(fn)
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: they are the task's
            _fail(self, error, fn)
            del self, work, args, kwargs  # what `error` holds leads back to this frame: no cycle
            return None
        if type(result) is CoroutineType:
            self._machine = result
            try:
                request = context.run(result.send, None)
            except StopIteration as stop:
                result = stop.value
            except BaseException as error:
                _fail(self, error, result)
                del self, work, args, kwargs, result
                return None
            else:
                continuation = Continuation(self, context, result)
                following = continuation.suspend(request)
                if following is continuation:  # it has only yielded
                    worker.requeue(continuation)
                    return None
                return following
            if cell and self._has_news(cell):
                conclude(self, CANCELLED, None)  # asked for in its only step
                return None
        self._value = result
        self._cell = FINISHED
        cell.reverse()  # type: ignore[union-attr]
        return _hand_over(self, cell) if cell else None  # type: ignore[arg-type]

    @staticmethod
    def _has_news(cell: Any) -> bool:
        """Whether there is a cancellation request that has not been delivered."""
        return any(type(entry) is _CancelRequest and not entry.delivered for entry in cell.copy())

    @property
    def task(self) -> Task[T]:
        """Itself: what a worker runs is a task or a continuation, and has a task."""
        return self

    # --- cancelling --------------------------------------------------------------------------

    def cancel(self, msg: str | None = None) -> bool:
        """Cancel the task; return whether it is cancelled, or will be asked to end.

        A task that has not been started is cancelled at once. A coroutine that has been gets
        `asyncio.CancelledError` at its suspension point; if it waits for a future, that is
        cancelled first, as in asyncio. A plain function that runs is not interrupted: False. Of two
        calls at the very same time on a task that has not been started, one may return False
        although the other is about to cancel it.
        """
        work = claim(self)
        if work is not None:
            _drop(work)
            conclude(self, CANCELLED, None)
            return True
        if type(self._cell) is not list:
            return self._cell is CANCELLED
        if not hasattr(self, "_machine"):
            return False
        return self.interrupt(msg)

    def interrupt(self, msg: str | None = None) -> bool:
        """Ask a coroutine that has been started to end; False if it has ended."""
        cell = self._cell
        if type(cell) is not list:
            return False
        request = _CancelRequest(msg)
        cell.append(request)  # X1
        machine = getattr(self, "_machine", None)  # X2
        if type(machine) is Continuation:
            machine.interrupt()
        return not is_final(self)

    def cancelling(self) -> int:
        """The number of cancellation requests that were not taken back by `uncancel`."""
        return len(self._cancel_requests())

    def uncancel(self) -> int:
        """Take back one cancellation request; return how many are left."""
        cell = self._cell
        requests = self._cancel_requests()
        if requests and type(cell) is list:
            try:
                cell.remove(requests.pop(0))
            except ValueError:
                pass
        return len(requests)

    def _cancel_requests(self) -> list[_CancelRequest]:
        cell = self._cell
        if type(cell) is not list:
            return []
        return [entry for entry in cell.copy() if type(entry) is _CancelRequest]

    def abandon(self, error: BaseException) -> None:
        """End the task with an error that has been reported, if it has not been started."""
        work = claim(self)
        if work is not None:
            _drop(work)
            failure = Failure(error, work[1])
            failure.retrieved = True
            conclude(self, FAILED, failure)

    # --- showing it --------------------------------------------------------------------------

    def get_name(self) -> str:
        """The name given with `set_name`, else that of its function."""
        return self.__dict__.get("_name") or self._describe() or f"Task-{id(self):#x}"

    def set_name(self, name: object) -> None:
        """Give the task a name, for `repr` and `FairPool.dump`."""
        self.__dict__["_name"] = str(name)

    def _describe(self) -> str:
        name = self.__dict__.get("_name")
        if name is not None:
            return str(name)
        cell = self._cell
        try:
            work = cell[0]  # type: ignore[index]
        except (IndexError, TypeError):
            work = None
        if type(work) is tuple:
            if work[1] is None:  # a link
                fn = next(fn for fn in work[2][1:] if fn is not None)
                return describe(fn.handler if type(fn) is Handler else fn)
            return describe(work[1])
        machine = getattr(self, "_machine", None)
        if type(machine) is Continuation:
            return machine.describe()
        return describe(machine) if machine is not None else ""


class Link(Task[T]):
    """A task that is queued when its source is final: what `Future.then` returns.

    Its work is (context, None, (source, on_result, on_error, in_any_case), None, None) until it is
    run.
    """

    __slots__ = ()

    has_sources = True

    def sources(self) -> tuple[Future[Any], ...]:
        cell = self._cell
        try:
            work = cell[0]  # type: ignore[index]
        except (IndexError, TypeError):
            return ()
        return (work[2][0],) if type(work) is tuple and work[1] is None else ()

    def __call__(self, source: Future[Any]) -> None:
        """A link is a registrant: its source is final, so it can be queued."""
        self._pool.resume(self)

    def run(self, worker: Any) -> Any:
        """Take over the outcome of the source, or run the handler for it. Returns as `Task.run`."""
        work = claim(self)
        if work is None:
            return None
        source, on_result, on_error, in_any_case = work[2]
        value = source._value
        if in_any_case is not None:
            call: tuple[Any, ...] = (_run_in_any_case, (source, in_any_case))
        elif source._cell is FINISHED and on_result is not None:
            call = (_run_handler, (on_result, value))
        elif source._cell is FAILED and on_error is not None and on_error.handles(value.exception):
            value.retrieved = True
            call = (_run_handler, (on_error.handler, value.exception))
        else:
            # Nothing is raised on the way, so the traceback does not grow from link to link.
            if source._cell is FAILED:
                failure = Failure(value.exception, value.source)
                failure.traceback = value.traceback
                value.retrieved = True
                value = failure
            cell = self._cell
            self._value = value
            self._cell = source._cell
            cell.reverse()  # type: ignore[union-attr]
            return _hand_over(self, cell) if cell else None  # type: ignore[arg-type]
        self._cell.insert(0, (work[0], *call, None, None))  # type: ignore[union-attr]
        return super().run(worker)


class _CancelRequest:
    """An item in the cell of a task that was asked to end. As a registrant, it does nothing."""

    __slots__ = ("delivered", "msg")

    def __init__(self, msg: str | None) -> None:
        self.msg = msg
        self.delivered = False

    def __call__(self, task: Future[Any]) -> None:
        pass


def _drop(work: tuple[Any, ...]) -> None:
    """The work of a task that was claimed but will not be run."""
    if work[4] is not None:
        work[4].leave()
    if work[2] is None:
        work[1].close()  # else Python warns that it was never awaited


def _hand_over(task: Future[Any], cell: list[Any]) -> Any:
    """Settle a task at the end of its step; return the one thing to run next, if there is just one.

    It stays with this worker, whose caches hold what it is about, and no other one is woken for it.
    Nothing of a user's runs between here and its step, so it is not kept waiting.
    """
    if len(cell) > 1:
        settle(task, cell)
        return None
    try:
        registrant = cell.pop()
    except IndexError:
        return None
    kind = type(registrant)
    if kind is Continuation:
        if registrant.task._pool is task._pool:
            return registrant if registrant.disarm() else None
    elif kind is Link and registrant._pool is task._pool:
        return registrant
    call(task, registrant)
    return None


def _fail(task: Task[Any], error: BaseException, source: Any) -> None:
    """What a step of `task` has raised ends it."""
    if isinstance(error, CancelledError) and (
        type(source) is CoroutineType or source is _run_in_any_case
    ):
        conclude(task, CANCELLED, None)
        return
    # The frame of `run` is of no use to whoever reads the traceback, and holds what it worked with.
    trace = error.__traceback__
    error.__traceback__ = trace.tb_next if trace is not None else None
    del trace
    fail(task, error, source)


class Continuation:
    """The rest of a task after a suspension.

    `armed` holds one item while the coroutine is suspended for something: whoever takes it out
    queues the continuation. While the step runs, or the continuation is queued, it is empty.
    """

    __slots__ = (
        "_attention",
        "_refused",
        "_run",
        "_send",
        "_waits",
        "armed",
        "awaited",
        "coroutine",
        "task",
    )

    def __init__(self, task: Task[Any], context: Context, coroutine: Any) -> None:
        self.task = task
        self._run = context.run
        self.coroutine = coroutine
        self._send = coroutine.send
        self.armed: list[None] = []
        self.awaited: Any = None  # the future that it waits for, if it is one
        self._waits = False  # whether `enter_wait` was called
        self._refused = False  # got a cancellation, and did not end
        # Set when there is something to do before the next step: by `enter_wait`, and by whoever
        # cancels, after X1. Looked at by the step, after `armed` was emptied or filled.
        self._attention = False
        pool = task._pool
        pool.suspended.add(self)  # before the look at `cancels_all`: see `Scheduler.cancel_all`
        task._machine = self  # D1
        if pool.cancels_all:
            task.interrupt("the pool is ending")
        # D2: a request that was made before D1 is in the cell (X1 and D2 are calls on the same
        # list); who makes one after it sees D1 in X2.
        if task._cell and task._cancel_requests():
            self._attention = True

    def run(self, worker: Any) -> Any:
        """Run the next step. Returns as `Task.run`, or itself if the coroutine has only yielded."""
        worker.item = self
        if self._attention:
            error = self._attend()
            if error is not None:
                return self._throw(error)
        try:
            request = self._run(self._send, None)
        except BaseException as raised:
            return self._end(raised)
        if request is None:
            return self
        return self.suspend(request)

    def _throw(self, error: BaseException) -> Any:
        try:
            request = self._run(self.coroutine.throw, error)
        except BaseException as raised:
            return self._end(raised)
        return self.suspend(request)

    def suspend(self, request: Any) -> Any:
        """The coroutine has yielded `request`, and `send` has returned. Returns as `run`."""
        if request is None:
            return self
        try:
            suspend = getattr(request, "_suspend", None)
            is_future = isinstance(request, _StdFuture)
        except BaseException as error:  # it is foreign, and may raise anything
            return self._throw(error)
        if suspend is None and not is_future:
            return self._throw(_foreign(request))
        self.awaited = request if is_future else None
        self.armed.append(None)  # A1
        if self._attention and self.disarm():
            # Whoever interrupts after A1 wakes the continuation; who did so before it is seen here.
            interruption = self._attend()
            if interruption is not None:
                return self._throw(interruption)
            self.armed.append(None)
        try:
            if suspend is None:
                request.add_done_callback(self)
            else:
                suspend(self)
        except BaseException as error:
            if self.disarm():
                return self._throw(error)
            # Woken meanwhile: it is resumed, asks again, and gets the error then.
        return None

    def _end(self, raised: BaseException) -> Any:
        """The step has ended the coroutine."""
        task = self.task
        coroutine = self.coroutine
        if type(raised) is StopIteration and self._refused and task.cancelling():
            LOGGER.warning("%r was cancelled, and ended as if it had not been", task)
        self.coroutine = self._send = self._run = self.awaited = None  # type: ignore[assignment]
        task._machine = None  # no cycle is left behind
        pool = task._pool
        pool.suspended.discard(self)
        cell = task._cell
        if type(raised) is StopIteration and cell and task._has_news(cell):
            conclude(task, CANCELLED, None)  # asked for in its last step
            following = None
        elif type(raised) is StopIteration:
            task._value = raised.value
            task._cell = FINISHED
            cell.reverse()  # type: ignore[union-attr]
            following = _hand_over(task, cell) if cell else None  # type: ignore[arg-type]
        else:
            _fail(task, raised, coroutine)
            following = None
        if pool.refusals:
            pool.suspended_ended()
        return following

    def disarm(self) -> bool:
        """Take the item out of `armed`: True to the one who is to resume the continuation."""
        try:
            self.armed.pop()
        except IndexError:
            return False
        return True

    def wake(self) -> None:
        """Resume, if suspended. May be called from any thread, and too often."""
        if self.disarm():
            self.task._pool.resume(self)

    def __call__(self, future: Any) -> None:
        self.wake()

    def enter_wait(self, future: Future[Any]) -> None:
        """Write down that this task waits for `future`. Raises `DeadlockError`."""
        enter_wait(self.task, self.coroutine, (future,))
        self._waits = self._attention = True

    def interrupt(self) -> None:
        """A cancellation was requested (X1 is done)."""
        self._attention = True
        if not self.disarm():
            return  # its step runs, or is queued
        # Suspended, and nobody else can resume it now. What it waits for is cancelled first.
        awaited = self.awaited
        if awaited is None or not awaited.cancel():
            self.task._pool.resume(self)
            return
        self.armed.append(None)
        if awaited.done():  # its call may have come when there was nothing in `armed`
            self.wake()

    def _attend(self) -> BaseException | None:
        """What is to be done before the next step; returns what is to be thrown, if anything."""
        self._attention = False
        if self._waits:
            self._waits = False
            leave_wait(self.task)
        news = [request for request in self.task._cancel_requests() if not request.delivered]
        if not news:
            return None
        for request in news:
            request.delivered = True
        self._refused = True
        msg = news[0].msg
        return CancelledError() if msg is None else CancelledError(msg)

    def abandon(self, error: BaseException) -> None:
        """End the task without running it. For who took this out of a queue, or disarmed it."""
        self.coroutine.close()
        self._end(error)

    def describe(self) -> str:
        coroutine = self.coroutine
        return describe(coroutine) if coroutine is not None else ""


def _short(request: object) -> str:
    # Not the `repr` of just anything: it may be long, and may raise.
    return repr(request) if type(request) in (int, str, float) else object.__repr__(request)


def _foreign(request: object) -> TypeError:
    """The error for a coroutine that yielded something that no worker can wait for."""
    if hasattr(type(request), "_asyncio_future_blocking"):
        return TypeError(
            f"a fairpool task cannot await {describe(request)}, which belongs to an asyncio loop; "
            "run what makes it there, with asyncio.run_coroutine_threadsafe(coroutine, loop), and "
            "await the future which that returns"
        )
    return TypeError(
        f"a fairpool task cannot await what yields {_short(request)}; it can await coroutines, "
        "futures of fairpool and of concurrent.futures, and what fairpool offers (sleep, Event, "
        "Queue, ...)"
    )


# --- functions that are the work of tasks made by the package -------------------------------------


class Handler:
    """The `on_error` of a link, and for which exceptions it is meant."""

    __slots__ = ("_types", "handler")

    def __init__(
        self, handler: Callable[[Any], Any], types: tuple[type[BaseException], ...]
    ) -> None:
        self.handler = handler
        self._types = types

    def handles(self, error: BaseException) -> bool:
        return isinstance(error, self._types)


def _run_handler(handler: Callable[[Any], Any], outcome: Any) -> Any:
    result = handler(outcome)
    return _wait_for(result) if isinstance(result, _StdFuture) else result


def _run_in_any_case(source: Future[Any], fn: Callable[[], Any]) -> Any:
    result = fn()
    if isinstance(result, _StdFuture) or type(result) is CoroutineType:
        return _pass_through(source, result)
    try:
        if source._cell is CANCELLED:
            raise CancelledError
        return source.result()
    finally:
        del source  # the traceback of what is raised holds this frame: no cycle


async def _wait_for(future: Any) -> Any:
    return await future


async def _pass_through(source: Future[Any], outcome: Any) -> Any:
    await outcome
    return await source
