"""`Charging`: a combiner that charges each section to a share, and its queue in ticket order.

The key holder tells the queue of such a lock when each section begins and ends. `popleft` is where
one ends and the next one begins, so the pass is the same for all locks. `UsageQueue` (`usage.py`)
is the queue in the order of usage. Protocol: `docs/protocols/usage.md`.

Assumes: atomic call, mutex order, try-lock (`_core.atomicity`). The key holder writes the
attributes that are marked *key* (see `key.py`).
"""

from __future__ import annotations

from asyncio import _get_running_loop, current_task
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from fairpool._core.accounts import CURRENT, Account, Ledger, Payer
from fairpool._core.errors import DeadlockError
from fairpool._core.here import here
from fairpool._core.room import SHORT_OF_ROOM
from fairpool._core.runqueue import WaitQueue
from fairpool._core.threads import monotonic_ns, start_new_thread
from fairpool._core.types import Function
from fairpool._locks.combiner import PASS_SECTIONS, Combiner
from fairpool._locks.host import LockWorker
from fairpool._locks.owners import KeyLoan, Owner, thread_owner
from fairpool._tasks.future import AnyFuture
from fairpool._tasks.request import Once, Request, Waiter


class ChargingQueue(WaitQueue[Waiter]):
    """Requests, oldest first; sections are timed, and charged to shares."""

    __slots__ = ("current", "ledger", "since", "until", "used")

    # current: (key) whose section runs; None between sections
    # used:    (key) how long all sections have taken (ns)
    # since:   (key) when it began (ns)
    # until:   (key) when its coroutine left it (ns), if it has done so: what its combiner does
    #          after that, to wake a worker perhaps, is not charged to it

    # Whether a pass is about to choose the next one, and the queue is in flux.
    chooses = False

    longest_wait = 0

    # Compared by identity, although it is a deque.
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.current: Account | None = None
        self.since = 0
        self.until = 0
        self.used = 0

    def begin(self, principal: Payer | None, now: int) -> bool:
        """A section begins (key), unless (False) that share is to be held back."""
        self.current = self.ledger.find(principal)
        self.since = now
        self.until = 0
        return True

    def end(self, now: int) -> None:
        """The section has ended, if there was one (key)."""
        account = self.current
        if account is not None:
            used = (self.until or now) - self.since
            self.current = None
            self.until = 0
            self.used += used
            self.ledger.charge(account, used, now)

    def let_in(self, item: Waiter) -> None:
        """The section of a request begins, which was taken out (key)."""
        self.current = self.ledger.find(item.share)
        self.since = monotonic_ns()
        self.until = 0

    def popleft(self) -> Waiter:
        """The section has ended, and the next one begins (key). IndexError if there is none."""
        self.end(monotonic_ns())
        item = deque.popleft(self)
        self.let_in(item)
        return item


