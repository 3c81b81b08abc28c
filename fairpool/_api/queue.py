"""`Queue`: items from task to task, first in, first out.

Names and meanings are asyncio's, with one difference: a primitive belongs to no loop and no pool.
Tasks of several pools may share one, and so may the coroutines of asyncio loops.

Guarantees: an item that `put` has accepted is in the queue, or with exactly one `get`, or was
dropped by `shutdown(immediate=True)`. Items leave in the order in which they came. Tasks are served
in the order in which they came. No step needs a lock.

All waiting is in a `WaitList`, whose module has the protocol (`enqueue`, `recheck`, `change`,
`wake`), its proof and what it assumes of `fairpool._core.atomicity`.
"""

from __future__ import annotations

import sys
from asyncio import QueueEmpty, QueueFull
from collections import deque
from typing import Generic, TypeVar

from fairpool._api.arguments import check_int
from fairpool._api.permits import Permits
from fairpool._api.waiting import wait_in
from fairpool._core.errors import stays_here
from fairpool._core.foreign import type_name
from fairpool._core.room import SHORT_OF_ROOM
from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import start_new_thread
from fairpool._core.token import Latch
from fairpool._tasks.future import Derived
from fairpool._tasks.waitlist import WaitList

__all__ = ["Queue", "QueueEmpty", "QueueFull", "QueueShutDown"]

T = TypeVar("T")

if sys.version_info >= (3, 13):
    from asyncio import QueueShutDown
else:

    class QueueShutDown(Exception):
        """The queue was shut down: `asyncio.QueueShutDown`, where Python has it (3.13)."""


class _Joiners(WaitList):
    """The tasks in `Queue.join`: they wait until `task_done` was called for every item."""

    __slots__ = ("unfinished",)

    def __init__(self, unfinished: RunQueue[None]) -> None:
        super().__init__()
        self.unfinished = unfinished

    def offers(self) -> bool:
        return not self.unfinished.holds_work()


