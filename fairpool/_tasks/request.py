"""`Waiter`: whatever waits in a lock's queue; `Request` and `Leave`: what a coroutine yields there.

The base class of all waiters is here because the task's own request is one of them. The other kinds
are in `_locks/waiters.py`. Protocol and proof: `docs/protocols/combining.md`.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable, Generator
from contextvars import Context, ContextVar
from typing import Any, ClassVar, Protocol, TypeVar
from weakref import ref

from fairpool._core.accounts import Payer
from fairpool._core.room import SHORT_OF_ROOM
from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import start_new_thread
from fairpool._core.types import AnyWorker, Runnable
from fairpool._core.waitgraph import Node

# What a coroutine has yielded: None, a future, an object of this room, or anything at all.
Yielded = Any


T = TypeVar("T")


class Once(tuple[Any, ...]):
    """An awaitable that yields its items, and gives None. No Python code runs in it."""

    __slots__ = ()
    __await__: ClassVar[Callable[[Once], Generator[object, None, None]]] = tuple.__iter__  # type: ignore[assignment]


class Published(Runnable, Protocol):
    """What follows a critical section: the rest of its task, or what has waited for that."""

    # ticket: when the section was asked for; its order among those that are published
    ticket: int

    def sample(self, now: int) -> None:
        """Count how long it took to come so far."""

    def abandon(self, error: BaseException) -> None:
        """End the task without running it."""


class Samples(Protocol):
    """How long continuations took (ns) of a combiner's own sections, and of those of others."""

    own: RunQueue[int]
    others: RunQueue[int]


class GrantedLock(Protocol):
    """A lock, to a waiter that is given its key. The attributes are those of `KeyedLock`."""

    owner: Any
    began: int


class ChargingLock(Protocol):
    """A lock that charges its sections."""

    # charged: where a context says whom its sections are charged to

    charged: ContextVar[Any]

    @property
    def payer(self) -> Callable[[], Payer | None]:
        """Whom a section is charged to that the calling code enters."""


class LockOfWaiter(GrantedLock, Protocol):
    """A lock, as one that waits for it sees it."""

    name: str

    def enqueue(self, item: Waiter, /) -> None:
        """Put a waiter into the queue, and have it served."""

    def forget(self, item: Waiter, /) -> None:
        """Take a waiter that has given up out of the queue."""

    def holder(self) -> tuple[Node, ...]:
        """The task whose section runs, if any."""

    def _describe(self) -> str: ...


class Lock(LockOfWaiter, Protocol):
    """A lock, as a task sees it that waits for it in a coroutine, or is inside."""

    @property
    def stats(self) -> Samples: ...

    def queue_up(self, request: Request, worker: AnyWorker) -> Runnable | None:
        """Queue the request of a suspended task. Returns as `Task.run`."""

    def dispatch(self) -> None:
        """Have a worker serve the queue."""

    def end_section(self) -> None:
        """Leave the critical section of the owner, whose stack goes on."""

    def after_leave(self, continuation: Published, worker: AnyWorker) -> Runnable | None:
        """Go on after a section that the coroutine has left. Returns as `Task.run`."""


class Waiter:
    """Whatever waits in the queue of a lock. Each kind says how it is let in, and how it gives up.

    A lock asks a waiter about nothing but this. A new kind of waiter is a class with these members.
    """

    __slots__ = ()

    # Class attributes, because a lock reads them where it may not call: see docs/protocols/room.md.

    # needs_worker: its section is run by a worker, in a pass. All others are given the key.
    # is_section:   a task that is a critical section as a whole: a pass runs it
    # is_submitted: such a one of `lock.submit`
    # has_section:  False for one that is given the key, and enters no section
    # helps:        a thread that may run published continuations meanwhile, and …
    # serves:       … the lock's pass
    # taken:        the waiters that it has in its hands, which are in the queue's order before it
    needs_worker = False
    is_section = False
    is_submitted = False
    has_section = True
    helps = False
    serves = False
    taken: list[Waiter] | None = None

    # lock:   the lock in whose queue it waits
    # ticket: when it arrived (ns)
    # share:  the `Payer` that its section is charged to, where the lock counts that
    lock: LockOfWaiter
    ticket: int
    share: Any

    def grant(self, lock: GrantedLock) -> bool:
        """Give it the key of its lock; False if it has given up. The caller holds the key."""
        raise NotImplementedError

    def give_up(self) -> bool:
        """Claim it, and take it out of the queue; False if it was granted, or given up before."""
        raise NotImplementedError

    @property
    def given_up(self) -> bool:
        """Whether it will not be let in any more."""
        raise NotImplementedError

    def claim_to_end(self) -> Published | None:
        """Claim it to end its task, because no worker is there: that, or None if it has given up.

        Only for one that needs a worker.
        """
        raise NotImplementedError

    def payer(self, lock: ChargingLock) -> Payer | None:
        """Whom its section is charged to, from when it is queued. On the thread that queues it."""
        return lock.payer()


