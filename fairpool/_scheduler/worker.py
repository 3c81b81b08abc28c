"""`Worker`: a thread that runs tasks, and its loop.

A pool thread and a joined caller (`Caller`) run the same loop, `work(until)`: a pool thread until
the pool needs it no more, a caller until what it waits for is final. Where to look for work is
`find_work`'s affair, how a task waits `WaitingWorker`'s. Proof that no wake-up is lost:
`docs/protocols/parking.md`.

Guarantees:

- A worker never ends because of what a task, a callback or an initializer raises.
- A worker parks only after it has looked at every queue, listed as parked and without its slot.

This code assumes that a `Worker`'s attributes are written by its own thread (`dump` reads them from
others and may see a moment ago). Two exceptions: the thread that unparks a worker writes `woken`
and `needs_slot`; `give_back` of a worker that has exited is called by other threads, too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from logging import CRITICAL
from sys import set_asyncgen_hooks

from fairpool._core.foreign import is_a
from fairpool._core.here import here
from fairpool._core.park import Parker, is_taken_here
from fairpool._core.report import log
from fairpool._core.runqueue import RunQueue
from fairpool._core.signals import wait_until_set
from fairpool._core.threads import FREE_THREADED, Event, join, new_thread, this_thread, yield_cpu
from fairpool._core.token import PRESENT, Token
from fairpool._core.types import Runnable
from fairpool._scheduler.find_work import STEPS_BETWEEN_SCANS
from fairpool._scheduler.lifecycle import LifeCycle
from fairpool._scheduler.waiting import WaitingWorker
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.gather import Gather
from fairpool._tasks.request import Once
from fairpool._tasks.settling import fail
from fairpool._tasks.task import Task

# Whether a thread is to leave the loop.
Until = Callable[[], bool]

# How often a searching worker scans the queues before it parks. docs/performance.md has the reason
# ("Searching without `sched_yield`"). With the GIL, one look: searching would only keep the others
# from running.
LOOKS_WHILE_SEARCHING = 100 if FREE_THREADED else 1

# At how many run queues it looks meanwhile, at most: a look goes through all of them, 0.12 µs
# each, so that with a thousand workers 100 looks were 12 ms. Fewer than this make fork-join slower
# on many processors, by wake-ups; more make locks slower there (docs/scaling.md).
QUEUES_WHILE_SEARCHING = 6400


# For the mark of a worker that parks.
_PARKS, _TRUE, _FALSE = ("parks",), (True,), (False,)


class Worker(WaitingWorker):
    """One thread of a pool. Its own thread calls the methods.

    Exceptions: other threads call `join`, and `give_back` when it has exited.
    """

    __slots__ = (
        "ended",
        "extra_steps",
        "needs_slot",
        "parker",
        "parks",
        "ready",
        "start_token",
        "thread",
        "woken",
    )

    # Whether it is to go, and should end its pass: see `Caller`.
    leaving = False

    # Whether it is there for long enough to be the home of a lock: see `Helper`.
    stays = True

    def __init__(self, scheduler: LifeCycle, name: str | None) -> None:
        super().__init__(scheduler)
        self.ready = Once()  # what the door of a lock is to a task that enters at once
        self.parker = Parker()
        self.ended = Event()  # set when the thread is done with everything
        self.start_token = Token(PRESENT)  # taken by the new thread, or by whoever gave it up
        self.needs_slot = False
        self.parks = False  # whether it is in `parked`, or another thread has taken it out
        # Whether it was taken out: written by whoever did that, when it is in `searching`, or
        # `needs_slot` is set.
        self.woken = False
        self.extra_steps = 0  # in the quanta of shares
        if name is not None:
            self.thread = new_thread(self.run, name, daemon=False)
        else:  # a caller, of whose thread only the name and the ident are asked for
            self.thread = this_thread()  # type: ignore[assignment]

    # --- a pool thread's life --------------------------------------------------------------------

    def run(self) -> None:
        """The thread's body."""
        if not self.start_token.take():
            return
        scheduler = self.scheduler
        # Made by the thread that uses them most: see `work`.
        self.queue = RunQueue()
        self.ready = Once()
        here.worker = self
        set_asyncgen_hooks(scheduler.watch_generator, scheduler.close_generator)
        try:
            if self._initialize():
                self.work()
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
        # It may take long, or meet the others in a barrier: a thread that queues a task must not
        # count on this worker meanwhile.
        self.withdraw()
        scheduler.notify_if_work()
        # It keeps its slot wherever it blocks: the one that took its place would have to be
        # initialized, too, and block as well, and so on. So at most `max_workers` initialize.
        self.initializes, self.has_slot = True, False
        try:
            return scheduler.initialize()
        finally:
            self.initializes, self.has_slot = False, True

    def join(self) -> None:
        """Wait until the thread has ended."""
        wait_until_set(self.ended)
        if self.thread.ident is not None:  # None: it could not be started
            join(self.thread)

    # --- the loop --------------------------------------------------------------------------------

    def work(self, task: Runnable | None = None, until: Until | None = None) -> None:
        """Run tasks, beginning with `task`, until `until()`; without that, until the pool ends.

        `until` is asked between two steps, in the search, and before it parks. Entered again in a
        wait of what a caller runs: see `Caller._block_on`.
        """
        # Bound methods that this thread has made itself. On a free-threaded build each mention of
        # an object counts references in its header, and these headers are where other threads take
        # the queue's mutex: a mention less is a cache miss less.
        scheduler = self.scheduler
        queue = self.queue
        own_length, take_own, put_own = queue.__len__, queue.popleft, queue.append
        outside_length, take_outside = scheduler.injector.__len__, scheduler.injector.popleft
        has_locks, has_shares = scheduler.locks.__len__, scheduler.shares.__len__
        overcommits = scheduler.parking.overcommits.__len__
        free_slots = scheduler.parking.free_slots.__len__
        steps = self.steps
        if task is None:
            task = self._search() if until is None else self._next(steps + 1, until)
        while task is not None:
            try:
                following = task.run(self)
                steps += 1
                if until is not None and (until() or here.worker is not self):
                    if following is not None and here.worker is self:
                        self.requeue(following)
                    self.steps = steps
                    task = following = None  # what it has raised leads to this frame: no cycle
                    return
                locks = has_locks()  # where there are shares, too: see `Scheduler.share`
                if following is not None:
                    if locks and has_shares() and self._goes_to_share(following):
                        following = None
                    elif following is task:  # it has only yielded: to the end of the queue
                        put_own(task)
                        if free_slots() and own_length() > 1:
                            scheduler.notify()
                        if steps % STEPS_BETWEEN_SCANS and not locks and not overcommits():
                            try:
                                task = take_own()
                                continue
                            except IndexError:  # a thief has the only one
                                pass
                        following = None
                    elif steps % STEPS_BETWEEN_SCANS and not overcommits():
                        task = following
                        continue
                    else:
                        task = None
                        self.requeue(following)
                        following = None
                task = None
                if overcommits() or steps % STEPS_BETWEEN_SCANS == 0:
                    task = self._next(steps, until)
                    continue
                # `_next` and `find_work`, written out: two calls are a tenth of a submit.
                try:
                    if locks:
                        task = self._take_critical(steps)
                    if task is None:
                        if own_length():
                            task = take_own()
                        elif outside_length():
                            task = take_outside()
                        else:
                            self.steps = steps
                            task = self.scan() or self._search(until)
                except IndexError:  # somebody was quicker
                    task = self._search(until)
            except BaseException as error:
                # Not a task's, but the package's own MemoryError, say.
                item, task, following = task, None, None
                self.rescue(item, error)
                if until is not None and is_a(error, KeyboardInterrupt):
                    raise
                item = None
            else:
                continue
            # When `error` is gone, whose frames hold what is the user's.
            task = self._search(until)

    def _next(self, step: int, until: Until | None) -> Runnable | None:
        """What to run next, between two steps; None where this thread is to leave the loop."""
        if until is not None and until():
            return None
        if self.scheduler.parking.overcommits and self._repay_overcommit():
            return self._search(until) if self._park(until, has_slot=False) else None
        return self.find_work(step) or self._search(until)

    def rescue(self, item: Runnable | None, error: BaseException) -> None:
        """An error of the package's own has cut off a step of `item`: end its task with it."""
        log(CRITICAL, "error in a worker's loop; the worker goes on", exc_info=True)
        if (type(item) is Continuation and item.coroutine is not None) or type(item) is Gather:
            item.abandon(error)
        elif isinstance(item, Task) and item.running():
            fail(item.task, error, self.fn)

    # --- searching and parking: docs/protocols/parking.md -----------------------------------------

    def _search(self, until: Until | None = None) -> Runnable | None:
        """Look for work, and park where there is none; None where it is to leave the loop."""
        scheduler = self.scheduler
        parking = scheduler.parking
        self.forget()
        while here.worker is self:  # not so in the child of a task that forked
            self._known = []  # to be made anew: others may have come for those that have exited
            is_done = until is not None and until()  # then it repays nothing, but leaves
            if not is_done and parking.overcommits and self._repay_overcommit():
                if not self._park(until, has_slot=False):
                    break
                continue
            parking.searching.add(self)  # parking: start_searching
            for _ in range(self._looks()):
                is_done = until is not None and until()
                task = None if is_done else self.look()
                if is_done or task is not None:
                    parking.searching.discard(self)  # parking: stop_searching
                    # Whoever queued something meanwhile may have relied on this worker.
                    scheduler.notify_if_work()  # parking: look_for_more
                    return task
                yield_cpu()
            if not self._park(until):
                break
        return None

    def _looks(self) -> int:
        """How often to look before parking. Only an optimization."""
        scheduler = self.scheduler
        if len(scheduler.searching) * 2 > scheduler.slot_count + 1:
            return 1  # enough others are looking
        queues = len(scheduler.workers) + 1
        return min(LOOKS_WHILE_SEARCHING, QUEUES_WHILE_SEARCHING // queues + 1)

    def forget(self) -> None:
        """Drop what was run last, before others count on this worker, or it repays an overcommit.

        It may be the last reference to something of the user's, whose `__del__` takes long, or
        waits for a task. And a parked worker keeps nothing alive.
        """
        self.item = self._last_acquirer = None
        self.fn = None

    def _repay_overcommit(self) -> bool:
        """Whether this worker, between two steps, is one too many. Then it parks without a slot."""
        self.forget()
        return self.scheduler.parking.repay_overcommit()

    def _park(self, until: Until | None = None, has_slot: bool = True) -> bool:
        """Park until there may be work, or `until()`; False where a pool thread is to end.

        With `has_slot=False` the slot is another worker's already: this one has repaid an
        overcommit. Afterwards it has a slot, unless it is to end.
        """
        scheduler = self.scheduler
        parking = scheduler.parking
        parking.searching.discard(self)  # parking: stop_searching
        self.woken = False
        me = (self,)
        # With the mark, in one C call: foreign code that came between would not wait for a thread
        # that has taken this worker out (`withdraw`).
        # parking: announce
        any(chain(map(parking.parked.append, me), map(setattr, me, _PARKS, _TRUE)))
        unparked = False
        try:
            if has_slot:
                parking.release_slot()  # parking: free_slot
            scheduler.notify_if_work()  # parking: last_look
            # After `announce`: what ends the pool, or what is awaited, finds this worker in
            # `parked` if it comes after this look.
            if not (scheduler.is_over() if until is None else until()):
                unparked = self.parker.park(self._park_time())  # parking: park
        except BaseException:  # Ctrl-C, or an error of the package's own
            if self._leave_park(unparked):
                parking.reclaim_slot()
            raise
        if self._leave_park(unparked):
            if until is None:
                return not self._unlist()
            parking.reclaim_slot()
        return True

    def _leave_park(self, unparked: bool) -> bool:
        """Be parked no more; whether nobody has unparked this worker, so that it has no slot."""
        is_alone = not unparked and self._unlist_parked()
        if not (unparked or is_alone):
            self.parker.park()  # taken out of the list, so about to be unparked
        self.parks = False
        if self.needs_slot:
            self.needs_slot = False
            self.scheduler.parking.reclaim_slot()
        return is_alone

    def _park_time(self) -> float | None:
        """For how long to park at most (s); None: without end."""
        scheduler = self.scheduler
        # With tasks in its run queue, for busy thieves, it does not end. Nor while a pool that ends
        # has coroutines that are suspended: the last of them unparks it.
        waits = self.queue or scheduler.is_waiting_to_close()
        return None if waits else scheduler.idle_timeout

    def withdraw(self) -> None:
        """Nobody is to count on this worker: a `__del__` that interrupts its search may take long.

        The caller does `look_for_more` then, in case somebody has counted on it.
        """
        if self._unlist_parked():
            # As `unpark_all`: it is not to park, but to search again.
            self.needs_slot = self.woken = True
            self.parker.unpark()
        elif self.parks:
            # Somebody has taken it out, and is about to have it search. If that is this thread
            # itself, in the midst of a `notify`, it does so when the foreign code has ended.
            while not self.woken and not is_taken_here(self):
                yield_cpu()
        self.scheduler.searching.discard(self)

    def _unlist_parked(self) -> bool:
        """Take this worker out of the parked ones; False if somebody is just unparking it."""
        me, parked = (self,), self.scheduler.parking.parked
        try:  # with the mark, as in `_park`: foreign code that came between would wait for ever
            any(chain(map(parked.remove, me), map(setattr, me, _PARKS, _FALSE)))
        except ValueError:
            return False
        return True

    def _unlist(self) -> bool:
        """End (True), unless there is work and a slot: its submitter may have counted on us."""
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