class Charging(Combiner):
    """A combiner that charges its sections."""

    __slots__ = ()

    looks = 3

    charged: ContextVar[Any] = CURRENT
    payer: Callable[[], Payer | None] = CURRENT.get

    queue: ChargingQueue

    @property
    def ledger(self) -> Ledger:
        """What each share has used."""
        return self.queue.ledger

    def __aenter__(self) -> Awaitable[None]:
        principal = self.payer()
        entered = Combiner.__aenter__(self)
        if type(entered) is not Once:  # an external waiter, whose request says whose it is
            return entered
        if entered:  # it holds a request
            entered[0].share = principal
            return entered
        try:
            if self.queue.begin(principal, self.began):
                return entered
        except SHORT_OF_ROOM:
            self.owner = None
            start_new_thread(self.hand_over_key, ())
            raise
        self._give_way()
        worker = here.worker
        if worker.item.task is None:
            worker.task  # noqa: B018 (as in `TaskEntry.__aenter__`)
        if worker.scheduler is not self.scheduler or _get_running_loop():
            return self.enter_external(worker)
        request: Request | None = worker.item.request
        if request is None:
            request = Request()
        request.lock = self
        request.ticket = monotonic_ns()
        request.share = principal
        return request.door  # type: ignore[return-value]  # it was not given up

    def __aexit__(self, kind: object, error: object, trace: object) -> Awaitable[None]:
        try:
            self.queue.until = monotonic_ns()
        except MemoryError:
            pass
        return Combiner.__aexit__(self, kind, error, trace)

    def _enter_blocking(self, timeout: float | None, owner: Owner) -> bool:
        now, principal = monotonic_ns(), self.payer()
        if not self.queue and (
            self.take_key(False) or (not self.in_use and self.take_unused_key())
        ):
            try:
                begun = self.queue.begin(principal, now)
            except SHORT_OF_ROOM:
                self.owner = None
                start_new_thread(self.hand_over_key, ())
                raise
            if begun:
                self.owner = owner
                self.began = now
                return True
            self._give_way()
        if timeout is not None and timeout <= 0:
            return False
        return self._wait_blocking(timeout, owner)

    def lend(self, worker: LockWorker, awaited: object) -> KeyLoan | None:
        if not self.queue.chooses:
            return Combiner.lend(self, worker, awaited)
        if awaited is self or getattr(awaited, "lock", None) is self:
            raise DeadlockError(
                f"this wait would never end: it interrupts the choice of the next one in {self!r}"
            )
        return None  # what it waits for may need this lock: nobody can tell

    def _give_way(self) -> None:
        """Give the key back that was there for the asking."""
        self.owner = None
        self.hand_over_key_safely()

    def line_up(self, item: Waiter) -> None:
        """As that of `KeyedLock`."""
        item.share = item.payer(self)
        Combiner.line_up(self, item)

    def _grant(self, item: Waiter) -> bool:
        queue = self.queue
        if not item.has_section:
            queue.current = None
            return Combiner._grant(self, item)
        if queue.current is None:  # not by a pass, which has taken it with `popleft`
            queue.let_in(item)
        if Combiner._grant(self, item):
            return True
        queue.current = None
        return False

    def longest_wait_passes(self) -> int:
        """As that of `KeyedLock`."""
        return -(-self.queue.longest_wait // PASS_SECTIONS)

    def _time_inside(self) -> int:
        # Without what the choice of the next one takes: a lock of tiny sections is served where
        # its tasks are, however long that takes.
        return self.queue.used

    def _account(self, now: int) -> None:
        self.queue.end(now)
        Combiner._account(self, now)

    def _end_pass(self, worker: LockWorker, count: int, now: int) -> None:
        self.queue.end(now)
        Combiner._end_pass(self, worker, count, now)


class TaskPayer(Payer):
    """A task, as the one that is charged."""

    __slots__ = ("task_id",)

    # task_id: of the task. A context is copied with what it holds: this tells a copy

    def __init__(self, task_id: int) -> None:
        Payer.__init__(self, None, 1.0)
        self.task_id = task_id


CHARGED_TASK: ContextVar[TaskPayer | None] = ContextVar("fairpool.charged_task", default=None)


def calling_task() -> TaskPayer:
    """The payer that stands for the calling task, or for the calling thread if it is in none."""
    worker = here.worker
    asker: object = None
    if (loop := _get_running_loop()) is not None:
        asker = current_task(loop)
    elif worker is not None:
        asker = worker.task
    task_id = id(thread_owner() if asker is None else asker)
    payer = CHARGED_TASK.get()
    if payer is None or payer.task_id != task_id:
        payer = TaskPayer(task_id)
        CHARGED_TASK.set(payer)
    return payer


class ChargingTasks(Charging):
    """One that charges each section to the task that has asked for it, whatever its share."""

    __slots__ = ()

    charged = CHARGED_TASK
    payer = staticmethod(calling_task)

    def link(self, source: AnyFuture, on_result: Function, on_error: Function | None) -> AnyFuture:
        self.payer()  # the link's context is a copy of this one
        return Charging.link(self, source, on_result, on_error)
