"""`WorkFinder`: where a worker takes its work, and in which order.

The policy is `find_work`. The queues are those of tokio, rayon and Go: each worker has a run queue,
the pool an injector, and a worker without work steals. Beside them each worker has what locks
leave with it: published continuations, lowest ticket first, and a *home queue* of locks that it is
asked to serve (`docs/protocols/tickets.md`). The pool has one more queue, of *displaced* tasks,
which lay in the run queue of a worker that combines (`docs/protocols/combining.md`).

Guarantees:

- Every item is in a queue, or in the hands of a thread that is about to run it or to queue it. A
  thread that had an item in hand, and queues it again, notifies after that.
- No queue starves: the sources take turns, and every `STEPS_BETWEEN_SCANS` steps a worker looks at
  other queues before its own.

This code assumes that the attributes here are written by the worker's own thread. `exited` orders
its end against the threads that queue a lock with it: they see `exited`, and call `give_back` for
it. So `give_back` of a worker that has exited is called by any thread.
"""

from __future__ import annotations

from random import random

from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import monotonic_ns
from fairpool._core.types import AnyWorker, Runnable
from fairpool._locks.combiner import Combiner
from fairpool._scheduler.lifecycle import LifeCycle
from fairpool._scheduler.roles import Item
from fairpool._tasks.request import Published

# How many tasks a steal takes at most, besides the one it is for: as many as tokio's local queue
# gives away would be 128; fewer keep the order closer to first come, first served.
STEAL_MAX = 32

# How many displaced tasks there are, at most and about. Others cannot take more of them soon, and
# to move one costs 0.1 µs.
DISPLACED_MAX = 32

# Every so many steps a worker looks at the injector and at other run queues before its own, so that
# tasks which keep submitting cannot starve what comes from outside, or what lies in the run queue
# of a worker that is blocked. The number is tokio's (and Go's): a prime, so that it does not fall
# in step with a loop of the user's.
STEPS_BETWEEN_SCANS = 61

# Of how many continuations one is looked at for `statistics` (all steps with these bits unset).
SAMPLE_MASK = 15

# How often a task may enter a lock of tiny sections, which is free, before what its worker has
# published: a suspension each time would cost as much as several such sections.
MAX_CONSECUTIVE_ACQUIRES = 32

# How long the home worker of a lock is given to come and serve it, where it searches and where it
# runs something else (ns).
HEAD_START_SEARCHING = 50_000

HEAD_START_RUNNING = 30_000

# The run queue of a worker whose thread has not come so far as to make its own. Always empty.
_NO_QUEUE: RunQueue[Runnable] = RunQueue()


def _lowest(lists: list[list[Published]]) -> list[Published] | None:
    """Which of these lists of continuations begins with the lowest ticket."""
    lowest: list[Published] | None = None
    lowest_ticket = 0
    for published in lists:
        try:
            ticket = published[0].ticket
        except IndexError:  # empty
            continue
        if lowest is None or ticket < lowest_ticket:
            lowest, lowest_ticket = published, ticket
    return lowest


