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

import sys
from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import Future as _StdFuture
from contextvars import Context
from inspect import CO_ITERABLE_COROUTINE
from itertools import repeat
from logging import CRITICAL, ERROR, WARNING
from operator import is_
from sys import getrefcount
from types import CoroutineType, GeneratorType
from typing import Any, TypeVar
from weakref import getweakrefcount, ref

from fairpool._core.errors import DeadlockError
from fairpool._core.foreign import (
    describe,
    is_a,
    place_of,
    plain_text,
    traceback_of,
    type_name,
    with_traceback,
    without_frame,
)
from fairpool._core.here import here
from fairpool._core.report import log
from fairpool._core.room import SHORT_OF_ROOM, need_stack
from fairpool._core.threads import monotonic_ns, start_new_thread
from fairpool._core.waitgraph import enter_wait, leave_wait
from fairpool._tasks.future import (
    CANCELLED,
    FAILED,
    FINISHED,
    Crowd,
    Derived,
    Failure,
    Future,
    call,
    call_registrants,
    claim,
    fail,
    is_final,
    outcome_of,
    put_back,
    settle,
)
from fairpool._tasks.request import Leave, Request
from fairpool._tasks.wrap import RUN_IT_THERE, is_future, wrap_future

__all__ = [
    "HELD_BY_ARGUMENT",
    "HELD_BY_LOCAL",
    "HELD_BY_TUPLE",
    "HELD_BY_TUPLE_AND_LOCAL",
    "LINK",
    "CancelRequest",
    "Closing",
    "Continuation",
    "Handler",
    "Joint",
    "Link",
    "Task",
    "claim_all",
    "claim_coroutine",
    "fail_step",
    "is_coroutine",
    "settle_and_take_next",
    "suspend_first",
    "take_next",
]

T = TypeVar("T")


def is_coroutine(what: Any) -> bool:
    """Whether `what` can be run step by step: a native or a generator-based coroutine."""
    if type(what) is GeneratorType:
        return bool(what.gi_code.co_flags & CO_ITERABLE_COROUTINE)
    return type(what) is CoroutineType


# --- one task for each coroutine object: docs/protocols/tasks.md --------------------------------

# Weak references to the coroutine objects that have been claimed. References to one object are
# equal, so the first that comes in stays. It leaves when its object is freed.
_claimed: dict[ref[Any], ref[Any]] = {}
_forget = _claimed.pop


def claim_coroutine(coroutine: Any) -> None:
    """Make a coroutine object the caller's, to be run by one task, for good.

    Raises RuntimeError if somebody has claimed it before, or has started it. Not needed where
    nobody else can have a reference to it, or come by one: see `HELD_BY_LOCAL`.
    """
    kind: Any = type(coroutine)
    if kind is not CoroutineType and kind.__hash__ != object.__hash__:
        return  # of a foreign type, whose code is not to be run in the dict (A1)
    try:
        mine = ref(coroutine, _forget)
    except TypeError:  # of another foreign type
        return
    if _claimed.setdefault(mine, mine) is not mine:  # A1: the arbiter
        del mine  # not to be called for, by the frame that the error holds: it is not in there
        raise RuntimeError(f"{_which(coroutine)} is a task's already: {_CALL_AGAIN}")
    if kind is CoroutineType:
        is_started = coroutine.cr_suspended or coroutine.cr_running
    else:
        is_started = getattr(coroutine, "gi_suspended", False) or getattr(
            coroutine, "gi_running", False
        )
    if is_started:
        raise RuntimeError(f"{_which(coroutine)} has been started already: {_CALL_AGAIN}")


def claim_all(coroutines: tuple[Any, ...]) -> None:
    """As `claim_coroutine` for each of these native ones; if one is refused, close the others.

    In few passes, most of them in C: a program may keep the list of what it gathers.
    """
    mine = [*map(ref, coroutines, repeat(_forget))]
    are_mine = [*map(is_, map(_claimed.setdefault, mine, mine), mine)]  # A1
    if False in are_mine:
        each = coroutines[are_mine.index(False)]
        why = "is a task's already"
    else:
        for each in coroutines:
            if each.cr_suspended or each.cr_running:
                why = "has been started already"
                break
        else:
            return
    del mine  # as in `claim_coroutine`
    for other, is_mine in zip(coroutines, are_mine, strict=True):
        if is_mine and not (other.cr_suspended or other.cr_running):
            other.close()  # else Python warns that it was never awaited
    raise RuntimeError(f"{_which(each)} {why}: {_CALL_AGAIN}")


