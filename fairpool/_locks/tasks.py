"""`TaskEntry`: a task enters a lock, at once or by a request, and leaves it."""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Awaitable

from fairpool._core.here import here
from fairpool._core.room import SHORT_OF_ROOM
from fairpool._core.threads import FREE_THREADED, monotonic_ns, start_new_thread
from fairpool._core.types import AnyCoroutine, Runnable
from fairpool._locks.host import LockWorker
from fairpool._locks.threads import ThreadEntry
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.request import Once, Published, Request

# How often a task looks whether a tiny section has ended before it queues its request. At 0.1 µs
# each they take 20 µs, about what a request costs its task and those that queue up behind it, and
# what a meeting of two threads at a mutex of CPython's own takes: see docs/architecture.md.
LOOKS_BEFORE_QUEUEING = 200 if FREE_THREADED else 0


class _GiveWay:
    """Yield to the continuations that were published on this worker."""

    def _suspend(self, continuation: Continuation) -> None:
        if continuation.disarm():
            continuation.ticket = monotonic_ns()
            continuation.drop_request()  # else it would be counted as the response to that
            here.worker.publish(continuation)


GIVE_WAY = Once((_GiveWay(),))


class TaskEntry(ThreadEntry):
    """Entry and exit of a coroutine: `async with`."""

    __slots__ = ()

    # How many times `LOOKS_BEFORE_QUEUEING` a task looks. More where a section takes longer by what
    # the lock itself does.
    looks = 1

    # The two ways in that take a coroutine function: see `_api/lock.py`.

    def enter_later(self) -> AnyCoroutine:
        """Let what was published go first."""
        raise NotImplementedError

    def enter_external(self, worker: LockWorker | None) -> AnyCoroutine:
        """Enter with a coroutine that this pool does not run, or not as a task."""
        raise NotImplementedError

    def __aenter__(self) -> Awaitable[None]:
        worker: LockWorker | None = here.worker
        home = self.home
        if (
            not self.queue
            and (home is worker or home is None)
            and worker is not None
            and (owner := worker.item) is not None
            # Else a task that finds the lock free again and again would keep what has been
            # published here waiting, if nobody else is there to take it.
            and (not worker.published or (home is None and worker.may_go_first()))
            # What may fail for want of stack or memory comes before the key is taken.
            and (owner.is_task or (owner := worker.task) is not None)
            and (began := monotonic_ns()) is not None
            and (self.take_key(False) or (not self.in_use and self.take_unused_key()))
        ):
            self.owner = owner
            self.began = began
            return worker.ready
        if (
            worker is None
            or worker.item is None  # its initializer calls `asyncio.run`
            or worker.scheduler is not self.scheduler
            or _get_running_loop()
        ):
            return self.enter_external(worker)
        if home is None and not self.queue and worker.published and not worker.consecutive_acquires:
            return self.enter_later()
        if home is None and (not worker.published or worker.consecutive_acquires):
            # A section shorter than its own migration: spin for its end before going through the
            # queue. Not past those that are in there. With bound methods of this thread's own: each
            # read of a shared attribute would delay the task that is inside.
            waiting, take_key = self.queue.__len__, self.key.acquire
            owner, began = worker.task, monotonic_ns()
            for _ in range(LOOKS_BEFORE_QUEUEING * self.looks):
                if waiting():
                    break
                if take_key(False):
                    self.owner = owner
                    self.began = began
                    try:
                        if not self.in_use:  # it has just gone out of use
                            self._note_use()
                    except SHORT_OF_ROOM:
                        self.end_section()
                        raise
                    try:
                        self.began = monotonic_ns()
                    except MemoryError:  # the time of the looks is counted, too
                        pass
                    return worker.ready
        if worker.item.task is None:
            worker.task  # noqa: B018 (makes one of a child of a `gather`, and changes `item`)
        request: Request | None = worker.item.request
        if request is None:
            request = Request()
        request.lock = self
        request.ticket = monotonic_ns()
        return request.door  # type: ignore[return-value]  # it was not given up

    def queue_up(self, request: Request, worker: LockWorker) -> TaskEntry | None:
        """Queue the request of a coroutine that has been suspended by this worker.

        Returns this lock if the worker is to serve it next. Raises `DeadlockError` if the request
        could never be granted; it is out of the queue then.
        """
        self.queue.append(request)  # combining: enqueue
        if self.key.acquire(False):  # combining: try_key
            home = self.home
            if (home is None or home is worker) and not worker.published:
                return self
            self.dispatch()
            return None
        self._check_wait(worker.item.task, request)
        return None

    def __aexit__(self, kind: object, error: object, trace: object) -> Awaitable[None]:
        try:
            if self.queue:
                if kind is not GeneratorExit:
                    return self.leave_door
                self.end_section()
                return self.ready
            self._account(monotonic_ns())
        except SHORT_OF_ROOM:
            self.served = 0
            self.owner = None
        self.release_key()  # combining: release_key
        self.rotate(0)  # combining: recheck (`holds_work`, written out)
        if not self.queue:
            return self.ready
        try:
            has_key = self.key.acquire(False)  # combining: try_key
        except MemoryError:
            start_new_thread(self.see_to_queue, ())
            return self.ready
        if has_key:
            # Written out here and at its twins: a call more would be deeper than `reach` has shown
            # (docs/protocols/room.md).
            try:
                self.hand_over_key()
            except SHORT_OF_ROOM:
                try:
                    start_new_thread(self.hand_over_key, ())
                except (RuntimeError, MemoryError):
                    self.release_key()
        return self.ready

    def after_leave(self, continuation: Published, worker: LockWorker) -> Runnable:
        """The coroutine has left what it had entered at once, and this worker serves now."""
        continuation.ticket = self.began
        self._account(monotonic_ns())
        if worker.scheduler is not self.scheduler:
            self.hand_over_key_safely()
            return continuation  # as if it had yielded
        worker.publish(continuation)
        return self
