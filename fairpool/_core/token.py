"""`Token` and `Latch`: the two smallest agreements between threads.

A token decides a race: it is taken at most once for each time that it was put. A latch is a
flag that stays set, and a read of it that is ordered.

Assumes: atomic call, mutex order (`atomicity`). Both are lists, because each step is then one
atomic call, and because the truth value of a list costs nothing: `if token` and `if latch` are
plain reads, for where an old answer does no harm. A hot path may write `token.pop()` out.
"""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from fairpool._core.room import EMPTY, put_in_any_case

T = TypeVar("T")

_pop = list.pop

PRESENT: tuple[None] = (None,)


class Token(list[None]):
    """What only one can have: of several threads that `take` it, one gets it.

    `Token(PRESENT)` is there to be taken, `Token()` is not. (No `__init__` of its own: it would be
    half of what a token costs.)
    """

    __slots__ = ()

    def take(self) -> bool:
        """Take it; whether the caller has it now. From any thread."""
        try:
            self.pop()
        except EMPTY:
            return False
        return True

    def take_into(self, mine: list[None]) -> None:
        """Take it, and note in an empty list of the caller's that the caller has it.

        In one C call: whatever interrupts it (Ctrl-C) finds the token in one of the two. The call
        stands in a `try` whose `finally` puts the token back if it is noted, with `append`: `put`
        could be interrupted before it has begun.
        """
        try:
            mine.extend(map(_pop, (self,)))
        except IndexError:
            pass

    def put(self) -> None:
        """Give it back, or hand it out. At most one token is there at a time, says the caller."""
        try:
            self.append(None)
        except MemoryError:
            put_in_any_case(list.append, self, None)


class Latch(list[Exception | None]):
    """A flag that is set once, or several times, and not taken back; with a reason, if need be."""

    __slots__ = ()

    def set(self, reason: Exception | None = None) -> None:
        """Set it. From any thread. What the thread wrote before is seen where `is_set` is true."""
        self.append(reason)

    def is_set(self) -> bool:
        """Whether it is set, ordered against every `set` (mutex order).

        If not, a thread that sets it later sees all that this thread wrote before.
        """
        return bool(self.copy())

    def reason(self) -> Exception:
        """With what it was set first."""
        reason = self.copy()[0]
        assert reason is not None  # the caller knows what it was set with
        return reason


def fence(shared: deque[T]) -> None:
    """Order this thread's writes before its next reads (fence), and against calls on `shared`.

    Rotating by nothing changes nothing, and takes the mutex (mutex order).
    """
    shared.rotate(0)