_CALL_AGAIN = "call its function once for each task, or await the task that runs it"


def _which(coroutine: Any) -> str:
    return f"the coroutine object {describe(coroutine)} at {id(coroutine):#x}"


# What `getrefcount` gives, at least, of an object that is held only by one local of its caller's;
# only as the caller's argument; only by the tuple that a loop, or `map`, goes through. If there is
# no weak reference to it either, nobody else can come by it. The call itself is one more holder,
# but not always from 3.14 on: there an argument may be held by who has given it alone, so that its
# count says nothing (-1).
_BORROWS = sys.version_info >= (3, 14)
HELD_BY_LOCAL = 1 if _BORROWS else 2
HELD_BY_ARGUMENT = -1 if _BORROWS else 2
HELD_BY_TUPLE_AND_LOCAL = HELD_BY_LOCAL + 1
HELD_BY_TUPLE = max(map(getrefcount, (object(),)))


class Task(Future[T]):
    """What `FairPool.submit` returns."""

    __slots__ = ("_machine",)

    # Whoever makes a task sets its slots, once, before it is published:
    #   _pool  the scheduler
    #   _cell  [(context, fn, args, kwargs or None, backlog or None)]
    # A Python-level `__init__` would cost as much as all of its stores.
    #   _machine  unset at first. The coroutine, from when it is there until its first suspension;
    #             then its Continuation; its name at the end. Written by the worker that runs the
    #             task, or before it is published if the work is a coroutine object.
    __init__ = object.__init__

    _machine: Any

    # That of a `Continuation`, for what meets both: none before the first suspension.
    request = None

    # Whether what a worker runs is, or has, a task: not so a child of a gather, or a pass.
    is_task = True

    # Whether it is a thread, as the owner of a lock.
    is_thread = False

    # The lock whose key the worker has that runs this, where no section runs: see `Combiner`.
    lock_in_hand: Any = None

    def run(self, worker: Any) -> Any:
        """Claim this task and run it, on the calling worker. Raises nothing of the task's.

        Returns what the worker is to run next, if this has made one thing runnable, else None.
        `claim` and `publish_final` are written out: this is the path of every task.
        """
        cell: Any = self._cell
        try:
            work = cell.pop(0)
        except (IndexError, AttributeError):  # claimed, or final
            return None
        if type(work) is not tuple:
            put_back(self, cell, work)
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
            fail_step(self, error, fn)
            del (
                self,
                work,
                fn,
                args,
                kwargs,
            )  # what `error` holds leads back to this frame: no cycle
            return None
        kind = type(result)  # compared by identity: its metaclass may have an `__eq__`
        if kind is CoroutineType or (kind is GeneratorType and is_coroutine(result)):
            try:
                if args is not None and (
                    getrefcount(result) != HELD_BY_LOCAL or getweakrefcount(result)
                ):
                    claim_coroutine(result)
                self._machine = result
                request = context.run(result.send, None)
            except StopIteration as stop:
                return self.end_first_step(stop.value)
            except BaseException as error:
                fail_step(self, error, result)
                del self, work, args, kwargs, result
                return None
            following = suspend_first(self, context, result, request, worker)
            del self, work, args, kwargs, result  # it may have ended with an error: as above
            return following
        # `settle_and_take_next`, written out.
        self._value = result  # publish_value
        self._cell = FINISHED  # publish_state
        cell.reverse()  # publish_fence
        return take_next(self, cell, self._pool) if cell else None

    def end_first_step(self, result: Any) -> Any:
        """The coroutine has returned in its first step. Returns as `run`."""
        cell: Any = self._cell
        if cell and _may_hold_request(cell) and self._has_news():
            settle(self, CANCELLED, None)  # asked for in its only step
            return None
        return settle_and_take_next(self, FINISHED, result, self._pool)

    @property
    def task(self) -> Task[T]:
        """Itself: what a worker runs is a task or a continuation, and has a task."""
        return self

    def sample(self, now: int) -> None:
        """As `Continuation.sample`: what follows a critical section may be a link."""

    @property
    def awaited(self) -> Any:
        """What its coroutine waits for, or has waited for last; as that of a `Continuation`."""
        machine = getattr(self, "_machine", None)
        return machine.awaited if type(machine) is Continuation else None

    # --- cancelling --------------------------------------------------------------------------

    def cancel(self, msg: str | None = None) -> bool:
        """Cancel the task; return whether it is cancelled, or will be asked to end.

        A task that has not been started is cancelled at once. A coroutine that has been gets
        `asyncio.CancelledError` at its suspension point; if it waits for a future, that is
        cancelled first, as in asyncio. A plain function that runs is not interrupted: False (but if
        what it returns is a coroutine, that is asked to end). Of two calls at the very same time on
        a task that has not been started, one may return False although the other is about to cancel
        it.
        """
        if self.drop():
            return True
        if type(self._cell) is not list:
            return self._cell is CANCELLED
        return self.interrupt(msg) is not None and hasattr(self, "_machine")

    def drop(self) -> bool:
        """Cancel the task if it has not been started; whether it was."""
        need_stack(6)  # what follows the claim takes
        work = claim(self)
        if work is None:
            return False
        _drop(work)
        settle(self, CANCELLED, None)
        return True

    def abandon(self, error: BaseException) -> None:
        """End the task with an error that has been reported, if it has not been started."""
        work = claim(self)
        if work is not None:
            _drop(work)
            failure = Failure(error, work[1])
            failure.retrieved = True
            settle(self, FAILED, failure)

    def interrupt(self, msg: str | None = None) -> CancelRequest | None:
        """Ask a task that has been started to end; the request, or None if the task has ended."""
        cell = self._cell
        if type(cell) is not list:
            return None
        request = CancelRequest(msg)
        cell.append(request)  # X1
        self._signal()
        # It may have been delivered at once, and the task have ended of it.
        return None if is_final(self) and self._cell is not CANCELLED else request

    def request_cancel(self) -> bool:
        """As `interrupt`, but whoever calls it signals the continuation; False if it has ended."""
        cell = self._cell
        if type(cell) is not list:
            return False
        cell.append(CancelRequest(None))  # X1
        return True

    def _signal(self) -> None:
        machine = getattr(self, "_machine", None)  # X2
        if type(machine) is Continuation:
            machine.interrupt()

    def put_back(self, registrant: Any) -> None:
        """Called when a claim has taken out `registrant` and put it back."""
        # A request may have been looked for in between, and missed: as if it had just been made.
        if type(registrant) is CancelRequest:
            self._signal()

    def withdraw(self, request: CancelRequest) -> int:
        """Take back a cancellation request; return how many are left."""
        request.withdrawn = True
        cell = self._cell
        if type(cell) is list:
            try:
                cell.remove(request)
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
        cell = self._cell
        if type(cell) is not list:
            return []
        # `copy` takes the list's mutex: ordered against X1.
        return [each for each in cell.copy() if type(each) is CancelRequest and not each.withdrawn]

    def _has_news(self) -> bool:
        return any(not request.delivered for request in self.cancel_requests())

    # --- showing it --------------------------------------------------------------------------

    def get_name(self) -> str:
        """The name given with `set_name`, else that of its function."""
        return self.__dict__.get("_name") or self._describe() or f"Task-{id(self):#x}"

    def set_name(self, name: object) -> None:
        """Give the task a name, for `repr` and `FairPool.dump`."""
        self.__dict__["_name"] = plain_text(str(name))

    def _describe(self) -> str:
        name = self.__dict__.get("_name")
        if name is not None:
            return name  # type: ignore[no-any-return]
        cell = self._cell
        try:
            work = cell[0]  # type: ignore[index]
        except (IndexError, TypeError):
            work = None
        if type(work) is tuple:
            if work[3] is LINK:
                fn = next(fn for fn in (work[1], work[5], work[6]) if fn is not None)
                return describe(fn.handler if type(fn) is Handler else fn)
            return describe(work[1])
        machine = getattr(self, "_machine", "")
        return describe(machine.coroutine if type(machine) is Continuation else machine)

    # --- as a node of the wait-for graph -------------------------------------------------------

    def sources(self) -> tuple[Any, ...]:
        """The request with which its suspended coroutine waits for a lock."""
        machine = getattr(self, "_machine", None)
        request = getattr(machine, "awaited", None)
        return (request,) if getattr(request, "holds_continuation", False) and request else ()

    def waits_at(self, awaited: object) -> str:
        machine: Any = getattr(self, "_machine", None)
        waits_for = getattr(machine, "awaited", None)
        if waits_for is None or (awaited is not None and waits_for is not awaited):
            return ""
        # It is suspended there, and stays so in a cycle: its frames may be looked at.
        return place_of(machine.coroutine)


