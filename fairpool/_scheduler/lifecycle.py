"""`LifeCycle`: how a pool is closed, dropped, drained and joined, or comes through a fork.

Proof that nothing accepted is lost, and nothing refused is run: `docs/protocols/shutdown.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import CRITICAL

from fairpool._core.errors import BrokenFairPool
from fairpool._core.here import here
from fairpool._core.report import log
from fairpool._core.threads import yield_cpu
from fairpool._core.timer import Timers
from fairpool._core.token import Latch
from fairpool._core.types import Function, Runnable
from fairpool._locks.combiner import Combiner
from fairpool._scheduler.blocking import blocked
from fairpool._scheduler.generators import Generators
from fairpool._scheduler.intake import Backlog
from fairpool._scheduler.roles import Unstarted
from fairpool._tasks.chain import Closing, Link
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.coroutines import claim_coroutine, is_coroutine
from fairpool._tasks.request import Published


class LifeCycle(Generators):
    """The states of a pool: open, dropped, closed, broken, forked, over."""

    __slots__ = (
        "_cancels_closings",
        "_forked",
        "_initargs",
        "_initializer",
        "backlog",
        "broken",
        "cancels_all",
        "ending",
        "suspended",
    )

    backlog: Backlog | None
    cancels_all: bool
    _cancels_closings: bool
    _forked: bool
    _initializer: Function | None
    _initargs: tuple[object, ...]

    def _reset(self) -> None:
        super()._reset()
        self.broken: BrokenFairPool | None = None  # why nothing can be run any more
        # Empty until the pool is closed, or dropped: workers then end when all is over.
        self.ending = Latch()
        self.suspended: set[Continuation] = set()  # continuations of coroutines that have not ended

    # --- the beginning ---------------------------------------------------------------------------

    @property
    def has_initializer(self) -> bool:
        return self._initializer is not None

    def initialize(self) -> bool:
        """Run the initializer on the calling worker's thread; False if the pool is broken now."""
        if self._initializer is None:
            return True
        try:
            result = self._initializer(*self._initargs)
            if is_coroutine(result):
                claim_coroutine(result)
                result.close()
                raise TypeError("an initializer must be a plain function: it returned a coroutine")
        except BaseException:
            log(CRITICAL, "Exception in initializer:", exc_info=True)
            message = "A thread initializer failed, the thread pool is not usable anymore"
            self.broken = BrokenFairPool(message)
            self.close(BrokenFairPool(message))
            started = self.drain(lambda task: task.abandon(BrokenFairPool(message)), self.broken)
            started += [each for each in self.suspended.copy() if each.reclaim()]
            for continuation in started:
                continuation.abandon(BrokenFairPool(message))
            for lock in self.all_locks():
                lock.abandon_sections(self.broken)
            return False
        return True

    # --- the end ---------------------------------------------------------------------------------

    def close(self, reason: Exception) -> None:
        """Take no more tasks; workers end when the queues are empty.

        May be called repeatedly, and is to be, where an interrupt may have cut it off before.
        """
        if not self.close_reason:
            self.close_reason.set(reason)  # shutdown: give_reason
        if self.backlog is not None:
            self.backlog.close()
        self.drop()

    def drop(self) -> None:
        """Nobody holds the pool any more: its workers end when nothing is left to be run.

        What its tasks, their futures and its locks start until then, and later, is accepted.
        """
        self.ending.set()
        self.timers.close()
        self.parking.unpark_all()  # shutdown: unpark_all

    def drain(
        self, end: Callable[[Unstarted], object], reason: BaseException | None = None
    ) -> list[Published]:
        """Take every queued task or gather, and end it; return the continuations.

        Those have been started, and are the caller's now. A `finally_` is not ended either, but
        stays in the queue. `reason`: why there is no worker, and nobody to serve the locks.
        """
        started: list[Published] = []
        kept: list[Runnable] = []
        for worker in self.workers.copy():
            try:
                while True:
                    started.append(worker.published.pop(0))
            except IndexError:
                pass
        for queue in self.queues():
            while (item := queue.take()) is not None:
                if type(item) is Continuation:
                    started.append(item)
                elif isinstance(item, Combiner):
                    if reason is None:
                        kept.append(item)
                    else:
                        item.fail(reason)
                elif isinstance(item, Link) and item.is_clean_up():
                    kept.append(item)
                else:
                    end(item)
        for link in kept:
            self.resume(link)
        return started

    def _abandon_queued(self, error: Exception) -> None:
        """There is no worker, and none could be started: end what is queued."""
        reason = RuntimeError(f"no worker could be started: {error}")
        for continuation in self.drain(lambda task: task.abandon(reason), reason):
            continuation.abandon(reason)

    def cancel_all(self, closings: bool = False) -> None:
        """Ask every coroutine that has been started to end, also those in their first step.

        `closings`: also those that close asynchronous generators.
        """
        if closings:
            self._cancels_closings = True
        self.cancels_all = True
        # A coroutine that is suspended for the first time is added, and then looks at the flag.
        for continuation in self.suspended.copy():
            if self.cancels(continuation.task):
                continuation.task.interrupt("the pool is ending")

    def cancels(self, task: object) -> bool:
        """Whether `cancel_all` is meant for this task."""
        return self._cancels_closings or type(task) is not Closing

    def is_ending(self) -> bool:
        """Whether the pool was closed or dropped; ordered against both (mutex order)."""
        return self.ending.is_set()

    def suspended_ended(self) -> None:
        """A coroutine that had been suspended has ended, and the pool is ending."""
        if not self.suspended:
            self.parking.unpark_all()  # those that parked until this was the last

    def is_waiting_to_close(self) -> bool:
        """Whether the pool is ending, and there are coroutines that are suspended."""
        self.suspended.discard(None)  # takes the set's mutex: ordered against `suspended_ended`
        return self.is_ending() and (
            bool(self.suspended)
            or any(lock.queue.holds_work() or lock.queue for lock in self.used_locks())
        )

    def is_over(self) -> bool:
        """Whether the pool is ending, and nothing is left to be run."""
        return self.is_ending() and not self.is_waiting_to_close() and not self.has_work()

    def join(self) -> None:
        """Wait until all workers have ended. The pool must be closed."""
        used: list[Timers] = []
        while True:
            over = self.is_over()
            if not over and not self.workers.copy():
                # Accepted by a `put` that has not come to its `notify`, or suspended: it is run to
                # its end before this returns.
                if not self.max_workers:
                    self.run_what_is_left()
                    continue
                try:
                    self.parking.notify()
                except Exception as error:
                    if not self.workers.copy():
                        self._abandon_queued(error)
                        raise
            # After the look at the queues: the worker with the last task is in `threads`.
            threads = self.threads.copy()
            if not threads:
                if not over and not here.notifying:
                    yield_cpu()  # a `put` has taken the slot, and is about to list its worker
                    continue
                if self._close_generators():
                    continue
                # What is run after this, the link of a chain, has timers of its own: a worker that
                # is listed later has seen the new ones (mutex order), and none is left that has
                # seen the old ones.
                used.append(self.timers)
                self.timers = self._make_timers()
                self.timers.close()
                self._starts_again.put()  # a second one does no harm
                if self.threads.copy():
                    continue
                for timers in used:
                    timers.stop()
                self.exited_workers.clear()  # which refer to this: no cycle
                return
            for worker in threads:
                with blocked("threads", self, lends_key=True):  # in a worker of another pool
                    worker.join()
                self.forget_thread(worker)

    def run_what_is_left(self) -> None:
        """Work for a pool without threads until it is over."""
        raise NotImplementedError

    # --- fork ------------------------------------------------------------------------------------

    def check_same_process(self) -> None:
        """Raise `BrokenFairPool` in a process to which the pool came through `os.fork`."""
        if self._forked:
            raise self.closed_error()

    def after_fork(self) -> None:
        """Start again from nothing, closed: the threads are in the parent process."""
        for lock in self.all_locks():
            lock.queue.clear()  # its waiters are in the parent process, and are served there
        self.injector.clear()  # the task that forked goes on here, and its worker holds this queue
        self._reset()
        self._forked = True
        self.ending.set()
        self.close_reason.set(
            BrokenFairPool(
                f"the pool {self._prefix} did not survive os.fork(): its threads are in the parent "
                "process; make a new FairPool in the child"
            )
        )
