"""Usage accounting and fair-share selection: principals, accounts, ledgers, shares.

A *principal* is charged for work: `pool.share()` makes one. The context carries it (`CURRENT`), so
a task's submissions, chains and delegated sections are charged to the principal of the task.

A *ledger* has one *account* for each principal, of one resource: a lock, or the workers. An account
has a virtual time, as in weighted fair queueing: measured time divided by the principal's weight.
The principal with the least virtual time is served first. A newcomer starts at the average of the
active ones, so that it cannot claim the past.

Guarantee: no principal waits for ever. Rules and proofs: `docs/protocols/usage.md`.
Assumes: atomic call, mutex order, plain read (`atomicity`). A ledger belongs to the key holder of
its lock, or to the thread that has the token of `Shares`. Other readers see each number as it was a
moment ago.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Protocol

from fairpool._core.room import put_in_any_case
from fairpool._core.runqueue import RunQueue, WaitQueue
from fairpool._core.threads import monotonic_ns
from fairpool._core.token import PRESENT, Token
from fairpool._core.types import Runnable

# The virtual time of one nanosecond at weight 1. An integer, so that no amount of virtual time
# absorbs a small addition. At the greatest weight a nanosecond is a million units, which gives each
# weight to six digits; the rest of the arithmetic is exact.
VIRTUAL_NANOSECOND = 1 << 40

# Beside a share of weight 1, a share of the least weight gets a second in twelve days.
WEIGHT_MIN = 1e-6
WEIGHT_MAX = 1e6

# A principal that was not seen for so long (ns) is a newcomer, and starts at the average. Much
# longer than the pauses of a program that works, much shorter than a person's.
ABSENCE = 1_000_000_000

# So far (virtual time) a principal that comes and goes may be behind the one that is served. A
# principal that uses little for an hour must not have an hour to itself after that. 100 ms at
# weight 1.
CREDIT = 100_000_000 * VIRTUAL_NANOSECOND

# How long (ns) a worker serves a share with short tasks before it chooses again. Some dozens of
# small tasks pay for one choice, and it is no longer than a wake-up.
QUANTUM = 100_000

# What is timed was run without a share, or dropped, if it has not come after so long (ns).
FORGET_TIMED = 1_000_000_000

CURRENT: ContextVar[Principal | None] = ContextVar("fairpool.share", default=None)


# With more active shares than this, a share with nothing queued is deactivated. With fewer it
# stays: if it came and went at each task, all threads would meet at the mutex of the dict.
ACTIVE = 8


def jain_index(values: Iterable[float]) -> float:
    """How even the values are: 1 if all are equal, 1/n if one has everything; 1 if there are none.

    R. Jain, D. Chiu, W. Hawe: A Quantitative Measure of Fairness and Discrimination (1984).
    """
    listed = [*values]
    squares = sum(value * value for value in listed)
    return sum(listed) ** 2 / (len(listed) * squares) if squares else 1.0


class Worker(Protocol):
    """The worker that serves a principal."""

    # extra_steps:  steps that its loop has not counted itself
    # blocked_time: how long (ns) it was blocked in the midst of tasks

    extra_steps: int
    blocked_time: int


class Host(Protocol):
    """The scheduler whose principals these are."""

    shares: Shares

    def notify_if_free(self) -> None:
        """Wake a worker for what was queued, if a slot is free."""

    def principal_of(self, item: Runnable) -> Principal | None:
        """Return the principal that is charged for an item; None: nobody is."""


class Payer:
    """What is charged: a principal, or (at a lock with `charge="task"`) a task."""

    __slots__ = ("name", "weight")

    def __init__(self, name: str | None, weight: float) -> None:
        self.name = name
        self.weight = weight


class Account:
    """One payer's usage of one resource."""

    __slots__ = (
        "is_present",
        "listed",
        "pace",
        "principal",
        "queue",
        "seen",
        "usage",
        "virtual_time",
        "weight",
    )

    # usage:        measured time (ns)
    # virtual_time: usage divided by weight, moved up where the principal came late
    # pace:         the virtual time of one nanosecond of use
    # seen:         when it last arrived, or ended a use (ns)
    # queue:        its requests; (workers) empty, because the principal has a run queue
    # listed:       (lock) whether it is in the heap; (workers) whether it had work at the last look
    # is_present:   whether it is in `Ledger.present`

    def __init__(self, principal: Payer | None) -> None:
        self.principal = principal
        self.weight = 1.0 if principal is None else principal.weight
        self.pace = round(VIRTUAL_NANOSECOND / self.weight)
        self.queue: WaitQueue[Any] = WaitQueue()
        self.usage = 0
        self.virtual_time = 0
        self.seen = -ABSENCE
        self.listed = self.is_present = False


