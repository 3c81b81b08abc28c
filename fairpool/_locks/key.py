"""`KeyedLock`: the queue and the key of a lock, and how the key is handed over.

A lock is not something that a thread sits and waits for. A *waiter* is put into the queue, and
the lock is served by one that holds its *key*: a worker in a pass, or a thread that leaves.

Guarantees, with the proofs in `docs/protocols/combining.md`:

- Mutual exclusion: one section at a time, because a section is run, or granted, only by the holder
  of the key, and the key is released only when none runs.
- No lost request: a waiter is queued before the key is tried, and the queue is looked at after the
  key was released. One of the two sees the other.

Assumes: atomic call, mutex order, try-lock (`_core.atomicity`). Attributes that are marked *key*
below are written by the key holder, and handed on with the key: its release comes after them, its
acquisition before. (Or they are handed on with the request: the `pop` that claims it is ordered by
its `append`.)
"""

from __future__ import annotations

from weakref import ref

from fairpool._core.accounts import Ledger
from fairpool._core.here import here
from fairpool._core.room import SHORT_OF_ROOM, need_stack
from fairpool._core.runqueue import WaitQueue
from fairpool._core.threads import (
    Lock,
    LockType,
    monotonic_ns,
    read_by_many,
    start_new_thread,
    yield_cpu,
)
from fairpool._core.types import Runnable
from fairpool._core.waitgraph import Node, locks
from fairpool._locks.host import LockHost, LockWorker
from fairpool._locks.owners import Owner, current_owner, name_of_owner
from fairpool._locks.statistics import Counters
from fairpool._locks.waiters import end_item
from fairpool._tasks.request import Leave, Once, Published, Waiter


def _take_nothing(blocking: bool) -> bool:
    """`take_key` of a lock that is not in use: it comes into use first."""
    return False


