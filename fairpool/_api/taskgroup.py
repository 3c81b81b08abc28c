"""`TaskGroup`: tasks that end before their block does.

Names and meanings are asyncio's (of Python 3.13). A group is not left before each of its children
has been taken out of `_children`. A child that fails is taken out after it has asked the parent to
end. So when the block is left, the group's request was made, and the group takes it back: none
comes later, in code for which it is not meant.

Assumes *atomic call* and *mutex order*.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from logging import ERROR
from sys import getrefcount
from types import CoroutineType, TracebackType
from typing import Any, TypeVar
from weakref import getweakrefcount

from fairpool._api.cancelling import deliver_again, interrupt, task_that_enters
from fairpool._api.waiting import as_coroutine, wait_in
from fairpool._core.errors import DeadlockError, stays_here
from fairpool._core.foreign import is_a, type_name
from fairpool._core.report import log
from fairpool._core.room import SHORT_OF_ROOM, need_stack
from fairpool._core.threads import start_new_thread
from fairpool._core.token import PRESENT, Token
from fairpool._scheduler.scheduler import Scheduler
from fairpool._tasks.cancel import CancelRequest
from fairpool._tasks.coroutines import HELD_BY_ARGUMENT, claim_coroutine
from fairpool._tasks.future import Derived
from fairpool._tasks.state import FAILED
from fairpool._tasks.task import AnyTask, Task
from fairpool._tasks.waitlist import WaitList

T = TypeVar("T")


# Why a group takes no more tasks.
_SHUTTING_DOWN = "shutting down"
_FINISHED = "finished"


class _Completion(Derived[None]):
    """What the parent waits for at the end of its block: it ends after the children."""

    __slots__ = ("_children",)

    has_sources = True

    def __init__(self, children: set[AnyTask]) -> None:
        super().__init__()
        self._children = children

    def sources(self) -> tuple[AnyTask, ...]:
        return tuple(self._children.copy())


class _WaitingParent(WaitList):
    """The parent at the end of its block: it waits until the group has no children."""

    __slots__ = ("_children",)

    def __init__(self, children: set[AnyTask]) -> None:
        super().__init__()
        self._children = children

    def offers(self) -> bool:
        return not _is_not_empty(self._children)


def _is_not_empty(children: set[Any]) -> bool:
    """Whether there are children, ordered against every `add` and `discard` (mutex order)."""
    children.discard(None)  # takes the set's mutex
    return bool(children)


class TaskGroup:
    """Tasks that end before the block does. As `asyncio.TaskGroup`.

        async with TaskGroup() as group:
            task = group.create_task(some_coroutine())

    The group's tasks run on the pool of the task that enters it, its parent. The first task that
    fails cancels the others, and what the block itself waits for. When all have ended, their
    exceptions are raised as one `ExceptionGroup` (`BaseExceptionGroup` if one is no `Exception`).
    SystemExit and KeyboardInterrupt are raised as themselves.

    A cancellation of the parent cancels the group's tasks. The block waits for them, and raises
    CancelledError. If a task of the group waits for the end of the parent, `DeadlockError` is among
    the exceptions.

    `async with` raises RuntimeError outside of a pool's tasks, and for a group that was entered
    before. `create_task` may be called from any thread.
    """

    # The parent waits in a `WaitList` while there are children; a child that ends, on whatever
    # thread, does `take_out` (of `_children`, the list's `change`) and `wake`.
    #
    # `create_task` does `add_child` and `see_closed`. The end of the group does `close` (write the
    # reason) and `see_children`. Each step is a call on `_children` or `_closed`: of two threads,
    # one sees what the other did (mutex order). So no child is added to a group that has ended.

    # With a `__dict__`, for attributes of the program's own.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_base_errors",
        "_callback",
        "_children",
        "_closed",
        "_entered",
        "_errors",
        "_first",
        "_given_up",
        "_parent",
        "_request",
        "_waiting_parent",
    )

    __reduce_ex__ = stays_here("enter a TaskGroup where its tasks are to be made")

    def __init__(self) -> None:
        self._parent: AnyTask | None = None
        self._entered = False
        self._children: set[AnyTask] = set()
        self._closed: list[str] = []
        self._waiting_parent = _WaitingParent(self._children)
        self._errors: list[BaseException] = []
        self._base_errors: list[BaseException] = []
        self._first = Token(PRESENT)  # taken by the first thread that shuts the group down
        self._request: CancelRequest | None = None  # the group's own, to its parent
        # One bound method for all tasks. Not the group itself: callbacks are compared, and a
        # subclass may have an `__eq__`.
        self._callback: Callable[[AnyTask], None] | None = None
        self._given_up = False  # see `_give_up`

    def __repr__(self) -> str:
        state = self._closed[-1:] or (["entered"] if self._entered else ["not entered"])
        return f"<{type_name(self)} tasks={len(self._children)} {state[0]}>"

    async def __aenter__(self) -> TaskGroup:
        if self._entered:
            raise RuntimeError(f"{self!r} has been entered before")
        self._parent = task_that_enters("a TaskGroup")
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
        """Run a coroutine as a task of this group; return the task. From any thread.

        The task runs in a copy of the current `contextvars` context, or in `context` itself. Raises
        TypeError for what is no coroutine. Raises RuntimeError, and closes the coroutine, if the
        group was not entered, is shutting down or is finished, or if the pool is closed.
        Raises RuntimeError for a coroutine object that another task has.
        """
        is_plain = type(coro) is CoroutineType
        if not is_plain and not (hasattr(coro, "send") and hasattr(coro, "throw")):
            raise TypeError(f"create_task() takes a coroutine, not {coro!r}")
        if not is_plain or getrefcount(coro) != HELD_BY_ARGUMENT or getweakrefcount(coro):
            claim_coroutine(coro)
        parent = self._parent
        if parent is None:
            coro.close()
            if self._closed:
                raise RuntimeError(f"{self!r} takes no more tasks: it is {self._closed[-1]}")
            raise RuntimeError(f"{self!r} takes no tasks: enter it with `async with` first")
        if not is_plain:  # a generator that is one (`sleep`), or Cython's
            coro = as_coroutine(coro)
        task: Task[T] = Task()
        pool: Scheduler = parent._pool  # type: ignore[assignment]
        task._pool = pool
        context = copy_context() if context is None else context
        task._status = [(context, coro, None, None, None), self._callback or self._child_ended]
        task._coroutine_state = coro
        if name is not None:
            task.set_name(name)
        self._children.add(task)  # add_child
        try:
            if reasons := self._closed.copy():  # see_closed
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

    def _child_ended(self, task: AnyTask) -> None:
        """The callback of the group's tasks: one of them has ended."""
        if task._status is FAILED and not self._given_up:
            self._child_failed(task)
        children = self._children
        children.discard(task)  # take_out: done again if the stack had no room for wake
        if not children:
            need_stack(16)
            self._waiting_parent.serve_anyhow()  # wake

    def _child_failed(self, task: AnyTask) -> None:
        need_stack(18)  # the steps that follow must not fail half-way
        error = task.exception()
        assert error is not None
        self._errors.append(error)
        if is_a(error, SystemExit) or is_a(error, KeyboardInterrupt):
            self._base_errors.append(error)
        if self._shut_down():
            # Before this task is taken out: the parent sees the request when it sees that no
            # child is left.
            self._request = CancelRequest(None)
            assert self._parent is not None
            interrupt(self._parent, self._request, self)

    def _shut_down(self) -> bool:
        """Cancel all children, and take no more. True to the first caller."""
        if not self._first.take():
            return False
        self._closed.append(_SHUTTING_DOWN)  # close
        for child in self._children.copy():  # see_children
            try:
                child.cancel()
            except BaseException:  # of a foreign future's `cancel`: the other children must end
                log(ERROR, "%r could not cancel what %r waits for", self, child, exc_info=True)
        return True

    def _finish(self) -> bool:
        """Close the group for good, unless it has children."""
        if _is_not_empty(self._children):
            return False
        self._closed.append(_FINISHED)  # close
        if not _is_not_empty(self._children):  # see_children
            return True
        # Added by a thread outside of the group. That thread takes it out, or the group goes on.
        self._closed.remove(_FINISHED)
        return False

    def _give_up(self) -> None:
        """Leave the block with children in it, which have been cancelled."""
        self._given_up = True
        self._closed.append(_FINISHED)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
            try:
                await wait_in(self._waiting_parent, _Completion(self._children))
            except CancelledError as raised:
                if self._shut_down():
                    cancelled = raised
            except DeadlockError as raised:
                deadlocks += 1
                if self._shut_down():
                    self._errors.append(raised)
                if deadlocks > 1:
                    # The cancelled children wait for this very task: its end frees them.
                    self._give_up()
                    break
            except GeneratorExit:
                self._shut_down()
                self._give_up()
                raise

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
                deliver_again(parent)
                raise BaseExceptionGroup("unhandled errors in a TaskGroup", errors) from None
        finally:
            # The exceptions hold frames that hold all this: no cycle.
            self._request = self._callback = self._parent = None
            del kind, trace, errors, base_errors, error, cancelled, parent
