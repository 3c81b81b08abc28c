"""`Parking`: the slots of a pool, and its workers that search or park. `Parker`: where one parks.

A *slot* is the right to run; a pool has `max_workers`. A worker that runs a task or searches for
one holds a slot. A worker that parks, or blocks in a wait, releases it, and the thread that unparks
or starts a worker takes a free slot for that worker first. A worker that returns from a wait takes
a free slot. If there is none, it goes on at once and leaves an *overcommit*: the next worker that
ends a step repays it by parking without releasing its slot. At any moment

    running workers = max_workers - free slots + overcommits.

Guarantees:

- No wake-up is lost. A worker releases its slot before its last look at the queues, and a thread
  queues a task before its look at the slots: one of the two sees the other.
- At most one worker at a time is woken for searching (the throttle). It wakes the next one when it
  finds work. A wake-up costs as much as fifty tasks.

Proof: `docs/protocols/parking.md`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Protocol, TypeVar

from fairpool._core.here import here
from fairpool._core.room import EMPTY, put_in_any_case
from fairpool._core.signals import acquire
from fairpool._core.threads import Lock

T = TypeVar("T")


class Parker:
    """Where one worker parks. One token: `unpark` before `park` makes that `park` return at once.

    The thread that takes a worker out of `Parking.parked` calls its `unpark`, once.
    """

    __slots__ = ("_lock", "unpark")

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()
        # Not a method: it must not fail for want of a Python frame (see `Parking.notify`).
        self.unpark = self._lock.release

    def park(self, timeout: float | None = None) -> bool:
        """Park until unparked (True), or until `timeout` seconds have passed (False).

        On the main thread Ctrl-C may end it.
        """
        return acquire(self._lock, timeout)


_NEVER = object()


def _take(container: deque[T] | list[T], into: list[T]) -> None:
    """Move the last item of a deque or a list to the end of another list, if there is one.

    In one C call: an interrupt (Ctrl-C) finds the item in one of the two.
    """
    try:
        into.extend(islice(iter(container.pop, _NEVER), 1))
    except IndexError:
        pass


def _pop(container: deque[None]) -> bool:
    """Take one item out; whether there was one."""
    try:
        container.pop()
    except EMPTY:
        return False
    return True


class Parked(Protocol):
    """A worker that parks."""

    # woken:      it was taken out of `parked`. Written when it is in `searching`, or `needs_slot`
    #             is set
    # needs_slot: it was unparked without a slot, and takes one itself

    parker: Parker
    woken: bool
    needs_slot: bool


class Parking:
    """The slots of one pool, and its workers that run no task."""

    __slots__ = (
        "_overlooks",
        "_start",
        "_total",
        "free_slots",
        "overcommits",
        "parked",
        "searching",
    )

    def __init__(
        self, slots: int, start: Callable[[list[None]], None], overlooks: Callable[[], bool]
    ) -> None:
        # `start(slot)` starts the thread of one more worker, which is in `searching` before it
        # runs, and empties the list `slot` once the worker has taken the slot over. `overlooks()`:
        # whether `start` would succeed now, after a call that has not.
        self._start = start
        self._overlooks = overlooks
        self._total = slots
        self.free_slots: deque[None] = deque([None]) * slots
        self.overcommits: deque[None] = deque()
        self.parked: list[Parked] = []
        self.searching: set[object] = set()

    def notify(self) -> None:
        """Get one more worker to search, unless one searches or no slot is free.

        Called after a task was queued, by any thread. Raises only if no worker could be started
        where one was needed.
        """
        # While a slot was taken in vain, parking workers missed it, and other threads that queued
        # something relied on it. So a worker that has parked since then is woken after all. `copy`
        # takes the list's mutex: a worker that parks after it sees the slot (mutex order).
        while self._notify_one() and (self.parked.copy() or self._overlooks()):
            pass

    def _notify_one(self) -> bool:
        """As `notify`; True if a slot was taken, and given back for want of a worker."""
        # Plain reads, ordered by the queue's mutex: the caller's `append` took it, and a worker's
        # `holds_work` takes it after that worker left `searching` or released its slot.
        if self.searching or not self.free_slots:
            return False
        # An interrupt (Ctrl-C) may come between any two calls: `finally` gives back their items.
        slot: list[None] = []
        woken: list[Parked] = []
        in_vain = False
        outer = here.notifying
        try:
            here.notifying = woken, outer
            _take(self.free_slots, slot)
            if slot:
                _take(self.parked, woken)  # the last one that parked: its cache is warm
            if woken:
                self.searching.add(woken[0])
                slot.clear()
            elif slot:
                self._start(slot)
        finally:
            try:
                if woken:  # no more than one, and an iterator would need memory
                    woken[0].woken = True
                    woken[0].parker.unpark()
                if slot and not woken:
                    try:
                        self.free_slots.append(slot.pop())
                    except MemoryError:
                        put_in_any_case(deque.append, self.free_slots, None)
                    in_vain = True
            finally:  # also where an interrupt comes here
                here.notifying = outer
        return in_vain

    def is_empty(self, but: int = 0) -> bool:
        """Whether no worker runs, but for `but` ones whose slots the caller has in hand."""
        return len(self.free_slots) + but == self._total and not self.overcommits

    def take_slot(self, searcher: object) -> bool:
        """Take a free slot for a worker that is about to search; whether there was one."""
        if not _pop(self.free_slots):
            return False
        self.searching.add(searcher)
        return True

    def release_slot(self) -> None:
        """The calling worker is about to stop running."""
        if not _pop(self.overcommits):
            self.free_slots.append(None)

    def reclaim_slot(self) -> None:
        """A worker that released its slot in a wait runs again. From any thread."""
        if not _pop(self.free_slots):
            try:
                self.overcommits.append(None)
            except MemoryError:
                put_in_any_case(deque.append, self.overcommits, None)

    def repay_overcommit(self) -> bool:
        """True if the calling worker, which has just ended a step, must park to repay one."""
        return _pop(self.overcommits)

    def unpark_all(self) -> None:
        """Unpark every parked worker, so that it finds out that the pool was closed."""
        outer = here.notifying
        try:
            while self.parked:
                woken: list[Parked] = []
                here.notifying = woken, outer
                try:
                    _take(self.parked, woken)
                finally:
                    if woken:  # as above
                        woken[0].needs_slot = True
                        woken[0].woken = True
                        woken[0].parker.unpark()
        finally:
            here.notifying = outer


def is_taken_here(worker: object) -> bool:
    """Whether the calling thread, further out, is just taking this worker out of `parked`."""
    taking = here.notifying
    while taking is not None:
        taken, taking = taking
        if worker in taken:
            return True
    return False
