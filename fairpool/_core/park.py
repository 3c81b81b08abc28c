"""`Parking`: who is searching, who is parked, how many may run, and whom to unpark.

The protocol and the proof that no wake-up is lost: `docs/protocols/parking.md`.

A *seat* is the right to be runnable; a pool has `max_workers` of them. A worker that runs a task or
searches for one holds a seat; one that parks, or blocks in a wait, gives it up, and whoever unparks
or starts a worker takes a free seat for it first. A worker that returns from a wait takes a seat if
one is free, else it goes on at once and leaves a *debt*: the next worker that ends a step pays it
by parking without freeing its seat. At any moment

    runnable workers = max_workers - free seats + debts.

Guarantees:

- A worker that gives up its seat does so before its last look at the queues, and whoever queues a
  task does so before its look at the seats: one of the two sees the other.
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
    """The seats of one pool, and its workers that are not running a task."""

    __slots__ = ("_overlooks", "_start", "_total", "debts", "parked", "searching", "seats")

    def __init__(
        self, seats: int, start: Callable[[list[None]], None], overlooks: Callable[[], bool]
    ) -> None:
        # `start(seat)` starts the thread of one more worker, which is among `searching` before it
        # runs, and empties the list `seat` when the worker has taken the seat over. `overlooks()`:
        # whether it would do so now, after a call that has not.
        self._start = start
        self._overlooks = overlooks
        self._total = seats
        self.seats: deque[None] = deque([None]) * seats
        self.debts: deque[None] = deque()
        self.parked: list[Any] = []
        self.searching: set[Any] = set()

    def notify(self) -> None:
        """Get one more worker to look for work, unless one is looking, or no seat is free.

        To be called after a task was queued, by any thread. Raises only if no worker could be
        started where one was needed.
        """
        # A seat that was taken in vain was missed meanwhile by those that parked, and relied on by
        # those that queued something: whoever has parked since then is woken after all. `copy`
        # takes the list's mutex, so that who parks after it sees the seat (A2).
        while self._notify_one() and (self.parked.copy() or self._overlooks()):
            pass

    def _notify_one(self) -> bool:
        """As `notify`; True if a seat was taken, and given back for want of a worker."""
        # Both plain reads are ordered by the queue's mutex, which the caller held in `append` and
        # each worker takes in `holds_work` after it left `searching` or freed a seat.
        if self.searching or not self.seats:
            return False
        # What is taken goes into a list in the same C call: an interrupt (Ctrl-C) may come between
        # any two calls, and `finally` gives back what the lists hold.
        seat: list[None] = []
        woken: list[Any] = []
        in_vain = False
        outer = here.notifying
        try:
            here.notifying = woken, outer
            _take(self.seats, seat)
            if seat:
                _take(self.parked, woken)  # the one that parked last: its cache is warm
            if woken:
                self.searching.add(woken[0])
                seat.clear()
            elif seat:
                self._start(seat)
        finally:
            for worker in woken:
                worker.woken = True
                worker.parker.unpark()
            if seat and not woken:
                self.seats.append(seat.pop())
                in_vain = True
            here.notifying = outer
        return in_vain

    def is_empty(self, but: int = 0) -> bool:
        """Whether nobody is runnable, `but` so many whose seats the caller has in hand."""
        return len(self.seats) + but == self._total and not self.debts

    def take_seat(self, searcher: Any) -> bool:
        """Take a free seat for one that is about to search; whether there was one."""
        try:
            self.seats.pop()
        except IndexError:
            return False
        self.searching.add(searcher)
        return True

    def give_up_seat(self) -> None:
        """The calling worker is about to stop being runnable."""
        try:
            self.debts.pop()
        except IndexError:
            self.seats.append(None)

    def return_to_seat(self) -> None:
        """A worker that gave up its seat in a wait is runnable again. From any thread."""
        try:
            self.seats.pop()
        except IndexError:
            self.debts.append(None)

    def pay_debt(self) -> bool:
        """Whether the calling worker, which has just ended a step, is one too many, and parks."""
        try:
            self.debts.pop()
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
                        worker.needs_seat = True
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
