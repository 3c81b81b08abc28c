"""`Request` and `Leave`: what a coroutine yields at the door of a lock.

Protocol and proof: `docs/protocols/combining.md`.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, get_running_loop
from typing import Any
from weakref import ref

from fairpool._core.sync import SHORT_OF_ROOM, start_new_thread

__all__ = ["Leave", "Once", "Request", "Sweep", "Wish"]


class Once(tuple[Any, ...]):
    """An awaitable that yields its items, and gives None. No Python code runs in it."""

    __slots__ = ()
    __await__ = tuple.__iter__


class Wish(list[Any]):
    """The wish to enter a lock: holds what is to be woken, until somebody claims it with `pop`.

    The combiner claims it to grant it; who waits, or cancels the waiting, claims it to give it up.
    """

    __slots__ = ("given_up", "lock", "share", "ticket")

    # given_up: whether it was; written by who has claimed it, before `Combiner.forget`
    # ticket:   when it arrived (ns)
    # share:    whom its section is charged to, where the lock counts that

    given_up: bool
    lock: Any
    ticket: int
    share: Any

    # Compared by identity, although it is a list. All six, so that it is done in C (A1).
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __lt__, __le__ = object.__lt__, object.__le__  # type: ignore[operator]
    __gt__, __ge__ = object.__gt__, object.__ge__  # type: ignore[operator]

    # For the search for cycles of waits: see `_waits`.
    has_sources = True
    holds_continuation = False
    relation = " held by "  # of the lock, which it describes, to its source

    def sources(self) -> tuple[Any, ...]:
        """Who must go on before this can be granted."""
        return self.lock.holder() if self else ()

    def _describe(self) -> str:
        return self.lock._describe()  # type: ignore[no-any-return]

    def give_up(self) -> bool:
        """Claim it, and take it out of the queue; False if it was granted, or given up before."""
        try:
            self.pop()
        except IndexError:
            return False
        self.given_up = True
        try:
            self.lock.forget(self)
        except SHORT_OF_ROOM:
            start_new_thread(self.lock.forget, (self,))
        return True


class Request(Wish):
    """A task's wish to enter: holds its continuation.

    Meanwhile nothing else can resume the task, because the continuation is not armed. A task waits
    for one lock at a time, so it has one request, which it uses again and again: an object that is
    made by one thread and freed by another costs 0.3 µs on a free-threaded build. Not after it was
    given up: a combiner may have it in its hands still.
    """

    __slots__ = ("door",)

    # door: what `async with` awaits, to yield this; None once it was given up. Written by who
    #       claimed it, before the continuation can be anywhere else.

    holds_continuation = True

    def __init__(self) -> None:
        self.given_up = False
        self.door: Once | None = Once((self,))

    def give_up(self) -> bool:
        if not Wish.give_up(self):
            return False
        self.door = None
        return True


class Sweep(Wish):
    """A thread that sweeps a lock's queue waits at the head of it: see `Combiner.sweep`."""

    __slots__ = ("taken",)

    # taken: what it has in its hands, oldest first

    def __init__(self) -> None:
        self.append(None)
        self.given_up = False
        self.ticket = 0
        self.share = None
        self.taken: list[Any] = []

    def end(self) -> bool:
        """It is over. False if the key was given to it meanwhile."""
        try:
            self.pop()
        except IndexError:
            return False
        self.given_up = True
        return True


class Leave:
    """A coroutine has left its critical section, and lets others enter first: one for each lock.

    A coroutine of an asyncio loop that runs inside one of the pool's tasks yields it to that loop,
    which takes it for a future.
    """

    # _lock: a weak reference. The lock refers to this, and a lock that its users have dropped must
    #        go at once, and not with the next collection.
    __slots__ = ("_lock",)

    def __init__(self, lock: Any) -> None:
        self._lock = ref(lock)

    def leave_stack(self) -> None:
        """Release the lock, if it is there still: else nobody waits for it. The stack goes on."""
        lock = self._lock()
        if lock is not None:
            lock.leave_stack()

    def left(self, continuation: Any, worker: Any) -> Any:
        """As that of the lock; where it has gone, the coroutine has only yielded."""
        lock = self._lock()
        return continuation if lock is None else lock.left(continuation, worker)

    @property
    def _asyncio_future_blocking(self) -> bool:
        return True

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, value: bool) -> None:
        pass

    def get_loop(self) -> AbstractEventLoop:
        return get_running_loop()

    def add_done_callback(self, callback: Any, *, context: Any = None) -> None:
        """The loop waits for this, and so has nothing else to do in that task: release."""
        self.leave_stack()
        get_running_loop().call_soon(callback, self, context=context)

    def cancel(self, msg: Any = None) -> bool:
        """The lock is left already; the loop cancels the task in its next step."""
        return False

    def result(self) -> None:
        pass