# Stands for the keyword arguments in the work of a link:
#   (context, on_result, source, LINK, None, on_error, in_any_case).
LINK = object()


class Link(Task[T]):
    """A task that is queued when its source is final: what `Future.then` returns."""

    __slots__ = ()

    has_sources = True

    def run(self, worker: Any) -> Any:
        """As `Task.run`: of what a link calls, the outcome of its source is the argument."""
        cell: Any = self._cell
        try:
            work = cell.pop(0)
        except (IndexError, AttributeError):  # claimed, or final
            return None
        if type(work) is not tuple:
            put_back(self, cell, work)
            return None
        context, on_result, source, _, _, on_error, in_any_case = work
        worker.item = self
        worker.fn = on_result
        try:
            if on_result is not None and source._cell is FINISHED:
                result = context.run(on_result, source._value)
            elif (call := self.take_over(source, on_error, in_any_case)) is not None:
                worker.fn = call[0]
                result = context.run(*call)
            else:
                return settle_and_take_next(self, *self.inherited(source), self._pool)
        except BaseException as error:
            fail_step(self, error, worker.fn)
            call = None
            del self, work, source, on_error, in_any_case, worker  # no cycle: see `Task.run`
            return None
        kind = type(result)
        if issubclass(kind, _StdFuture):  # of two plain types: none of the user's code
            result = _wait_for(result)
            kind = type(result)
        if kind is CoroutineType or (kind is GeneratorType and is_coroutine(result)):
            try:
                if getrefcount(result) != HELD_BY_LOCAL or getweakrefcount(result):
                    claim_coroutine(result)
            except BaseException as error:
                fail_step(self, error, result)
                del self, work, source, on_error, in_any_case, worker, result  # likewise
                return None
            try:
                return Continuation(self, context, result)  # all of it is left
            except BaseException as error:
                _end_suspended(self, result, None, error)
                return None
        # `settle_and_take_next`, written out.
        self._value = result  # publish_value
        self._cell = FINISHED  # publish_state
        cell.reverse()  # publish_fence
        return take_next(self, cell, self._pool) if cell else None

    def sources(self) -> tuple[Any, ...]:
        cell = self._cell
        try:
            work = cell[0]  # type: ignore[index]
        except (IndexError, TypeError):
            return ()
        return (work[2],) if type(work) is tuple else ()

    def cancel(self, msg: str | None = None) -> bool:
        """Cancel the chain up to here: also what it waits for, as far as nobody else does.

        A `finally_` is not cancelled: its source is, and then it runs.
        """
        link: Any = self
        answer = False
        while isinstance(link, Link) and (sources := link.sources()):
            if not link.is_clean_up():
                if not link.drop():
                    break
                answer = True
                sources[0]._unregister(link)  # which may live for long
            if sources[0]._pool is None or not _waits_alone(link, sources[0]):
                return answer  # what is worked by hand is somebody else's affair
            link = sources[0]
        taken = Task.cancel(link, msg) if isinstance(link, Task) else link.cancel()
        return answer or taken

    def is_clean_up(self) -> bool:
        """Whether this is a `finally_` that has not been run."""
        cell = self._cell
        try:
            work = cell[0]  # type: ignore[index]
        except (IndexError, TypeError):
            return False
        return type(work) is tuple and work[3] is LINK and work[6] is not None

    def __call__(self, source: Future[Any]) -> None:
        """A link is a registrant: its source is final, so it can be queued."""
        self._pool.resume(self)

    def take_over(
        self,
        source: Future[Any],
        on_error: Handler | None,
        in_any_case: Callable[[], Any] | None,
    ) -> tuple[Any, ...] | None:
        """What to call, and with what, for an outcome of `source` that `on_result` is not for.

        None if that is this link's own outcome, too: see `inherited`.
        """
        if in_any_case is not None:
            return _run_in_any_case, source, in_any_case
        if source._cell is FAILED:
            failure: Failure = source._value
            failure.retrieved = True
            if on_error is not None and on_error.handles(failure.exception):
                return on_error.handler, failure.exception
        return None

    def inherited(self, source: Future[Any]) -> tuple[Any, Any]:
        """The final state and the value of `source`, for this link.

        Nothing is raised on the way, so the traceback does not grow from link to link.
        """
        return outcome_of(source, source._value.source if source._cell is FAILED else None)


