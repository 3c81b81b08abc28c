"""`Combiner`: the queue of one lock's critical sections, and the worker that serves it now.

A lock is not something that a thread sits and waits for. Who wants to enter puts a *request* into
the queue; whoever holds the lock's *key* and has no section to run is its *combiner*, a role and
not a thread. It takes the oldest request and runs its section, publishes what is left of its task
(the continuation, with its ticket) for idle workers, and takes the next request: a *pass*.

Guarantees, with the proofs in `docs/protocols/combining.md` and `docs/protocols/tickets.md`:

- Mutual exclusion: one section at a time, because a section is run, or granted, only by who holds
  the key, and the key is released only when none runs.
- Ticket order: the queue is first in, first out, and who finds it not empty does not overtake it.
- No lost request: who queues one tries the key afterwards, and who releases the key looks at the
  queue afterwards. One of the two sees the other.
- A pass is bounded in count and in time. After that the lock is served again when its turn comes.
- A thread that waits may be lent to run what others have published, never inside a section, and
  is passed over at most once for it (`docs/protocols/joining.md`).

This code assumes A1, A2 and A5 of `_sync`. Attributes that are marked *key* below are written by
who holds the key, and handed on with it: the key's release comes after them, its acquisition before
(or they are handed on with the request: the `pop` that claims it is ordered by its `append`).
"""

from __future__ import annotations

from asyncio import _get_running_loop
from contextvars import copy_context
from functools import partial
from itertools import compress
from typing import Any
from weakref import ref

from fairpool._core.errors import DeadlockError
from fairpool._core.runqueue import RunQueue, WaitQueue
from fairpool._core.sync import (
    FREE_THREADED,
    SHORT_OF_ROOM,
    Lock,
    acquire,
    here,
    monotonic_ns,
    need_stack,
    read_by_many,
    stack_is_deep,
    start_new_thread,
    this_thread,
    yield_cpu,
)
from fairpool._tasks.future import CANCELLED, Future, call_all, claim, finish, is_claimed, is_final
from fairpool._tasks.request import Leave, Once, Request, Sweep, Wish
from fairpool._tasks.task import LINK, Link, Task
from fairpool._tasks.waits import check_lock_wait, enter_wait, leave_wait, locks, waiting_tasks

__all__ = [
    "Combiner",
    "CriticalLink",
    "Guest",
    "Loan",
    "Section",
    "has_given_up",
    "name_of_owner",
    "who_calls",
]

# How many sections one pass serves at most, and for how long (ns): then the rest of its worker's
# work has its turn.
PASS_SECTIONS = 64
PASS_TIME = 2_000_000

# A lock goes home (see `Combiner.home`) when its mean section is longer than the first, and is
# served where the task is when it is shorter than the second (ns).
GO_HOME_ABOVE = 10_000
STAY_BELOW = 5_000

# The mean is looked at after this many sections.
SECTIONS_BETWEEN_REVIEWS = 16

# How often a task looks whether a tiny section has ended before it queues its request. At 0.1 µs
# each they take 20 µs, about what a request costs its task and those that queue up behind it, and
# what a meeting of two threads at a mutex of CPython's own takes: see docs/architecture.md.
LOOKS_BEFORE_QUEUEING = 200 if FREE_THREADED else 0


class _GiveWay:
    """What a coroutine yields to let go first what was published on its worker."""

    def _suspend(self, continuation: Any) -> None:
        if continuation.disarm():
            continuation.ticket = monotonic_ns()
            continuation.drop_request()  # else it would be counted as the response to that
            here.worker.publish(continuation)


_GIVE_WAY = Once((_GiveWay(),))


class Stay(Wish):
    """A stack's wish to enter: of a plain function, or of a thread that is no worker.

    Holds the lock on which its thread parks. Who claims it, wakes the thread: to let it in, or to
    lend it (`Combiner.nominate`).
    """

    __slots__ = ("errand", "helps", "lender", "lent", "owner", "parker", "passed_over", "serves")

    # helps:  whether its thread may be lent for a continuation; and …
    # serves: … to serve the lock. Written by that thread, before it is queued (the queue's `append`
    #         orders that before whoever finds it there); unset before it is put back there.
    # errand: the lock that it was lent to serve; None: it is to take what was published.
    # lent:   whether it was: then it has a seat, and is in `searching`. Written by who has claimed
    #         it, last of all but waking the thread.
    # lender: what its thread is to the pool meanwhile
    # passed_over: whether a combiner has taken it from the queue while it was claimed

    def __init__(self, lock: Combiner, ticket: int, owner: Any) -> None:
        self.helps = self.serves = self.lent = self.passed_over = self.given_up = False
        self.errand: Combiner | None = None
        self.lender: Any = None
        self.lock = lock
        self.ticket = ticket
        self.share = None  # until it is queued: it may be refused before
        self.owner = owner
        self.append(self.make_parker())

    def make_parker(self) -> Any:
        """Something new to park on: who has claimed the old one may be about to release it."""
        self.parker = Lock()
        self.parker.acquire()
        return self.parker


class Guest(Future[None]):
    """The wish to enter of a coroutine that this pool does not run: another's task, or asyncio's.

    It is woken with the lock, and holds it while it is on its way.
    """

    __slots__ = ("_host", "lock", "share", "ticket")

    share: Any  # as that of a `Wish`

    has_sources = True
    relation = " held by "

    def __init__(self, lock: Combiner, host: Any) -> None:
        super().__init__()
        self.lock = lock
        self._host = host
        self.ticket = monotonic_ns()

    @property
    def task(self) -> Any:
        """Who holds the lock: the task, if it is one of fairpool's."""
        return self if self._host is None else self._host

    @property
    def awaited(self) -> Any:
        return None if self._host is None else self._host.awaited

    def sources(self) -> tuple[Any, ...]:
        owner = self.lock.owner
        # It is the owner before it is final, when it is just being let in.
        return () if owner is None or owner is self or is_final(self) else (owner.task,)

    def _describe(self) -> str:
        return self.lock._describe()


