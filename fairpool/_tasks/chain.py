"""Chains: `Link`, the task that `Future.then`, `catch` and `finally_` return."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import Future as _StdFuture
from sys import getrefcount
from types import CoroutineType, GeneratorType
from weakref import getweakrefcount

from fairpool._core.foreign import describe, is_a
from fairpool._core.types import Function, Runnable, T
from fairpool._tasks import host, step
from fairpool._tasks.callbacks import Crowd
from fairpool._tasks.cancel import CancelRequest
from fairpool._tasks.continuation import Continuation, end_suspended
from fairpool._tasks.coroutines import HELD_BY_LOCAL, claim_coroutine, is_coroutine
from fairpool._tasks.failure import Failure
from fairpool._tasks.future import AnyFuture
from fairpool._tasks.host import Worker
from fairpool._tasks.settling import outcome_of, put_back, settle
from fairpool._tasks.state import CANCELLED, FAILED, FINISHED, Call, Callback, Status, call_of
from fairpool._tasks.step import fail_step, settle_and_take_next, take_next
from fairpool._tasks.task import Task
from fairpool._tasks.wrap import is_future, wrap_future


def _run_in_any_case(source: AnyFuture, fn: Callable[[], object]) -> object:
    result = fn()
    if is_coroutine(result):
        claim_coroutine(result)
        return host.coroutines.pass_through(source, result)
    if is_future(result):
        return host.coroutines.pass_through(source, wrap_future(result))
    try:
        if source._status is CANCELLED:
            raise CancelledError
        return source.result()
    finally:
        del source  # the traceback holds this frame: no cycle


class Link(Task[T]):
    """A task that is queued when its source is final: what `Future.then` returns."""

    __slots__ = ()

    # Its call is (context, on_result, source, types, None, on_error, in_any_case). The `types` are
    # the exceptions that `on_error` handles.

    has_sources = True

    def run(self, worker: Worker) -> Runnable | None:
        """As `Task.run`. The argument of the call is the outcome of the source."""
        status: Status = self._status  # type: ignore[assignment]
        try:
            call = status.pop(0)
        except (IndexError, AttributeError):  # claimed, or final
            return None
        if type(call) is not tuple:
            put_back(self, status, call)
            return None
        context, on_result, source, types, _, on_error, in_any_case = call
        worker.item = self
        worker.fn = on_result
        try:
            if on_result is not None and source._status is FINISHED:
                result = context.run(on_result, source._value)
            elif (taken := self.take_over(source, types, on_error, in_any_case)) is not None:
                worker.fn = taken[0]
                result = context.run(*taken)
            else:
                # Nothing is raised on the way, so the traceback does not grow from link to link.
                return settle_and_take_next(self, *outcome_of(source), self._pool)
        except BaseException as error:
            if issubclass(type(error), CancelledError) and worker.fn is _run_in_any_case:
                settle(self, CANCELLED, None)  # as its source was
            else:
                fail_step(self, error, worker.fn)
            taken = None
            del self, call, source, on_error, in_any_case, worker  # no cycle: see `Task.run`
            return None
        kind = type(result)
        if issubclass(kind, _StdFuture):  # of two plain types: none of the user's code
            result = host.coroutines.wait_for(result)
            kind = type(result)
        if kind is CoroutineType or (kind is GeneratorType and is_coroutine(result)):
            try:
                if getrefcount(result) != HELD_BY_LOCAL or getweakrefcount(result):
                    claim_coroutine(result)
            except BaseException as error:
                fail_step(self, error, result)
                del self, call, source, on_error, in_any_case, worker, result  # likewise
                return None
            try:
                return Continuation(self, context, result)  # all of it is left
            except BaseException as error:
                end_suspended(self, result, None, error)
                return None
        # `settle_and_take_next`, written out.
        self._value = result  # publish_value
        self._status = FINISHED  # publish_state
        status.reverse()  # publish_fence
        return take_next(self, status, self._pool) if status else None

    def sources(self) -> tuple[AnyFuture, ...]:
        if (call := call_of(self)) is None:
            return ()
        _, _, source, *_ = call
        return (source,)

    def _describe_call(self, call: Call) -> str:
        _, on_result, _, _, _, on_error, in_any_case = call
        return describe(next(fn for fn in (on_result, on_error, in_any_case) if fn is not None))

    def cancel(self, msg: str | None = None) -> bool:
        """Cancel the chain up to here: also its sources, as far as nobody else waits for them.

        A `finally_` is not cancelled: its source is, and then it runs.
        """
        link: AnyFuture = self
        answer = False
        while isinstance(link, Link) and (sources := link.sources()):
            if not link.is_clean_up():
                if not link.drop():
                    break
                answer = True
                sources[0]._unregister(link)  # which may live for long
            if sources[0]._pool is None or not _waits_alone(link, sources[0]):
                return answer  # worked by hand: not ours to cancel
            link = sources[0]
        taken = Task.cancel(link, msg) if isinstance(link, Task) else link.cancel()
        return answer or taken

    def is_clean_up(self) -> bool:
        """Whether this is a `finally_` that has not been run."""
        if (call := call_of(self)) is None:
            return False
        *_, in_any_case = call
        return in_any_case is not None

    def __call__(self, source: AnyFuture) -> None:
        """A link is a callback: its source is final, so it can be queued."""
        self._pool.resume(self)

    def take_over(
        self,
        source: AnyFuture,
        types: tuple[type[BaseException], ...],
        on_error: Function | None,
        in_any_case: Function | None,
    ) -> tuple[Function, *tuple[object, ...]] | None:
        """The function and the arguments for an outcome of `source` that `on_result` is not for.

        None if that is this link's own outcome, too.
        """
        if in_any_case is not None:
            return _run_in_any_case, source, in_any_case
        if source._status is FAILED:
            failure: Failure = source._value
            failure.retrieved = True
            if on_error is not None and any(is_a(failure.exception, kind) for kind in types):
                return on_error, failure.exception
        return None


class Closing(Link[None]):
    """Closes an asynchronous generator. Not cancelled where a pool's tasks are."""

    __slots__ = ()


def _waits_alone(link: Callback, source: AnyFuture) -> bool:
    """Whether nothing waits for `source` but `link`."""
    status = source._status
    return type(status) is list and all(
        entry is link
        or type(entry) in (tuple, CancelRequest)
        or (type(entry) is Crowd and len(entry) == (link in entry))
        for entry in status.copy()
    )


step.link_class = Link