class Closing(Link[None]):
    """What closes an asynchronous generator: not cancelled where a pool's tasks are."""

    __slots__ = ()


def _waits_alone(link: Link[Any], source: Future[Any]) -> bool:
    cell = source._cell
    return type(cell) is list and all(
        entry is link
        or type(entry) in (tuple, CancelRequest)
        or (type(entry) is Crowd and len(entry) == (link in entry))
        for entry in cell.copy()
    )


class CancelRequest:
    """An item in the cell of a task that was asked to end. As a registrant, it does nothing."""

    __slots__ = ("delivered", "msg", "withdrawn")

    def __init__(self, msg: str | None) -> None:
        self.msg = msg
        self.delivered = False
        self.withdrawn = False

    def __call__(self, task: Future[Any]) -> None:
        pass


def _may_hold_request(cell: list[Any]) -> bool:
    """A quick look, for the usual case of one registrant, that is none."""
    try:
        return len(cell) > 1 or type(cell[0]) is CancelRequest
    except IndexError:  # a claim holds it for a moment
        return True


def _drop(work: tuple[Any, ...]) -> None:
    """The work of a task that was claimed but will not be run."""
    if work[4] is not None:
        work[4].leave()
    if work[2] is None:
        work[1].close()  # else Python warns that it was never awaited


