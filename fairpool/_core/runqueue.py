"""`RunQueue`: runnable tasks, first in, first out, for any number of putters and takers.

Each worker has one (its *run queue*), and each pool one more for submissions from outside (the
*injector*). Owner and thieves alike take the oldest task, so that a task's wait is bounded by what
was queued before it.

A deque does all of it: `append` and `popleft` are atomic (A1 in `_sync`). It is never iterated,
indexed or copied, which would not be; `items` and `first` look at it in another way. And the calls
that compare are made again where another one has come in between. `if queue:` is
a plain read that may miss what another thread has just appended; where that would lose a wake-up,
`holds_work` is asked instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from fairpool._core.token import Token

__all__ = ["SHORT", "RunQueue", "WaitQueue"]

# In a queue that is not longer than this, one that gives up is looked for, and taken out at once.
SHORT = 64


class _Look(list[Any]):
    """Asked whether it equals something, it notes that down, and says no.

    In C: so a `count` in a deque stays one atomic call (A1).
    """

    __eq__ = list.append  # type: ignore[assignment]
    # `index` puts it into the message of its ValueError, and would put in all that was noted down.
    __repr__ = object.__repr__
    __hash__ = None


class RunQueue(deque[Any]):
    """A FIFO of tasks. `append` puts one; `take` takes the oldest."""

    __slots__ = ()

    def take(self) -> Any:
        """The oldest task, or None if there is none."""
        try:
            return self.popleft()
        except IndexError:
            return None

    def items(self) -> list[Any]:
        """All that is in here, at one moment, oldest first. Takes nothing out."""
        while True:
            look = _Look()
            try:
                deque.count(self, look)
            except RecursionError:
                raise
            except RuntimeError:  # it was cut in two (A1)
                continue
            return [*look]

    def first(self) -> Any:
        """The oldest one, or None. Takes nothing out."""
        while True:
            look = _Look()
            try:
                deque.index(self, look, 0, 1)
            except ValueError:
                pass
            except RecursionError:
                raise
            except RuntimeError:  # as above
                continue
            return look[0] if look else None

    def remove(self, item: Any) -> None:
        """Take this one out; ValueError if it is not in here."""
        while True:
            try:
                deque.remove(self, item)
                return
            except IndexError:  # as above
                pass

    def count(self, item: Any) -> int:
        """How often this one is in here."""
        while True:
            try:
                return deque.count(self, item)
            except RecursionError:
                raise
            except RuntimeError:  # as above
                pass

    def holds_work(self) -> bool:
        """Whether there is a task, ordered against every `append`: see docs/protocols/parking.md.

        `rotate(0)` changes nothing but takes the deque's mutex (A2): what was appended before it is
        seen here, and whoever appends after it sees all that this thread wrote before.
        """
        self.rotate(0)
        return bool(self)


class WaitQueue(RunQueue):
    """Those that wait, oldest first; giving up costs the same however many they are.

    In a long queue, one that has given up stays for the time being. The queue is swept when those
    may be more than half of it: so a sweep costs no more than some constant for each that gave up,
    and as soon as the last one that waits has given up, the queue is empty.
    """

    __slots__ = ("given_up", "idle")

    # given_up: an item for each that has given up, and was left in here, since the last sweep began
    # idle:     holds an item while nobody sweeps

    def __init__(self) -> None:
        self.given_up: list[None] = []
        self.idle = Token()

    def give_up(self, item: Any) -> bool:
        """One has given up; whether the queue is to be swept now. From any thread."""
        if len(self) > SHORT or not self.discard(item):  # somebody has it, a sweeper perhaps
            self.given_up.append(None)
        return self.is_half_empty()

    def is_half_empty(self) -> bool:
        """Whether more than half of what is in here may have given up."""
        given_up = self.given_up
        return bool(given_up) and len(given_up) * 2 > len(self)

    def how_many(self, has_given_up: Callable[[Any], bool]) -> int:
        """How many wait."""
        if not self.given_up:
            return len(self)
        return sum(not has_given_up(item) for item in self.items())

    def sweep(
        self, heads: tuple[Any, ...], taken: list[Any], has_given_up: Callable[[Any], bool]
    ) -> None:
        """Take out those that have given up. One thread does so at a time: who has `idle`.

        Meanwhile nobody may take any but `heads`, which stand before all others, and are the
        caller's to take out after it. The others are in `taken`, or in here, or both.
        """
        self.given_up.clear()
        try:
            self.extendleft(heads)  # W1
            for item in self.items():
                if item is not heads[0]:
                    taken.append(item)  # W2
                    if not self.discard(item):  # W3: from the left, next to the heads
                        taken.pop()  # somebody else has taken it out
        finally:
            if taken:
                self.discard(taken[-1])  # an interrupt may have come between W2 and W3
            # W4: what has come meanwhile is behind them.
            try:
                kept = [item for item in reversed(taken) if not has_given_up(item)]
            except MemoryError:
                kept = taken
                kept.reverse()
            self.extendleft(kept)

    def discard(self, item: Any) -> bool:
        """Take this one out; False if it is not in here."""
        try:
            self.remove(item)
        except ValueError:
            return False
        return True

    def clear(self) -> None:
        """Forget everything: for the child of a fork."""
        RunQueue.clear(self)
        self.__init__()  # type: ignore[misc]
