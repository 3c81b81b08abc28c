"""`Worker`: a pool thread and its loop: next task, run it, steal, park.

Guarantees:

- A worker never ends because of what a task, a callback or an initializer raises.
- A worker that waits for a future does not starve the pool. A task that nobody has started is
  run inline, on top of the one that waits for it; else the worker gives up its slot, so that
  another worker takes its place.
- A wait that would never end raises `DeadlockError`: see `_enter_wait`.

This code assumes that a `Worker`'s attributes are written by its own thread only (`dump` reads them
from others and may see a moment ago).
"""

from __future__ import annotations

from asyncio import _get_running_loop
from logging import CRITICAL
from random import random
from sys import exception, set_asyncgen_hooks
from typing import Any, cast

from fairpool._core.errors import DeadlockError, stays_here
from fairpool._core.here import here
from fairpool._core.park import Parker, is_taken_here
from fairpool._core.report import log
from fairpool._core.room import need_stack, stack_is_deep
from fairpool._core.runqueue import RunQueue
from fairpool._core.signals import acquire, wait_until_set
from fairpool._core.threads import (
    FREE_THREADED,
    Event,
    join,
    monotonic_ns,
    new_thread,
    this_thread,
    yield_cpu,
)
from fairpool._core.token import Token
from fairpool._core.waitgraph import enter_wait, leave_wait, waiting_tasks, write_wait
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.future import Future
from fairpool._tasks.gather import FORKED_MAX, Gather
from fairpool._tasks.request import Once
from fairpool._tasks.settling import claim, fail, settle
from fairpool._tasks.state import FINISHED, is_final
from fairpool._tasks.task import Task
from fairpool._tasks.thread_wait import ThreadCallback, spin_wait, wait, wait_watchfully

__all__ = ["Worker", "adopt", "blocking"]

# How often a searching worker looks around before it parks. 500 looks, about 50 µs, were best in
# the prototype (design notes: a section/rest of 15/60 µs reaches 0.88 of its bound with 500 looks
# and 0.45 with 50). With the GIL, one look: searching would only keep the others from running.
LOOKS_WHILE_SEARCHING = 100 if FREE_THREADED else 1

# At how many run queues it looks meanwhile, at most: a look goes through all of them, 0.12 µs
# each, so that with a thousand workers 100 looks were 12 ms. Fewer than this make fork-join slower
# on many processors, by wake-ups; more make locks slower there (docs/scaling.md).
QUEUES_WHILE_SEARCHING = 6400

# How many tasks a steal takes at most, besides the one it is for: as many as tokio's local queue
# gives away would be 128; fewer keep the order closer to first come, first served.
STEAL_MAX = 32

# Every so many steps a worker looks at the injector and at other run queues before its own, so that
# tasks which keep submitting cannot starve what comes from outside, or what lies in the run queue
# of a worker that is blocked. The number is tokio's (and Go's): a prime, so that it does not fall
# in step with a loop of the user's.
STEPS_BETWEEN_SCANS = 61


# How many gathers may start their children on top of one another: three Python frames for each.
FORKS_MAX = 32

# Of how many continuations one is looked at for `statistics` (all steps with these bits unset).
SAMPLE_MASK = 15

# How often a task may enter a lock of tiny sections, which is free, before what its worker has
# published: a suspension each time would cost as much as several such sections.
SPREE_MAX = 32

# How long the home worker of a lock is given to come and serve it, where it searches and where it
# runs something else (ns).
HEAD_START_SEARCHING = 50_000
HEAD_START_RUNNING = 30_000


class _SlotWaiter(ThreadCallback):
    """Wakes a worker that gave up its slot, and has its slot back before it wakes.

    The thread that completes the future returns the slot on the worker's behalf. So with
    `max_workers=1` the completing worker repays at the end of its step, before it could
    take another task. (If it ran the awaited task inline, its step goes on: the two run side by
    side until it ends.)
    """

    __slots__ = ("_owed", "_scheduler")

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._owed = Token()

    def __call__(self, future: Future[Any]) -> None:
        self.return_slot()
        super().__call__(future)

    def return_slot(self) -> None:
        if not self._owed.take():  # the arbiter, when a time-out and the completion meet
            return
        try:
            self._scheduler.parking.reclaim_slot()
        except RecursionError:
            self._owed.append(None)  # `put`, which would need a frame
            raise

    def withhold_slot(self) -> None:
        """The worker is about to block in a `__del__` that has interrupted this wait."""
        if not self._owed.take():  # nobody returns it until `owe_again`; or it was returned
            self._scheduler.parking.release_slot()
            self._scheduler.notify_if_work()

    def owe_again(self) -> None:
        self._owed.append(None)


