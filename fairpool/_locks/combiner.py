"""`Combiner`: the lock, and its pass.

The class `Combiner` is the lock. The *combiner* is a role: the worker that runs the lock's *pass*,
with the key. It takes the oldest request and runs its section, publishes the rest of its task (the
continuation, with its ticket) for idle workers, and takes the next request.

A lock is made of layers, each in its module: `KeyedLock` (queue, key, hand-over), `LockExit` (the
end of a section, accounting, giving up), `ThreadEntry` (threads that wait, and help), `TaskEntry`,
and this. The waiters are in `waiters`, their order in `usage`.

Guarantees, with the proofs in `docs/protocols/combining.md` and `docs/protocols/tickets.md`:

- Ticket order: the queue is first in, first out, and an arrival that finds it not empty does not
  overtake it.
- A pass is bounded in count and in time. After that the lock is served again when its turn comes.
- What lies in the run queue of a worker does not wait for its pass: others take it (`displace`).
- A thread that waits may be lent to run what others have published, never inside a section, and
  is passed over at most once for it (`docs/protocols/joining.md`).

Assumes: atomic call, mutex order, try-lock (`_core.atomicity`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from operator import attrgetter
from typing import Any

from fairpool._core.room import SHORT_OF_ROOM, need_stack
from fairpool._core.threads import monotonic_ns
from fairpool._core.types import Function, Runnable
from fairpool._locks.host import LockWorker
from fairpool._locks.owners import KeyLoan, thread_owner
from fairpool._locks.statistics import SAMPLE_MASK
from fairpool._locks.tasks import TaskEntry
from fairpool._locks.waiters import CriticalLink
from fairpool._tasks.continuation import Continuation
from fairpool._tasks.future import AnyFuture
from fairpool._tasks.request import Published, Request
from fairpool._tasks.state import is_final

# How many sections one pass serves at most, and for how long (ns): then the rest of its worker's
# work has its turn.
PASS_SECTIONS = 64
PASS_TIME = 2_000_000

# What lies in the run queue of a worker waits so long (ns) for its pass. Then others may take it.
# About what waking one of them costs (docs/performance.md).
DISPLACE_AFTER = 30_000

# For `_take_key_again`.
_NO_WAIT = (False,)
_ITEM = ("item",)


class Combiner(TaskEntry):
    """A lock as its workers see it. `run` is a pass: a worker runs it like a task."""

    __slots__ = ()

    @property
    def task(self) -> None:
        """None: a pass belongs to no task."""

    is_task = False

    # How a worker queues what follows a section that it has combined. No method, so that a pass
    # needs no frame for it.
    publish_of: Callable[[LockWorker], Callable[[Published], None]] = attrgetter("published.append")

    @property
    def lock_in_hand(self) -> Combiner:
        """This lock: the worker that runs a pass has its key, between two sections."""
        return self

    def run(self, worker: LockWorker) -> Runnable | None:
        """Run a pass on this worker, with the key. Returns what the worker is to run next."""
        # The mark of the key holder between two sections. It goes directly before the key does.
        worker.item = self
        home = self.home
        if home is not None and home is not worker and not worker.may_stand_in(self):
            self.dispatch(again=True)
            return None
        scheduler = self.scheduler
        take = self.queue.popleft
        publish = self.publish_of(worker)
        slots = scheduler.parking.free_slots
        leave, notify = self.leave_token, self._notify
        request_type, get_type, clock = Request, type, monotonic_ns
        own = worker.queue
        end, sample_mask = PASS_SECTIONS, SAMPLE_MASK
        stats = self.stats
        if not scheduler.max_workers:
            scheduler.pending_locks.discard(self)
        if self.preferred is None and worker.stays:
            self.preferred = worker
        stats.passes += 1
        if worker is not stats.last_server:
            stats.serve_with(worker)
        if not self.in_use:
            self._note_use()
        count = 0
        self.began = now = monotonic_ns()
        deadline = now + PASS_TIME
        look = now + DISPLACE_AFTER
        if own and len(self.queue) * stats.mean > DISPLACE_AFTER:
            look = now - 1  # at once
        while True:
            if count == end or now > look or worker.leaving:
                if count == end or now > deadline or worker.leaving:
                    break
                if own:
                    try:
                        worker.displace()  # combining: displace
                    except SHORT_OF_ROOM:
                        pass  # it stays here, for thieves
                look = min(now + DISPLACE_AFTER, deadline)
            try:
                item: Any = take()  # a `Waiter`
            except IndexError:
                self._account_pass(now, count)
                worker.item = None
                self.key.release()  # combining: release_key
                # combining: recheck
                if not (self.queue.holds_work() and self._take_key_again(worker)):
                    return None
                if not self.in_use:
                    self._note_use()
                stats.passes += 1  # it has become the combiner again
                count = 0
                self.began = now
                continue
            if get_type(item) is request_type:
                try:
                    continuation: Continuation = item.pop()
                except IndexError:  # given up
                    continue
                if not count & sample_mask:
                    stats.waits.append(now - item.ticket)
                self.owner = worker.item = continuation
                self.served = count + 1
                # `Continuation.run`, but for a look at cancellations. One that comes after the
                # grant is left to the next suspension: thrown here, it would come between the
                # grant and the `async with` that is to release the lock.
                try:
                    outcome = continuation.run_in(continuation.send, None)
                except BaseException as raised:
                    after = continuation.end(raised)
                    del continuation, worker  # no cycle: see `Continuation.run`
                    return after
                if outcome is not leave:
                    # It has left when nobody waited, and gone on; or it is suspended in its
                    # section.
                    return continuation.suspended(outcome, worker)
                self.owner = None  # before its task can be anywhere else
                worker.item = self
                publish(continuation)  # parking: enqueue
                if slots:  # parking: notify
                    notify()
                del continuation  # it may have ended meanwhile
            elif item.is_section:
                self.owner = item
                self.served = count + 1
                following = item.run(worker)
                if worker.item is not item:  # cancelled
                    self.owner = None
                    continue
                if not is_final(item):
                    # A coroutine, which holds the lock until its end.
                    worker.item = None  # its end may come elsewhere: see `lock_in_hand`
                    item._register(self.end_section_of)
                    return following  # type: ignore[no-any-return]
                self.owner = None
                worker.item = self
                if following is not None:
                    following.ticket = item.ticket
                    publish(following)  # parking: enqueue
                    if slots:  # parking: notify
                        notify()
                item = following = None  # what it has raised leads to this frame: no cycle
            else:
                self._account_pass(now, count)
                if self._grant(item):
                    return None
                end -= count
                count = 0
                self.began = now
                continue
            # One more; or one, if it has left before, and entered again.
            count = self.served or 1
            now = clock()
        self._end_pass(worker, count, now)
        return None

    def _take_key_again(self, worker: LockWorker) -> bool:
        """`recheck`, and its mark: one call in C, so that no code of the user's comes between."""
        taken = compress((worker,), map(self.key.acquire, _NO_WAIT))
        any(map(setattr, taken, _ITEM, (self,)))
        return worker.item is self

    def lend(self, worker: LockWorker, awaited: object) -> KeyLoan | None:
        """Lend the key of a pass: foreign code is about to wait, between two sections."""
        need_stack(40)
        item, owner = worker.item, self.owner
        thread = thread_owner()  # it waits as that, and not as the task that has run before
        loan = KeyLoan(self, worker, thread)
        thread.loans.append(loan)
        worker.item = self.owner = None
        self.served = 0
        try:
            self.hand_over_key()
        except BaseException:  # the key is here still
            self.owner = owner
            worker.item = item
            thread.loans.remove(loan)
            raise
        return loan

    def _end_pass(self, worker: LockWorker, count: int, now: int) -> None:
        """The pass is over; the lock is served again when its turn comes."""
        self._account_pass(now, count)
        if worker.leaving:
            worker.item = None
            # To a thread that waits here, perhaps: no worker may be there.
            self.hand_over_key_safely()
        else:
            self.dispatch()

    def link(self, source: AnyFuture, on_result: Function, on_error: Function | None) -> AnyFuture:
        """A step of a chain that is a critical section here: see `Future.then`."""
        link: CriticalLink[object] = CriticalLink()
        link.lock = self
        link.share = None  # that of its context, from when it is queued
        self.scheduler.link(source, on_result, on_error, (BaseException,), None, link)
        return link