class Ledger:
    """The accounts of one resource."""

    __slots__ = ("accounts", "keeps", "present", "total", "virtual_time")

    # keeps:        whether it keeps the accounts of those that are not present any more. Without
    #               that, one that comes again is charged as a newcomer
    # virtual_time: the greatest virtual time of an account that was served because it had the least
    # present:      the accounts that were seen lately, each with the time of the last look at it,
    #               in the order of these times
    # total:        the sum of their virtual times

    def __init__(self) -> None:
        self.virtual_time = self.total = 0
        self.keeps = True
        self.accounts: dict[Payer | None, Account] = {}
        self.present: deque[tuple[int, Account]] = deque()

    def find(self, principal: Payer | None) -> Account:
        """The account of a principal; made if there is none."""
        account = self.accounts.get(principal)
        if account is None:
            account = self.accounts[principal] = Account(principal)
        return account

    def arrive(self, account: Account, now: int) -> None:
        """A principal arrives: it had nothing waiting or being served here."""
        if now - account.seen >= ABSENCE:
            start = self._average_without(account, now)
        else:
            start = self.virtual_time - CREDIT
        if not account.is_present:
            self._enter(account, now)
        if account.virtual_time < start:
            self.total += start - account.virtual_time
            account.virtual_time = start
        account.seen = now

    def charge(self, account: Account, used: int, now: int) -> None:
        """Add a use."""
        if not account.is_present:
            self._enter(account, now)
        virtual = used * account.pace
        account.usage += used
        account.virtual_time += virtual
        self.total += virtual
        account.seen = now

    def _enter(self, account: Account, now: int) -> None:
        account.is_present = True
        if not self.keeps:
            self.accounts[account.principal] = account  # forgotten during a long section
        self.present.append((now, account))
        self.total += account.virtual_time

    def _average_without(self, account: Account, now: int) -> int:
        """The average virtual time of the other present accounts; the ledger's if there are none.

        An account that was seen since the last look at it is looked at again after `ABSENCE`: one
        look a second for each account in use, and none for the others.
        """
        present = self.present
        while present and now - present[0][0] >= ABSENCE:
            _, each = present.popleft()
            if now - each.seen < ABSENCE or (each.queue and not self.keeps):
                present.append((now, each))
            else:
                self.total -= each.virtual_time
                each.is_present = False
                if not self.keeps:
                    self.forget(each)
        if not present:
            self.total = 0  # exact, also where an interrupt has cut off a change
        others, total = len(present), self.total
        if account.is_present:
            others, total = others - 1, total - account.virtual_time
        return total // others if others else self.virtual_time

    def forget(self, account: Account) -> None:
        """Drop an account that is not present, and has nothing waiting."""
        self.accounts.pop(account.principal, None)

    def usage(self) -> dict[str | None, float]:
        """Seconds of use of each share; None stands for work without a share."""
        used: dict[str | None, float] = {}
        for principal, account in self.accounts.copy().items():
            if account.usage > 0:
                name = None if principal is None else principal.name
                used[name] = used.get(name, 0.0) + account.usage * 1e-9
        return used

    def jain(self) -> float:
        """Jain's index of usage by weight."""
        accounts = self.accounts.copy().values()
        return jain_index(each.usage / each.weight for each in accounts if each.usage > 0)


class Principal(Payer):
    """A name, a weight, and a queue of runnable tasks that are charged to it.

    A worker runs a principal like a task: `run` serves it for a quantum.
    """

    __slots__ = (
        "charges",
        "estimate",
        "is_active",
        "listed",
        "queue",
        "scheduler",
    )

    name: str

    # queue:     its tasks and continuations, oldest first
    # charges:   worker time (ns) that `Shares.settle` has not written into the ledger yet
    # estimate:  expected time of a quantum (ns); a lost update does no harm
    # listed:    whether it is among the pool's `Shares`
    # is_active: whether it is in `Shares.active`, or about to be. A plain read: threads that meet
    #            at the mutex of the dict pay for it

    def __init__(self, scheduler: Host, name: str, weight: float) -> None:
        Payer.__init__(self, name, weight)
        self.scheduler = scheduler
        self.queue: RunQueue[Runnable] = RunQueue()
        self.charges: deque[int] = deque()
        self.estimate = QUANTUM
        self.listed = self.is_active = False

    def __repr__(self) -> str:
        return f"<share {self.name}, weight {self.weight:g}>"

    def append(self, item: Runnable) -> None:
        """Queue a runnable item. The caller notifies."""
        self.queue.append(item)  # parking: enqueue
        if not self.is_active:  # usage: enlist, where `choose` looks for it
            self.activate()

    def activate(self) -> None:
        """Be among the shares that `choose` looks at."""
        self.is_active = True
        self.scheduler.shares.active[self] = None

    def put(self, item: Runnable) -> None:
        """Queue a runnable item at the end of a step."""
        self.append(item)
        self.scheduler.notify_if_free()  # parking: notify

    def run(self, worker: Worker) -> Runnable | None:
        """Serve it for a quantum: run the oldest task, and more if they are short.

        Returns as `Task.run`.
        """
        take = self.queue.take
        item = take()
        if item is None:
            return None
        # The estimate is charged in advance: two workers that choose at once choose differently.
        estimate = self.estimate
        self.charges.append(estimate)
        principal_of = self.scheduler.principal_of
        shares = self.scheduler.shares
        clock = monotonic_ns
        blocked = worker.blocked_time
        worker.extra_steps -= 1  # the caller counts the quantum as a step, too
        began = clock()
        end = began + QUANTUM
        following: Runnable | None = None
        try:
            while True:
                if shares.timed is not None:
                    shares.count_response(item)
                following = item.run(worker)
                worker.extra_steps += 1
                late = clock() >= end
                if following is not None:
                    owner = self if following is item else principal_of(following)
                    if owner is None:
                        break
                    if owner is self and not late and not self.queue:
                        item = following
                        continue
                    owner.put(following)
                    following = None
                if late or (item := take()) is None:
                    break
        finally:
            item = None  # its exception leads to this frame: no cycle
            used = clock() - began - (worker.blocked_time - blocked)
            self.charges.append(used - estimate)
            if not self.is_active:
                self.activate()
            self.estimate = estimate + ((used - estimate) >> 3)
        return following