class _AdoptedEvent:
    """The event of a `concurrent.futures` waiter on which a worker is about to wait."""

    def __init__(self, waiter: Any) -> None:
        event = waiter.event
        # Only `wait(…, ALL_COMPLETED)` needs all of its futures. The others may go on when any of
        # them is done, and could be what another one waits for: none may be run on top of them.
        self._needs_all = getattr(waiter, "stop_on_exception", True) is False
        self.event = event
        self.futures: list[Future[Any]] = []
        self._announced: list[Future[None]] = []
        self.clear = event.clear
        self.is_set = event.is_set

    def set(self) -> None:
        self.event.set()
        for future in self._announced.copy():  # see `announce`
            if claim(future) is not None:
                settle(future, FINISHED, None)

    def announce(self) -> Future[None]:
        """A future that is final when the event is set, or was set before."""
        future: Future[None] = Future()
        self._announced.append(future)
        # Both this and `set` have called a method of the list in between: one sees the other (A2).
        if self.event.is_set() and claim(future) is not None:
            settle(future, FINISHED, None)
        return future

    def wait_watchfully(self, timeout: float | None) -> bool:
        """Wait for the event, on a thread that nobody counts on."""
        return bool(wait_watchfully(self.event.wait, timeout, self.futures[0]._pool))

    def wait(self, timeout: float | None = None) -> bool:
        worker = here.worker
        if worker is None:
            return self.wait_watchfully(timeout)
        if worker.task is None:
            if timeout is None:
                for future in self.futures:
                    worker.check_initializer(future)
            return bool(worker.wait_for_event(self, timeout))
        if timeout is None and self._needs_all:
            return bool(worker.wait_for_all(tuple(self.futures), self))
        if timeout is None and not worker.scheduler.may_start():
            # There can be no other worker to run them. Better on top of this task than never.
            for future in self.futures:
                if self.event.is_set():
                    break
                worker.run_inline(future)
        return bool(worker.wait_for_event(self, timeout))


def adopt(waiter: Any, future: Future[Any]) -> None:
    """The calling thread is about to wait on a `concurrent.futures` waiter, for `future` too."""
    if not isinstance(waiter.event, _AdoptedEvent):
        waiter.event = _AdoptedEvent(waiter)
    waiter.event.futures.append(future)


def _lowest(lists: list[list[Any]]) -> list[Any] | None:
    """Which of these lists of continuations begins with the lowest ticket."""
    lowest: list[Any] | None = None
    lowest_ticket = 0
    for published in lists:
        try:
            ticket = published[0].ticket
        except IndexError:  # empty
            continue
        if lowest is None or ticket < lowest_ticket:
            lowest, lowest_ticket = published, ticket
    return lowest


# The run queue of a worker whose thread has not come so far as to make its own. Always empty.
_NO_QUEUE = RunQueue()


