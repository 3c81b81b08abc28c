"""`Gather`: a future of the results of several children, and the children that were not started.

A child that is a coroutine is no task at first. It becomes one when it is suspended, when it fails,
or when somebody asks for it (`current_task`, a wait in its first step); one that simply returns in
its first step never does. So the children that wait to be started are one entry in a run queue and
a coroutine each: no future, no queue entry and no context of their own, which is most of what a
small child would cost. Protocol and proof: "The children of a gather" in `docs/protocols/tasks.md`.

Guarantees:

- Each child is started once: `_unstarted.pop` decides (`take_child`).
- While there are children to be started, the gather is in a run queue or in the injector, or some
  worker is about to put it there. So nobody needs the worker that runs one of them to start others.
- Each child runs in its own copy of the context of the `gather()` call.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Generator
from contextvars import Context
from typing import Any

from fairpool._core.foreign import is_a
from fairpool._core.here import here
from fairpool._core.room import need_stack
from fairpool._core.threads import monotonic_ns
from fairpool._core.types import NativeCoroutine, Runnable
from fairpool._core.waitgraph import Edge, leave_wait
from fairpool._tasks.continuation import suspend_first
from fairpool._tasks.future import AnyFuture, Future
from fairpool._tasks.host import ForkingPool, ForkingWorker, Pool
from fairpool._tasks.settling import claim, fail, outcome_of, settle
from fairpool._tasks.state import CANCELLED, FAILED, FINISHED, Final, is_final
from fairpool._tasks.step import Aggregate, fail_step, settle_and_take_next
from fairpool._tasks.task import AnyTask, Task

# How many children a worker starts before it scans for other work: as many as its steps between
# scans (`STEPS_BETWEEN_SCANS` in `_scheduler/worker.py`).
CHILDREN_AT_ONCE = 61

# How many children a worker starts on top of tasks that wait for them, before it lets others go
# first; only `CHILDREN_AT_ONCE` if others wait outside. Small children take about half as long as a
# pass of a lock may take.
FORKED_MAX = 500

# For how long (ns) that may go on where the children are not small: as long as a pass. A task that
# starts children is not suspended meanwhile, so it sees neither a time-out nor a cancellation.
FORKED_TIME = 2_000_000

# What `Gather._start` returns for a child that has returned, and has not become a task.
_RETURNED: Runnable = Task()

# In `_tasks`, for a child that was started, is no task yet, and is to be cancelled when it becomes
# one.
_TO_BE_CANCELLED: AnyFuture = Future()

# Of children of any type, in their order.
Results = list[Any]


class Fork:
    """A task whose step has called the first steps of its children, on the same stack."""

    __slots__ = ("fn", "gather", "item", "outer", "written")

    def __init__(self, item: Any, fn: Any, gather: Gather) -> None:
        self.item = item
        self.fn = fn
        self.gather = gather
        self.written = False  # whether `write_wait` was called
        self.outer: Edge | None = None


class Gather(Aggregate[Results]):
    """The future of a `gather`. It is a callback of its children, and starts them."""

    __slots__ = (
        "_all",
        "_context",
        "_coroutines",
        "_eager_in",
        "_ledger",
        "_requested",
        "_results",
        "_tasks",
        "_unstarted",
    )

    # _tasks: which of the children, by their indexes, are tasks or other futures.
    # _unstarted: the indexes of the coroutines that were not started, the next one last.
    # _results: the results of the children that never became tasks; the others' at the end.
    # _ledger: how many children have ended, in parts: see `_have_ended`.

    has_sources = True

    # A worker's `item` has this. Which task it is, is not known before `make_task`.
    task = None
    is_task = False
    lock_in_hand = None

    def __init__(self, size: int, return_exceptions: bool) -> None:
        self._status = [()]
        self._pool = None
        self._all = return_exceptions
        self._requested = False
        self._results: Results = [None] * size
        self._tasks: dict[int, AnyFuture] = {}
        self._ledger: list[int] = []
        self._unstarted: list[int] = []

    def of_futures(self, children: list[AnyFuture]) -> None:
        """Gather these. Called once, by the maker of the gather."""
        self._tasks.update(enumerate(children))
        for child in children:
            child._register(self)

    def of_coroutines(
        self,
        coroutines: tuple[NativeCoroutine, ...],
        context: Context,
        eager_in: ForkingPool | None,
    ) -> None:
        """Have these run as children when a worker finds the gather in a queue.

        `eager_in`: the scheduler whose workers may start them in an `await` as well, or None.
        """
        self._eager_in = eager_in
        self._coroutines = coroutines
        self._context = context
        self._unstarted = [*range(len(coroutines) - 1, -1, -1)]

    # --- starting children ----------------------------------------------------------------------

    def run(self, worker: ForkingWorker) -> Runnable | None:
        """Start children, on the calling worker, which has taken the gather out of a queue.

        Returns what the worker is to run next, as `Task.run`.
        """
        unstarted = self._unstarted
        take = unstarted.pop
        try:
            index = take()
        except IndexError:  # others have taken all of them
            return None
        if unstarted:
            worker.enqueue(self)
        overcommits = worker.scheduler.parking.overcommits
        ended = 0
        left = CHILDREN_AT_ONCE
        while True:
            following = self._start(index, worker)
            if following is _RETURNED:
                ended += 1
                following = None
            elif worker.item is None:  # the child of a fork: the others are the parent's
                return None
            left -= 1
            if following is not None or overcommits or not left:
                break
            try:
                index = take()
            except IndexError:
                break
        if ended and self._have_ended(ended):
            last = self._finish(worker.scheduler)
            if following is None:
                following = last
            elif last is not None:  # the last child has left a lock, and has ended elsewhere
                worker.requeue(last)
        if following is None and not left:
            following = worker.scan()
        del self  # the error of a child, which it may hold now, leads to this frame: no cycle
        return following

    def _start(self, index: int, worker: ForkingWorker) -> Runnable | None:
        """Run a child's first step. Returns as `Task.run`; `_RETURNED` if it has not become a task.

        Its result is in its place then, and the caller has to account for it.
        """
        # `worker.turn_to(self, index)`, written out.
        worker.item = None
        worker.fn = index
        worker.item = self
        coroutine = self._coroutines[index]
        try:
            context = self._context.copy()
            request = context.run(coroutine.send, None)
        except StopIteration as stop:
            item = worker.item
            if item is self:
                self._results[index] = stop.value
                return _RETURNED
            return None if item is None else item.task.end_first_step(stop.value)
        except BaseException as error:
            fail_step(self._task_of(index, worker), error, coroutine)
            del self, worker, coroutine  # as in `Task.run`
            return None
        following = suspend_first(self._task_of(index, worker), context, coroutine, request, worker)
        del self, worker, coroutine
        return following

    # --- on top of the one that waits ------------------------------------------------------------

    def __await__(self) -> Generator[object, None, Results]:
        """As `Future`; with `eager_start` the calling worker first starts what nobody has started.

        What that returns in its first step is there then, and nothing has to be suspended for it.
        """
        worker: ForkingWorker | None = here.worker
        if (
            self._unstarted
            and self._eager_in is not None
            and worker is not None
            and worker.may_fork(self._eager_in)
        ):
            self._fork(worker, self._eager_in)
        if self._status is FINISHED:
            return self._value  # type: ignore[no-any-return]
        try:
            return (yield from Future.__await__(self))
        finally:
            del self  # the traceback holds this frame: no cycle

    def _fork(self, worker: ForkingWorker, scheduler: ForkingPool) -> None:
        """Start children on top of the task that runs on `worker`, and that waits for them.

        They are still in a queue as well, for others: thieves get the oldest
        gather first, and with it the most work.
        """
        unstarted = self._unstarted
        overcommits, outside = scheduler.parking.overcommits, scheduler.injector
        ended = 0
        following = None
        fork = Fork(worker.item, worker.fn, self)
        worker.forks.append(fork)
        if not worker.forked:
            worker.fork_until = monotonic_ns() + FORKED_TIME
        try:
            while worker.forked < FORKED_MAX and not overcommits and type(self._status) is list:
                try:
                    index = unstarted.pop()
                except IndexError:
                    break
                forked = worker.forked + 1
                if (outside and forked > CHILDREN_AT_ONCE) or monotonic_ns() > worker.fork_until:
                    forked = FORKED_MAX
                worker.forked = forked
                following = self._start(index, worker)
                if following is _RETURNED:
                    ended += 1
                elif worker.item is None:  # the child of `os.fork`: as in `run`
                    return
                elif following is not None:
                    worker.requeue(following)
        finally:
            worker.forks.pop()
            if worker.item is not None:
                worker.turn_to(fork.item, fork.fn)
            if fork.written:
                leave_wait(fork.item.task, fork.outer)
        if not unstarted:
            worker.take_back(self)
        if ended and self._have_ended(ended) and (last := self._finish(scheduler)):
            worker.requeue(last)
        # The error of a child, which this gather may hold now, leads to this frame: no cycle.
        del self, fork, following

    def _task_of(self, index: int, worker: ForkingWorker) -> AnyTask:
        """The task of the child that has just ended a step on this worker."""
        item = worker.item
        return self.make_task(index, worker.scheduler) if item is self else item.task  # type: ignore[no-any-return]

    def make_task(self, index: int, pool: Pool) -> AnyTask:
        """Make a task of a child in its first step. Called by the worker that runs it, once."""
        task: AnyTask = Task()
        task._pool = pool
        task._status = [self]
        task._coroutine_state = self._coroutines[index]
        first = self._tasks.setdefault(index, task)  # enter_child
        if first is _TO_BE_CANCELLED:
            self._tasks[index] = task
            task.interrupt()
        elif first is not task:  # a `__del__` has asked for it meanwhile
            return first  # type: ignore[return-value]
        return task

    def child(self, fn: object) -> object:
        """The coroutine that a worker runs whose `item` is this gather; for `dump`."""
        return self._coroutines[fn] if type(fn) is int else fn

    def drop(self) -> bool:
        """Cancel the children that were not started; whether there were any."""
        return self._take_rest(None)

    def abandon(self, error: BaseException) -> None:
        """End the children that were not started with an error."""
        self._take_rest(error)

    def _take_rest(self, error: BaseException | None) -> bool:
        taken = 0
        while True:
            try:
                index = self._unstarted.pop()
            except IndexError:
                break
            self._coroutines[index].close()  # else Python warns that it was never awaited
            self._results[index] = CancelledError() if error is None else error
            taken += 1
        if taken and self._all:
            if self._have_ended(taken):
                self._finish(None)
        elif taken and claim(self) is not None:
            if error is None:
                settle(self, CANCELLED, None)
            else:
                fail(self, error, "gather()")
        return taken > 0

    # --- ending ----------------------------------------------------------------------------------

    def __call__(self, child: AnyFuture) -> None:
        need_stack(12)
        self.child_ended(child, None)

    def child_ended(self, child: AnyFuture, pool: Pool | None) -> Runnable | None:
        """A child that is a future is final. Returns as `take_next`, if `pool` is given."""
        try:
            if self._all or child._status is FINISHED:
                return self._finish(pool) if self._have_ended(1) else None
            if claim(self) is None:
                return None
            state, value = outcome_of(child, "gather()")
        except MemoryError as error:
            # How many children have ended is not known any more, so the gather fails with this.
            if claim(self) is not None:
                fail(self, error, "gather()")
            return None
        return self._conclude(state, value, pool)

    def _have_ended(self, count: int) -> bool:
        """Account for `count` children that have ended; True to the one that completes the sum.

        A worker that finds parts of others adds them to its own. The last to append sees all parts
        in the list. One that is not in it will be appended later: by then, that is the last.
        """
        ledger, size = self._ledger, len(self._results)
        while count != size:
            while ledger:
                try:
                    count += ledger.pop()
                except IndexError:  # another worker has it
                    break
            if count == size:
                break
            if count:
                ledger.append(count)  # leave_part
            if len(ledger) < 2:  # recheck_parts
                return False
            count = 0
        return True

    def _finish(self, pool: Pool | None) -> Runnable | None:
        """All children have ended. Returns as `child_ended`."""
        if claim(self) is None:
            return None
        if self._requested:
            return self._conclude(CANCELLED, None, pool)
        results = self._results
        try:
            for index, child in self._tasks.copy().items() if self._tasks else ():
                if child is _TO_BE_CANCELLED:
                    continue
                if is_a(child, Task) and not is_final(child):
                    # It had returned already when somebody asked for the task of this worker: a
                    # `__del__`, or a signal handler. Nobody else would end it.
                    settle(child, FINISHED, results[index])
                else:
                    results[index] = _outcome(child)
        except MemoryError as error:
            fail(self, error, "gather()")
            return None
        return self._conclude(FINISHED, results, pool)

    def _conclude(self, state: Final, value: object, pool: Pool | None) -> Runnable | None:
        """As `settle`; returns as `child_ended`."""
        if pool is not None:
            return settle_and_take_next(self, state, value, pool)
        settle(self, state, value)
        return None

    def cancel(self) -> bool:
        """Cancel all children; the gather is cancelled when they have ended."""
        if self.done():
            return self.cancelled()
        self._requested = True  # before: the last child may end at once
        answers = [self.drop()]
        asked: set[int] = set()  # which futures; the same one may be several children
        for index in range(len(self._results)):  # all of them, not only up to the first that agrees
            child = self._tasks.setdefault(index, _TO_BE_CANCELLED)  # mark_child
            if child is _TO_BE_CANCELLED:
                answers.append(True)
            elif id(child) not in asked:
                asked.add(id(child))
                answers.append(child.cancel())
        self._requested = any(answers)
        return self._requested

    def sources(self) -> tuple[AnyFuture, ...]:
        # A plain read: a child that waits became a task before it wrote its edge, and that was
        # read before this.
        if not self._tasks or self.done():
            return ()
        children = self._tasks.copy().values()
        return tuple([child for child in children if child is not _TO_BE_CANCELLED])


def _outcome(child: AnyFuture) -> object:
    if type(child) is Task and child._status is FINISHED:
        return child._value
    state, value = outcome_of(child, "gather()")
    if state is FAILED:
        value.retrieved = True
        return value.exception
    return CancelledError() if state is CANCELLED else value
