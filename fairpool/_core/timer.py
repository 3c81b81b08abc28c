"""`Timers`: what is to be woken at which time: one heap and one thread for a pool.

A thread of its own, because the workers may all be in long steps when a deadline comes, and a
worker that parks until the next deadline would have to be found and unparked whenever an earlier
one is added. It is started with the first timer, and ends when there has been none for a while; or
at once, when there is none, after `close`. (So it can be waited for at the end, and need not be a
daemon, which a subinterpreter forbids.)

Protocol: an adder does T1 append to `_incoming`, T2 look at `_wakes_at`, and unpark the thread if
that is too late. The thread does U1 write `_wakes_at`, U2 look at `_incoming` (`holds_work`), U3
park. T1 and U2 are calls on the same deque: either the thread sees the timer, or the adder sees
`_wakes_at`. The thread ends in the same way: E1 write `_runs`, and put the token back into
`_absent`, E2 look at `_incoming`; an adder that after T1 neither sees one run nor that the token is
taken starts a thread.

Only threads take the token, each as its first act, and one that finds none ends at once. So there
is never more than one that works; a start that fails, or is cut off by an interrupt, hurts only the
adder whose it was; and who sees the token taken can count on a thread whose E2 is still to come.
Several adders at once may each start a thread, of which one stays.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from logging import CRITICAL
from math import inf
from typing import Any

from fairpool._core.report import log
from fairpool._core.room import need_stack
from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import Lock, Thread, join, monotonic, new_thread
from fairpool._core.token import Token, fence

__all__ = ["CANCELLED_MIN", "TARGET", "Timer", "Timers"]

# When this many timers have been cancelled, and they are more than half, they are thrown away, so
# that no program's memory is its rate of time-outs times their length.
CANCELLED_MIN = 1000

DEADLINE, NUMBER, TARGET = range(3)


class Timer(list[Any]):
    """`[deadline, number, target]`, the target None once it is cancelled.

    The number keeps equal deadlines in order. A list, because lists are compared in C.
    """

    __slots__ = ()


class Timers:
    """Deadlines (in `monotonic` seconds) and whom to `wake()` then, in order."""

    __slots__ = (
        "_absent",
        "_cancelled",
        "_heap",
        "_held",
        "_idle_timeout",
        "_incoming",
        "_keeps",
        "_lock",
        "_name",
        "_numbers",
        "_runs",
        "_stopped",
        "_threads",
        "_wakes_at",
    )

    def __init__(self, name: str, idle_timeout: float) -> None:
        self._name = name
        self._idle_timeout = idle_timeout
        self._numbers = count()
        self._incoming = RunQueue()
        self._cancelled = RunQueue()  # one item for each; only its length counts
        # How many were in the heap when its thread parked. Read by `cancel` after a call on
        # `_cancelled`, and followed by such a call where it is written (A7).
        self._held = 0
        self._absent = Token()  # there while no thread is
        self._runs = False  # whether the one that has the token can be counted on
        self._heap: list[Timer] = []  # for who has the token
        self._lock = Lock()
        self._wakes_at = -inf
        self._keeps = CANCELLED_MIN  # how many cancelled timers may stay in the heap
        self._stopped = False
        self._threads: list[Thread] = []  # those that may be there, for `stop`

    def add(self, deadline: float, target: Any) -> Timer:
        """Have `target.wake()` called at `deadline`, on the timer thread. From any thread."""
        timer = Timer((deadline, None, target))
        self.start(timer)
        return timer

    def start(self, timer: Timer) -> None:
        """As `add`, for a timer that is there already, and is started once."""
        timer[NUMBER] = next(self._numbers)
        self._incoming.append(timer)  # T1
        if not self._runs:
            try:
                self._start()
            except BaseException:
                self.cancel(timer)  # its owner is told
                raise
        if timer[DEADLINE] < self._wakes_at:  # T2
            self._unpark()

    def cancel(self, timer: Timer) -> None:
        """Do not wake the target of `timer`, if it has not been done. From any thread."""
        timer[TARGET] = None
        self._cancelled.append(None)
        count = len(self._cancelled)
        if count > self._keeps and count > (self._held + len(self._incoming)) >> 1:
            self._unpark()

    def close(self) -> None:
        """The thread need not wait for further timers. They may come: the next one starts another.

        May be called repeatedly.
        """
        # `_unpark` and `cancel` each call something after their write (A7): either the thread sees
        # what was cancelled, or the canceller sees this, and wakes the thread.
        self._idle_timeout = 0.0
        self._keeps = 0
        self._unpark()

    def stop(self) -> None:
        """End the thread, and wait for it. No timer is needed any more."""
        self._stopped = True
        self._unpark()
        for thread in self._threads.copy():
            if thread.ident is not None:  # else its start was interrupted
                join(thread)
        self._stopped = False

    def threads(self) -> list[Thread]:
        """Those that may be there."""
        return self._threads.copy()

    def _start(self) -> None:
        if not self._absent:
            return
        need_stack()  # so that `start` does not fail when the thread is there
        thread = new_thread(lambda: self._live(thread), self._name, daemon=False)
        self._threads.append(thread)
        try:
            thread.start()
        except Exception:
            self._threads.remove(thread)
            raise

    def _live(self, thread: Thread) -> None:
        try:
            if self._absent.take():  # else another thread was quicker
                self._runs = True
                try:
                    self._run()
                except BaseException:
                    self._runs = False
                    self._absent.put()  # the next timer starts another thread
                    raise
        finally:
            self._threads.remove(thread)

    def _unpark(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # it has a token already
            pass

    def _keeps_too_many(self) -> bool:
        """Whether the heap holds more cancelled timers than it should: as `cancel` asks.

        On its thread, after `_held` was written: ordered against `cancel` by the call on the deque.
        """
        fence(self._cancelled)
        return len(self._cancelled) > max(self._keeps, len(self._heap) >> 1)

    def _run(self) -> None:
        heap = self._heap
        while True:
            self._wakes_at = -inf
            self._lock.acquire(False)  # take back a token that came meanwhile
            while (timer := self._incoming.take()) is not None:
                if timer[TARGET] is None:
                    self._cancelled.take()
                else:
                    heappush(heap, timer)
            if self._keeps_too_many():
                # Counts of timers in `_incoming` go, too: so those are to be looked at here.
                self._cancelled.clear()
                while (timer := self._incoming.take()) is not None:
                    heap.append(timer)
                heap[:] = [timer for timer in heap if timer[TARGET] is not None]
                heapify(heap)
            now = monotonic()
            while heap and heap[0][DEADLINE] <= now:
                target = heappop(heap)[TARGET]
                if target is None:
                    self._cancelled.take()
                else:
                    try:
                        target.wake()
                    except BaseException:  # the other timers are not to suffer from it
                        log(CRITICAL, "a timer could not wake %r", target, exc_info=True)
            timer = target = None
            self._held = len(heap)
            self._wakes_at = heap[0][DEADLINE] if heap else inf  # U1
            if self._incoming.holds_work() or self._keeps_too_many():  # U2
                continue
            if not self._stopped:
                timeout = max(0.0, heap[0][DEADLINE] - monotonic()) if heap else self._idle_timeout
                woken = self._lock.acquire(timeout=min(timeout, 31536000.0))  # U3; at most a year
                if woken or heap:
                    continue
            self._runs = False  # E1, both
            self._absent.put()
            if not self._incoming.holds_work():  # E2
                return
            if not self._absent.take():  # another thread has it
                return
            self._runs = True
