"""The kinds of waiters in a lock's queue, and how each is let in.

| kind | what waits | let in by |
|---|---|---|
| `Request` (`_tasks/request.py`) | a task of this pool | the pass, which resumes it |
| `Section` | a call of `lock.submit` | the pass, which runs it |
| `CriticalLink` | a step of a chain | likewise |
| `ThreadWaiter` | a blocked thread, of a worker or not | `grant`: woken with the key |
| `ExternalWaiter` | a coroutine of asyncio, or of another pool | likewise |
| `Sweep` | a thread that sweeps the queue | `grant`; it enters no section |

A claim decides: one of the combiner and the waiter itself gets it. Proofs:
`docs/protocols/combining.md`, and `docs/protocols/joining.md` for threads that help meanwhile.
Assumes: atomic call, mutex order (`_core.atomicity`).
"""

from __future__ import annotations

from contextvars import Context, copy_context
from functools import partial
from operator import attrgetter
from typing import Literal, TypeVar

from fairpool._core.accounts import Payer
from fairpool._core.here import here
from fairpool._core.threads import Lock, LockType, monotonic_ns
from fairpool._core.types import Runnable
from fairpool._core.waitgraph import Node
from fairpool._locks.host import LockWorker, PassWorker
from fairpool._tasks.chain import Link
from fairpool._tasks.future import AnyFuture, Future
from fairpool._tasks.request import ChargingLock, GrantedLock, LockOfWaiter, LockRequest, Waiter
from fairpool._tasks.settling import claim, run_user_callbacks, settle
from fairpool._tasks.state import CANCELLED, FINISHED, Callback, is_claimed, is_final
from fairpool._tasks.task import AnyTask, Task

T = TypeVar("T")

# Whether a waiter will not be let in any more.
has_given_up = attrgetter("given_up")


def end_item(lock: GrantedLock) -> None:
    """The key of `lock` is somebody else's now, if this worker had it in a pass."""
    worker: LockWorker | None = here.worker
    if worker is not None and worker.item is lock:
        worker.item = None


class ThreadWaiter(LockRequest[LockType]):
    """A thread's request to enter: of a plain function, or of a thread that is no worker.

    It holds the lock on which its thread parks. Its claimer wakes the thread: to let it in, or to
    have it help (`recruit_helper`).
    """

    __slots__ = (
        "assigned_lock",
        "helper",
        "helps",
        "lent",
        "owner",
        "parker",
        "passed_over",
        "serves",
    )

    # helps:  whether its thread may run a published continuation; and …
    # serves: … serve the lock. Written by that thread, before it is queued (the queue's `append`
    #         orders that before whoever finds it there); unset before it is put back there.
    # assigned_lock: the lock that it was lent to serve; None: it is to take what was published.
    # lent:   whether it was: then it has a slot, and is in `searching`. Written by its claimer,
    #         last of all but waking the thread.
    # helper: what its thread is to the pool meanwhile
    # passed_over: whether a combiner has taken it from the queue while it was claimed

    def __init__(self, lock: LockOfWaiter, ticket: int, owner: object) -> None:
        self.helps = self.serves = self.lent = self.passed_over = self.given_up = False
        self.assigned_lock: Runnable | None = None
        self.helper: PassWorker | None = None
        self.lock = lock
        self.ticket = ticket
        self.share = None  # until it is queued: it may be refused before
        self.owner = owner
        self.append(self.make_parker())

    def make_parker(self) -> LockType:
        """Something new to park on: the claimer of the old one may be about to release it."""
        self.parker = Lock()
        self.parker.acquire()
        return self.parker

    def grant(self, lock: GrantedLock) -> bool:
        """Wake the thread with the key."""
        lock.began = monotonic_ns()  # first: it may raise
        try:
            parker = self.pop()  # combining: claim
        except IndexError:  # lent, or given up
            self.passed_over = True  # joining: mark_passed_over
            again = self.claim()  # joining: claim_again
            if again is None:
                helper = self.helper
                if helper is not None:
                    helper.leaving = True  # its turn has come; only an optimization
                return False
            parker = again
        worker: LockWorker | None = here.worker
        lock.owner = self.owner  # last: see `enter_blocking`
        if worker is not None and worker.item is lock:
            worker.item = None  # directly before the key goes: see "Foreign code"
        parker.release()
        return True


