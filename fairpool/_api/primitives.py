"""`Event`, `Semaphore`, `BoundedSemaphore` and `Queue` for tasks.

Names and meanings are asyncio's. What is different: they belong to no loop and no pool. Tasks of
several pools may share one, and whatever does not wait (`set`, `release`, `put_nowait`, `shutdown`,
...) may be called from any thread, from callbacks and from signal handlers, in the midst of itself
too. The coroutines of an asyncio loop may wait in them as well.

Guarantees:

- First come, first served: a permit goes to the one that has waited longest, and nobody overtakes
  those who wait. A permit that was given to a task which is cancelled at this very moment goes to
  the next one: none is lost, and none is given twice.
- An item that `Queue.put` has accepted is in the queue, or with exactly one `get`, or was dropped
  by `shutdown(immediate=True)`. Items leave in the order in which they came.
- No step needs a lock.

Assumes: atomic call, mutex order, plain read, unique count (`_core.atomicity`). A waiter is a bare
future, on which one task waits: whoever claims it first decides what becomes of it, the one that
brings the permit, or the one that cancels the task. Where two threads could miss each other, both
do first their write and then their look, each by a call on the container that the other's write was
a call on (mutex order): one of the two sees the other.
"""

from __future__ import annotations

import sys
from asyncio import QueueEmpty, QueueFull
from collections import deque
from itertools import count
from typing import Any, Generic, TypeVar

from fairpool._core.errors import stays_here
from fairpool._core.foreign import type_name
from fairpool._core.room import SHORT_OF_ROOM, need_stack
from fairpool._core.runqueue import RunQueue, WaitQueue
from fairpool._core.threads import start_new_thread
from fairpool._core.token import Latch
from fairpool._tasks.future import Future
from fairpool._tasks.settling import claim, settle
from fairpool._tasks.state import CANCELLED, FINISHED, is_claimed

__all__ = [
    "BoundedSemaphore",
    "Event",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "Semaphore",
]

T = TypeVar("T")

if sys.version_info >= (3, 13):
    from asyncio import QueueShutDown
else:

    class QueueShutDown(Exception):
        """The queue was shut down: `asyncio.QueueShutDown`, where Python has it (3.13)."""


def _finish_if_waiting(waiter: Future[Any], value: object) -> bool:
    """Wake whoever waits with `waiter`; False if it was cancelled, or woken before."""
    if claim(waiter) is None:
        return False
    settle(waiter, FINISHED, value)
    return True


def _check_int(name: str, value: object) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")


# --- Event ----------------------------------------------------------------------------------------


class _Gate(Future[bool]):
    """What an event waits for from one `clear` to the next `set`; claimed as soon as it is set."""

    __slots__ = ("successor",)

    # successor: empty, or {None: the gate that a `clear` has put after this one}.

    def __init__(self) -> None:
        super().__init__()
        self.successor: dict[None, _Gate] = {}

    def is_open(self) -> bool:
        # In this order: a gate is running before it is done.
        return self.running() or self.done()


class _GateWaiter(Future[bool]):
    """One task's wait for a gate: its cancellation leaves the gate alone."""

    __slots__ = ()

    def __call__(self, gate: Future[Any]) -> None:
        _finish_if_waiting(self, True)