class WorkFinder:
    """The queues of one worker, and its search in those of others."""

    __slots__ = (
        "_critical",
        "_displaced_turn",
        "_free_slots",
        "_inline",
        "_known",
        "_last_acquirer",
        "_sampled",
        "_scans_locks",
        "_share_turn",
        "_turn",
        "consecutive_acquires",
        "exited",
        "forked",
        "home_queue",
        "item",
        "published",
        "queue",
        "scheduler",
        "steals",
        "steps",
    )

    def __init__(self, scheduler: LifeCycle) -> None:
        self.scheduler = scheduler
        self.queue = _NO_QUEUE
        self.published: list[Published] = []  # continuations, lowest ticket first
        # Locks whose home this is, and which are to be served.
        self.home_queue: RunQueue[Combiner] = RunQueue()
        self.exited = False
        self.item: Item | None = None  # what this worker runs, or has run last
        # How often the last acquirer has gone before what is published here.
        self.consecutive_acquires = 0
        self._last_acquirer: Item | None = None
        self._known: list[list[Published]] = []  # the lists of all workers, as far as is known
        self._turn = self._scans_locks = self._critical = self._share_turn = False
        self._displaced_turn = False
        self._sampled = 0  # when the continuation began that is being timed (ns), if one is
        self._free_slots = scheduler.parking.free_slots
        self._inline = 0  # how many steps are being run on top of another
        self.forked = 0  # how many children were, since others have gone first
        self.steps = 0  # brought up to date every so many steps
        self.steals = 0

    def find_work(self, step: int) -> Runnable | None:
        """What to run next, between two steps; None where nothing is found.

        `Worker.work` has these lines written out; a test holds the two equal.
        """
        return (
            self._take_turns(step)  # others, now and then; else what locks have left here
            or self.queue.take()  # the cheapest, and warm
            or self._take_outside()  # what has waited longest
            or self.scan()  # what others do not come to
        )

    def _take_turns(self, step: int) -> Runnable | None:
        """What goes before the own run queue: every so often others, else what locks have left."""
        if step % STEPS_BETWEEN_SCANS == 0:
            self.steps = step
            return self.scan()
        return self._take_critical(step) if self.scheduler.locks else None

    def scan(self) -> Runnable | None:
        """`look`, for a worker that is not searching.

        Every other time first for a lock: a home worker that is busy is not to keep it from being
        served where others are busy, too.
        """
        self._scans_locks = not self._scans_locks
        self.forked = 0  # it is between two steps, and others may go first now
        first = self._take_service() if self._scans_locks and self.scheduler.locks else None
        task = first or self.look()
        if task is not None and self.queue:
            # What a steal took besides was in no queue for a moment. A worker that parked then has
            # missed it.
            self.scheduler.notify_if_work()
        return task

    def look(self) -> Runnable | None:
        """Take a task from the injector or a run queue; which of them comes first takes turns."""
        displaced = self.scheduler.displaced
        if displaced and (task := displaced.take()) is not None:
            return task
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

    def _take_outside(self) -> Runnable | None:
        injector = self.scheduler.injector
        return injector.take() if injector else None

    def _steal(self) -> Runnable | None:
        workers = self.scheduler.workers
        count = len(workers)
        start = int(random() * count)
        for i in range(count):
            try:
                queue = workers[(start + i) % count].queue
            except IndexError:  # the list has just become shorter
                continue
            task = queue.take() if queue else None
            if task is not None:
                if queue is not self.queue:
                    self.steals += 1
                    self._take_more(queue)
                return task
        return None

    def _take_more(self, queue: RunQueue[Runnable]) -> None:
        """Take half of what is left, too: a steal costs as much as several small tasks."""
        for _ in range(min(len(queue) >> 1, STEAL_MAX)):
            task = queue.take()
            if task is None:
                return
            # In no queue for a moment: the caller notifies, after this, in case somebody parked
            # then.
            self.queue.append(task)

    # --- what locks leave with workers ------------------------------------------------------------

    def _take_critical(self, step: int) -> Runnable | None:
        """What was published here, and the locks that are to be served here, by their tickets.

        They take turns with the run queue and the injector, if those hold anything. If there is
        nothing here, what others have published. All of this takes turns with the displaced tasks,
        and all of that with the shares.
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
        displaced = self.scheduler.displaced
        if displaced:
            self._displaced_turn = not self._displaced_turn
            if self._displaced_turn and (task := displaced.take()) is not None:
                return task
        queue = self.queue
        if queue or self.scheduler.injector:
            self._critical = not self._critical
            if self._critical:
                return None
        item: Published | None
        published, home_queue = self.published, self.home_queue
        if home_queue:
            try:
                first = published[0].ticket if published else None
                lock = home_queue.popleft()
            except IndexError:
                return None
            if first is None or first > lock.head_ticket():
                return lock
            home_queue.appendleft(lock)  # parking: enqueue
            self.scheduler.notify_if_free()  # parking: notify; it was in no queue for a moment
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

    def _take_published(self) -> Published | None:
        """The published continuation with the lowest ticket of all that come first somewhere."""
        known = self._known
        if len(known) != len(self.scheduler.workers):
            # A worker that is missing here has one more look coming: `has_work` looks at the list.
            known = self._known = [worker.published for worker in self.scheduler.workers.copy()]
        first: list[Published] | None = None
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

    def _take_service(self) -> Combiner | None:
        """A lock whose home worker does not come to serve it."""
        for worker in self.scheduler.workers.copy():
            home_queue = worker.home_queue
            if home_queue and (lock := home_queue.take()) is not None:
                if home_queue is self.home_queue or self.may_stand_in(lock):
                    return lock
                home_queue.appendleft(lock)  # parking: enqueue
                # It was in no queue for a moment: its home worker may have parked, or ended.
                if worker.exited:
                    worker.give_back()
                self.scheduler.notify_if_free()  # parking: notify
        return None

    def may_stand_in(self, lock: Combiner) -> bool:
        """Whether to serve a lock away from its home."""
        home: AnyWorker = lock.home
        if home is None or home is self or home.exited:
            return True
        if home in self.scheduler.searching:
            return monotonic_ns() - lock.asked > HEAD_START_SEARCHING
        if monotonic_ns() - lock.asked > HEAD_START_RUNNING:
            return True
        return home in self.scheduler.parking.parked.copy()

    def may_go_first(self) -> bool:
        """Whether a task may enter a lock of tiny sections once more, before what is published."""
        if self._last_acquirer is not self.item:
            self._last_acquirer = self.item
            self.consecutive_acquires = 0
        self.consecutive_acquires += 1
        if self.consecutive_acquires < MAX_CONSECUTIVE_ACQUIRES:
            return True
        self.consecutive_acquires = 0
        return False

    def displace(self) -> None:
        """Let the first worker that ends a step take what lies here: this one combines."""
        queue, displaced = self.queue, self.scheduler.displaced
        for _ in range(min(len(queue), DISPLACED_MAX - len(displaced))):
            task = queue.take()
            if task is None:  # thieves have it
                break
            displaced.append(task)  # parking: enqueue
        self.scheduler.notify_if_free()  # parking: notify; they were in no queue for a moment

    def publish(self, item: Published) -> None:
        """Let other workers take what follows a critical section."""
        self.published.append(item)  # parking: enqueue
        self.scheduler.notify_if_free()  # parking: notify

    # --- shares -----------------------------------------------------------------------------------

    def publish_to_share(self, item: Published) -> None:
        """`published.append`, for a lock in usage order: what is a share's goes to its queue."""
        shares = self.scheduler.shares
        principal = self.scheduler.principal_of(item) if shares else None
        if principal is None:
            self.published.append(item)  # parking: enqueue
        else:
            shares.time_response(item)
            principal.append(item)  # parking: enqueue

    def _goes_to_share(self, item: Runnable) -> bool:
        """Queue what a step has made runnable, if it is a share's."""
        principal = self.scheduler.principal_of(item)
        if principal is None:
            return False
        principal.put(item)
        return True

    def _admit(self, item: Published) -> Runnable | None:
        """What to run where a published continuation was taken: that, or a share before it."""
        return self.scheduler.shares.choose() if self._goes_to_share(item) else item

    # --- putting work back ------------------------------------------------------------------------

    def requeue(self, item: Runnable) -> None:
        """Put a continuation, or a link, at the end of the run queue, at the end of a step."""
        if self.scheduler.shares and self._goes_to_share(item):
            return
        queue = self.queue
        queue.append(item)
        # This worker is about to take the oldest. Only what it leaves is for another one; and where
        # the step was run inline, on top of another, it leaves all.
        if self._free_slots and (len(queue) > 1 or self._inline):
            self.scheduler.notify()

    def enqueue(self, item: Runnable) -> None:
        """Put what others may take in the run queue, at the start of a step."""
        if self.scheduler.shares and self._goes_to_share(item):
            return
        self.queue.append(item)
        if self._free_slots:
            self.scheduler.notify()

    def take_back(self, item: Runnable) -> None:
        """Take out of the run queue what this worker has put there last, if nobody else has."""
        queue = self.queue
        try:
            last = queue.pop()
        except IndexError:
            return
        if last is not item:
            queue.append(last)
            self.scheduler.notify_if_free()  # it was in no queue for a moment

    def give_back(self) -> None:
        """This worker has exited: what lies with it is to be taken by others."""
        while (lock := self.home_queue.take()) is not None:
            self.scheduler.injector.append(lock)
        try:
            while True:
                self.scheduler.injector.append(self.published.pop(0))
        except IndexError:
            pass
        while (task := self.queue.take()) is not None:
            self.scheduler.injector.append(task)