class KeyedLock:
    """The queue and the key of a lock."""

    __slots__ = (
        "asked",
        "began",
        "entry",
        "home",
        "in_use",
        "key",
        "leave_door",
        "leave_token",
        "name",
        "owner",
        "preferred",
        "queue",
        "ready",
        "release_key",
        "rotate",
        "scheduler",
        "served",
        "stats",
        "take_key",
    )

    # queue:     the waiters, oldest first: see `waiters`
    # key:       held while a section runs, and while its holder looks for the next one
    # owner:     (key) whose section runs: a task, a continuation, an
    #            external waiter, a `ThreadOwner`; None between sections
    # began:     (key) when its section, or the pass that it is part of, began (ns)
    # served:    (key) how many sections the pass has run, with this one; 0 if this was entered in
    #            another way
    # asked:     (key) when somebody was asked to serve the queue (ns)
    # preferred: (key) the worker that has served it first, while that is there
    # home:      (key) `preferred` if sections are worth going home for, else None
    # in_use:    (key) whether it is among `Scheduler.locks_in_use`, as `entry`
    # take_key:  (key) takes the key in `__aenter__`; never while the lock is not in use

    def __init__(self, scheduler: LockHost, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.entry = ref(self, scheduler.forget_lock)
        self.keep_requests_in(WaitQueue())
        self._use_key(Lock())
        self.in_use = False
        self.owner: Owner | None = None
        self.began = 0
        self.served = 0
        self.asked = 0
        self.preferred: LockWorker | None = None
        self.home: LockWorker | None = None
        self.leave_token = Leave(self)  # type: ignore[arg-type]  # it is all of a `Lock`
        self.leave_door = Once((self.leave_token,))
        self.ready = Once()
        self.stats = Counters()
        read_by_many(self.stats)
        if not locks:
            locks.append(None)

    def keep_requests_in(self, queue: WaitQueue[Waiter]) -> None:
        """This is the queue, in its order. Before anybody else knows the lock."""
        self.queue = queue
        self.rotate = queue.rotate
        read_by_many(queue, self.rotate)

    def run(self, worker: LockWorker) -> Runnable | None:
        """Run a pass: see `Combiner`."""
        raise NotImplementedError

    def _describe(self) -> str:
        return f"the lock {self.name}"

    @property
    def ledger(self) -> Ledger | None:
        """What each share has used, where the lock counts it: see `charging.py`."""
        return None

    def longest_wait_passes(self) -> int:
        """How long a share has waited at most, where the lock is in usage order."""
        return 0

    def holder(self) -> tuple[Node, ...]:
        """The task whose section runs, if there is one: a wait for the lock is a wait for it."""
        owner = self.owner
        return () if owner is None else (owner.task,)

    def check_owner(self) -> None:
        """Raise RuntimeError where the caller is not inside."""
        owner = self.owner
        if owner is None or owner.task is not current_owner().task:
            raise RuntimeError(f"{self!r} is not held by {name_of_owner(current_owner().task)}")

    # --- whether it is in use: docs/protocols/combining.md ----------------------------------------

    def _use_key(self, key: LockType) -> None:
        """Make this the key; its next taker has to see to `in_use` (key)."""
        self.take_key = _take_nothing
        self.release_key = key.release
        read_by_many(key, self.release_key)
        self.key = key  # last: from here on others take it

    def _note_use(self) -> None:
        """A section is about to run, so this is one of the locks to look at (key)."""
        self.scheduler.locks_in_use.add(self.entry)  # combining: use_lock
        self.take_key = self.key.acquire
        ref(self.take_key)  # see `read_by_many`
        self.in_use = True

    def take_unused_key(self) -> bool:
        """Take the key of a lock that is not in use, if it is free. The lock is in use then."""
        if not self.key.acquire(False):
            return False
        try:
            self._note_use()
        except BaseException:
            try:
                start_new_thread(self.hand_over_key, ())
            except (RuntimeError, MemoryError):
                self.key.release()
            raise
        return True

    def go_out_of_use(self) -> None:
        """Be none of the locks to look at, if nobody is inside or waits. From any thread."""
        key = Lock()
        if self.queue or not self.key.acquire(False):  # combining: try_unused_key
            return
        if not self.queue:
            self.in_use = False
            self.scheduler.locks_in_use.discard(self.entry)  # combining: unlist_lock
            # The old key is never released: a thread that has it since before `unlist_lock` must
            # not be inside of a lock that is not in use.
            self._use_key(key)  # combining: replace_key
            self.rotate(0)  # combining: recheck_new_key; also for what is held back
            if not self.queue:
                return
        else:
            self.key.release()  # combining: release_key
        self.see_to_queue()

    # --- waiters ----------------------------------------------------------------------------------

    def enqueue(self, item: Waiter) -> None:
        """Queue a waiter that is no coroutine of this pool."""
        self.line_up(item)
        self.see_to_queue()

    def line_up(self, item: Waiter) -> None:
        """Put a waiter into the queue. The caller sees to the queue then, or takes it out again."""
        self.queue.append(item)  # combining: enqueue
        if not self.in_use:  # before recheck_closed: the thread that closes the pool finds it
            self.scheduler.locks_in_use.add(self.entry)  # combining: list_lock

    def see_to_queue(self) -> None:
        """Have a waiter served that this thread has queued."""
        if not self.in_use:
            self.scheduler.locks_in_use.add(self.entry)  # combining: list_lock
        if self.key.acquire(False):  # combining: try_key
            try:
                self.hand_over_key()
            except SHORT_OF_ROOM:
                try:
                    start_new_thread(self.hand_over_key, ())
                except (RuntimeError, MemoryError):
                    self.release_key()

    def head_ticket(self) -> int:
        """The ticket of the oldest request (key, or the lock itself taken out of a queue)."""
        item = self.queue.first()
        return 0 if item is None else item.ticket

    def _grant(self, item: Waiter) -> bool:
        """Give the key to one that needs no worker; False if it has given up (key)."""
        if not self.in_use:
            self._note_use()
        return item.grant(self)

    # --- handing the key over ---------------------------------------------------------------------

    def hand_over_key(self) -> None:
        """Give the key to the next waiter, or release it. No section runs, and this thread goes on.

        Raises one of `SHORT_OF_ROOM` only where the caller still has the key, and can do it again.
        """
        queue = self.queue
        while True:
            # A waiter that needs a worker stays in the queue: the workers of a closed pool do not
            # end before it is served.
            first = queue.first()
            if first is None:
                self.key.release()  # combining: release_key
                # It needs no more stack than `first` did. Without memory: as if there were one.
                try:
                    more = queue.holds_work()  # combining: recheck
                except MemoryError:
                    more = True
                try:
                    if more and self.key.acquire(False):
                        continue
                except MemoryError:  # the key is not this stack's any more
                    start_new_thread(self.see_to_queue, ())
                break
            if first.needs_worker:
                if first:  # type: ignore[truthy-bool]
                    self.dispatch()
                    return
                queue.discard(first)  # a request that was given up
            else:
                need_stack()
                if not queue.discard(first):
                    continue  # given up, or in the hands of a sweeper, which stands in front
                try:
                    granted = self._grant(first)
                except MemoryError:
                    queue.appendleft(first)
                    raise
                if granted:
                    # On the same processor, perhaps: then it goes first, and not when this thread
                    # has done what follows its section.
                    yield_cpu()
                    break
        try:
            self._tell_workers()
        except SHORT_OF_ROOM:
            try:
                start_new_thread(self._tell_workers, ())
            except (RuntimeError, MemoryError):
                pass  # they look again after their idle time-out

    def hand_over_key_safely(self) -> None:
        """Hand the key over; on another stack where this one has no room for it (key).

        Written out in `see_to_queue`, `end_section` and `__aexit__`: they come with the key in
        hand, and the stack may have no room for one more frame (docs/protocols/room.md, `reach`).
        """
        try:
            self.hand_over_key()
        except SHORT_OF_ROOM:
            try:
                start_new_thread(self.hand_over_key, ())
            except (RuntimeError, MemoryError):
                self.release_key()

    def _tell_workers(self) -> None:
        """Wake the workers of a closed pool once the queue is empty: they stay until then."""
        if self.scheduler.ending and not self.queue:
            self.scheduler.parking.unpark_all()

    def dispatch(self, again: bool = False) -> None:
        """Have a worker run a pass. The caller gives the key away with this.

        `again`: it was on the wrong worker, and its home worker gets no new head start. Raises as
        `hand_over_key`.
        """
        if not again:
            self.asked = monotonic_ns()
        scheduler = self.scheduler
        if not scheduler.max_workers:
            scheduler.pending_locks.add(self)  # joining: mark_pending
        if scheduler.broken is not None:
            need_stack()
            end_item(self)
            self.fail(scheduler.broken)
            return
        worker: LockWorker | None = here.worker
        target = self.home
        if target is None or target.exited:
            target = worker
        if target is None or target.scheduler is not scheduler:
            target = None
            scheduler.injector.append(self)  # parking: enqueue
        else:
            if worker is not None and worker.item is self:
                worker.item = None
            target.home_queue.append(self)  # parking: enqueue
        # It is given away: what follows may not fail.
        try:
            scheduler.notify_or_abandon(target)  # parking: notify
        except SHORT_OF_ROOM:
            try:
                start_new_thread(scheduler.notify_or_abandon, (target,))
            except (RuntimeError, MemoryError):
                pass  # the next task that is queued wakes a worker for this, too

    def fail(self, error: BaseException) -> None:
        """No worker will serve this lock. The caller holds the key; this hands it over.

        Waiters that need a worker are ended with the error; the others are let in.
        """
        ended: list[Published] = []
        while not self._grant_next(ended):
            self.key.release()  # combining: release_key
            if not (self.queue.holds_work() and self.key.acquire(False)):  # combining: recheck
                break
        for item in ended:  # with their callbacks, which may come here again
            item.abandon(error)

    def _grant_next(self, ended: list[Published]) -> bool:
        """Give the key to the first that needs no worker; those before it go into the list."""
        while (item := self.queue.take()) is not None:
            if not item.needs_worker:
                if self._grant(item):
                    return True
            elif (claimed := item.claim_to_end()) is not None:
                ended.append(claimed)
        return False