class Joint(Derived[Any]):
    """A future that is a registrant of tasks, and whose end may be the end of one of them."""

    __slots__ = ()

    def child_ended(self, child: Any, pool: Any) -> Any:
        """A task of `pool` is final. Returns as `take_next`."""
        raise NotImplementedError


def settle_and_take_next(future: Future[Any], state: Any, value: Any, pool: Any) -> Any:
    """As `settle`, at the end of a step on a worker of `pool`. Returns as `take_next`."""
    # `publish_final`, written out.
    cell: Any = future._cell
    future._value = value  # publish_value
    future._cell = state  # publish_state
    cell.reverse()  # publish_fence
    return take_next(future, cell, pool) if cell else None


def take_next(future: Future[Any], cell: list[Any], pool: Any) -> Any:
    """Call what waits for a final future; or return it, if it is one thing that can run next.

    It stays with this worker of `pool`, whose caches hold what it is about, and no other one is
    woken for it. Nothing of a user's runs between here and its step, so it is not kept waiting.
    """
    if len(cell) > 1:
        call_registrants(future, cell)
        return None
    try:
        registrant = cell.pop()
    except IndexError:
        return None
    if cell:  # one more has come: `registrant` may be that
        cell.append(registrant)
        call_registrants(future, cell)
        return None
    kind = type(registrant)
    if kind is Link:
        if registrant._pool is pool:
            return registrant
    elif kind is Continuation:
        if registrant.task._pool is pool:
            return registrant if registrant.disarm() else None
    elif issubclass(kind, Joint):
        return registrant.child_ended(future, pool)
    elif future.holds_lock:
        cell.append(registrant)
        call_registrants(future, cell)
        return None
    call(future, registrant)
    return None


def suspend_first(
    task: Task[Any], context: Context, coroutine: Any, request: Any, worker: Any
) -> Any:
    """A coroutine has yielded `request` in its first step on `worker`. Returns as `Task.run`."""
    try:
        continuation = Continuation(task, context, coroutine)
    except BaseException as error:
        _end_suspended(task, coroutine, request, error)
        return None
    following = None if request is None else continuation.suspend(request, worker)
    if request is None or following is continuation:  # it has only yielded
        worker.requeue(continuation)
        return None
    del task, continuation  # it may have ended with an error: no cycle
    return following


