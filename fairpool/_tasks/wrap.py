"""`wrap_future`: the future of another executor, as one of ours.

Python finds `__await__` in an object's class, and `concurrent.futures.Future` has none. So each
future of another executor that a task waits for, or that `gather`, `shield` or a chain is given,
gets one of ours at its side.

Guarantees:

- Both ways. The wrapper ends as the other future does, and to cancel it cancels that one.
- Of the two ends, `claim` decides which comes first; the other one changes nothing.
- Whatever the other future's class does, and however little stack its thread has left, the wrapper
  ends when the other future has called it.
"""

from __future__ import annotations

from concurrent.futures import Future as _StdFuture
from typing import TypeGuard

from fairpool._core.foreign import describe, is_a, without_frame
from fairpool._core.room import SHORT_OF_ROOM, need_stack
from fairpool._core.threads import start_new_thread
from fairpool._core.types import T
from fairpool._tasks.failure import Failure
from fairpool._tasks.future import Derived, Future
from fairpool._tasks.settling import claim, settle
from fairpool._tasks.state import CANCELLED, FAILED, FINISHED, Outcome

RUN_IT_THERE = (
    "which belongs to an asyncio loop; run what makes it there, with "
    "asyncio.run_coroutine_threadsafe(coroutine, loop), and use "
    "fairpool.wrap_future(...) of what that returns"
)


def is_future(what: object) -> TypeGuard[_StdFuture[object]]:
    """Whether `what` is a future of ours, or one that `wrap_future` makes one of."""
    return is_a(what, _StdFuture)


def wrap_future(future: _StdFuture[T]) -> Future[T]:
    """The future of another executor as one that can be awaited, in tasks and in asyncio loops.

        data = await fairpool.wrap_future(executor.submit(load))

    It ends as `future` does. To cancel it cancels `future`, too: if that runs already and cannot be
    cancelled, the wrapper is cancelled all the same, as with `asyncio.wrap_future`. A future of
    fairpool is returned as it is. Raises TypeError for anything but a `concurrent.futures.Future`.
    May be called from any thread, inside and outside of tasks.
    """
    if is_a(future, Future):
        return future
    if not is_a(future, _StdFuture):
        what = f"not {describe(type(future))}"
        if hasattr(type(future), "_asyncio_future_blocking"):
            what += f", {RUN_IT_THERE}"
        raise TypeError(f"wrap_future() takes a concurrent.futures.Future, {what}")
    wrapper: _Wrapper[T] = _Wrapper(future)
    future.add_done_callback(wrapper)
    return wrapper


class _Wrapper(Derived[T]):
    """What `wrap_future` returns, and the callback of the future that it follows."""

    __slots__ = ("_source",)

    # _source: the other future, until one of the two has ended. Written by the claimer.

    def __init__(self, source: _StdFuture[T]) -> None:
        self._pool = None
        self._source: _StdFuture[T] | None = source
        self._status = [(), _cancel_source]

    def __call__(self, source: _StdFuture[T]) -> None:
        """`source` is final. Called by `source`, which swallows what this raises."""
        try:
            self._follow(source)
        except SHORT_OF_ROOM:  # it has done nothing yet
            start_new_thread(self._follow, (source,))

    def _follow(self, source: _StdFuture[T]) -> None:
        need_stack(12)
        state, value = _outcome_of(source)
        if claim(self) is not None:
            self._source = None
            settle(self, state, value)
        elif state is FAILED:
            value.retrieved = True  # the wrapper was cancelled: nobody wants to know

    def _describe(self) -> str:
        source = self._source
        if source is None:
            return ""
        return f"a future of {describe(type(source))} at {id(source):#x}"


def _cancel_source(wrapper: _Wrapper[T]) -> None:
    """The first callback of a wrapper: if that was cancelled, the other future is to be, too."""
    source, wrapper._source = wrapper._source, None
    if source is not None:
        source.cancel()


def _outcome_of(future: _StdFuture[T]) -> Outcome:
    """As `outcome_of`, for a final future of another executor's."""
    try:
        if future.cancelled():
            return CANCELLED, None
        error = future.exception()
        if error is None:
            return FINISHED, future.result()
        return FAILED, Failure(error, "wrap_future()")
    except BaseException as raised:  # it may be anybody's
        return FAILED, Failure(without_frame(raised), "wrap_future()")
    finally:
        error = None  # its traceback may lead to this frame: no cycle
