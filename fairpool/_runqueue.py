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
from typing import Any

__all__ = ["RunQueue"]


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
