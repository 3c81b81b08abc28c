"""`Request` and `Leave`: what a coroutine yields at the door of a lock.

Protocol and proof: `docs/protocols/combining.md`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Leave", "Once", "Request"]


class Once(tuple[Any, ...]):
    """An awaitable that yields its items, and gives None. No Python code runs in it."""

    __slots__ = ()
    __await__ = tuple.__iter__


class Request(list[Any]):
    """A task's wish to enter a lock: holds its continuation until somebody claims it with `pop`.

    The combiner claims it to grant it; who cancels the task claims it to give it up. While it holds
    the continuation nothing else can resume the task: the continuation is not armed.
    """

    __slots__ = ("door", "lock", "ticket")

    # A task waits for one lock at a time, so it has one request, which it uses again and again (an
    # object that is made by one thread and freed by another costs 0.3 µs on a free-threaded build).
    # Not after it was given up: a combiner may have it in its hands still.
    #
    # door:   what `async with` awaits to yield this
    # ticket: when it arrived (ns)

    # Compared by identity (A1), although it is a list.
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    has_sources = True

    def __init__(self) -> None:
        self.door = Once((self,))

    def sources(self) -> tuple[Any, ...]:
        """Who must go on before this can be granted: for `DeadlockError`."""
        owner = self.lock.owner
        if owner is None or not self:
            return ()
        task = owner.task
        return () if task is None else (task,)

    def _describe(self) -> str:
        return self.lock._describe()  # type: ignore[no-any-return]

    def give_up(self) -> bool:
        """Claim the request, to take it out of the queue; False if it was granted, or given up."""
        try:
            self.pop()
        except IndexError:
            return False
        self.lock.forget(self)
        return True


class Leave:
    """A coroutine has left its critical section, and lets others enter first: one for each lock."""

    __slots__ = ("lock",)

    def __init__(self, lock: Any) -> None:
        self.lock = lock