def _end_suspended(task: Task[Any], coroutine: Any, request: Any, error: BaseException) -> None:
    """There was no memory for the continuation of a coroutine: so this is the end of its task.

    Here and not in `Worker.rescue`, which knows neither the child of a gather nor a lock's section.
    """
    log(CRITICAL, "%s cannot be suspended", describe(coroutine), exc_info=True)
    machine = task._machine if hasattr(task, "_machine") else None
    if type(machine) is Continuation:  # it has come as far as that
        task._pool.suspended.discard(machine)
    task._machine = coroutine.__qualname__
    if type(request) is Leave:
        request.end_section()
    _close(coroutine)
    fail(task, with_traceback(error, None), coroutine)  # whose frames lead to the task: no cycle


def _close(coroutine: Any) -> None:
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


def fail_step(task: Task[Any], error: BaseException, source: Any) -> None:
    """What a step of `task` has raised ends it."""
    if issubclass(type(error), SHORT_OF_ROOM):
        _release_locks(task)
    if issubclass(type(error), CancelledError) and (
        is_coroutine(source) or source is _run_in_any_case
    ):
        settle(task, CANCELLED, None)
        return
    # The frame of `run` is of no use to whoever reads the traceback, and holds what it worked with.
    trace = traceback_of(error)  # `without_frame`, written out: it needs no frame
    with_traceback(error, trace.tb_next if trace is not None else None)
    del trace
    fail(task, error, source)


def _release_locks(task: Task[Any]) -> None:
    """Leave what a task is inside of that has ended without coming to its `__aexit__`.

    A coroutine is resumed from outside to inside, and where there is no room for an inner one, that
    ends without running any of its code.
    """
    for lock in task._pool.all_locks():
        owner = lock.owner
        if owner is not None and owner.task is task and not task.has_sources:
            lock.end_section()


