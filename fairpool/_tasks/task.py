"""`Task`: a future together with the call that will end it.

One object, not a future and a work item, which saves an allocation for each task. A task is queued,
is claimed by one worker (or cancelled), and is run in its own copy of the submitter's context. If
its function returns a coroutine, that is run as well, step by step, and its result is the task's.

Protocol and proof: `docs/protocols/tasks.md`.
"""

from __future__ import annotations

from sys import getrefcount
from types import CoroutineType, GeneratorType
from typing import Any, Literal
from weakref import getweakrefcount

from fairpool._core.foreign import describe, place_of, plain_text
from fairpool._core.room import need_stack
from fairpool._core.types import Runnable, T
from fairpool._core.waitgraph import Node
from fairpool._tasks.cancel import CancellableTask, may_hold_request
from fairpool._tasks.continuation import Continuation, suspend_first
from fairpool._tasks.coroutines import HELD_BY_LOCAL, claim_coroutine, is_coroutine
from fairpool._tasks.failure import Failure
from fairpool._tasks.host import Worker
from fairpool._tasks.request import LockOfWaiter, Request
from fairpool._tasks.settling import claim, put_back, settle
from fairpool._tasks.state import CANCELLED, FAILED, FINISHED, Call, Status, call_of
from fairpool._tasks.step import fail_step, take_next


class Task(CancellableTask[T]):
    """What `FairPool.submit` returns."""

    __slots__ = ()

    # The maker of a task sets its slots, once, before it publishes the task:
    #   _pool  the scheduler
    #   _status  [(context, fn, args, kwargs or None, backlog or None)]
    # A Python-level `__init__` would cost as much as all of its stores.
    __init__ = object.__init__

    # That of a `Continuation`, for what meets both: none before the first suspension.
    request = None

    # Whether what a worker runs is, or has, a task: not so a child of a gather, or a pass.
    is_task = True

    # Whether it is a thread, as the owner of a lock.
    is_thread: Literal[False] = False

    # The lock whose key the worker has that runs this, where no section runs: see `Combiner`.
    lock_in_hand: LockOfWaiter | None = None

    def run(self, worker: Worker) -> Runnable | None:
        """Claim this task and run it, on the calling worker. Raises nothing of the task's.

        Returns what the worker is to run next, if this has made one thing runnable, else None.
        `claim` and `settle` are written out: this is the path of every task.
        """
        status: Status = self._status  # type: ignore[assignment]
        try:
            call = status.pop(0)
        except (IndexError, AttributeError):  # claimed, or final
            return None
        if type(call) is not tuple:
            put_back(self, status, call)
            return None
        context, fn, args, kwargs, backlog = call
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
            # What `error` holds leads back to this frame: no cycle.
            del self, call, fn, args, kwargs
            return None
        kind = type(result)  # compared by identity: its metaclass may have an `__eq__`
        if kind is CoroutineType or (kind is GeneratorType and is_coroutine(result)):
            try:
                if args is not None and (
                    getrefcount(result) != HELD_BY_LOCAL or getweakrefcount(result)
                ):
                    claim_coroutine(result)
                self._coroutine_state = result
                request = context.run(result.send, None)
            except StopIteration as stop:
                return self.end_first_step(stop.value)
            except BaseException as error:
                fail_step(self, error, result)
                del self, call, args, kwargs, result
                return None
            following = suspend_first(self, context, result, request, worker)
            del self, call, args, kwargs, result  # it may have ended with an error: as above
            return following
        # `settle_and_take_next`, written out.
        self._value = result  # publish_value
        self._status = FINISHED  # publish_state
        status.reverse()  # publish_fence
        return take_next(self, status, self._pool) if status else None

    def end_first_step(self, result: object) -> Runnable | None:
        """The coroutine has returned in its first step. Returns as `run`."""
        status: Status = self._status  # type: ignore[assignment]
        if status and may_hold_request(status) and self.undelivered():
            settle(self, CANCELLED, None)  # asked for in its only step
            return None
        # `settle_and_take_next`, written out.
        self._value = result  # publish_value
        self._status = FINISHED  # publish_state
        status.reverse()  # publish_fence
        return take_next(self, status, self._pool) if status else None

    @property
    def task(self) -> Task[T]:
        """Itself: what a worker runs is a task or a continuation, and has a task."""
        return self

    def sample(self, now: int) -> None:
        """As `Continuation.sample`: what follows a critical section may be a link."""

    @property
    def awaited(self) -> object:
        """What its coroutine waits for, or has waited for last; as that of a `Continuation`."""
        state = getattr(self, "_coroutine_state", None)
        return state.awaited if type(state) is Continuation else None

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
        if type(self._status) is not list:
            return self._status is CANCELLED
        return self.interrupt(msg) is not None and hasattr(self, "_coroutine_state")

    def drop(self) -> bool:
        """Cancel the task if it has not been started; whether it was."""
        need_stack(6)  # what follows the claim takes
        call = claim(self)
        if call is None:
            return False
        try:
            _drop(call)
        finally:  # there may be no memory for it, or an object of the user's may refuse to close
            settle(self, CANCELLED, None)
        return True

    def abandon(self, error: BaseException) -> None:
        """End the task with an error that has been reported, if it has not been started."""
        call = claim(self)
        if call is not None:
            try:
                _drop(call)
            finally:  # as in `drop`
                failure = Failure(error, call[1])
                failure.retrieved = True
                settle(self, FAILED, failure)

    # --- showing it --------------------------------------------------------------------------

    def get_name(self) -> str:
        """The name given with `set_name`, else that of its function."""
        return self.__dict__.get("_name") or self._describe() or f"Task-{id(self):#x}"

    def set_name(self, name: object) -> None:
        """Give the task a name, for `repr` and `FairPool.dump`."""
        self.__dict__["_name"] = plain_text(str(name))

    def _describe_call(self, call: Call) -> str:
        _, fn, *_ = call
        return describe(fn)

    def _describe(self) -> str:
        name = self.__dict__.get("_name")
        if name is not None:
            return name  # type: ignore[no-any-return]
        if (call := call_of(self)) is not None:
            return self._describe_call(call)
        state = getattr(self, "_coroutine_state", "")
        return describe(state.coroutine if type(state) is Continuation else state)

    # --- as a node of the wait-for graph -------------------------------------------------------

    def sources(self) -> tuple[Node, ...]:
        """The request with which its suspended coroutine waits for a lock."""
        request = self.awaited
        return (request,) if type(request) is Request and request else ()

    def waits_at(self, awaited: object) -> str:
        waits_for = self.awaited
        if waits_for is None or (awaited is not None and waits_for is not awaited):
            return ""
        # It is suspended there, and stays so in a cycle: its frames may be looked at.
        return place_of(getattr(self._coroutine_state, "coroutine", None))


# Where the type of the result does not matter.
AnyTask = Task[Any]


def _drop(call: Call) -> None:
    """Give up the call of a task that was claimed and will not be run."""
    _, fn, args, _, backlog, *_ = call
    if backlog is not None:
        backlog.leave()
    if args is None:  # a coroutine object
        fn.close()  # else Python warns that it was never awaited