class Shares(list[Principal]):
    """The principals of one pool, and the ledger of their worker time. Only ever appended to."""

    __slots__ = ("active", "ledger", "names", "timed", "token")

    # names:  the principals by their names
    # active: the principals with something queued or with charges to settle, and some that had. A
    #         search for work looks only at these. A dict, because it keeps its order: two runs of
    #         the same schedule choose the same
    # timed:  the id and the ticket of what follows a section, and is to be a sample when it is run.
    #         One at a time, and only a hint: a lost update does no harm
    # token:  taken by the thread that brings the ledger up to date; no thread waits for it

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.names: dict[str, Principal] = {}
        self.active: dict[Principal, None] = {}
        self.timed: tuple[int, int] | None = None
        self.token = Token(PRESENT)

    def time_response(self, item: Any) -> None:
        """What follows a section is about to be queued: time it, unless another one is timed."""
        timed, ticket = self.timed, item.ticket
        if timed is None or ticket - timed[1] > FORGET_TIMED:
            self.timed = id(item), ticket

    def count_response(self, item: Any) -> None:
        """An item is about to be run: perhaps that which is timed."""
        timed = self.timed
        if timed is not None and timed[0] == id(item) and timed[1] == getattr(item, "ticket", None):
            self.timed = None
            item.sample(monotonic_ns())

    def add(self, principal: Principal) -> Principal:
        """Add a principal, unless there is one of this name; return the one that is there."""
        there = self.names.setdefault(principal.name, principal)  # atomic: the arbiter
        # Before it is listed: other threads look for it once it is.
        self.ledger.accounts.setdefault(there, Account(there))
        if not there.listed:  # before a caller that gets it queues a task with it
            self.append(there)  # perhaps twice, which does no harm
            there.listed = True
        return there

    def choose(self) -> Principal | None:
        """The runnable principal with the least virtual time."""
        if not self.active:  # a plain read: a worker parks only after an ordered look
            return None
        active = self.active.copy()
        self.settle(active, monotonic_ns())
        accounts = self.ledger.accounts
        best: Account | None = None
        first: Principal | None = None
        for principal in active:
            if principal.queue:
                account = accounts[principal]
                if best is None or account.virtual_time < best.virtual_time:
                    best, first = account, principal
        if best is not None and best.virtual_time > self.ledger.virtual_time:
            self.ledger.virtual_time = best.virtual_time
        return first

    def settle(self, active: Iterable[Principal], now: int) -> None:
        """Bring the ledger up to date for these, unless another thread is just doing so."""
        mine: list[None] = []
        try:
            self.token.take_into(mine)
            if not mine:
                return
            ledger = self.ledger
            for principal in active:
                account = ledger.accounts[principal]
                charges = principal.charges
                while charges:
                    ledger.charge(account, charges.popleft(), now)
                if not principal.queue:
                    account.listed = False
                    if len(self.active) > ACTIVE:
                        self._deactivate(principal)
                elif not account.listed:
                    account.listed = True
                    ledger.arrive(account, now)
        finally:
            if mine:
                try:
                    self.token.append(None)
                except MemoryError:
                    put_in_any_case(list.append, self.token, None)

    def _deactivate(self, principal: Principal) -> None:
        """Take it out of `active`: it has nothing queued, it seems."""
        principal.is_active = False  # usage: unmark
        self.active.pop(principal, None)  # usage: unlist
        # usage: recheck, a call on the queue, as `enqueue` is. An item that was queued before it is
        # seen here. A thread that queues one after it makes the principal active after `unlist`.
        if principal.queue.holds_work() or principal.charges:
            principal.activate()
            principal.scheduler.notify_if_free()  # parking: notify; it was in no list for a moment
