"""`Timers`: deadlines, and the targets to wake at them. One heap and one thread for a pool.

A thread of its own, because all workers may be in long steps when a deadline comes, and a worker
that parks until the next deadline would have to be found and unparked whenever an earlier one is
added. The thread is started with the first timer. It ends when there has been no timer for a while,
or at once, when there is none, after `close`. So the end of the program can wait for it, and it
need not be a daemon, which a subinterpreter forbids.

Protocol, *no timer is missed*:

| adder | timer thread |
|---|---|
| `push` the timer to `_incoming` | `announce`: write `_wakes_at` |
| `check`: unpark the thread if `_wakes_at` is too late | `last_look` at `_incoming` |
| | `park` until then |

`push` and `last_look` are calls on the same deque (mutex order). Either the thread sees the timer,
or the adder sees `_wakes_at`.

*The thread ends in the same way*: `resign` writes `_runs` and puts the token back into `_absent`;
then comes `final_look` at `_incoming`. An adder that after its `push` sees neither a thread that
runs nor a taken token starts a thread.

*One thread works.* Only threads take the token, each as its first act, and one that finds none ends
at once. Several adders at once may each start a thread, of which one stays. A start that fails, or
that an interrupt cuts off, hurts only its own adder. An adder that sees the token taken can count
on a thread whose `final_look` is still to come.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from logging import CRITICAL
from math import inf
from typing import Any, Protocol

from fairpool._core.report import log
from fairpool._core.room import need_stack
from fairpool._core.runqueue import RunQueue, strike_off_ended
from fairpool._core.threads import Lock, Thread, join, monotonic, new_thread
from fairpool._core.token import PRESENT, Token, fence

# From this many cancelled timers on they are thrown away when they are more than half. Otherwise a
# program's memory would be its rate of time-outs times their length.
CANCELLED_MIN = 1000

DEADLINE, NUMBER, TARGET = range(3)

YEAR = 31536000.0


class Wakeable(Protocol):
    """A target of a timer."""

    def wake(self) -> None:
        """Called on the timer thread: short, and waits for nothing."""


class Timer(list[Any]):
    """`[deadline, number, target]`, the target None once it is cancelled.

    The number keeps equal deadlines in order. A list, because lists are compared in C.
    """

    __slots__ = ()


class Timers:
    """Deadlines (in `monotonic` seconds), in order, and the targets to `wake()` then."""

    __slots__ = (
        "_absent",
        "_cancelled",
        "_exited",
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
        self._incoming: RunQueue[Timer] = RunQueue()
        # One item for each cancelled timer; only its length counts.
        self._cancelled: RunQueue[None] = RunQueue()
        # How many timers were in the heap when the thread parked. `cancel` reads it after a call on
        # `_cancelled`; a call on that follows where it is written (fence).
        self._held = 0
        self._absent = Token(PRESENT)  # there while no thread is
        self._runs = False  # whether the thread that has the token can be counted on
        self._heap: list[Timer] = []  # belongs to the thread that has the token
        self._lock = Lock()
        self._wakes_at = -inf
        self._keeps = CANCELLED_MIN  # how many cancelled timers may stay in the heap
        self._stopped = False
        self._threads: list[Thread] = []  # those that may be there, for `stop`
        self._exited: RunQueue[Thread] = RunQueue()  # those of them that are about to end

    def add(self, deadline: float, target: Wakeable) -> Timer:
        """Have `target.wake()` called at `deadline`, on the timer thread. From any thread."""
        timer = Timer((deadline, None, target))
        self.start(timer)
        return timer

    def start(self, timer: Timer) -> None:
        """As `add`, for a timer that was made before. Called once for each timer."""
        timer[NUMBER] = next(self._numbers)
        self._incoming.append(timer)  # push
        if not self._runs:
            try:
                self._start()
            except BaseException:
                self.cancel(timer)  # its owner is told
                raise
        if timer[DEADLINE] < self._wakes_at:  # check
            self._unpark()

    def cancel(self, timer: Timer) -> None:
        """Do not wake the target of `timer`, if that has not been done. From any thread."""
        timer[TARGET] = None
        self._cancelled.append(None)
        count = len(self._cancelled)
        if count > self._keeps and count > (self._held + len(self._incoming)) >> 1:
            self._unpark()

    def close(self) -> None:
        """Let the thread end as soon as no timer is left. A later timer starts another thread.

        May be called repeatedly.
        """
        # `_unpark` and `cancel` each make an atomic call after their write (fence): either the
        # thread sees the cancelled timers, or the canceller sees this, and wakes the thread.
        self._idle_timeout = 0.0
        self._keeps = 0
        self._unpark()

    def stop(self) -> None:
        """End the thread, and wait until it has ended. No timer is needed any more."""
        self._stopped = True
        self._unpark()
        for thread in self._threads.copy():
            if thread.ident is not None:  # else its start was interrupted
                join(thread)
        self._stopped = False

    def threads(self) -> list[Thread]:
        """The timer threads that may be there."""
        return self._threads.copy()

    def _start(self) -> None:
        if not self._absent:
            return
        need_stack()  # so that `start` does not fail once the thread is there
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
            strike_off_ended(self._threads, self._exited, Thread.is_alive)
            self._exited.append(thread)  # last: the next one to end strikes it off

    def _unpark(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # it has a token already
            pass

    def _keeps_too_many(self) -> bool:
        """Whether the heap holds too many cancelled timers: the question that `cancel` asks.

        On the timer thread, after `_held` was written. The call on the deque orders it against
        `cancel`.
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
            if self._cancelled and self._keeps_too_many():  # a plain read first: see last_look
                # This forgets cancelled timers in `_incoming`, too: so it is emptied here.
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
                    except BaseException:  # the other timers must not suffer from it
                        log(CRITICAL, "a timer could not wake %r", target, exc_info=True)
            timer = target = None
            self._held = len(heap)
            self._wakes_at = heap[0][DEADLINE] if heap else inf  # announce
            if self._incoming.holds_work() or self._keeps_too_many():  # last_look
                continue
            if not self._stopped:
                timeout = max(0.0, heap[0][DEADLINE] - monotonic()) if heap else self._idle_timeout
                woken = self._lock.acquire(timeout=min(timeout, YEAR))  # park, for a year at most
                if woken or heap:
                    continue
            self._runs = False  # resign, both lines
            self._absent.put()
            if not self._incoming.holds_work():  # final_look
                return
            if not self._absent.take():  # another thread has it
                return
            self._runs = True