class LockRequest(Waiter, list[T]):
    """A request to enter a lock: holds what is to be woken, until somebody claims it.

    The combiner claims it to grant it. The waiter itself, or a cancellation, claims it to give it
    up. One that is empty was claimed.
    """

    __slots__ = ("given_up", "lock", "share", "ticket")

    # given_up: whether it was; written by its claimer, before `LockExit.forget`

    given_up: bool

    # Compared by identity, although it is a list. All six, so that it is done in C (atomic call).
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __lt__, __le__ = object.__lt__, object.__le__  # type: ignore[operator]
    __gt__, __ge__ = object.__gt__, object.__ge__  # type: ignore[operator]

    # For the search for cycles of waits: see `_core.waitgraph`.
    has_sources = True
    _pool = None
    relation = " held by "  # of the lock, which it describes, to its source

    def sources(self) -> tuple[Node, ...]:
        """The task that must go on before this can be granted."""
        return self.lock.holder() if self else ()

    def waits_at(self, awaited: object) -> str:
        return ""

    def _describe(self) -> str:
        return self.lock._describe()

    def claim(self) -> T | None:
        """Take out what is to be woken; None if another thread has done so: `pop` decides."""
        try:
            return self.pop()
        except IndexError:
            return None

    def give_up(self) -> bool:
        """Claim it, and take it out of the queue; False if it was granted, or given up before."""
        if self.claim() is None:
            return False
        self.given_up = True
        try:
            self.lock.forget(self)
        except SHORT_OF_ROOM:
            try:
                start_new_thread(self.lock.forget, (self,))
            except (RuntimeError, MemoryError):
                pass  # it stays in the queue until somebody takes it from there, and finds it empty
        return True


class Request(LockRequest[Published]):
    """A task's request to enter: holds its continuation. The pass grants it (`Combiner.run`).

    Meanwhile nothing else can resume the task, because the continuation is not armed. A task waits
    for one lock at a time, so it has one request, which it uses again and again: an object that is
    made by one thread and freed by another costs 0.3 µs on a free-threaded build. Not after it was
    given up: a combiner may have it in its hands still.
    """

    __slots__ = ("door",)

    lock: Lock

    # door: what `async with` awaits, to yield this; None once it was given up. Written by its
    #       claimer, before the continuation can be anywhere else.

    needs_worker = True

    def __init__(self) -> None:
        self.given_up = False
        self.door: Once | None = Once((self,))

    def give_up(self) -> bool:
        if not LockRequest.give_up(self):
            return False
        self.door = None
        return True

    claim_to_end = LockRequest.claim


class Leave:
    """A coroutine has left its critical section, and lets others enter first: one for each lock.

    A coroutine of an asyncio loop that runs inside one of the pool's tasks yields it to that loop,
    which takes it for a future.
    """

    # _lock: a weak reference. The lock refers to this, and a lock that its users have dropped must
    #        go at once, and not with the next collection.
    __slots__ = ("_lock",)

    def __init__(self, lock: Lock) -> None:
        self._lock = ref(lock)

    def end_section(self) -> None:
        """Release the lock, if it is there still: else nobody waits for it. The stack goes on."""
        lock = self._lock()
        if lock is not None:
            lock.end_section()

    def after_leave(self, continuation: Published, worker: AnyWorker) -> Runnable | None:
        """As that of the lock; where it has gone, the coroutine has only yielded."""
        lock = self._lock()
        return continuation if lock is None else lock.after_leave(continuation, worker)

    # The loop sets it to False when it has begun to wait, and the same object is yielded again.
    _asyncio_future_blocking = property(lambda self: True, lambda self, value: None)

    def get_loop(self) -> AbstractEventLoop:
        return get_running_loop()

    def add_done_callback(
        self, callback: Callable[[Leave], object], *, context: Context | None = None
    ) -> None:
        """The loop waits for this, and so has nothing else to do in that task: release."""
        self.end_section()
        get_running_loop().call_soon(callback, self, context=context)

    def cancel(self, msg: object = None) -> bool:
        """The lock is left already; the loop cancels the task in its next step."""
        return False

    def result(self) -> None:
        pass
