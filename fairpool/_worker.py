"""`Worker`: a pool thread and its loop: next task, run it, steal, park.

Guarantees:

- A worker never ends because of what a task, a callback or an initializer raises.
- A worker that waits for a future does not starve the pool. A task that nobody has started is
  run inline, on top of the one that waits for it; else the worker gives up its seat, so that another
  worker takes its place.
- A wait that would never end raises `DeadlockError`: see `_enter_wait`.

This code assumes that a `Worker`'s attributes are written by its own thread only (`dump` reads them
from others and may see a moment ago).
"""

from __future__ import annotations

from random import random
from typing import Any

from fairpool._errors import DeadlockError
from fairpool._future import (
    LOGGER,
    LOOKS_BEFORE_PARKING,
    Future,
    Waiter,
    claim,
    describe,
    fail,
    is_final,
    wait,
)
from fairpool._park import Parker, Parking
from fairpool._runqueue import RunQueue
from fairpool._sync import FREE_THREADED, Thread, here, stack_is_deep, yield_cpu
from fairpool._task import Task, run_claimed

__all__ = ["Worker", "blocking", "waits"]

# How often a searching worker looks around before it parks. 500 looks, about 50 µs, were best in the
# prototype (design notes: a section/rest of 15/60 µs reaches 0.88 of its bound with 500 looks and
# 0.45 with 50). With the GIL, one look: searching would only keep the others from running.
LOOKS_WHILE_SEARCHING = 100 if FREE_THREADED else 1

# Every so many steps a worker looks at the injector before its own run queue, so that tasks which keep
# submitting cannot starve what comes from outside. The number is tokio's (and Go's): a prime, so
# that it does not fall in step with a loop of the user's.
STEPS_BETWEEN_INJECTOR_LOOKS = 61

# Which future each waiting task waits for, and the function of the waiting task. A task waits for at
# most one future at a time without a time-out. Item assignment and `get` take the dict's mutex
# (A1, A2); proof in docs/protocols/waiting.md.
_waits: dict[Future[Any], tuple[Future[Any], Any]] = {}


def _enter_wait(task: Future[Any], fn: object, awaited: Future[Any]) -> None:
    """Write down that `task` waits for `awaited`; raise `DeadlockError` if that closes a cycle.

    Of all the waits that form a cycle, the one that is written down last sees all the others.
    """
    _waits[task] = (awaited, fn)
    names = [describe(fn)]
    seen = {task}
    future = awaited
    while future is not task:
        if future in seen:
            return  # a cycle, but this task is not in it: it is for its members to raise
        seen.add(future)
        edge = _waits.get(future)
        if edge is None:
            return
        future, fn = edge
        names.append(describe(fn))
    del _waits[task]
    chain = " waits for ".join([*names, names[0]])
    raise DeadlockError(f"this wait would never end: {chain}; wait for the result outside the task")


def waits() -> list[tuple[Future[Any], tuple[Future[Any], Any]]]:
    """Who waits for whom, at one moment: (task, (awaited future, the task's function))."""
    return list(_waits.copy().items())


class _SeatWaiter(Waiter):
    """Wakes a worker that gave up its seat, and has its seat back before it wakes.

    The thread that completes the future returns the seat on the worker's behalf. So with
    `max_workers=1` the completing worker meets the debt at the end of its step, before it
    could take another task, and there are never two tasks running at once.
    """

    __slots__ = ("_owed", "_parking")

    def __init__(self, parking: Parking) -> None:
        super().__init__()
        self._parking = parking
        self._owed = [None]

    def __call__(self, future: Future[Any]) -> None:
        self.return_seat()
        super().__call__(future)

    def return_seat(self) -> None:
        try:
            self._owed.pop()  # the arbiter, when a time-out and the completion meet
        except IndexError:
            return
        self._parking.return_to_seat()