class ExternalWaiter(Waiter, Future[None]):
    """The request of a coroutine that this pool does not run: another pool's task, or asyncio's.

    It is woken with the lock, and holds it while it is on its way.
    """

    __slots__ = ("_host", "lock", "share", "ticket")

    has_sources = True
    relation = " held by "
    is_thread: Literal[False] = False
    owner_name = "a coroutine of an event loop"

    def __init__(self, lock: LockOfWaiter, host: AnyTask | None) -> None:
        super().__init__()
        self.lock = lock
        self._host = host
        self.ticket = monotonic_ns()

    @property
    def task(self) -> AnyFuture:
        """The holder of the lock: the task, if it is one of fairpool's."""
        return self if self._host is None else self._host

    @property
    def awaited(self) -> object:
        return None if self._host is None else self._host.awaited

    def sources(self) -> tuple[Node, ...]:
        owner = self.lock.owner
        # It is the owner before it is final, when it is just being let in.
        return () if owner is None or owner is self or is_final(self) else (owner.task,)

    def grant(self, lock: GrantedLock) -> bool:
        """Resume the coroutine with the key."""
        lock.began = monotonic_ns()
        lock.owner = self
        if claim(self) is None:
            lock.owner = None
            return False
        end_item(lock)
        settle(self, FINISHED, None)
        return True

    def give_up(self) -> bool:
        """As that of `Waiter`; True as well where it was cancelled."""
        if claim(self) is None and self._status is not CANCELLED:
            return False
        self.lock.forget(self)
        return True

    @property
    def given_up(self) -> bool:
        return is_claimed(self)

    def _describe(self) -> str:
        return self.lock._describe()


class Sweep(LockRequest[bool]):
    """A thread that sweeps a lock's queue waits at the head of it: see `LockExit.sweep`."""

    __slots__ = ("taken",)

    # taken: oldest first

    has_section = False

    def __init__(self) -> None:
        self.append(True)
        self.given_up = False
        self.ticket = 0
        self.share = None
        self.taken: list[Waiter] = []

    def grant(self, lock: GrantedLock) -> bool:
        """Leave the key to the sweeping thread, which finds that (`claim_sweep`)."""
        if self.claim() is None:
            return False
        end_item(lock)
        return True


class _Critical(Waiter, Task[T]):
    """A task that is a critical section as a whole."""

    __slots__ = ()

    needs_worker = True
    is_section = True

    @property
    def holds_lock(self) -> bool:  # type: ignore[override]
        """True at the end of the section, to the worker that runs it. It has the key until then."""
        return self.lock.owner is self

    @property
    def lock_in_hand(self) -> LockOfWaiter | None:  # type: ignore[override]
        """As that of `Combiner`: from when the section has ended until the pass notes that."""
        lock = self.lock
        return lock if lock.owner is self and is_final(self) else None

    def hand_on(self, callbacks: list[Callback]) -> None:
        """Have these called by a worker that holds nothing."""
        # A clean-up, which is run whatever is cancelled or closed meanwhile.
        link: Link[None] = Link()
        link._pool = self._pool
        then = partial(run_user_callbacks, self, callbacks)
        link._status = [(copy_context(), None, self, (), None, None, then)]
        self._pool.resume(link)

    def drop(self) -> bool:
        """Cancel the section if it has not been started, and take it out of the queue."""
        if not Task.drop(self):
            return False
        self.lock.forget(self)
        return True

    give_up = drop

    @property
    def given_up(self) -> bool:
        return is_claimed(self)

    def claim_to_end(self) -> _Critical[T]:
        return self  # `abandon` claims it


class Section(_Critical[T]):
    """A task that is run as a critical section: what `lock.submit` returns."""

    # Not a `Task` by its type, so that nobody runs it inline, without the lock.
    __slots__ = ("lock", "share", "ticket")

    is_submitted = True
    has_sources = True

    @property
    def relation(self) -> str:
        return f" waits for {self.lock._describe()} held by "

    def sources(self) -> tuple[Node, ...]:
        return () if self.running() or is_final(self) else self.lock.holder()


class CriticalLink(_Critical[T], Link[T]):
    """A link whose step is a critical section: what `future.then(fn, lock=lock)` returns."""

    __slots__ = ("lock", "share", "ticket")

    def sources(self) -> tuple[Node, ...]:  # type: ignore[override]
        sources = Link.sources(self)
        return sources + self.lock.holder() if sources else ()

    @property
    def relation(self) -> str:
        waits = any(not is_final(source) for source in Link.sources(self))
        return " waits for " if waits else f" waits for {self.lock._describe()} held by "

    def __call__(self, source: AnyFuture) -> None:
        """The source is final: the section can be queued."""
        self.ticket = monotonic_ns()
        self.lock.enqueue(self)

    def payer(self, lock: ChargingLock) -> Payer | None:
        # Not that of the calling thread: it is called by whatever has settled its source.
        try:
            context: Context = self._status[0][0]  # type: ignore[index]
        except (IndexError, TypeError):  # cancelled
            return None
        return context.get(lock.charged)