class _Critical(Task[Any]):
    """What is run as a critical section: the end of it."""

    __slots__ = ()

    lock: Combiner

    @property
    def holds_lock(self) -> bool:  # type: ignore[override]
        """True at the end of the section, to the worker that runs it. It has the key until then."""
        return self.lock.owner is self

    @property
    def lock_in_hand(self) -> Any:
        """As that of `Combiner`: from when the section has ended until the pass notes that."""
        lock = self.lock
        return lock if lock.owner is self and is_final(self) else None

    def hand_on(self, callbacks: list[Any]) -> None:
        """Have these called by a worker that holds nothing."""
        # A clean-up, which is run whatever is cancelled or closed meanwhile.
        link: Link[None] = Link()
        link._pool = self._pool
        then = partial(call_all, self, callbacks)
        link._cell = [(copy_context(), None, self, LINK, None, None, then)]
        self._pool.resume(link)


class Section(_Critical):
    """A task that is run as a critical section: what `lock.submit` returns."""

    # Not a `Task` by its type, so that nobody runs it inline, without the lock.
    __slots__ = ("lock", "share", "ticket")

    lock: Combiner
    share: Any
    ticket: int

    has_sources = True

    @property
    def relation(self) -> str:
        return f" waits for {self.lock._describe()} held by "

    def sources(self) -> tuple[Any, ...]:
        return () if self.running() or is_final(self) else self.lock.holder()

    def drop(self) -> bool:
        """Cancel the section if it has not been started, and take it out of the queue."""
        if not Task.drop(self):
            return False
        self.lock.forget(self)
        return True


class CriticalLink(_Critical, Link[Any]):
    """A link whose step is a critical section: what `future.then(fn, lock=lock)` returns."""

    __slots__ = ("lock", "share", "ticket")

    lock: Combiner
    share: Any
    ticket: int

    def sources(self) -> tuple[Any, ...]:
        sources = Link.sources(self)
        return sources + self.lock.holder() if sources else ()

    @property
    def relation(self) -> str:
        waits = any(not is_final(source) for source in Link.sources(self))
        return " waits for " if waits else f" waits for {self.lock._describe()} held by "

    def __call__(self, source: Any) -> None:
        """The source is final: the section can be queued."""
        self.ticket = monotonic_ns()
        self.lock.enqueue(self)

    def drop(self) -> bool:
        """Cancel the step if it has not been started, and take it out of the queue."""
        if not Task.drop(self):
            return False
        self.lock.forget(self)
        return True


class Visitor(Future[None]):
    """What a thread that is no worker is to a lock: an owner, and a place in a cycle of waits."""

    __slots__ = ("_name", "awaited", "inside", "loans")

    # awaited: the stay with which it waits for a lock without end. Like a coroutine, it says so
    #          itself: what all threads write down in one place, each of them would wait for, and
    #          with the lock in its hands.
    # inside:  how many locks, of all pools, it is inside of, or about to enter. Counted before it
    #          tries; a count that an interrupt has left too high only keeps it from being lent.
    # loans:   the keys of its passes that it has lent, the latest last

    has_sources = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.awaited: Stay | None = None
        self.inside = 0
        self.loans: list[Loan] = []

    def sources(self) -> tuple[Any, ...]:
        stay = self.awaited
        return (stay,) if stay else ()

    @property
    def task(self) -> Visitor:
        return self

    def take_back(self) -> None:
        """Take back the keys that are not lent any more."""
        loans = self.loans
        while loans and loans[-1].may_end(self.inside):
            loans.pop().take_back()

    def _describe(self) -> str:
        return self._name


class Loan:
    """The key of a pass, given away while foreign code waits between two of its sections.

    The thread takes it back when that wait is over and the foreign code is inside of no lock: its
    pass goes on when that has returned. See "Foreign code" in docs/protocols/combining.md.
    """

    __slots__ = ("_began", "_is_over", "_item", "_served", "_stay", "_visitor", "_worker", "inside")

    # inside: of how many locks its thread was inside then

    # Made before the key is given away: it must come back, whatever there is no room for then.

    def __init__(self, lock: Combiner, worker: Any, visitor: Visitor) -> None:
        self._stay = Stay(lock, 0, lock.owner)
        self._began, self._served = lock.began, lock.served
        self._worker, self._item = worker, worker.item
        self._visitor, self.inside = visitor, visitor.inside
        self._is_over = False

    def end(self) -> None:
        """The wait is over."""
        self._is_over = True
        self._visitor.take_back()

    def may_end(self, inside: int) -> bool:
        """Whether to take it back where the thread is inside of so many locks."""
        return self._is_over and inside <= self.inside

    def take_back(self) -> None:
        """Have the key again. At the head of the queue, so that nobody is served twice before."""
        stay, worker = self._stay, self._worker
        lock: Combiner = stay.lock
        parker = stay.parker
        lock.queue.appendleft(stay)  # L1
        lock.see_to_queue()
        try:
            if lock.scheduler.unserved:
                lock.scheduler.notify_if_work()
            worker.park_for(parker, None, lock)
        except BaseException:  # Ctrl-C, say: not before the key is there
            while stay:
                yield_cpu()
            parker.acquire(timeout=1)  # its granter is about to release it, or it was acquired
            raise
        finally:
            lock.began, lock.served = self._began, self._served
            worker.item = self._item