class _AdoptedEvent:
    """The event of a `concurrent.futures` waiter on which a worker is about to wait."""

    def __init__(self, event: Any) -> None:
        self._event = event
        self.futures: list[Future[Any]] = []
        self.set = event.set
        self.clear = event.clear
        self.is_set = event.is_set

    def wait(self, timeout: float | None = None) -> bool:
        worker = here.worker
        if worker is not None and timeout is None:
            while self.futures and not self._event.is_set():
                worker.run_inline(self.futures.pop(0))
        with blocking():
            return bool(self._event.wait(timeout))


class Worker:
    """One thread of a pool. All methods but `run` are for its own thread."""

    __slots__ = ("blocked_in", "ended", "fn", "parker", "queue", "scheduler", "seated", "task", "thread")

    def __init__(self, scheduler: Any, name: str) -> None:
        self.scheduler = scheduler
        self.queue = RunQueue()
        self.parker = Parker()
        self.ended = Parker()  # unparked when the thread is done with everything
        self.task: Task[Any] | None = None
        self.fn: Any = None
        self.seated = True
        self.blocked_in: object = None
        self.thread = Thread(target=self.run, name=name)
        self.thread.daemon = False

    # --- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """The thread's body."""
        here.worker = self
        try:
            if self.scheduler.initialize():
                self._loop()
            else:
                self._leave()
        finally:
            here.worker = None
            self.ended.unpark()

    def _loop(self) -> None:
        queue = self.queue
        injector = self.scheduler.injector
        debts = self.scheduler.parking.debts
        steps = 0
        task = self._search()
        while task is not None:
            try:
                work = claim(task)
                if work is not None:
                    self.task = task
                    self.fn = work[1]
                    run_claimed(task, work)
                    del work
                task = None
                if debts and self.scheduler.parking.pay_debt():
                    task = self._search() if self._park(seated=False) else None
                    continue
                steps += 1
                if injector and (not queue or steps % STEPS_BETWEEN_INJECTOR_LOOKS == 0):
                    task = injector.take()
                if task is None:
                    task = (queue.take() if queue else None) or self._search()
            except BaseException as error:  # nothing of a task's gets here: our own MemoryError, say
                LOGGER.critical("error in a worker's loop; the worker goes on", exc_info=True)
                if task is not None and task.running():
                    fail(task, error, self.fn)
                task = self._search()

    def _search(self) -> Task[Any] | None:
        """A task to run, or None if this worker is to end."""
        parking = self.scheduler.parking
        while True:
            parking.searching.add(self)
            looks = LOOKS_WHILE_SEARCHING
            if len(parking.searching) * 2 > self.scheduler.max_workers + 1:
                looks = 1  # only an optimization: enough others are looking
            for _ in range(looks):
                task = self.look()
                if task is not None:
                    parking.searching.discard(self)
                    # Whoever queued something meanwhile may have relied on this worker.
                    self.scheduler.notify_if_work()
                    return task
                yield_cpu()
            parking.searching.discard(self)
            if not self._park():
                return None

    def look(self) -> Task[Any] | None:
        injector = self.scheduler.injector
        if injector:
            task = injector.take()
            if task is not None:
                return task  # type: ignore[no-any-return]
        workers = self.scheduler.workers
        count = len(workers)
        start = int(random() * count)
        for i in range(count):
            try:
                queue = workers[(start + i) % count].queue
            except IndexError:  # the list has just become shorter
                continue
            if queue:
                task = queue.take()
                if task is not None:
                    return task  # type: ignore[no-any-return]
        return None

    def _park(self, seated: bool = True) -> bool:
        """Park until there may be work (True), or end (False).

        With `seated=False` the seat is another worker's already: this one has paid a debt.
        """
        scheduler = self.scheduler
        parking = scheduler.parking
        self.task = None  # a parked worker keeps nothing alive
        self.fn = None
        parking.parked.append(self)
        if seated:
            parking.give_up_seat()
        scheduler.notify_if_work()
        if scheduler.is_closed():
            if not scheduler.has_work() and self._unlist_parked():
                return not self._unlist()
            parking.unpark_all()
        if not self.parker.park(scheduler.idle_timeout):
            if self._unlist_parked():
                return not self._unlist()
            self.parker.park()  # taken out of the list, so about to be unparked
        return True

    def _unlist_parked(self) -> bool:
        """Take this worker out of the parked ones; False if somebody is just unparking it."""
        try:
            self.scheduler.parking.parked.remove(self)
        except ValueError:
            return False
        return True

    def _unlist(self) -> bool:
        """End (True), unless there is work: whoever queued it may have counted on this worker."""
        scheduler = self.scheduler
        scheduler.workers.remove(self)
        if scheduler.has_work():
            scheduler.workers.append(self)
            scheduler.parking.return_to_seat()
            return False
        return True

    def _leave(self) -> None:
        """End before the first step: the initializer failed."""
        scheduler = self.scheduler
        scheduler.parking.searching.discard(self)
        scheduler.parking.give_up_seat()
        scheduler.workers.remove(self)

    # --- waiting in a task -----------------------------------------------------------------------

    def may_run_inline(self) -> bool:
        """Whether a task may be run on top of the current one.

        Not without a seat, and not deep in the stack, where it would have less of it than it needs.
        """
        return self.seated and not stack_is_deep()

    def run_inline(self, future: Future[Any]) -> bool:
        """Run `future`'s task on top of the current one, if that is possible; True if it was run."""
        # Only a task of the same pool: another pool's has another initializer and another limit.
        if (
            type(future) is not Task
            or future._pool is not self.scheduler
            or not self.may_run_inline()
        ):
            return False
        work = claim(future)
        if work is None:
            return False
        outer = self.task, self.fn
        self.task = future
        self.fn = work[1]
        try:
            run_claimed(future, work)
        finally:
            self.task, self.fn = outer
        return True

    def wait_for(self, future: Future[Any], timeout: float | None) -> bool:
        """Wait for a future; return whether it is final. Never starves the pool."""
        if timeout is not None:
            return self._park_on(future, timeout) if timeout > 0 else is_final(future)
        task = self.task
        if task is None:  # in an initializer
            return wait(future, None)
        outer = _waits.get(task)
        _enter_wait(task, self.fn, future)
        try:
            return self.run_inline(future) or self._park_on(future, None)
        finally:
            if outer is None:
                _waits.pop(task, None)
            else:
                _waits[task] = outer

    def _park_on(self, future: Future[Any], timeout: float | None) -> bool:
        for _ in range(LOOKS_BEFORE_PARKING):
            if is_final(future):
                return True
            yield_cpu()
        if not self.seated:
            return wait(future, timeout)
        waiter = _SeatWaiter(self.scheduler.parking)
        self._give_up_seat(future)
        try:
            future._register(waiter)
            return waiter.park(timeout) or is_final(future)
        finally:
            future._unregister(waiter)
            waiter.return_seat()
            self.seated = True
            self.blocked_in = None

    def _give_up_seat(self, reason: object) -> None:
        self.seated = False
        self.blocked_in = reason
        self.scheduler.parking.give_up_seat()
        self.scheduler.notify_if_work()

    def adopt(self, waiter: Any, future: Future[Any]) -> None:
        """This thread is about to wait on a `concurrent.futures` waiter, for `future` among others."""
        if not isinstance(waiter.event, _AdoptedEvent):
            waiter.event = _AdoptedEvent(waiter.event)
        waiter.event.futures.append(future)


class blocking:
    """`with fairpool.blocking():` tells the pool that this worker is about to block.

    For waits that the pool cannot see: I/O, a lock or an event of `threading`, a child process. For
    the time of the block another worker takes this one's place, so that `max_workers` stay runnable;
    afterwards this one goes on at once, and the pool parks the one that is too many at the end of its
    step. May be nested. On a thread that is not a worker it does nothing.
    """

    __slots__ = ("_worker",)

    def __enter__(self) -> None:
        worker = here.worker
        self._worker = worker if worker is not None and worker.seated else None
        if self._worker is not None:
            self._worker._give_up_seat("fairpool.blocking()")

    def __exit__(self, *exc_info: object) -> None:
        worker = self._worker
        if worker is not None:
            worker.scheduler.parking.return_to_seat()
            worker.seated = True
            worker.blocked_in = None
