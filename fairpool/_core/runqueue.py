"""`RunQueue`: runnable tasks, first in, first out. `WaitQueue`: waiters that may give up.

Each worker has a run queue, and each pool one more for submissions from outside (the *injector*).
Any thread may put and take. Owner and thieves alike take the oldest task, so a task waits only for
tasks that were queued before it.

Both are deques: `append` and `popleft` are atomic calls (`atomicity`). Iterating, indexing or
copying a shared deque is not, so `items` and `first` look at it in another way. A call that
compares is made again where another call has come in between. `if queue:` is a plain read that may
miss what another thread has just appended; `holds_work` is ordered, for where a miss would lose a
wake-up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from fairpool._core.room import EMPTY, strike_off
from fairpool._core.token import PRESENT, Token

# In a queue up to this length, a waiter that gives up is searched for and taken out at once.
SHORT = 64

T = TypeVar("T")


class _Look(list[object]):
    """Collects all that it is compared with, and equals nothing of it.

    The comparison is `list.append`, in C, so a `count` in a deque stays one atomic call.
    """

    __eq__ = list.append  # type: ignore[assignment]
    # `index` puts the repr into the message of its ValueError: not all that was collected.
    __repr__ = object.__repr__
    __hash__ = None


class RunQueue(deque[T]):
    """A FIFO of tasks. `append` puts one; `take` takes the oldest."""

    __slots__ = ()

    def take(self) -> T | None:
        """The oldest task, or None if there is none."""
        try:
            return self.popleft()
        except EMPTY:
            return None

    def items(self) -> list[T]:
        """All items at one moment, oldest first. Takes nothing out."""
        while True:
            look: Any = _Look()
            try:
                deque.count(self, look)
            except RecursionError:
                raise
            except RuntimeError:  # changed during a comparison that waited
                continue
            return [*look]

    def first(self) -> T | None:
        """The oldest item, or None. Takes nothing out."""
        while True:
            look: Any = _Look()
            try:
                deque.index(self, look, 0, 1)
            except ValueError:
                pass
            except RecursionError:
                raise
            except RuntimeError:  # as above
                continue
            return look[0] if look else None

    def remove(self, item: T) -> None:
        """Take this item out; ValueError if it is not in the queue."""
        while True:
            try:
                deque.remove(self, item)
                return
            except IndexError:  # as above
                pass

    def count(self, item: T) -> int:
        """How often this item is in the queue."""
        while True:
            try:
                return deque.count(self, item)
            except RecursionError:
                raise
            except RuntimeError:  # as above
                pass

    def holds_work(self) -> bool:
        """Whether there is a task, ordered against every `append`: see docs/protocols/parking.md.

        `rotate(0)` changes nothing but takes the deque's mutex (mutex order). What was appended
        before it is seen here, and a thread that appends after it sees all that this thread wrote
        before. (`fence`, written out.)
        """
        self.rotate(0)
        return bool(self)


class WaitQueue(RunQueue[T]):
    """Waiters, oldest first. Giving up takes the same time in a queue of any length.

    In a long queue a waiter that has given up stays for the time being. The queue is swept when
    more than half of it may have given up. So a sweep costs a constant for each waiter that gave
    up, and the queue is empty as soon as its last waiter has given up.
    """

    __slots__ = ("given_up", "idle")

    # given_up: an item for each waiter that gave up and was left in, since the last sweep began
    # idle:     taken by the thread that sweeps

    def __init__(self) -> None:
        self.given_up: list[None] = []
        self.idle = Token(PRESENT)

    def give_up(self, item: T) -> bool:
        """A waiter has given up; whether to sweep the queue now. From any thread."""
        if len(self) > SHORT or not self.discard(item):  # another thread has it, a sweeper perhaps
            self.given_up.append(None)
        return self.is_half_empty()

    def is_half_empty(self) -> bool:
        """Whether more than half of the queue may have given up."""
        given_up = self.given_up
        return bool(given_up) and len(given_up) * 2 > deque.__len__(self)

    def how_many(self, has_given_up: Callable[[T], bool]) -> int:
        """How many wait."""
        if not self.given_up:
            return len(self)
        return sum(not has_given_up(item) for item in self.items())

    def sweep(
        self, heads: tuple[T, ...], taken: list[T], has_given_up: Callable[[T], bool]
    ) -> None:
        """Take out the waiters that have given up. The caller has taken `idle`.

        Meanwhile other threads may take only `heads`, which stand before all waiters; the caller
        takes them out afterwards. Each other waiter is in `taken`, or in the queue, or in both.
        """
        self.given_up.clear()
        try:
            self.extendleft(heads)  # combining: stand_first
            for item in RunQueue.items(self):
                if item is not heads[0]:
                    taken.append(item)  # combining: note
                    if not self._drop(item):  # combining: lift_out
                        taken.pop()  # another thread has taken it out
        finally:
            kept = taken
            try:
                if taken:  # an interrupt may have come between `note` and `lift_out`
                    self._drop(taken[-1])
                kept = [item for item in taken if not has_given_up(item)]
            except MemoryError:
                pass  # the next sweep takes them out
            finally:
                # Newcomers are behind them. With no other call: an interrupt comes after a call,
                # or at the start of a function.
                try:
                    self.extendleft(kept[::-1])  # combining: put_back
                except MemoryError:
                    kept.reverse()
                    self.extendleft(kept)

    def discard(self, item: T) -> bool:
        """Take this item out; False if it is not in the queue."""
        try:
            self.remove(item)
        except ValueError:
            return False
        return True

    def _drop(self, item: T) -> bool:
        """As `discard`, in the deque itself: a subclass may keep requests elsewhere as well."""
        try:
            RunQueue.remove(self, item)
        except ValueError:
            return False
        return True

    def clear(self) -> None:
        """Forget all waiters: for the child of a fork."""
        RunQueue.clear(self)
        self.__init__()  # type: ignore[misc]


def strike_off_ended(entries: list[T], leaving: RunQueue[T], is_alive: Callable[[T], bool]) -> None:
    """Take those of `leaving` out of `entries` that have ended; the others stay in both."""
    for _ in range(len(leaving)):
        each = leaving.take()
        if each is None:
            return
        if is_alive(each):  # it is about to end, and may be waited for until then
            leaving.append(each)
        else:
            strike_off(entries, each)