class Continuation:
    """The rest of a task after a suspension.

    `armed` holds one item while the coroutine is suspended for something: whoever takes it out
    queues the continuation. While the step runs, or the continuation is queued, it is empty.
    """

    __slots__ = (
        "_attention",
        "_error",
        "_passed_on",
        "_refused",
        "_requested",
        "_waits",
        "armed",
        "awaited",
        "coroutine",
        "request",
        "run_in",
        "send",
        "task",
        "ticket",
    )

    is_task = True
    is_thread = False
    lock_in_hand = None

    # request: the one with which it asks for locks, once it has asked. For the task itself.

    # ticket: when its request for a lock arrived; written by the worker that runs its step, before
    #         it is published.

    def __init__(self, task: Task[Any], context: Context, coroutine: Any) -> None:
        self.task = task
        self.run_in = context.run
        self.coroutine = coroutine
        self.send = coroutine.send
        self.armed: list[None] = []
        self.request: Any = None
        self.awaited: Any = None  # the future that it waits for, if it is one
        self._waits = False  # whether `enter_wait` was called
        self._refused = False  # got a cancellation, and did not end
        self._error: BaseException | None = None  # to be thrown into the coroutine
        # The request that `awaited` has agreed to end for. What that ends with comes out.
        self._passed_on: CancelRequest | None = None
        # Set by whoever cancels, after X1; looked at after `armed` was emptied or filled.
        self._requested = False
        # Whether there is something to do before the next step: set with either of the two.
        self._attention = False
        pool = task._pool
        pool.suspended.add(self)  # before the look at `cancels_all`: see `Scheduler.cancel_all`
        task._machine = self  # D1
        if pool.cancels_all and pool.cancels(task):
            task.interrupt("the pool is ending")
        # D2: a request that was made before D1 is in the cell (X1 and D2 are calls on the same
        # list); who makes one after it sees D1 in X2.
        entries = task._cell.copy()  # type: ignore[union-attr]
        if entries and _may_hold_request(entries) and task.cancel_requests():
            self._requested = self._attention = True

    def run(self, worker: Any) -> Any:
        """Run the next step. Returns as `Task.run`, or itself if the coroutine has only yielded."""
        worker.item = self
        if self._attention:
            if self._attend():
                following = self._throw(worker)
                del self, worker  # as below: a frame leads to the one that has called it
                return following
            # Without a local for it: what is raised below leads to this frame, and so no cycle.
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

    def suspended(self, request: Any, worker: Any) -> Any:
        """A combiner has run a step, and this is what the coroutine has yielded. As `run`."""
        if request is None:
            worker.requeue(self)
            return None
        following = self.suspend(request, worker)
        if following is self:
            worker.requeue(self)
            return None
        return following

    def suspend(self, request: Any, worker: Any) -> Any:
        """The coroutine has yielded `request`, and `send` has returned. Returns as `run`."""
        kind = type(request)
        if kind is Request:
            return self._queue_up(request, worker)
        if kind is Leave:
            return request.after_leave(self, worker)
        if self._arm(request):
            return None
        following = self._throw(worker)
        del self, worker, request  # no cycle: see `run`
        return following

    def _queue_up(self, request: Request, worker: Any) -> Any:
        """Wait for a lock. Returns as `run`."""
        self.ticket = request.ticket
        self.request = self.awaited = request
        # It is not armed: only who claims the request can resume it.
        request.append(self)
        lock = request.lock
        try:
            following = lock.queue_up(request, worker)
        except DeadlockError as error:
            self.request = self.awaited = None
            self._error = with_traceback(error, None)
            return self._throw(worker)
        # Q2: a call on `armed`, as X4 is. Who cancels before it is seen here; who cancels after it
        # sees what it waits for. (One that changes nothing: the next step may run elsewhere.)
        self.armed.reverse()
        if self._requested and request.give_up():
            if following is not None:
                lock.dispatch()
            return self._throw(worker) if self._attend() else self._ask_again(request, worker)
        return following

    def _ask_again(self, request: Request, worker: Any) -> Any:
        """The request was given up for a cancellation that was taken back. Returns as `run`."""
        given_up = request
        request = Request()
        request.lock = given_up.lock
        request.share = getattr(given_up, "share", None)  # unset where the lock charges nobody
        request.ticket = monotonic_ns()
        return self._queue_up(request, worker)

    def _throw(self, worker: Any) -> Any:
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

    def _arm(self, request: Any) -> bool:
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
            # Before A1: after it another worker may have resumed the coroutine already.
            try:
                enter_wait(self.task, self.coroutine, (request,))
            except DeadlockError as error:
                self._error = with_traceback(error, None)
                return False
            self._waits = self._attention = True
        self.armed.append(None)  # A1
        while self._requested and self.disarm():
            # Whoever cancels after A1 wakes the continuation; who did so before it is seen here. As
            # in `interrupt`, what it is about to wait for is cancelled first.
            if waits_for_future and self.task._has_news() and self._cancel(request):
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

    def end(self, raised: BaseException) -> Any:
        """The step has ended the coroutine."""
        task, coroutine = self.task, self.coroutine
        pool = task._pool
        cell: Any = task._cell
        if self._waits:
            leave_wait(task)
        returned = type(raised) is StopIteration
        if returned and self._refused and task.cancelling():
            log(WARNING, "%r was cancelled, and ended as if it had not been", task)
        task._machine = coroutine.__qualname__  # no cycle is left behind
        self.coroutine = self.send = self.run_in = self.awaited = None  # type: ignore[assignment]
        self.drop_request()
        pool.suspended.discard(self)
        following = None
        if returned and cell and _may_hold_request(cell) and task._has_news():
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

    def disarm(self) -> bool:
        """Take the item out of `armed`: True to the one who is to resume the continuation."""
        try:
            self.armed.pop()
        except IndexError:
            return False
        return True

    def reclaim(self) -> bool:
        """As `disarm`, and if it waits for a lock, give that up. For who has news for the task.

        Not for a registrant: it may be called late, for a future that is not waited for any more,
        and a coroutine that waits for a lock would take it that it has been let in.
        """
        if self.disarm():
            return True
        awaited = self.awaited
        return type(awaited) is Request and awaited.give_up()

    def wake(self) -> None:
        """Resume, if armed. May be called from any thread, and too often."""
        try:
            self.armed.pop()
        except IndexError:
            return
        pool = self.task._pool
        try:
            pool.resume(self)
        except SHORT_OF_ROOM:  # it is in no queue
            start_new_thread(pool.resume, (self,))

    def __call__(self, future: Any) -> None:
        self.wake()

    def interrupt(self) -> None:
        """A cancellation was requested (X1 is done)."""
        need_stack(12)  # what follows a claim takes
        continuation = self
        while True:
            continuation._requested = True
            continuation._attention = True
            if not continuation.reclaim():
                return  # its step runs, or is queued
            # Suspended, and nobody else can resume it now. What it waits for is cancelled first.
            awaited = continuation.awaited
            machine = getattr(awaited, "_machine", None) if is_a(awaited, Future) else None
            if type(machine) is Continuation and awaited.request_cancel():
                # Another coroutine: the same again with that. A loop: such chains may be long.
                continuation._pass_on()
                continuation._rearm(awaited)
                continuation = machine
                continue
            waits_on = False
            try:
                if awaited is not None and type(awaited) is not Request:
                    waits_on = self._cancel(awaited)
            finally:
                if waits_on:
                    continuation._pass_on()
                    continuation._rearm(awaited)
                else:
                    continuation.task._pool.resume(continuation)
            return

    def _cancel(self, awaited: Any) -> bool:
        try:
            return bool(awaited.cancel())
        except BaseException as error:  # it may be anybody's
            log(ERROR, "error in the cancel() of a %s", type_name(awaited), exc_info=True)
            if is_a(error, KeyboardInterrupt) and here.worker is None:
                raise
            return False

    def _pass_on(self) -> None:
        """What it waits for has agreed to end. For who has disarmed it, and will arm it again."""
        for request in self.task.cancel_requests():
            if not request.delivered:
                request.delivered = True
                self._passed_on = request
        self._attention = True

    def _rearm(self, awaited: Any) -> None:
        """Go on waiting for `awaited`; its call may have come when nothing was in `armed`."""
        self.armed.append(None)
        try:
            is_done = awaited.done()
        except BaseException:  # it may be anybody's; the coroutine asks again, and gets the error
            is_done = True
        if is_done:
            self.wake()

    def _attend(self) -> bool:
        """What is to be done before the next step; whether `_error` is to be thrown."""
        self._attention = False
        if self._waits:
            self._waits = False
            leave_wait(self.task)
        awaited, passed_on = self.awaited, self._passed_on
        if not self._requested and passed_on is None:
            return False
        self._requested = False
        news = [request for request in self.task.cancel_requests() if not request.delivered]
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

    def abandon(self, error: BaseException) -> None:
        """End the task without running it. For who took this out of a queue, or disarmed it."""
        _close(self.coroutine)
        self.end(error)