class Event:
    """A flag for which tasks can wait. As `asyncio.Event`.

    Every method may be called from any thread. A `set` wakes all that wait, also if a `clear`
    follows at once; one that comes to `wait` after the `clear` is woken by the next `set` only.
    """

    __slots__ = ("__weakref__", "_gate")

    __reduce_ex__ = stays_here("make an Event where it is to be used")

    # A gate is opened once (`claim` is the arbiter), and has one successor (`setdefault` is).
    # `_gate` is a gate from which the last one is reached over the successors: when two threads
    # store it, it does not matter which of them is later.

    def __init__(self) -> None:
        self._gate = _Gate()

    def __repr__(self) -> str:
        state = "set" if self.is_set() else "unset"
        return f"<{type_name(self)} at {id(self):#x} [{state}]>"

    def _last_gate(self) -> _Gate:
        gate = first = self._gate
        while gate.successor:
            try:
                gate = gate.successor[None]
            except KeyError:  # a dict may count its first key before it finds it (plain read)
                break
        if gate is not first:
            self._gate = gate
        return gate

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return self._last_gate().is_open()

    def set(self) -> None:
        """Set the flag, and wake all tasks that wait for it."""
        _finish_if_waiting(self._last_gate(), True)

    def clear(self) -> None:
        """Take the flag back: who comes to `wait` from here on waits for the next `set`."""
        gate = self._last_gate()
        if gate.is_open():
            gate.successor.setdefault(None, _Gate())  # atomic: one for all
            self._last_gate()

    async def wait(self) -> bool:
        """Wait until the flag is set; returns True, at once if it is."""
        gate = self._last_gate()
        if gate.is_open():
            return True
        waiter = _GateWaiter()
        gate.register_for_now(waiter)  # called at once if the gate was opened meanwhile
        try:
            return await waiter
        except BaseException:
            gate._unregister(waiter)
            raise


# --- permits --------------------------------------------------------------------------------------


class _Permits:
    """A number of permits, and the line of tasks that wait for one.

    Protocol: who wants one does L1 append to `_waiters`, L2 `_match`; who gives one does M1 append
    to `_free`, M2 `_match`. In there, who sees waiters, and something to do for them, does T1 take
    the item out of `idle`, serves, T2 puts it back, and looks again. Who finds it taken has nothing
    to do: T1 came before that T2, so the look after it sees what was done before T1.

    One thread at a time, so that nobody is passed over while the line is swept.
    """

    __slots__ = ("_closed", "_dry", "_free", "_fresh", "_last", "_waiters")

    def __init__(self, limit: int) -> None:
        self._last = limit - 1
        # Permits that were never taken are not stored: there may be very many.
        self._fresh = count()
        self._dry = limit <= 0  # a hint: once it is set, no fresh one is left
        self._free: deque[None] = deque()  # those that came back
        self._waiters = WaitQueue()
        self._closed = False

    def __len__(self) -> int:
        """How many permits that came back are free."""
        return len(self._free)

    def waiting(self) -> int:
        """How many tasks wait."""
        return self._waiters.how_many(is_claimed)

    def is_locked(self) -> bool:
        """Whether there is none for one that comes now."""
        return bool(self._waiters) or (self._dry and not self._free)

    def _pop(self) -> bool:
        try:
            self._free.pop()
        except IndexError:
            if self._dry:
                return False
            number = next(self._fresh)  # unique count
            if number >= self._last:  # (no sum here: it might need memory, with the permit taken)
                self._dry = True
            return number <= self._last
        return True

    def try_take(self) -> bool:
        """Take a permit if there is one that nobody waits for."""
        if self._waiters:
            self._match()
            if self._waiters:
                return False
        return self._pop()

    async def take(self) -> bool:
        """Wait for a permit (True), or for `close` (False)."""
        if not self._waiters and self._pop():  # `try_take`, but for those that have given up
            return True
        waiter: Future[bool] = Future()
        self._waiters.append(waiter)  # L1
        try:
            self._match()  # L2
            return await waiter
        except BaseException:
            if claim(waiter) is None and waiter._status is not CANCELLED:
                self.give()  # it was given a permit, and is not going to use it
            else:
                self._give_up(waiter)
            raise

    def give(self) -> None:
        """Give a permit back, or add one."""
        try:
            self._free.append(None)  # M1
        except MemoryError:
            start_new_thread(self.give, ())
            return
        try:
            self._match()  # M2
        except SHORT_OF_ROOM:
            start_new_thread(self._match, ())

    def _put_back(self) -> None:
        """What was taken for one that does not wait any more is free again."""
        self._free.append(None)

    def _give_up(self, waiter: Future[bool]) -> None:
        try:
            if self._waiters.give_up(waiter):
                self._match()
        except SHORT_OF_ROOM:
            start_new_thread(self._give_up, (waiter,))

    def close(self) -> None:
        """Wake all that wait, now and later."""
        self._closed = True
        self._match()

    def _match(self) -> None:
        """Serve those that wait, as far as there is anything for them."""
        waiters = self._waiters
        while waiters.holds_work() and (
            self._free
            or not self._dry
            or self._closed
            or (waiters.given_up and waiters.is_half_empty())
        ):
            if not waiters.idle.take():  # T1
                return
            try:
                if waiters.given_up:
                    self._sweep()
                while waiters and (self._closed or ((self._free or not self._dry) and self._pop())):
                    waiter = waiters.take()
                    try:
                        while waiter is not None and not _finish_if_waiting(
                            waiter, not self._closed
                        ):
                            waiter = waiters.take()  # that one was cancelled
                    except SHORT_OF_ROOM:  # it was not claimed
                        waiters.appendleft(waiter)
                        if not self._closed:
                            self._put_back()
                        raise
                    if waiter is None and not self._closed:
                        self._put_back()  # M1
            finally:
                waiters.idle.put()  # T2

    def _sweep(self) -> None:
        waiters = self._waiters
        if waiters.is_half_empty():
            need_stack()
            head: Future[bool] = Future()
            try:
                waiters.sweep((head,), [], is_claimed)
            finally:
                waiters.discard(head)


