"""`blocked`: a worker that waits, and another one that takes its place meanwhile.

Every wait of a worker is a `with blocked(kind, thing)`: for a future, a lock, an event of
`concurrent.futures`, room in the backlog, the end of a pool's threads, or, with `blocking()`, for
what the pool cannot see. The steps are those of `docs/protocols/parking.md`.

Guarantees:

- A worker that waits holds no slot: `free_slot` comes before `last_look`, and both before the wait.
- A slot comes back once for each that was given up: `_owed` is the arbiter, where a time-out and
  the completion of the future meet.
- It comes back at the end of the last wait of those that overlap, in whatever order they end.
"""

from __future__ import annotations

from typing import Protocol

from fairpool._core.errors import stays_here
from fairpool._core.here import here
from fairpool._core.room import SHORT_OF_ROOM, need_stack
from fairpool._core.threads import monotonic_ns
from fairpool._core.token import PRESENT, Token
from fairpool._locks.owners import KeyLoan
from fairpool._scheduler.roles import Item
from fairpool._scheduler.threads import Threads
from fairpool._tasks.thread_wait import ThreadCallback


class SlotOwner(Protocol):
    """The worker that waits."""

    # wait:          the innermost of its waits, which says what it waits for
    # blocked_since: when the outermost one began (ns)
    # blocked_time:  how long all waits took (ns)

    scheduler: Threads
    item: Item | None
    has_slot: bool
    wait: blocked | None
    blocked_since: int
    blocked_time: int

    def withdraw(self) -> None: ...

    def lend_key(self, awaited: object) -> KeyLoan | None: ...


class blocked:
    """`with blocked(kind, thing):` the calling worker waits, and another one takes its place.

    On a thread that is no worker it does nothing; nor in an initializer, which keeps its slot.
    Where the wait interrupts another one of the same worker (a `__del__` that waits), the slot has
    been given up already: then nobody returns it before this wait is over.

    `kind` is "future", "lock", "event", "backlog", "threads" or "call" (of the user's own). `thing`
    is what is waited for; `dump` shows it.
    """

    __slots__ = ("_interrupted", "_key_loan", "_lends_key", "_owed", "_worker", "kind", "thing")

    def __init__(self, kind: str, thing: object, lends_key: bool = False) -> None:
        self.kind = kind
        self.thing = thing
        self._lends_key = lends_key
        self._owed: Token | None = None  # there while a slot is to be returned
        self._worker: SlotOwner | None = None
        self._interrupted: blocked | None = None
        self._key_loan: KeyLoan | None = None

    def __enter__(self) -> blocked:
        worker: SlotOwner | None = here.worker
        if worker is None:
            return self
        need_stack()
        if worker.has_slot:
            if self._lends_key:
                self._key_loan = worker.lend_key(None)
            try:
                self._give_up_slot(worker)
            except BaseException:
                if self._key_loan is not None:
                    self._key_loan.end()
                raise
            self._worker = worker
        elif (outer := worker.wait) is not None:
            self._worker, self._interrupted = worker, outer
            worker.wait = self
            try:
                outer.withhold_slot()
            except BaseException:  # a RecursionError, say
                outer.owe_again()
                worker.wait = outer
                raise
        return self

    def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        worker = self._worker
        if worker is None:
            return
        if worker.wait is not self:
            self._leave_to_inner(worker)
            return
        outer = self._interrupted
        if outer is not None:
            outer.owe_again()
            worker.wait = outer
            return
        worker.wait = None
        try:
            worker.blocked_time += monotonic_ns() - worker.blocked_since
        except MemoryError:
            pass  # it is not counted
        worker.has_slot = True
        self.return_slot()
        if self._key_loan is not None:
            self._key_loan.end()

    def _leave_to_inner(self, worker: SlotOwner) -> None:
        """This wait ends before the one that has interrupted it, which takes its place.

        A generator can do that, by a `with blocking()` around its `yield`.
        """
        inner = worker.wait
        while inner is not None and inner._interrupted is not self:
            inner = inner._interrupted
        if inner is None:  # it has ended before
            return
        if inner is worker.wait:  # else the slot is withheld until what interrupts that has ended
            self.owe_again()
        inner._key_loan, inner._owed = self._key_loan, self._owed
        inner._interrupted = self._interrupted

    def _give_up_slot(self, worker: SlotOwner) -> None:
        scheduler = worker.scheduler
        parking = scheduler.parking
        if worker.item is None:  # in a `__del__` between two steps
            worker.withdraw()
        parking.release_slot()  # parking: free_slot
        try:
            worker.blocked_since = monotonic_ns()
            worker.has_slot = False
            worker.wait = self
            self._worker = worker
            self._owed = Token(PRESENT)
            if here.notifying:  # in a `__del__`: whom it has in hand it cannot unpark meanwhile
                scheduler.distrust_searchers()
            scheduler.notify_if_work()  # parking: last_look
        except BaseException:  # a RecursionError, say
            worker.has_slot = True
            worker.wait = None
            self._owed = None
            parking.reclaim_slot()
            raise

    def return_slot(self) -> None:
        """The wait is over, or what it waits for has come. From any thread."""
        owed = self._owed
        # The arbiter, when a time-out and the completion meet.
        if owed is None or not owed.take():
            return
        assert self._worker is not None  # written before the slot is owed
        try:
            self._worker.scheduler.parking.reclaim_slot()
        except SHORT_OF_ROOM:
            owed.append(None)  # `put`, which would need a frame
            raise

    def withhold_slot(self) -> None:
        """The worker is about to wait in a `__del__` that has interrupted this wait."""
        owed = self._owed
        # Nobody returns it until `owe_again`; or it was returned.
        if owed is not None and not owed.take():
            assert self._worker is not None
            scheduler = self._worker.scheduler
            scheduler.parking.release_slot()  # parking: free_slot
            scheduler.notify_if_work()  # parking: last_look

    def owe_again(self) -> None:
        """The `__del__` has ended: the slot is returned as it was to be."""
        if self._owed is not None:
            self._owed.put()