def _short(request: object) -> str:
    # Not the `repr` of just anything: it may be long, and may raise.
    return repr(request) if type(request) in (int, str, float) else object.__repr__(request)


def _foreign(request: object) -> TypeError:
    """The error for a coroutine that yielded something that no worker can wait for."""
    if hasattr(type(request), "_asyncio_future_blocking"):
        request._asyncio_future_blocking = False  # type: ignore[attr-defined]  # fit for its own loop
        return TypeError(f"a fairpool task cannot await {describe(request)}, {RUN_IT_THERE}")
    return TypeError(
        f"a fairpool task cannot await what yields {_short(request)}; it can await coroutines, "
        "futures of fairpool, fairpool.wrap_future(...) of another executor's, and what fairpool "
        "offers (sleep, Event, Queue, ...)"
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
        return any(is_a(error, kind) for kind in self._types)


def _run_in_any_case(source: Future[Any], fn: Callable[[], Any]) -> Any:
    result = fn()
    if is_coroutine(result):
        claim_coroutine(result)
        return _pass_through(source, result)
    if is_future(result):
        return _pass_through(source, wrap_future(result))
    try:
        if source._cell is CANCELLED:
            raise CancelledError
        return source.result()
    finally:
        del source  # the traceback of what is raised holds this frame: no cycle


async def _wait_for(future: Any) -> Any:
    try:
        return await wrap_future(future)
    finally:
        del future  # no cycle, as above


async def _pass_through(source: Future[Any], outcome: Any) -> Any:
    try:
        await outcome
        return await source
    finally:
        del source, outcome  # no cycle, as above