class Worker:
    """One thread of a pool. All methods but `run` are for its own thread."""

    __slots__ = (
        "_around",
        "_critical",
        "_free_slots",
        "_inline",
        "_known",
        "_left_at",
        "_on_spree",
        "_sampled",
        "_share_turn",
        "_start_token",
        "_turn",
        "blocked_in",
        "blocked_time",
        "ended",
        "exited",
        "extra_steps",
        "fn",
        "fork_until",
        "forked",
        "forks",
        "has_slot",
        "home_queue",
        "initializes",
        "item",
        "needs_slot",
        "parker",
        "parks",
        "published",
        "queue",
        "ready",
        "scheduler",
        "slot_waiter",
        "spree",
        "steals",
        "steps",
        "thread",
        "woken",
    )

    # Whether it is to go, and should end its pass: see `Caller`.
    leaving = False

    # Whether it is there for long enough to be the home of a lock: see `Helper`.
    stays = True

    def __init__(self, scheduler: Any, name: str | None) -> None:
        self.scheduler = scheduler
        self.queue = _NO_QUEUE
        self.ready = Once()  # what the door of a lock is to a task that enters at once
        self.published: list[Any] = []  # continuations, lowest ticket first
        self.home_queue = RunQueue()  # locks whose home this is, and which are to be served
        self.exited = False
        self.spree = 0  # how often the last one has gone before what is published here
        self._on_spree: Any = None  # which one that is
        self._known: list[list[Any]] = []  # the lists of all workers, as far as is known
        self.parker = Parker()
        self.ended = Event()  # set when the thread is done with everything
        self._turn = self._around = self._critical = self._share_turn = False
        self._inline = 0  # how many steps are being run on top of another
        self.forks: list[Any] = []  # the tasks on this stack on top of which children are started
        self.forked = 0  # how many children were, since others have gone first
        self.fork_until = 0  # when others are to go first again, at the latest (ns)
        self._sampled = 0  # when the continuation began that is being timed (ns), if one is
        self._free_slots = scheduler.parking.free_slots
        self._start_token = Token()
        self.item: Any = None  # the task or the continuation that this worker runs or has run last
        self.fn: Any = None  # the function, if it is a task
        self.has_slot = True
        # What returns its slot when the future is final that it waits for.
        self.slot_waiter: _SlotWaiter | None = None
        self.needs_slot = False
        self.parks = False  # whether it is in `parked`, or was taken out and has not noticed
        # Whether it was taken out: written by whoever did that, when it is in `searching`, or
        # `needs_slot` is set.
        self.woken = False
        self.initializes = False
        self.blocked_in: object = None
        self._left_at = 0  # when it gave up its slot for a wait (ns)
        self.blocked_time = 0  # how long it has been without its slot, in waits (ns)
        self.steps = 0  # brought up to date every so many steps
        self.extra_steps = 0  # in the turns of shares
        self.steals = 0
        if name is None:  # a caller
            self.thread = this_thread()
        else:
            self.thread = new_thread(self.run, name, daemon=False)

    # --- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """The thread's body."""
        if not self.claim_start():
            return
        scheduler = self.scheduler
        # Made by the thread that uses them most: see `_loop`.
        self.queue = RunQueue()
        self.ready = Once()
        here.worker = self
        set_asyncgen_hooks(scheduler.watch_generator, scheduler.close_generator)
        try:
            if self._initialize():
                self._loop()
            else:
                scheduler.parking.release_slot()
                scheduler.workers.remove(self)
        finally:
            here.worker = None
            if scheduler.is_ending():
                # Those that parked while there was still work are to see that there is none.
                scheduler.parking.unpark_all()
            self.ended.set()
            scheduler.exited_workers.append(self)  # last: the next one to be started strikes it

    def _initialize(self) -> bool:
        """Run the pool's initializer, if it has one; False if the pool is broken now."""
        scheduler = self.scheduler
        if not scheduler.has_initializer:
            return True
        # It may take long, or meet the others in a barrier: who queues a task must not count on
        # this worker meanwhile.
        self.withdraw()
        scheduler.notify_if_work()
        # It keeps its slot wherever it blocks: the one that took its place would have to be
        # initialized, too, and block as well, and so on. So at most `max_workers` initialize.
        self.initializes, self.has_slot = True, False
        try:
            return bool(scheduler.initialize())
        finally:
            self.initializes, self.has_slot = False, True

    def join(self) -> None:
        """Wait until the thread has ended."""
        wait_until_set(self.ended)
        if self.thread.ident is not None:  # None: it could not be started
            join(self.thread)

    def claim_start(self) -> bool:
        """True to the first that asks: the new thread, or the one that gave up starting it."""
        return self._start_token.take()

    def _loop(self) -> None:
        # Bound methods that this thread has made itself. On a free-threaded build each mention of
        # an object counts references in its header, and these headers are where other threads take
        # the queue's mutex: a mention less is a cache miss less.
        scheduler = self.scheduler
        queue = self.queue
        own_length, take_own, put_own = queue.__len__, queue.popleft, queue.append
        outside_length, take_outside = scheduler.injector.__len__, scheduler.injector.popleft
        has_locks, has_shares = scheduler.locks.__len__, scheduler.shares.__len__
        overcommits, slots = (
            scheduler.parking.overcommits.__len__,
            scheduler.parking.free_slots.__len__,
        )
        steps = 0
        task: Any = self._search()
        while task is not None:
            try:
                following = task.run(self)
                steps += 1
                locks = has_locks()  # where there are shares, too: see `Scheduler.share`
                if (
                    locks
                    and following is not None
                    and has_shares()
                    and self._goes_to_share(following)
                ):
                    following = task = None
                elif following is task:  # it has only yielded: to the end of the queue
                    put_own(task)
                    if slots() and own_length() > 1:
                        scheduler.notify()
                    if steps % STEPS_BETWEEN_SCANS and not locks and not overcommits():
                        try:
                            task = take_own()
                            continue
                        except IndexError:  # a thief has the only one
                            pass
                    following = task = None
                elif following is not None:
                    if steps % STEPS_BETWEEN_SCANS and not overcommits():
                        task = following
                        continue
                    task = None
                    self.requeue(following)
                    following = None
                else:
                    task = None
                if overcommits() and self._repay_overcommit():
                    task = self._search() if self._park(has_slot=False) else None
                    continue
                try:
                    if steps % STEPS_BETWEEN_SCANS == 0:
                        self.steps = steps
                        task = self.scan()
                    elif locks:
                        task = self._take_critical(steps)
                    if task is None:
                        if own_length():
                            task = take_own()
                        elif outside_length():
                            task = take_outside()
                        else:
                            self.steps = steps
                            task = self.scan() or self._search()
                except IndexError:  # somebody was quicker
                    task = self._search()
            except BaseException as error:  # not a task's, but our own MemoryError, say
                item, task, following = task, None, None
                self.rescue(item, error)
                item = None
            else:
                continue
            task = self._search()  # when `error` is gone, whose frames hold what is the user's

    def rescue(self, item: Any, error: BaseException) -> None:
        """An error of the package's own has cut off a step of `item`: end its task with it."""
        log(CRITICAL, "error in a worker's loop; the worker goes on", exc_info=True)
        started = type(item) is Continuation and item.coroutine is not None
        if started or type(item) is Gather:
            item.abandon(error)
        elif isinstance(item, Task) and item.running():
            fail(item.task, error, self.fn)

    def _search(self) -> Task[Any] | None:
        """A task to run, or None if this worker is to end."""
        parking = self.scheduler.parking
        self.forget()
        while here.worker is self:  # not so in the child of a task that forked
            self._known = []  # to be made anew: others may have come for those that have gone
            if parking.overcommits and self._repay_overcommit():
                if not self._park(has_slot=False):
                    break
                continue
            parking.searching.add(self)
            for _ in range(self._looks()):
                task: Task[Any] | None = self.look()
                if task is not None:
                    parking.searching.discard(self)
                    # Whoever queued something meanwhile may have relied on this worker.
                    self.scheduler.notify_if_work()
                    return task
                yield_cpu()
            if not self._park():
                break
        return None

    def forget(self) -> None:
        """Drop what was run last, before others count on this worker, or it repays an overcommit.

        It may be the last reference to something of the user's, whose `__del__` takes long, or
        waits for a task. And a parked worker keeps nothing alive.
        """
        self.item = self._on_spree = None
        self.fn = None

    def withdraw(self) -> None:
        """Nobody is to count on this worker: a `__del__` that interrupts its search may take long.

        Whoever calls this calls `notify_if_work` then (F2), in case somebody has done so.
        """
        parks, self.parks = self.parks, False  # first: this may be entered in the midst of itself
        if self._unlist_parked():
            # As `unpark_all`: it is not to park, but to search again.
            self.needs_slot = self.woken = True
            self.parker.unpark()
        elif parks:
            # Somebody has taken it out, and is about to have it search. If that is this thread
            # itself, in the midst of a `notify`, it does so when the foreign code has ended.
            while not self.woken and not is_taken_here(self):
                yield_cpu()
        self.scheduler.searching.discard(self)

    def _repay_overcommit(self) -> bool:
        """Whether this worker, between two steps, is one too many. Then it parks without a slot."""
        self.forget()
        return bool(self.scheduler.parking.repay_overcommit())

    def _looks(self) -> int:
        """How often to look before parking. Only an optimization."""
        scheduler = self.scheduler
        if len(scheduler.searching) * 2 > scheduler.slot_count + 1:
            return 1  # enough others are looking
        queues = len(scheduler.workers) + 1
        return min(LOOKS_WHILE_SEARCHING, QUEUES_WHILE_SEARCHING // queues + 1)

    def look(self) -> Any:
        """Take a task from the injector or a run queue; which of them comes first takes turns."""
        locks = self.scheduler.locks
        if locks and (item := self._take_published()) is not None:
            return item if not self.scheduler.shares else self._admit(item)
        self._turn = not self._turn
        if self._turn:
            task = self._take_outside() or self._steal()
        else:
            task = self._steal() or self._take_outside()
        if task is None and locks:
            return self._take_service() or self.scheduler.shares.choose()
        return task

    # --- shares ----------------------------------------------------------------------------------

    def _goes_to_share(self, item: Any) -> bool:
        """Queue what a step has made runnable, if it is a share's."""
        principal = self.scheduler.principal_of(item)
        if principal is None:
            return False
        principal.put(item)
        return True

    def _admit(self, item: Any) -> Any:
        """What to run where a published continuation was taken: that, or what is a share's turn."""
        return self.scheduler.shares.choose() if self._goes_to_share(item) else item

    # --- locks -------------------------------------------------------------------------------

    def _take_critical(self, step: int) -> Any:
        """What was published here, and the locks that are to be served here, by their tickets.

        They take turns with the run queue and the injector, if those hold anything. If there is
        nothing here, what others have published. All of this takes turns with the shares.
        """
        if self._sampled:
            began, self._sampled = self._sampled, 0
            if step & SAMPLE_MASK == 1:  # the step after that: nothing else has come between
                self.scheduler.note_continuation(monotonic_ns() - began)
        shares = self.scheduler.shares
        if shares:
            self._share_turn = not self._share_turn
            if self._share_turn and (share := shares.choose()) is not None:
                return share
        queue = self.queue
        if queue or self.scheduler.injector:
            self._critical = not self._critical
            if self._critical:
                return None
        published, home_queue = self.published, self.home_queue
        if home_queue:
            try:
                first = published[0].ticket if published else None
                lock = home_queue.popleft()
            except IndexError:
                return None
            if first is None or first > lock.head_ticket():
                return lock
            home_queue.appendleft(lock)  # S1
            self.scheduler.notify_if_free()  # S3: it was in no queue for a moment
        if published:
            try:
                item = published.pop(0)
            except IndexError:
                return None
        elif queue or (item := self._take_published()) is None:
            return None
        if not step & SAMPLE_MASK:
            self._sampled = now = monotonic_ns()
            item.sample(now)
        return item if not shares else self._admit(item)

    def _take_published(self) -> Any:
        """The published continuation with the lowest ticket of all that come first somewhere."""
        known = self._known
        if len(known) != len(self.scheduler.workers):
            # A worker that is missing here has one more look coming: `has_work` looks at the list.
            known = self._known = [worker.published for worker in self.scheduler.workers.copy()]
        first: list[Any] | None = None
        for published in known:
            if published:
                if first is not None:
                    first = _lowest(known)
                    break
                first = published
        if first is not None:
            try:
                return first.pop(0)
            except IndexError:  # somebody was quicker
                pass
        return None

    def _take_service(self) -> Any:
        """A lock whose home worker does not come to serve it."""
        for worker in self.scheduler.workers.copy():
            home_queue = worker.home_queue
            if home_queue and (lock := home_queue.take()) is not None:
                if worker is self or self.may_stand_in(lock):
                    return lock
                home_queue.appendleft(lock)  # S1
                # It was in no queue for a moment: its home worker may have parked, or ended.
                if worker.exited:
                    worker.give_back()
                self.scheduler.notify_if_free()  # S3
        return None

    def may_stand_in(self, lock: Any) -> bool:
        """Whether to serve a lock away from its home."""
        home = lock.home
        if home is None or home is self or home.exited:
            return True
        if home in self.scheduler.searching:
            return bool(monotonic_ns() - lock.asked > HEAD_START_SEARCHING)
        return bool(
            monotonic_ns() - lock.asked > HEAD_START_RUNNING
            or home in self.scheduler.parking.parked.copy()
        )

    def may_go_first(self) -> bool:
        """Whether a task may enter a lock of tiny sections once more, before what is published."""
        if self._on_spree is not self.item:
            self._on_spree = self.item
            self.spree = 0
        self.spree += 1
        if self.spree < SPREE_MAX:
            return True
        self.spree = 0
        return False

    def publish(self, item: Any) -> None:
        """Let other workers take what follows a critical section."""
        self.published.append(item)  # S1
        self.scheduler.notify_if_free()  # S3

    def give_back(self) -> None:
        """This worker has gone: what lies with it is to be taken by others."""
        while (lock := self.home_queue.take()) is not None:
            self.scheduler.injector.append(lock)
        try:
            while True:
                self.scheduler.injector.append(self.published.pop(0))
        except IndexError:
            pass
        while (task := self.queue.take()) is not None:
            self.scheduler.injector.append(task)

    def park_for(self, parker: Any, timeout: float | None, reason: object) -> bool:
        """Park on a lock in the midst of a task, and let another worker run meanwhile."""
        if not self.has_slot:
            with blocking():
                return acquire(parker, timeout)
        need_stack()
        self._release_slot(reason)
        try:
            return acquire(parker, timeout)
        finally:
            self._has_slot_again()
            self.scheduler.parking.reclaim_slot()

    def scan(self) -> Any:
        """`look`, for a worker that is not searching.

        Every other time first for a lock: a home worker that is busy is not to keep it from being
        served where others are busy, too.
        """
        self._around = not self._around
        self.forked = 0  # it is between two steps, and others may go first now
        first = self._take_service() if self._around and self.scheduler.locks else None
        task = first or self.look()
        if task is not None and self.queue:
            # What a steal took besides was in no queue for a moment: who parked then has missed it.
            self.scheduler.notify_if_work()
        return task

    def _take_outside(self) -> Task[Any] | None:
        injector = self.scheduler.injector
        task: Task[Any] | None = injector.take() if injector else None
        return task

    def _steal(self) -> Task[Any] | None:
        workers = self.scheduler.workers
        count = len(workers)
        start = int(random() * count)
        for i in range(count):
            try:
                queue = workers[(start + i) % count].queue
            except IndexError:  # the list has just become shorter
                continue
            task: Task[Any] | None = queue.take() if queue else None
            if task is not None:
                if queue is not self.queue:
                    self.steals += 1
                    self._take_more(queue)
                return task
        return None

    def _take_more(self, queue: RunQueue) -> None:
        """Take half of what is left, too: a steal costs as much as several small tasks."""
        for _ in range(min(len(queue) >> 1, STEAL_MAX)):
            task = queue.take()
            if task is None:
                return
            # In no queue for a moment: the caller notifies, after this, in case somebody parked
            # then.
            self.queue.append(task)

    def _park(self, has_slot: bool = True) -> bool:
        """Park until there may be work (True), or end (False).

        With `has_slot=False` the slot is another worker's already: this one has paid an overcommit.
        """
        scheduler = self.scheduler
        parking = scheduler.parking
        parking.searching.discard(self)
        self.woken = False
        parking.parked.append(self)
        self.parks = True
        if has_slot:
            parking.release_slot()
        scheduler.notify_if_work()
        if scheduler.is_over() and self._leave_parked():
            return not self._unlist()
        # With tasks in its run queue, for busy thieves, it does not end. Nor while a pool that ends
        # has coroutines that are suspended: the last of them unparks it.
        waits = self.queue or scheduler.is_waiting_to_close()
        if not self.parker.park(-1 if waits else scheduler.idle_timeout):
            if self._leave_parked():
                return not self._unlist()
            self.parker.park()  # taken out of the list, so about to be unparked
        self.parks = False
        if self.needs_slot:
            self.needs_slot = False
            parking.reclaim_slot()
        return True

    def _leave_parked(self) -> bool:
        """As `_unlist_parked`, for the one that parks here."""
        self.parks = False  # first: else `withdraw` would wait for whoever has taken it out
        return self._unlist_parked()

    def _unlist_parked(self) -> bool:
        """Take this worker out of the parked ones; False if somebody is just unparking it."""
        try:
            self.scheduler.parking.parked.remove(self)
        except ValueError:
            return False
        return True

    def _unlist(self) -> bool:
        """End (True), unless there is work and a slot: who queued it may have counted on us."""
        scheduler = self.scheduler
        here.worker = None  # what is submitted on this thread from here on goes to the injector
        scheduler.workers.remove(self)
        self.exited = True
        self.give_back()  # its queue, too: a `__del__` may have run just before
        if scheduler.has_work() or scheduler.is_waiting_to_close():
            try:
                scheduler.parking.free_slots.pop()
            except IndexError:
                return True  # those that have the slots will look at every queue
            here.worker = self
            self.exited = False
            scheduler.workers.append(self)
            return False
        return True

    @property
    def task(self) -> Task[Any] | None:
        """The task that this worker runs, or has run last."""
        item = self.item
        if item is None:
            return None
        if type(item) is Gather:  # its child becomes a task when somebody asks for it
            index = self.fn
            task: Task[Any] = item.make_task(index, self.scheduler)
            self.turn_to(task, item.child(index))
            for fork in self.forks:
                self._write_fork(fork)
            return task
        return item.task  # type: ignore[no-any-return]

    def _write_fork(self, fork: Any) -> None:
        """Write down that a task waits whose children are started on top of it.

        One of them has become a task in its first step: it may be about to wait itself.
        """
        if fork.written:
            return
        if type(fork.item) is Gather:
            index = fork.fn
            fork.fn = fork.item.child(index)
            fork.item = fork.item.make_task(index, self.scheduler)
        task = fork.item.task
        what = fork.item.coroutine if type(fork.item) is Continuation else fork.fn
        fork.outer = waiting_tasks.get(task)
        fork.written = write_wait(task, what, (fork.gather,))

    def turn_to(self, item: Any, fn: Any) -> None:
        """This worker runs these now.

        What it has run may be freed by this, and a `__del__` ask for the current task: it must not
        find the one with what belongs to the other.
        """
        self.item = None
        self.fn = fn
        self.item = item

    @property
    def doing(self) -> Any:
        """The function or the coroutine that this worker runs, or has run last."""
        item, fn = self.item, self.fn
        if type(item) is Continuation:
            return item.coroutine
        return item.child(fn) if type(item) is Gather else fn

    # --- waiting in a task -----------------------------------------------------------------------

    def may_run_inline(self) -> bool:
        """Whether a task may be run on top of the current one.

        Not without a slot. Not inside a critical section, which would take as long as that task,
        and might be what that waits for. Not deep in the stack, where it would have less of it than
        it needs, unless there can be no other worker to run it.
        """
        scheduler = self.scheduler
        if not self.has_slot or (scheduler.locks_in_use and scheduler.is_in_section(self.task)):
            return False
        if not stack_is_deep():
            return True
        if scheduler.may_start():
            return False
        need_stack(100)  # it is raised here rather than in what is run
        return True

    def may_fork(self, scheduler: Any) -> bool:
        """Whether the children of a gather of this pool may be started on top of the current task.

        As `may_run_inline`, but never deep in the stack: a child that is not started here has one
        of its own. Not where somebody's `except` or asyncio loop would be taken for the child's
        own, either. What the children have to do is bounded: see `FORKED_MAX`.
        """
        if self.forked >= FORKED_MAX:
            if not self.forks:  # this one goes through the queue, and others go first
                self.forked = 0
                if (outside := self._take_outside()) is not None:
                    self.queue.appendleft(outside)
                    self.scheduler.notify_if_free()  # it was in no queue for a moment
            return False
        return (
            scheduler is self.scheduler
            and self.has_slot
            and len(self.forks) < FORKS_MAX
            and _get_running_loop() is None
            and exception() is None
            and not stack_is_deep()
            and not (scheduler.locks_in_use and scheduler.is_in_section(self.task))
        )

    def take_back(self, item: Any) -> None:
        """Take out of the run queue what this worker has put there last, if nobody else has."""
        queue = self.queue
        try:
            last = queue.pop()
        except IndexError:
            return
        if last is not item:
            queue.append(last)
            self.scheduler.notify_if_free()  # it was in no queue for a moment

    def run_inline(self, future: Future[Any]) -> bool:
        """Run `future`'s task on top of the current one, if possible; True if it is final now."""
        # Only a task of the same pool: another pool's has another initializer and another limit.
        if (
            type(future) is not Task
            or future._pool is not self.scheduler
            or not self.may_run_inline()
            or _get_running_loop() is not None  # an `await` in the task would take it for its own
        ):
            return False
        task = cast("Task[Any]", future)
        outer = self.item, self.fn
        self._inline += 1
        try:
            following = task.run(self)
            if following is not None:
                self.requeue(following)
            return is_final(task)
        finally:
            self._inline -= 1
            self.turn_to(*outer)
            del future, task, outer  # what the task has raised leads to this frame: no cycle

    def requeue(self, item: Any) -> None:
        """Put a continuation, or a link, at the end of the run queue, at the end of a step."""
        if self.scheduler.shares and self._goes_to_share(item):
            return
        queue = self.queue
        queue.append(item)
        # This worker is about to take the oldest. Only what it leaves is for another one; and where
        # the step was run inline, on top of another, it leaves all.
        if self._free_slots and (len(queue) > 1 or self._inline):
            self.scheduler.notify()

    def enqueue(self, item: Any) -> None:
        """Put what others may take in the run queue, at the start of a step."""
        if self.scheduler.shares and self._goes_to_share(item):
            return
        self.queue.append(item)
        if self._free_slots:
            self.scheduler.notify()

    def wait_for(self, future: Future[Any], timeout: float | None) -> bool:
        """Wait for a future; return whether it is final. Never starves the pool."""
        if timeout is not None:
            return self._park_on(future, timeout) if timeout > 0 else is_final(future)
        task = self.task
        if task is None:  # in the initializer, or in a `__del__` between two steps
            self.check_initializer(future)
            return self._park_on(future, None)
        outer = enter_wait(task, self.doing, (future,))
        try:
            return self.run_inline(future) or self._park_on(future, None)
        finally:
            leave_wait(task, outer)
            del task, outer, future  # what is raised in here leads to this frame: no cycle

    def check_initializer(self, awaited: Any) -> None:
        """Raise `DeadlockError` where an initializer is about to wait for its own pool.

        `awaited`: a future, or a lock that is taken.
        """
        if not self.initializes or (isinstance(awaited, Future) and is_final(awaited)):
            return
        lock = getattr(awaited, "lock", awaited)  # that of a section, or of a guest
        if self.scheduler in (getattr(lock, "scheduler", None), getattr(awaited, "_pool", None)):
            raise DeadlockError("an initializer must not wait for its own pool")

    def wait_for_all(self, futures: tuple[Future[Any], ...], adopted: _AdoptedEvent) -> bool:
        """Wait for the event that is set when all of `futures` are final."""
        assert self.task is not None
        task = self.task
        outer = enter_wait(task, self.doing, futures)
        try:
            for future in futures:
                self.run_inline(future)
            return self.wait_for_event(adopted, None)
        finally:
            leave_wait(task, outer)
            del task  # likewise

    def wait_for_event(self, adopted: _AdoptedEvent, timeout: float | None) -> bool:
        """Wait for an event of a `concurrent.futures` waiter; return whether it is set."""
        with blocking():
            return adopted.wait_watchfully(timeout)

    def _park_on(self, future: Future[Any], timeout: float | None) -> bool:
        if spin_wait(future):
            return True
        need_stack()
        if (loan := self.lend_key(future if timeout is None else None)) is not None:
            try:
                return self._park_on(future, timeout)
            finally:
                loan.end()
        if not self.has_slot:
            with blocking():
                return wait(future, timeout)
        waiter = _SlotWaiter(self.scheduler)
        self._release_slot(future)
        try:
            self.slot_waiter = waiter
            future.register_for_now(waiter)
            return waiter.park(timeout, future._pool) or is_final(future)
        finally:
            self.slot_waiter = None
            self._has_slot_again()
            waiter.return_slot()
            future._unregister(waiter)

    def lend_key(self, awaited: Any) -> Any:
        """Give away the key of this worker's pass, if that is between two sections.

        The worker is about to wait, so it is foreign code that does: see "Foreign code" in
        docs/protocols/combining.md. Returns what is to be told at the end of the wait, or None.
        `awaited`: the lock or the future; None where there is a time-out.
        """
        item = self.item
        lock = None if item is None else item.lock_in_hand
        return None if lock is None else lock.lend(self, awaited)

    def _release_slot(self, reason: object) -> None:
        parking = self.scheduler.parking
        if self.item is None:  # in a `__del__` between two steps
            self.withdraw()
        parking.release_slot()
        try:
            self._left_at = monotonic_ns()
            self.has_slot = False
            self.blocked_in = reason
            if here.notifying:  # in a `__del__`: whom it has in hand it cannot unpark meanwhile
                self.scheduler.distrust_searchers()
            self.scheduler.notify_if_work()
        except BaseException:  # a RecursionError, say
            self.has_slot = True
            self.blocked_in = None
            parking.reclaim_slot()
            raise

    def _has_slot_again(self) -> None:
        """This worker is runnable again, after a wait; the slot itself is the caller's matter."""
        self.blocked_time += monotonic_ns() - self._left_at
        self.has_slot = True
        self.blocked_in = None

    adopt = staticmethod(adopt)


class blocking:
    """`with fairpool.blocking():` tells the pool that this worker is about to block.

    For waits that the pool cannot see: I/O, a lock or an event of `threading`, a child process. For
    the time of the block another worker takes this one's place, so that `max_workers` stay
    runnable; afterwards this one goes on at once, and the pool parks the one that is too many at
    the end of its step. May be nested. On a thread that is not a worker it does nothing.
    """

    __slots__ = ("_loan", "_seat_waiter", "_unused", "_worker")

    __reduce_ex__ = stays_here("call blocking() where it is to be used")

    def __init__(self) -> None:
        self._unused = Token()
        self._worker: Worker | None = None
        self._loan: Any = None
        self._seat_waiter: _SlotWaiter | None = None

    def __enter__(self) -> None:
        need_stack()
        if not self._unused.take():
            raise RuntimeError("a blocking() is for one `with`: call blocking() again")
        worker = here.worker
        if worker is None:
            return
        if worker.has_slot:
            self._loan = worker.lend_key(None)
            try:
                worker._release_slot("fairpool.blocking()")
            except BaseException:
                if self._loan is not None:
                    self._loan.end()
                raise
            self._worker = worker
        elif (waiter := worker.slot_waiter) is not None:
            worker.slot_waiter, self._seat_waiter = None, waiter  # one that is nested does nothing
            self._worker = worker
            try:
                waiter.withhold_slot()
            except BaseException:  # a RecursionError, say
                waiter.owe_again()
                worker.slot_waiter = waiter
                raise

    def __exit__(self, *exc_info: object) -> None:
        worker, waiter = self._worker, self._seat_waiter
        if worker is not None:
            if waiter is not None:
                waiter.owe_again()
                worker.slot_waiter = waiter
            else:
                worker._has_slot_again()
                worker.scheduler.parking.reclaim_slot()
            if self._loan is not None:
                self._loan.end()
            if here.worker is not worker:
                raise RuntimeError(
                    "there was an `await` in a `with blocking()`: it belongs outside"
                )