def has_given_up(item: Any) -> bool:
    """Whether what is in a queue will not be let in any more."""
    return item.given_up if isinstance(item, Wish) else is_claimed(item)


def who_calls() -> Any:
    """What runs on this thread: a task, its continuation, or a thread that is no worker."""
    worker = here.worker
    if worker is not None and worker.task is not None:
        return worker.item
    found: Visitor | None = here.visitor
    if found is None:
        found = here.visitor = Visitor(f"the thread {this_thread().name}")
    return found


def name_of_owner(task: Any) -> str:
    """Who is inside of a lock, for people to read. `dump` shows tasks with the same address."""
    if type(task) is Guest:
        return "a coroutine of an event loop"
    return task._describe() or f"the task {id(task):#x}"  # a plain function has no name here


# How many of the latest waits and responses a lock remembers, and of how many sections one is
# looked at (all whose number has these bits unset).
SAMPLES = 1024
SAMPLE_MASK = 7


class Counters:
    """What a lock counts (key)."""

    __slots__ = (
        "__weakref__",
        "busy",
        "busy_reviewed",
        "combined",
        "hand_offs",
        "inline",
        "last_server",
        "longest_pass",
        "mean",
        "others",
        "own",
        "passes",
        "reviewed",
        "waits",
    )

    def __init__(self) -> None:
        self.busy = 0
        self.combined = self.inline = self.passes = self.hand_offs = self.longest_pass = 0
        self.last_server: Any = None
        self.mean = self.reviewed = self.busy_reviewed = 0
        # Run queues, because they can be looked at while others append.
        self.waits = RunQueue(maxlen=SAMPLES)
        # Not by who holds the key, but by who takes the continuations.
        self.own = RunQueue(maxlen=SAMPLES)
        self.others = RunQueue(maxlen=SAMPLES)


# For `_take_key_again`.
_NO_WAIT = (False,)
_ITEM = ("item",)


def _take_nothing(blocking: bool) -> bool:
    """`take_key` of a lock that is not in use: it comes into use first."""
    return False