class Queue(Generic[T]):
    """A queue between tasks: first in, first out. As `asyncio.Queue` of Python 3.13.

    `maxsize` is the number of items at which `put` waits; 0 or less means no limit. Raises
    TypeError for a `maxsize` that is no integer.

    Tasks that wait in `put` or `get` are served in the order in which they came. An item or a free
    place that was given to a waiting task is out of reach for others, and counts no more in
    `qsize`, `empty` and `full`.

    `put`, `get` and `join` are for tasks and asyncio coroutines. All else may be called from any
    thread, from a callback and from a signal handler.
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

    __reduce_ex__ = stays_here("make a Queue in the other process, and put the items into it")

    # An item lies in a box, a list of its own. `box.pop` decides which caller has the item. There
    # is one permit in `_ready` for each box in `_items`, and while the queue is open, a box is
    # taken by a permit holder. After `shutdown`, permits mean nothing: a box is taken by anybody.
    #
    # `shutdown` against `put`: the putter does `put_in` (append to `_items`) and `see_shut` (look
    # at `_shut`). If the queue was shut down, it takes its item back. A getter that gives up does
    # `get_shut` (look at `_shut`) and `last_look` (at `_items`). If `see_shut` came before the
    # shutdown, `last_look` came after `put_in`. So no item is left in a queue that all getters have
    # given up.
    #
    # `join` against `task_done`: `_Joiners`.

    def __init__(self, maxsize: int = 0) -> None:
        check_int("maxsize", maxsize)
        self._maxsize = maxsize
        self._items: RunQueue[list[T]] = RunQueue()  # of boxes
        self._ready = Permits(0)
        self._places = Permits(maxsize) if maxsize > 0 else None
        # One entry for each item without its `task_done`.
        self._unfinished: RunQueue[None] = RunQueue()
        self._joiners = _Joiners(self._unfinished)
        self._shut = Latch()
        self._taken_back: deque[None] = deque()  # one entry for each empty box in `_items`

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
        """The number of items at which `put` waits; 0 or less means no limit."""
        return self._maxsize

    def qsize(self) -> int:
        """How many items a `get` that comes at this moment could take. From any thread."""
        if self._shut:
            return max(len(self._items) - len(self._taken_back), 0)
        return len(self._ready.free)

    def empty(self) -> bool:
        """Whether `get_nowait` would raise at this moment. From any thread."""
        return not self.qsize()

    def full(self) -> bool:
        """Whether `put_nowait` would raise at this moment. From any thread."""
        if self._shut:  # permits mean nothing any more
            return 0 < self._maxsize <= self.qsize()
        return self._places is not None and self._places.is_locked()

    # --- putting ---------------------------------------------------------------------------------

    async def put(self, item: T) -> None:
        """Put an item in, after waiting for a free place.

        Raises `QueueShutDown` if the queue was shut down, also during the wait. Then the item is
        not in the queue; nor is it after a cancellation.
        """
        self._refuse_if_shut()
        if self._places is not None and not self._places.take_at_once():
            await wait_in(self._places, Derived())
        self._append(item)

    def put_nowait(self, item: T) -> None:
        """Put an item in at once. Raises `QueueFull` or `QueueShutDown`. From any thread."""
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
        box = [item]
        self._unfinished.append(None)  # before the item can be taken, and done with
        self._items.append(box)  # put_in
        try:
            self._ready.give()
        except SHORT_OF_ROOM:
            start_new_thread(self._ready.give, ())
        if self._shut.is_set():  # see_shut
            self._taken_back.append(None)  # first: the finder of the empty box takes this out
            try:
                box.pop()
            except IndexError:  # a getter has the item, or `shutdown` has dropped it
                self._taken_back.pop()
                return
            self._done()
            raise QueueShutDown

    # --- getting ---------------------------------------------------------------------------------

    async def get(self) -> T:
        """Take the oldest item, after waiting for one.

        Raises `QueueShutDown` if the queue was shut down and is empty, also during the wait. A
        cancelled call has taken nothing.
        """
        if not self._shut and not self._ready.take_at_once():
            await wait_in(self._ready, Derived())
        return self._take()

    def get_nowait(self) -> T:
        """Take the oldest item at once. Raises `QueueEmpty` or `QueueShutDown`. From any thread."""
        if not self._shut and not self._ready.try_take() and not self._shut:
            raise QueueEmpty
        return self._take()

    def _take(self) -> T:
        """Take an item, with a permit for it or from a queue that was shut down."""
        if self._shut:  # a caller without a permit has seen that
            self._shut.is_set()  # get_shut: only as a fence
        while True:
            try:
                box = self._items.popleft()  # last_look
            except IndexError:
                raise QueueShutDown from None
            try:
                item: T = box.pop()
            except IndexError:  # taken back by its putter: the queue was shut down
                self._taken_back.pop()
                continue
            if self._places is not None:
                self._places.give()
            return item

    # --- the end -----------------------------------------------------------------------------

    def task_done(self) -> None:
        """Say that the work on an item that was taken is done. From any thread.

        `join` returns when this was called for every item. Raises ValueError if it is called more
        often than items were put.
        """
        if not self._done():
            raise ValueError(
                f"task_done() of {self!r} was called more often than items were put: call it once "
                "for each item that get() has returned"
            )

    def _done(self) -> bool:
        try:
            self._unfinished.pop()  # change
        except IndexError:
            return False
        # Both plain reads are ordered by the `pop` above. The last `task_done` sees that it is the
        # last. A task that enqueued before its look at `_unfinished`, and saw an item, is seen.
        if not self._unfinished and self._joiners:
            self._joiners.serve_anyhow()  # wake
        return True

    async def join(self) -> None:
        """Wait until `task_done` was called for every item. Returns at once if none is left."""
        if self._unfinished.holds_work():
            await wait_in(self._joiners, Derived())

    def shutdown(self, immediate: bool = False) -> None:
        """From now on `put` raises `QueueShutDown`, and so does `get` when the queue is empty.

        Tasks that wait are woken. With `immediate`, the items in the queue are dropped, and count
        as done. May be called again, and from any thread.
        """
        self._shut.set()
        while immediate and (box := self._items.take()) is not None:
            try:
                box.pop()
            except IndexError:  # taken back by its putter
                self._taken_back.pop()
                continue
            self._done()
        self._ready.close()
        if self._places is not None:
            self._places.close()