class _BoundedPermits(_Permits):
    """Permits that come back only as often as they were taken."""

    __slots__ = ("_out",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        # One item for each permit that is out: taken, or given to one that has waited, from the
        # moment at which it is promised.
        self._out: deque[None] = deque()

    def _pop(self) -> bool:
        if not _Permits._pop(self):
            return False
        self._out.append(None)
        return True

    def _put_back(self) -> None:
        try:
            self._out.pop()
        except IndexError:  # it was released by somebody else meanwhile
            return
        self._free.append(None)

    def give(self) -> None:
        """As `_Permits.give`, unless somebody else has released it."""
        self.give_back()

    def give_back(self) -> bool:
        """Give a permit back; False if none is out."""
        try:
            self._out.pop()  # atomic: of two that give the last one back, one gets False
        except IndexError:
            return False
        self._free.append(None)  # M1
        try:
            self._match()  # M2
        except SHORT_OF_ROOM:
            start_new_thread(self._match, ())
        return True


class Semaphore:
    """A number of permits; `acquire` waits while there is none. As `asyncio.Semaphore`.

    First come, first served. `async with semaphore:` acquires and releases. `value`: the number of
    permits, 1 by default. Raises TypeError if it is no integer, and ValueError if it is negative.
    """

    __slots__ = ("__weakref__", "_permits")

    __reduce_ex__ = stays_here("make a Semaphore where it is to be used")

    def __init__(self, value: int = 1) -> None:
        _check_int("value", value)
        if value < 0:
            raise ValueError(f"value must be at least 0, not {value!r}")
        self._permits = _Permits(value)

    def __repr__(self) -> str:
        state = "locked" if self.locked() else "unlocked"
        waiting = self._permits.waiting()
        more = f", waiters:{waiting}" if waiting else ""
        return f"<{type_name(self)} at {id(self):#x} [{state}{more}]>"

    def locked(self) -> bool:
        """Whether `acquire` would wait. From any thread; true of one moment."""
        return self._permits.is_locked()

    async def acquire(self) -> bool:
        """Wait for a permit and take it; returns True. If it is cancelled, none was taken."""
        return await self._permits.take()

    def release(self) -> None:
        """Give a permit back: to whoever has waited longest, if anyone waits. From any thread."""
        self._permits.give()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self.release()


class BoundedSemaphore(Semaphore):
    """A semaphore that is never released more often than it was acquired."""

    __slots__ = ()

    _permits: _BoundedPermits

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._permits = _BoundedPermits(value)

    def release(self) -> None:
        """As `Semaphore.release`. Raises ValueError if no permit is out."""
        if not self._permits.give_back():
            raise ValueError(f"{self!r} was released more often than acquired")


# --- Queue ----------------------------------------------------------------------------------------


class Queue(Generic[T]):
    """A queue between tasks: first in, first out. As `asyncio.Queue` of Python 3.13.

    `maxsize`: how many items it takes before `put` waits; 0 or less: any number. Raises TypeError
    if it is no integer. Whoever waits in `put` or `get` is served in the order of coming: an item,
    or a free place, that was promised to one that waits is out of reach for others, and counts
    neither in `qsize` nor as a place. Methods that do not wait may be called from any thread.
    """

    __slots__ = (
        "__weakref__",
        "_items",
        "_joiners",
        "_maxsize",
        "_places",
        "_ready",
        "_shut",
        "_taken_back",
        "_unfinished",
    )

    __reduce_ex__ = stays_here("get the items, and put them into a Queue where they are to be used")

    # An item lies in a list of its own, its cell: who takes it out of that has it. There is one
    # permit in `_ready` for each cell in `_items`, and while the queue is open, a cell is taken by
    # the holder of one. After `shutdown` permits mean nothing: who gets a cell has it.
    #
    # `shutdown` against `put`: the putter does P1 append to `_items`, P2 look at `_shut`, and takes
    # its item back if it sees that the queue was shut down. A getter that gives up does G1 look at
    # `_shut`, G2 look at `_items`. If P2 came before the shutdown, G2 came after P1: so no item is
    # left to a queue that everybody has given up.
    #
    # `join` against `task_done`: in each method.

    def __init__(self, maxsize: int = 0) -> None:
        _check_int("maxsize", maxsize)
        self._maxsize = maxsize
        self._items = RunQueue()  # of cells
        self._ready = _Permits(0)
        self._places = _Permits(maxsize) if maxsize > 0 else None
        self._unfinished = RunQueue()  # one item for each that is still without its `task_done`
        self._joiners: dict[Future[None], None] = {}
        self._shut = Latch()
        self._taken_back: deque[None] = deque()  # one item for each empty cell in `_items`

    def __repr__(self) -> str:
        places = self._places
        state = [f"maxsize={self._maxsize}", f"qsize={self.qsize()}"]
        if self._ready.waiting():
            state.append(f"getters={self._ready.waiting()}")
        if places is not None and places.waiting():
            state.append(f"putters={places.waiting()}")
        if self._unfinished:
            state.append(f"unfinished={len(self._unfinished)}")
        if self._shut:
            state.append("shutdown")
        return f"<{type_name(self)} at {id(self):#x} {' '.join(state)}>"

    @property
    def maxsize(self) -> int:
        """How many items the queue takes before `put` waits; 0 or less: any number."""
        return self._maxsize

    def qsize(self) -> int:
        """How many items are there for a `get` that comes now. True of one moment."""
        if self._shut:
            return max(len(self._items) - len(self._taken_back), 0)
        return len(self._ready)

    def empty(self) -> bool:
        """Whether `get_nowait` would raise. True of one moment."""
        return not self.qsize()

    def full(self) -> bool:
        """Whether no place is free for an item that comes now. True of one moment."""
        if self._shut:  # permits mean nothing any more
            return 0 < self._maxsize <= self.qsize()
        return self._places is not None and self._places.is_locked()

    # --- putting ---------------------------------------------------------------------------------

    async def put(self, item: T) -> None:
        """Put an item in, after waiting for a free place if the queue is full.

        Raises `QueueShutDown` if the queue was shut down, also while this waited: the item is not
        in the queue then, nor if this is cancelled.
        """
        self._refuse_if_shut()
        if self._places is not None:
            await self._places.take()
        self._append(item)

    def put_nowait(self, item: T) -> None:
        """Put an item in. Raises `QueueFull`, or `QueueShutDown`. From any thread."""
        self._refuse_if_shut()
        if self._places is not None and not self._places.try_take():
            self._refuse_if_shut()
            raise QueueFull
        self._append(item)

    def _refuse_if_shut(self) -> None:
        if self._shut:
            raise QueueShutDown

    def _append(self, item: T) -> None:
        self._refuse_if_shut()
        cell = [item]
        self._unfinished.append(None)  # before anyone could be done with it
        self._items.append(cell)  # P1
        try:
            self._ready.give()
        except SHORT_OF_ROOM:
            start_new_thread(self._ready.give, ())
        if self._shut.is_set():  # P2
            self._taken_back.append(None)  # before it is: who meets the empty cell takes this out
            try:
                cell.pop()
            except IndexError:  # somebody has the item, or `shutdown` has dropped it
                self._taken_back.pop()
                return
            self._done()
            raise QueueShutDown

    # --- getting ---------------------------------------------------------------------------------

    async def get(self) -> T:
        """Take the oldest item, after waiting for one if the queue is empty.

        Raises `QueueShutDown` if the queue was shut down and is empty, also while this waited. If
        it is cancelled, it has taken nothing.
        """
        if not self._shut:
            await self._ready.take()
        return self._take()

    def get_nowait(self) -> T:
        """Take the oldest item. Raises `QueueEmpty`, or `QueueShutDown`. From any thread."""
        if not self._shut and not self._ready.try_take() and not self._shut:
            raise QueueEmpty
        return self._take()

    def _take(self) -> T:
        """Take an item, with a permit for it or from a queue that was shut down."""
        if self._shut:  # whoever comes without a permit has seen that
            self._shut.is_set()  # G1: only as a fence
        while True:
            try:
                cell = self._items.popleft()  # G2
            except IndexError:
                raise QueueShutDown from None
            try:
                item: T = cell.pop()
            except IndexError:  # taken back by its putter: the queue was shut down
                self._taken_back.pop()
                continue
            if self._places is not None:
                self._places.give()
            return item

    # --- the end -----------------------------------------------------------------------------

    def task_done(self) -> None:
        """Say that the work on an item, which was taken with `get`, is done. From any thread.

        When this was said of every item, `join` returns. Raises ValueError if it is said more often
        than items were put.
        """
        if not self._done():
            raise ValueError("task_done() was called more often than items were put")

    def _done(self) -> bool:
        try:
            self._unfinished.pop()
        except IndexError:
            return False
        # First who waits, then whether all is done: so each of them was there when all was done.
        # (One that comes later may wait for an item that was put meanwhile.) `join` does first its
        # item in `_joiners`, then its look at `_unfinished`: it sees the `pop` above, or is in the
        # copy. (The last one sees that it is the last by a plain read, too, after its own `pop`.)
        if self._unfinished:
            return True
        joiners = self._joiners.copy()
        if joiners and not self._unfinished.holds_work():
            for joiner in joiners:
                _finish_if_waiting(joiner, None)
        return True

    async def join(self) -> None:
        """Wait until `task_done` was called for every item; at once if there is none."""
        if not self._unfinished.holds_work():
            return
        joiner: Future[None] = Future()
        self._joiners[joiner] = None
        try:
            if self._unfinished.holds_work():
                await joiner
        finally:
            self._joiners.pop(joiner, None)

    def shutdown(self, immediate: bool = False) -> None:
        """Let `put` raise `QueueShutDown` from now on, and `get` when the queue is empty.

        With `immediate`, the items that are in the queue are dropped, as if they were done. Whoever
        waits is woken. May be called again, and from any thread.
        """
        self._shut.set()
        while immediate and (cell := self._items.take()) is not None:
            try:
                cell.pop()
            except IndexError:  # taken back by its putter
                self._taken_back.pop()
                continue
            self._done()
        self._ready.close()
        if self._places is not None:
            self._places.close()