class Combiner:
    """The queue and the key of a lock. `run` is a pass: a worker runs it like a task."""

    __slots__ = (
        "asked",
        "began",
        "entry",
        "home",
        "in_use",
        "key",
        "leave",
        "leaving",
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

    # queue:     requests, oldest first: Request, Stay, Guest, Section, CriticalLink
    # key:       held while a section runs, and by who looks for the next one
    # owner:     (key) whose section runs: a task, a continuation, a visitor; None between sections
    # began:     (key) when its section, or the pass that it is part of, began (ns)
    # served:    (key) how many sections the pass has run, with this one; 0 if this was entered in
    #            another way
    # asked:     (key) when somebody was asked to serve the queue (ns)
    # preferred: (key) the worker that has served it first, while that is there
    # home:      (key) `preferred` if sections are worth going home for, else None
    # in_use:    (key) whether it is among `Scheduler.locks_in_use`, as `entry`
    # take_key:  (key) takes the key in `__aenter__`; never while the lock is not in use

    def __init__(self, scheduler: Any, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.entry = ref(self, scheduler.forget_lock)
        self.keep_requests_in(WaitQueue())
        self.key = Lock()
        self._use_key(self.key)
        self.in_use = False
        self.owner: Any = None
        self.began = 0
        self.served = 0
        self.asked = 0
        self.preferred: Any = None
        self.home: Any = None
        self.leave = Leave(self)
        self.leaving = Once((self.leave,))
        self.ready = Once()
        self.stats = Counters()
        read_by_many(self.stats)
        if not locks:
            locks.append(None)

    def keep_requests_in(self, queue: WaitQueue) -> None:
        """This is the queue, in its order. Before anybody else knows the lock."""
        self.queue = queue
        self.rotate = queue.rotate
        read_by_many(queue, self.rotate)

    # --- whether it is in use: docs/protocols/combining.md ---------------------------------------

    def _use_key(self, key: Any) -> None:
        """This is the key, and who takes it has to see to `in_use`. For who has the key."""
        self.take_key = _take_nothing
        self.release_key = key.release
        read_by_many(key, self.release_key)
        self.key = key  # last: from here on others take it

    def _note_use(self) -> None:
        """A section is about to run, so this is one of the locks to look at (key)."""
        self.scheduler.locks_in_use.add(self.entry)  # C1
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
                start_new_thread(self._serve_elsewhere, ())
            except (RuntimeError, MemoryError):
                self.key.release()
            raise
        return True

    def go_out_of_use(self) -> None:
        """Be none of the locks to look at, if nobody is inside or waits. From any thread."""
        key = Lock()
        if self.queue or not self.key.acquire(False):  # D1
            return
        if not self.queue:
            self.in_use = False
            self.scheduler.locks_in_use.discard(self.entry)  # D2
            # The old key is never released: those that have it at hand, since before D2, are not to
            # be inside of a lock that is not in use.
            self._use_key(key)  # D3
            self.rotate(0)  # D4: M2, with the new key; and also for what is held back
            if not self.queue:
                return
        else:
            self.key.release()  # M1
        self.see_to_queue()

    def _describe(self) -> str:
        return f"the lock {self.name}"

    # What each share has used, where the lock counts it: see `_usage`.
    ledger: Any = None

    def holder(self) -> tuple[Any, ...]:
        """The task whose section runs, if there is one: who waits for the lock waits for it."""
        owner = self.owner
        return () if owner is None else (owner.task,)

    @property
    def task(self) -> None:
        """What a worker runs has a task. A pass is nobody's."""

    is_task = False

    @property
    def lock_in_hand(self) -> Combiner:
        """The lock whose key a worker has that runs this: a pass, between two of its sections."""
        return self

    # --- a task enters and leaves ----------------------------------------------------------------

    def __aenter__(self) -> Any:
        worker = here.worker
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
            return self._enter_as_guest(worker)
        if home is None and not self.queue and worker.published and not worker.spree:
            return self._enter_later()
        if home is None and (not worker.published or worker.spree):
            # A section shorter than its own migration: look whether it ends before going through
            # the queue. Not past those that are in there. With bound methods of this thread's own:
            # each mention of what others use would keep the one who is inside from its work.
            waiting, take_key = self.queue.__len__, self.key.acquire
            owner, began = worker.task, monotonic_ns()
            for _ in range(LOOKS_BEFORE_QUEUEING):
                if waiting():
                    break
                if take_key(False):
                    self.owner = owner
                    self.began = began
                    try:
                        if not self.in_use:  # it has just gone out of use
                            self._note_use()
                    except SHORT_OF_ROOM:
                        self.leave_stack()
                        raise
                    try:
                        self.began = monotonic_ns()
                    except MemoryError:  # the time of the looks is counted, too
                        pass
                    return worker.ready
        if worker.item.task is None:
            worker.task  # noqa: B018 (makes one of a child of a `gather`, and changes `item`)
        request = worker.item.request
        if request is None:
            request = Request()
        request.lock = self
        request.ticket = monotonic_ns()
        return request.door

    async def _enter_later(self) -> None:
        """Let what was published go first.

        Without a request, which would make all that come meanwhile queue up behind it.
        """
        await _GIVE_WAY  # type: ignore[misc]  # it takes an iterator for too little
        await self.__aenter__()

    def queue_up(self, request: Request, worker: Any) -> Combiner | None:
        """Queue the request of a coroutine that has been suspended by this worker.

        Returns this lock if the worker is to serve it next. Raises `DeadlockError` if the request
        could never be granted; it is out of the queue then.
        """
        self.queue.append(request)  # L1
        if self.key.acquire(False):  # L2
            home = self.home
            if (home is None or home is worker) and not worker.published:
                return self
            self.dispatch()
            return None
        self._check_wait(worker.item.task, request)
        return None

    def _check_wait(self, task: Any, wish: Wish) -> None:
        """Raise `DeadlockError` if `task`, whose wish is queued here, would wait for ever."""
        owner = self.owner
        # Who holds the lock and waits for nothing will leave: the usual case, and a quick look.
        if owner is not None and (owner.awaited or owner.task in waiting_tasks):
            check_lock_wait(task, wish)

    def __aexit__(self, kind: Any, error: Any, trace: Any) -> Any:
        try:
            if self.queue:
                if kind is not GeneratorExit:
                    return self.leaving
                self.leave_stack()
                return self.ready
            self._account(monotonic_ns())
        except SHORT_OF_ROOM:
            self.served = 0
            self.owner = None
        self.release_key()  # M1
        self.rotate(0)  # M2: `holds_work`, written out
        if self.queue and self.key.acquire(False):
            # Written out here and at its twins: a call more would be deeper than `reach` has shown
            # (docs/protocols/room.md).
            try:
                self._serve_elsewhere()
            except SHORT_OF_ROOM:
                try:
                    start_new_thread(self._serve_elsewhere, ())
                except (RuntimeError, MemoryError):
                    self.release_key()
        return self.ready

    def left(self, continuation: Any, worker: Any) -> Any:
        """The coroutine has left what it had entered at once, and this worker serves now."""
        continuation.ticket = self.began
        self._account(monotonic_ns())
        if worker.scheduler is not self.scheduler:
            self._serve_elsewhere()
            return continuation  # as if it had yielded
        worker.publish(continuation)
        return self

    async def _enter_as_guest(self, worker: Any) -> None:
        self.scheduler.check_same_process()
        guest = Guest(self, None if worker is None else worker.task)
        self.enqueue(guest)
        try:
            await guest
        except BaseException:
            if claim(guest) is None and guest._cell is not CANCELLED:
                self.leave_stack()  # it was granted, and nobody will leave
            else:
                self.forget(guest)
            raise

    # --- a pass ------------------------------------------------------------------------------

    def run(self, worker: Any) -> Any:
        """Run a pass on this worker, with the key. Returns what the worker is to run next."""
        # The mark of who has the key between two sections. It goes directly before the key does.
        worker.item = self
        home = self.home
        if home is not None and home is not worker and not worker.may_stand_in(self):
            self.dispatch(again=True)
            return None
        scheduler = self.scheduler
        take = self.queue.popleft
        publish = worker.published.append
        seats = scheduler.seats
        leave, notify = self.leave, self._notify
        request_type, get_type, clock = Request, type, monotonic_ns
        end, sample_mask = PASS_SECTIONS, SAMPLE_MASK
        stats = self.stats
        if not scheduler.max_workers:
            scheduler.unserved.discard(self)
        if self.preferred is None and worker.stays:
            self.preferred = worker
        stats.passes += 1
        if worker is not stats.last_server:
            stats.last_server = worker
            stats.hand_offs += 1
        if not self.in_use:
            self._note_use()
        count = 0
        self.began = now = monotonic_ns()
        deadline = now + PASS_TIME
        while True:
            if count == end or now > deadline or worker.leaving:
                return self._end_pass(worker, count, now)
            try:
                item = take()
            except IndexError:
                self._account_pass(now, count)
                worker.item = None
                self.key.release()  # M1
                if not (self.queue.holds_work() and self._take_key_again(worker)):  # M2
                    return None
                if not self.in_use:
                    self._note_use()
                stats.passes += 1  # it has become the combiner again
                count = 0
                self.began = now
                continue
            if get_type(item) is request_type:
                try:
                    continuation = item.pop()
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
                    following = continuation.end(raised)
                    del continuation, worker  # no cycle: see `Continuation.run`
                    return following
                if outcome is not leave:
                    # It has left when nobody waited, and gone on; or it is suspended in its
                    # section.
                    return continuation.suspended(outcome, worker)
                self.owner = None  # before its task can be anywhere else
                worker.item = self
                publish(continuation)  # S1
                if seats:  # S3
                    notify()
                continuation = None  # it may have ended meanwhile
            elif type(item) is Section or type(item) is CriticalLink:
                self.owner = item
                self.served = count + 1
                following = item.run(worker)
                if worker.item is not item:  # cancelled
                    self.owner = None
                    continue
                if not is_final(item):
                    # A coroutine, which holds the lock until its end.
                    worker.item = None  # its end may come elsewhere: see `lock_in_hand`
                    item._register(self._section_ended)
                    return following
                self.owner = None
                worker.item = self
                if following is not None:
                    following.ticket = item.ticket
                    publish(following)  # S1
                    if seats:  # S3
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

    def _take_key_again(self, worker: Any) -> bool:
        """M2, and the note of it: in one call in C, so that nothing of the user's comes between."""
        taken = compress((worker,), map(self.key.acquire, _NO_WAIT))
        any(map(setattr, taken, _ITEM, (self,)))
        return worker.item is self

    def lend(self, worker: Any, awaited: Any) -> Loan | None:
        """Give the key of a pass away: foreign code is about to wait, between two sections."""
        need_stack(40)
        item, owner = worker.item, self.owner
        worker.item = None  # it waits as the thread, and not as the task that has run before
        visitor = who_calls()
        worker.item = item
        loan = Loan(self, worker, visitor)
        visitor.loans.append(loan)
        worker.item = self.owner = None
        self.served = 0
        try:
            self._serve_elsewhere()
        except BaseException:  # the key is here still
            self.owner = owner
            worker.item = item
            visitor.loans.remove(loan)
            raise
        return loan

    def _end_pass(self, worker: Any, count: int, now: int) -> None:
        """There may be more requests, but it is the turn of others."""
        self._account_pass(now, count)
        if worker.leaving:
            worker.item = None
            # To somebody who is there: perhaps nobody is but those that wait.
            self._serve_elsewhere()
        else:
            self.dispatch()

    def _grant(self, item: Any) -> bool:
        """Give the key to who waits outside of this pool's tasks; False if it has given up."""
        if not self.in_use:
            self._note_use()
        if type(item) is Stay:
            self.began = monotonic_ns()  # first: it may raise
            try:
                parker = item.pop()  # T2
            except IndexError:  # lent, or given up
                item.passed_over = True  # T3
                try:
                    parker = item.pop()  # T4
                except IndexError:
                    lender = item.lender
                    if lender is not None:
                        lender.leaving = True  # its turn has come; only an optimization
                    return False
            worker = here.worker
            self.owner = item.owner  # last: see `enter_stack`
            if worker is not None and worker.item is self:
                worker.item = None
            parker.release()
        elif type(item) is Sweep:
            try:
                item.pop()
            except IndexError:
                return False
            self._end_item()
        else:
            self.began = monotonic_ns()
            self.owner = item
            if claim(item) is None:
                self.owner = None
                return False
            self._end_item()
            finish(item, None)
        return True

    def _end_item(self) -> None:
        """The key is somebody else's now, if it was that of a pass."""
        worker = here.worker
        if worker is not None and worker.item is self:
            worker.item = None

    def _section_ended(self, task: Any) -> None:
        """A section that was suspended has ended, or a guest with nothing to do was let in."""
        self.leave_stack()

    def _account_pass(self, now: int, count: int) -> None:
        """These sections of a pass have ended (key)."""
        self.served = 0
        if count:
            self.owner = None  # before their tasks can be anywhere else
            stats = self.stats
            stats.busy += now - self.began
            stats.combined += count
            if count > stats.longest_pass:
                stats.longest_pass = count
            if stats.inline + stats.combined - stats.reviewed >= SECTIONS_BETWEEN_REVIEWS:
                self._review()

    def _account(self, now: int) -> None:
        """A section has ended on a stack that goes on (key)."""
        if self.served:
            self._account_pass(now, self.served)
            return
        self.owner = None  # before its task can be anywhere else
        stats = self.stats
        stats.busy += now - self.began
        stats.inline = inline = stats.inline + 1
        if not inline % SECTIONS_BETWEEN_REVIEWS:
            self._review()

    def _review(self) -> None:
        """Decide whether to go home (key)."""
        stats = self.stats
        sections = stats.inline + stats.combined
        before = stats.mean
        stats.mean = mean = (stats.busy - stats.busy_reviewed) // (sections - stats.reviewed)
        stats.reviewed, stats.busy_reviewed = sections, stats.busy
        preferred = self.preferred
        if preferred is None or preferred.gone:
            worker = here.worker
            self.home = None
            self.preferred = None
            if worker is None or worker.scheduler is not self.scheduler or not worker.stays:
                return
            self.preferred = worker
        if mean > GO_HOME_ABOVE:
            # Twice in a row: a section that the system has interrupted is one in a thousand, and
            # may be a hundred times as long as the others.
            if before > GO_HOME_ABOVE:
                self.home = self.preferred
        elif mean < STAY_BELOW:
            self.home = None

    def link(self, source: Any, on_result: Any, on_error: Any) -> Link[Any]:
        """A step of a chain that is a critical section here: see `Future.then`."""
        link = CriticalLink()
        link.lock = self
        link.share = None  # that of its context, from when it is queued
        return self.scheduler.link(  # type: ignore[no-any-return]
            source, on_result, on_error, (BaseException,), None, link
        )

    # --- who serves ------------------------------------------------------------------------------

    def enqueue(self, item: Any) -> None:
        """Queue what is no coroutine of this pool's."""
        self.line_up(item)
        self.see_to_queue()

    def line_up(self, item: Any) -> None:
        """Put it into the queue. The caller sees to the queue then, or takes it out again."""
        self.queue.append(item)  # L1
        if not self.in_use:  # before S2 of shutdown.md: whoever closes the pool is to find it
            self.scheduler.locks_in_use.add(self.entry)  # C2

    def see_to_queue(self) -> None:
        """Have it served what this thread has put into the queue."""
        if not self.in_use:
            self.scheduler.locks_in_use.add(self.entry)  # C2
        if self.key.acquire(False):  # L2
            try:
                self._serve_elsewhere()
            except SHORT_OF_ROOM:
                try:
                    start_new_thread(self._serve_elsewhere, ())
                except (RuntimeError, MemoryError):
                    self.release_key()

    def leave_stack(self) -> None:
        """A section has ended on a stack that goes on.

        With no more stack than the entry has needed (docs/protocols/room.md): this frame, and calls
        in C.
        """
        owner = self.owner
        if type(owner) is Visitor:
            owner.inside -= 1
            if owner.loans:
                self._leave_and_take_back(owner)
                return
        try:
            self._account(monotonic_ns())
        except SHORT_OF_ROOM:  # it is not counted
            self.served = 0
            self.owner = None
        try:
            self._serve_elsewhere()
        except SHORT_OF_ROOM:
            try:
                start_new_thread(self._serve_elsewhere, ())
            except (RuntimeError, MemoryError):
                self.release_key()  # whoever comes next serves those that wait

    def _leave_and_take_back(self, visitor: Visitor) -> None:
        loans, visitor.loans = visitor.loans, []
        visitor.inside += 1
        try:
            self.leave_stack()
        finally:
            visitor.loans = loans
            visitor.take_back()

    def check_owner(self) -> None:
        """Raise RuntimeError where the caller is not inside."""
        owner = self.owner
        if owner is None or owner.task is not who_calls().task:
            raise RuntimeError(f"{self!r} is not held by {name_of_owner(who_calls().task)}")

    def mean_section(self) -> int:
        """The mean of the last sections, in ns."""
        stats = self.stats
        return stats.mean or stats.busy // (stats.inline + stats.combined or 1)

    def cancel_sections(self, *kinds: type) -> None:
        """Cancel the sections of these kinds that wait here now."""
        for item in self.waiting():
            if type(item) in kinds:
                item.drop()

    def abandon_sections(self, error: BaseException) -> None:
        """End the sections that wait here now, with an error that has been reported."""
        for item in self.waiting():
            if isinstance(item, Task):
                item.abandon(error)
                self.forget(item)

    def fail(self, error: BaseException) -> None:
        """There is no worker to serve this lock. For who holds the key, which this gives away.

        What needs a worker is ended with the error; stacks, and coroutines of others, are let in.
        """
        ended: list[Any] = []
        while not self._grant_next(ended):
            self.key.release()  # M1
            if not (self.queue.holds_work() and self.key.acquire(False)):  # M2
                break
        for item in ended:  # with their callbacks, which may come here again
            item.abandon(error)

    def _grant_next(self, ended: list[Any]) -> bool:
        """Give the key to the first that needs no worker; those before it go into the list."""
        while (item := self.queue.take()) is not None:
            if isinstance(item, Task):
                ended.append(item)
            elif type(item) is not Request:
                if self._grant(item):
                    return True
            elif item:
                try:
                    ended.append(item.pop())
                except IndexError:  # given up
                    pass
        return False

    def _serve_elsewhere(self) -> None:
        """Give the key away; no section runs, and this stack goes on.

        Raises one of `SHORT_OF_ROOM` only where the caller still has the key, and can do it again.
        """
        queue = self.queue
        while True:
            # What needs a worker stays in the queue: the workers of a closed pool do not end
            # before it is served.
            first = queue.first()
            if first is None:
                self.key.release()  # M1
                # It needs no more stack than `first` did. Without memory: as if there were one.
                try:
                    more = queue.holds_work()  # M2
                except MemoryError:
                    more = True
                if more and self.key.acquire(False):
                    continue
                break
            if type(first) is Request:
                if first:
                    self.dispatch()
                    return
                self.queue.discard(first)  # given up
            elif isinstance(first, Task):
                self.dispatch()
                return
            else:
                need_stack()
                if not queue.discard(first):
                    continue  # given up, or in the hands of a sweeper, who stands in front
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

    def _tell_workers(self) -> None:
        """Those of a pool that ends stay while anybody waits here."""
        if self.scheduler.ending and not self.queue:
            self.scheduler.parking.unpark_all()

    def dispatch(self, again: bool = False) -> None:
        """Have a worker run a pass. The caller gives the key away with this.

        `again`: it was on the wrong worker, and its home worker gets no new head start. Raises as
        `_serve_elsewhere`.
        """
        if not again:
            self.asked = monotonic_ns()
        scheduler = self.scheduler
        if not scheduler.max_workers:
            scheduler.unserved.add(self)  # S0
        if scheduler.broken is not None:
            need_stack()
            self._end_item()
            self.fail(scheduler.broken)
            return
        worker = here.worker
        target = self.home
        if target is None or target.gone:
            target = worker
        if target is None or target.scheduler is not scheduler:
            target = None
            scheduler.injector.append(self)  # S1
        else:
            if worker is not None and worker.item is self:
                worker.item = None
            target.services.append(self)  # S1
        # It is given away: what follows may not fail.
        try:
            scheduler.notify_or_abandon(target)  # S3
        except SHORT_OF_ROOM:
            try:
                start_new_thread(scheduler.notify_or_abandon, (target,))
            except (RuntimeError, MemoryError):
                pass  # whoever queues something next wakes a worker for this, too

    def head_ticket(self) -> int:
        """The ticket of the oldest request. For who holds the key, or the lock in its place."""
        item = self.queue.first()
        return 0 if item is None else item.ticket

    def forget(self, item: Any) -> None:
        """A request was given up. Whoever has claimed it calls this, after that."""
        if self.queue.give_up(item):
            self.sweep()
        self._tell_workers()

    def waiting(self) -> list[Any]:
        """All that wait, and perhaps some that have given up. From any thread."""
        items = self.queue.items()
        for sweep in {item for item in items if type(item) is Sweep}:
            items += sweep.taken.copy()
        return items

    def sweep(self) -> None:
        """Take those out of the queue that have given up. From any thread, without the key.

        The thread goes to the head of the queue, as one that waits. So nobody is served past it,
        and the key may be given to it: then it serves when it has done.
        """
        queue = self.queue
        while queue.is_half_empty():
            need_stack()
            try:
                queue.idle.pop()  # W0
            except IndexError:
                return  # another one is doing it, and looks again after W6
            sweep = Sweep()
            try:
                # Three times: a combiner takes one of them, and the queue is still not empty.
                queue.sweep((sweep, sweep, sweep), sweep.taken, has_given_up)
            finally:
                got_key = not sweep.end()  # W5
                while queue.discard(sweep):
                    pass
                queue.idle.append(None)  # W6
                if got_key:
                    self._serve_elsewhere()
                elif self.scheduler.unserved:
                    self.scheduler.notify_if_work()  # a stay in its hands was overlooked

    # --- a stack enters --------------------------------------------------------------------------

    def enter_stack(self, timeout: float | None) -> bool:
        """Enter with the calling stack; wait for at most `timeout` seconds (None: for ever)."""
        owner = who_calls()
        if type(owner) is not Visitor:
            return self._enter_stack(timeout, owner)
        entered = False
        owner.inside += 1
        try:
            entered = self._enter_stack(timeout, owner)
        finally:
            if not entered:
                owner.inside -= 1
        return entered

    def _enter_stack(self, timeout: float | None, owner: Any) -> bool:
        now = monotonic_ns()  # before the key is taken: it may raise
        if not self.queue and (
            self.take_key(False) or (not self.in_use and self.take_unused_key())
        ):
            self.owner = owner
            self.began = now
            return True
        if timeout is not None and timeout <= 0:
            return False
        return self._stay(timeout, owner)

    def _stay(self, timeout: float | None, owner: Any) -> bool:
        """Wait with the calling stack until it has entered, or the time is up."""
        need_stack()
        self.scheduler.check_same_process()
        worker = here.worker
        if worker is not None:
            if timeout is None:
                worker.check_initializer(self)
            loan = worker.lend_key(self if timeout is None else None)
            if loan is not None:
                return self._enter_between_sections(timeout, owner, loan)
        task = owner.task
        stay = Stay(self, monotonic_ns(), owner)
        # What the task waits for already: this may be a `__del__` in the midst of that.
        outer = task.awaited if worker is None else waiting_tasks.get(task)
        try:
            if worker is None:
                if timeout is None:
                    task.awaited = stay
                    stay.helps = stay.serves = self._may_lend(task)
                    if stay.helps:
                        self.scheduler.helpers[stay] = None  # H1
                self.enqueue(stay)
                if timeout is None:
                    self._check_wait(task, stay)
                    if stay.helps:
                        self.nominate()
            else:
                if timeout is None:
                    stay.serves = self._may_serve(worker)
                    enter_wait(task, worker.doing, (stay,))
                self.enqueue(stay)
            if self.scheduler.unserved:
                self.scheduler.notify_if_work()
            if here.notifying:  # as in `Worker._give_up_seat`
                self.scheduler.distrust_searchers()
            self._park(stay, worker, timeout)
            while stay.lent:
                self._lend(stay)
                self._park(stay, worker, timeout)
        except DeadlockError:
            stay.give_up()  # if whoever raised this has not
            raise
        except BaseException:
            if not self._gave_up(stay):
                inside = task.inside if worker is None else 0
                self.leave_stack()  # it was granted, and nobody will leave
                if worker is None:
                    task.inside = inside  # `enter_stack` sees to that
            raise
        finally:
            if worker is None:
                task.awaited = outer
                self.scheduler.helpers.pop(stay, None)
            elif timeout is None:
                leave_wait(task, outer)
        return not self._gave_up(stay)

    def _enter_between_sections(self, timeout: float | None, owner: Any, loan: Loan) -> bool:
        """Enter with a stack of foreign code's, which a worker runs in a pass. Returns likewise."""
        counts = type(owner) is Visitor  # what `enter_stack` has counted is counted again below
        if counts:
            owner.inside -= 1
            loan.inside = owner.inside
        entered = False
        try:
            entered = self.enter_stack(timeout)
        finally:
            loan.end()
            if counts and not entered:
                owner.inside += 1
        return entered

    def _gave_up(self, stay: Stay) -> bool:
        """Whether the stay was given up with this, and not granted."""
        while not stay.give_up():
            if self.owner is stay.owner:
                return False
            if stay.lent:
                self._come_back(stay)
            else:
                yield_cpu()  # it is just being granted, or lent
        return True

    def _park(self, stay: Stay, worker: Any, timeout: float | None) -> None:
        if worker is None:
            acquire(stay.parker, timeout)
        else:
            worker.park_for(stay.parker, timeout, self)

    # --- a stack that waits is lent: docs/protocols/joining.md -----------------------------------

    def _may_lend(self, visitor: Visitor) -> bool:
        """Whether the calling thread, no worker, may run what is others' while it waits here."""
        return (
            self.scheduler.lends
            and visitor.inside == 1
            and self.ledger is None  # where shares take their turns, nobody knows its own
            and _get_running_loop() is None  # what it runs would take that loop for its own
            and not stack_is_deep()
        )

    def _may_serve(self, worker: Any) -> bool:
        """Whether the calling worker, in a task of a pool without threads, may serve this lock."""
        scheduler = self.scheduler
        return bool(
            scheduler.lends
            and not scheduler.max_workers
            and worker.scheduler is scheduler
            and self.ledger is None
            and worker.may_run_inline()
            and _get_running_loop() is None
        )

    def _notify(self) -> None:
        """Have what was published taken: by a parked worker, one that waits here, or a new one."""
        scheduler = self.scheduler
        if not scheduler.parking.parked:
            self.nominate()
        scheduler.notify()  # returns at once where one is on its way

    def nominate(self) -> None:
        """Lend a thread that waits here, the one which expects to wait longest, if it is any use.

        That is: if something was published, there is a seat, no worker is looking for work, and the
        wait is expected to be longer than what the thread is lent for.
        """
        scheduler = self.scheduler
        if not scheduler.lends or scheduler.searching or not scheduler.seats or scheduler.shares:
            return
        # Who helps does H1, then looks here for what is published; who publishes does
        # S1 before this. Both take the mutex of `published`: one of the two sees the other.
        if not any(stay.lock is self for stay in scheduler.helpers.copy()):
            return
        if not scheduler.workers or not scheduler.has_published():
            return
        section, least = self.mean_section(), scheduler.mean_continuation
        waiting = self.queue.items()
        while waiting and len(waiting) * section >= least:
            stay = waiting.pop()
            if type(stay) is not Stay or not stay.helps:
                continue
            try:
                parker = stay.pop()  # V1
            except IndexError:  # granted, given up or lent
                continue
            if scheduler.parking.take_seat(stay):  # V2
                stay.lent = True
                parker.release()  # V3
            else:
                self._put_back(stay, parker)
            return

    def finds_server(self) -> bool:
        """Whether `find_server` would find one, and something to do for it."""
        waiting = self.queue.items()
        return any(
            type(stay) is Stay and ((stay.serves and stay) or stay is waiting[0])
            for stay in waiting
        ) and self.scheduler.lies_in_queue(self)

    def find_server(self, seat: list[None]) -> bool:
        """Nobody is there to serve this lock, which lies in a queue: have one do it who waits here.

        That one gets the seat. If the first in line needs no worker, it is let in. Whether there
        was anything to do.
        """
        scheduler = self.scheduler
        waiting = self.queue.items()
        if waiting and type(waiting[0]) is Stay:
            if scheduler.take_out(self):
                self._serve_elsewhere()
                return True
            return False
        for stay in reversed(waiting):
            if type(stay) is not Stay or not stay.serves:
                continue
            try:
                parker = stay.pop()  # V1
            except IndexError:
                continue
            if scheduler.take_out(self):  # V2
                stay.errand = self
                scheduler.searching.add(stay)
                seat.clear()
                stay.lent = True
                parker.release()  # V3
                return True
            self._put_back(stay, parker)
            return False
        return False

    def _lend(self, stay: Stay) -> None:
        """Do on this stack, which waits here, what it was nominated for."""
        try:
            self.scheduler.lend(stay)
        finally:
            self._come_back(stay)

    def _come_back(self, stay: Stay) -> None:
        """Wait again with a stay that was lent."""
        stay.lent = False
        stay.lender = None
        scheduler = self.scheduler
        scheduler.searching.discard(stay)
        if stay.errand is not None:  # an interrupt has come before it could begin
            stay.errand = None
            self._serve_elsewhere()
        self._put_back(stay, stay.make_parker())
        scheduler.parking.give_up_seat()  # E3
        scheduler.notify_if_work()  # E4

    def _put_back(self, stay: Stay, parker: Any) -> None:
        """Let a stay be claimed again; the first in line if its turn has come meanwhile."""
        queue = self.queue
        stay.append(parker)  # R1
        if stay.passed_over:  # R2
            stay.passed_over = stay.helps = stay.serves = False  # it is passed over once
            queue.appendleft(stay)  # R3
            if self.key.acquire(False):  # R4
                self._serve_elsewhere()
