"""`Parking`: who is searching, who is parked, how many may run, and whom to unpark.

The protocol and the proof that no wake-up is lost: `docs/protocols/parking.md`.

A *slot* is the right to be runnable; a pool has `max_workers` of them. A worker that runs a task or
searches for one holds a slot; one that parks, or blocks in a wait, gives it up, and whoever unparks
or starts a worker takes a free slot for it first. A worker that returns from a wait takes a slot if
one is free, else it goes on at once and leaves an *overcommit*: the next worker that ends a step
repays it by parking without freeing its slot. At any moment

    runnable workers = max_workers - free slots + overcommits.

Guarantees:

- A worker that gives up its slot does so before its last look at the queues, and whoever queues a
  task does so before its look at the slots: one of the two sees the other.
- At most one worker at a time is woken for searching (the throttle); it wakes the next one when it
  finds work. A wake-up costs as much as fifty tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from fairpool._core.here import here
from fairpool._core.signals import acquire
from fairpool._core.threads import Lock

__all__ = ["Parker", "Parking", "is_taken_here"]


class Parker:
    """Where one worker parks. One token: `unpark` before `park` makes that `park` return at once.

    `unpark` is to be called once per parked worker, by whoever took it out of `Parking.parked`.
    """

    __slots__ = ("_lock", "unpark")

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()
        # Not a method: it must not fail for want of a Python frame (see `Parking.notify`).
        self.unpark = self._lock.release

    def park(self, timeout: float = -1) -> bool:
        """Park until unparked (True), or until `timeout` seconds have passed (False)."""
        return self._lock.acquire(timeout=timeout)

    def wait(self, timeout: float | None) -> bool:
        """As `park`, on a thread that may be the main thread. None: without end."""
        return acquire(self._lock, timeout)


_NEVER = object()


def _take(container: Any, into: list[Any]) -> None:
    """Move the last item of a deque or a list to the end of another list, if there is one."""
    try:
        into.extend(islice(iter(container.pop, _NEVER), 1))
    except IndexError:
        pass


class Parking:
    """The slots of one pool, and its workers that are not running a task."""

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
        # `start(slot)` starts the thread of one more worker, which is among `searching` before it
        # runs, and empties the list `slot` when the worker has taken the slot over. `overlooks()`:
        # whether it would do so now, after a call that has not.
        self._start = start
        self._overlooks = overlooks
        self._total = slots
        self.free_slots: deque[None] = deque([None]) * slots
        self.overcommits: deque[None] = deque()
        self.parked: list[Any] = []
        self.searching: set[Any] = set()

    def notify(self) -> None:
        """Get one more worker to look for work, unless one is looking, or no slot is free.

        To be called after a task was queued, by any thread. Raises only if no worker could be
        started where one was needed.
        """
        # A slot that was taken in vain was missed meanwhile by those that parked, and relied on by
        # those that queued something: whoever has parked since then is woken after all. `copy`
        # takes the list's mutex, so that who parks after it sees the slot (A2).
        while self._notify_one() and (self.parked.copy() or self._overlooks()):
            pass

    def _notify_one(self) -> bool:
        """As `notify`; True if a slot was taken, and given back for want of a worker."""
        # Both plain reads are ordered by the queue's mutex, which the caller held in `append` and
        # each worker takes in `holds_work` after it left `searching` or freed a slot.
        if self.searching or not self.free_slots:
            return False
        # What is taken goes into a list in the same C call: an interrupt (Ctrl-C) may come between
        # any two calls, and `finally` gives back what the lists hold.
        slot: list[None] = []
        woken: list[Any] = []
        in_vain = False
        outer = here.notifying
        try:
            here.notifying = woken, outer
            _take(self.free_slots, slot)
            if slot:
                _take(self.parked, woken)  # the one that parked last: its cache is warm
            if woken:
                self.searching.add(woken[0])
                slot.clear()
            elif slot:
                self._start(slot)
        finally:
            try:
                for worker in woken:
                    worker.woken = True
                    worker.parker.unpark()
                if slot and not woken:
                    self.free_slots.append(slot.pop())
                    in_vain = True
            finally:  # also where an interrupt comes here
                here.notifying = outer
        return in_vain

    def is_empty(self, but: int = 0) -> bool:
        """Whether nobody is runnable, `but` so many whose slots the caller has in hand."""
        return len(self.free_slots) + but == self._total and not self.overcommits

    def take_slot(self, searcher: Any) -> bool:
        """Take a free slot for one that is about to search; whether there was one."""
        try:
            self.free_slots.pop()
        except IndexError:
            return False
        self.searching.add(searcher)
        return True

    def release_slot(self) -> None:
        """The calling worker is about to stop being runnable."""
        try:
            self.overcommits.pop()
        except IndexError:
            self.free_slots.append(None)

    def reclaim_slot(self) -> None:
        """A worker that gave up its slot in a wait is runnable again. From any thread."""
        try:
            self.free_slots.pop()
        except IndexError:
            self.overcommits.append(None)

    def repay_overcommit(self) -> bool:
        """Whether the calling worker, which has just ended a step, is one too many, and parks."""
        try:
            self.overcommits.pop()
        except IndexError:
            return False
        return True

    def unpark_all(self) -> None:
        """Unpark every parked worker, to let it find out that the pool was closed."""
        outer = here.notifying
        try:
            while self.parked:
                woken: list[Any] = []
                here.notifying = woken, outer
                try:
                    _take(self.parked, woken)
                finally:
                    for worker in woken:
                        worker.needs_slot = True
                        worker.woken = True
                        worker.parker.unpark()
        finally:
            here.notifying = outer


def is_taken_here(worker: Any) -> bool:
    """Whether the calling thread is just taking this worker out of `parked`, further out."""
    taking = here.notifying
    while taking is not None:
        taken, taking = taking
        if worker in taken:
            return True
    return False