class SlotWaiter(ThreadCallback):
    """Wakes a worker that waits for a future, and has its slot back before it wakes.

    The thread that completes the future returns the slot on the worker's behalf. So with
    `max_workers=1` the completing worker repays at the end of its step, before it could
    take another task. (If it ran the awaited task inline, its step goes on: the two run side by
    side until it ends.)
    """

    __slots__ = ("_wait",)

    def __init__(self, wait: blocked) -> None:
        super().__init__()
        self._wait = wait

    def __call__(self, future: object) -> None:
        self._wait.return_slot()
        super().__call__(future)


class blocking:
    """`with fairpool.blocking():` tells the pool that this worker is about to block.

    For waits that the pool cannot see: I/O, a lock or an event of `threading`, a child process. For
    the time of the block another worker takes this one's place, so that `max_workers` stay
    runnable; afterwards this one goes on at once, and the pool parks the one that is too many at
    the end of its step. May be nested. On a thread that is not a worker it does nothing.
    """

    __slots__ = ("_unused", "_wait", "_worker")

    __reduce_ex__ = stays_here("call blocking() where it is to be used")

    def __init__(self) -> None:
        self._unused = Token(PRESENT)
        self._worker: SlotOwner | None = None
        self._wait = blocked("call", "fairpool.blocking()", lends_key=True)

    def __enter__(self) -> None:
        need_stack()
        if not self._unused.take():
            raise RuntimeError("a blocking() is for one `with`: call blocking() again")
        self._wait.__enter__()
        self._worker = self._wait._worker

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._wait.__exit__()
        if self._worker is not None and here.worker is not self._worker:
            raise RuntimeError("there was an `await` in a `with blocking()`: it belongs outside")
