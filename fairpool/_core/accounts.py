"""`Principal`, `Ledger` and `Shares`: whom work is charged to, how much each has used, who is next.

`pool.share()` makes a principal. It is carried by the context (`CURRENT`), so that whatever a task
submits, chains or delegates is charged to the same one.

What each has used of one thing (of a lock, or of the workers) is written into a `Ledger` of that
thing. Who has used the least, for its weight, is served first. The rules, and the proofs that
nobody waits for ever, are in `docs/protocols/usage.md`.

This code assumes A1 to A3 of `_sync`. A ledger belongs to whoever holds the key of its lock, or the
token of `Shares`; others that read it see each number as it was a moment ago.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from fairpool._core.runqueue import RunQueue, WaitQueue
from fairpool._core.threads import monotonic_ns
from fairpool._core.token import Token

__all__ = [
    "CURRENT",
    "VIRTUAL_NANOSECOND",
    "WEIGHT_MAX",
    "WEIGHT_MIN",
    "Ledger",
    "Principal",
    "Shares",
    "Standing",
    "jain_index",
]

# Virtual time is an integer, so that no amount of it absorbs what is added: so much of it passes in
# a nanosecond at weight 1. At the greatest weight a nanosecond is a million units, which gives
# each weight to six digits; the rest of the arithmetic is exact.
VIRTUAL_NANOSECOND = 1 << 40

# Beside a share of weight 1, one of the least weight gets a second in twelve days, which is as
# good as none.
WEIGHT_MIN = 1e-6
WEIGHT_MAX = 1e6

# Who has not been seen for so long (ns) is a newcomer: it starts at the average. Much longer than
# the pauses of a program that works, much shorter than a person's.
ABSENCE = 1_000_000_000

# So much (virtual time) may one that comes and goes be behind the one that is served: whoever uses
# little for an hour must not have an hour to itself after that. 100 ms, for a weight of 1.
CREDIT = 100_000_000 * VIRTUAL_NANOSECOND

# How long (ns) a worker serves a share whose tasks are short before it chooses again: long enough
# for some dozens of small tasks to pay for one choice, and no longer than a wake-up.
TURN_TIME = 100_000

CURRENT: ContextVar[Principal | None] = ContextVar("fairpool.share", default=None)


# When so many shares are active, those that have nothing queued are so no longer. Where a share
# comes and goes at each task, its workers and those that submit meet at the mutex of the dict.
ACTIVE = 8


def jain_index(values: Iterable[float]) -> float:
    """How even the values are: 1 if all are equal, 1/n if one has everything; 1 if there are none.

    R. Jain, D. Chiu, W. Hawe: A Quantitative Measure of Fairness and Discrimination (1984).
    """
    listed = [*values]
    squares = sum(value * value for value in listed)
    return sum(listed) ** 2 / (len(listed) * squares) if squares else 1.0


class Standing:
    """What one principal has used of one thing."""

    __slots__ = (
        "is_present",
        "listed",
        "pace",
        "principal",
        "queue",
        "seen",
        "usage",
        "weight",
        "weighted",
    )

    # usage:    measured (ns)
    # weighted: usage by weight (virtual time), moved up where the principal came late
    # pace:     the virtual time of one nanosecond of use
    # seen:     when it last came, or ended what it did here (ns)
    # queue:    what of it waits: (lock) a `WaitQueue`; (workers) the principal's run queue
    # listed:   (lock) whether it is in the heap; (workers) whether it had work at the last choice
    # is_present: whether it is in `Ledger.present`

    def __init__(self, principal: Principal | None, queue: Any) -> None:
        self.principal = principal
        self.weight = 1.0 if principal is None else principal.weight
        self.pace = round(VIRTUAL_NANOSECOND / self.weight)
        self.queue = queue
        self.usage = 0
        self.weighted = 0
        self.seen = -ABSENCE
        self.listed = self.is_present = False


class Ledger:
    """What each principal has used of one thing."""

    __slots__ = ("level", "present", "standings", "total")

    # level:   how far the one was, at most, that was served because it had used the least
    # present: those that were seen lately, each with the time of the last look at it, in the order
    #          of these times
    # total:   the sum of what these have, `weighted`

    def __init__(self) -> None:
        self.level = self.total = 0
        self.standings: dict[Principal | None, Standing] = {}
        self.present: deque[tuple[int, Standing]] = deque()

    def find(self, principal: Principal | None) -> Standing:
        """The standing of a principal, which may be a new one."""
        standing = self.standings.get(principal)
        if standing is None:
            standing = self.standings[principal] = Standing(principal, WaitQueue())
        return standing

    def arrive(self, standing: Standing, now: int) -> None:
        """One of which nothing was waiting, or being served, wants something."""
        if now - standing.seen >= ABSENCE:
            start = self._average_without(standing, now)
        else:
            start = self.level - CREDIT
        if not standing.is_present:
            self._enter(standing, now)
        if standing.weighted < start:
            self.total += start - standing.weighted
            standing.weighted = start
        standing.seen = now

    def charge(self, standing: Standing, used: int, now: int) -> None:
        """Write down what has been used."""
        if not standing.is_present:
            self._enter(standing, now)
        virtual = used * standing.pace
        standing.usage += used
        standing.weighted += virtual
        self.total += virtual
        standing.seen = now

    def _enter(self, standing: Standing, now: int) -> None:
        standing.is_present = True
        self.present.append((now, standing))
        self.total += standing.weighted

    def _average_without(self, standing: Standing, now: int) -> int:
        """What those that are present have, but for this one; the level if there are none.

        Whoever was seen since the last look at it is looked at again after `ABSENCE`: so one look a
        second for each that uses something, and none for the others.
        """
        present = self.present
        while present and now - present[0][0] >= ABSENCE:
            _, each = present.popleft()
            if now - each.seen < ABSENCE:
                present.append((now, each))
            else:
                self.total -= each.weighted
                each.is_present = False
        if not present:
            self.total = 0  # exact, also where an interrupt has cut off a change
        others, total = len(present), self.total
        if standing.is_present:
            others, total = others - 1, total - standing.weighted
        return total // others if others else self.level

    def usage(self) -> dict[str | None, float]:
        """The seconds that each share has used; None stands for work without a share."""
        standings = self.standings.copy().items()
        return {
            None if principal is None else principal.name: standing.usage * 1e-9
            for principal, standing in standings
            if standing.usage > 0
        }

    def jain(self) -> float:
        """Jain's index of what each has used, by weight."""
        standings = self.standings.copy().values()
        return jain_index(each.usage / each.weight for each in standings if each.usage > 0)


class Principal:
    """Whom work is charged to: a name, a weight, and a queue of runnable tasks.

    `run` is a turn: a worker runs it like a task.
    """

    __slots__ = (
        "charges",
        "estimate",
        "is_active",
        "listed",
        "name",
        "queue",
        "scheduler",
        "weight",
    )

    # queue:    its tasks and continuations, oldest first
    # charges:  worker time (ns) that `Shares.settle` has not written into the ledger yet
    # estimate: what a turn takes (ns), about; a lost update does no harm
    # listed:   whether it is among the pool's `Shares`
    # is_active: whether it is in `Shares.active`, or about to be. A plain read: threads that
    #           meet at the mutex of the dict pay for it

    # What a worker runs has a task. A turn is nobody's.
    task = None
    is_task = False
    lock_in_hand = None

    def __init__(self, scheduler: Any, name: str, weight: float) -> None:
        self.scheduler = scheduler
        self.name = name
        self.weight = weight
        self.queue = RunQueue()
        self.charges: deque[int] = deque()
        self.estimate = TURN_TIME
        self.listed = self.is_active = False

    def __repr__(self) -> str:
        return f"<share {self.name}, weight {self.weight:g}>"

    def append(self, item: Any) -> None:
        """Queue what is runnable. The caller notifies (S3)."""
        self.queue.append(item)  # S1
        if not self.is_active:  # S1: where it is looked for
            self.activate()

    def activate(self) -> None:
        """Be one of those that are looked at."""
        self.is_active = True
        self.scheduler.shares.active[self] = None

    def put(self, item: Any) -> None:
        """Queue what is runnable, at the end of a step."""
        self.append(item)
        self.scheduler.notify_if_free()  # S3

    def run(self, worker: Any) -> Any:
        """Run the oldest task and, if it was short, some more. Returns as `Task.run`."""
        take = self.queue.take
        item = take()
        if item is None:
            return None
        # Charged before it is known, so that two workers that choose at once choose differently.
        estimate = self.estimate
        self.charges.append(estimate)
        principal_of = self.scheduler.principal_of
        clock = monotonic_ns
        away = worker.away
        worker.extra_steps -= 1  # the turn itself is counted as a step, too
        began = clock()
        end = began + TURN_TIME
        following: Any = None
        try:
            while True:
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
            item = None  # what it has raised leads to this frame: no cycle
            used = clock() - began - (worker.away - away)
            self.charges.append(used - estimate)
            if not self.is_active:
                self.activate()
            self.estimate = estimate + ((used - estimate) >> 3)
        return following


class Shares(list[Principal]):
    """The principals of one pool, and the ledger of their worker time. Only ever appended to."""

    __slots__ = ("active", "ledger", "names", "token")

    # names:  the principals by their names
    # active: those that have something queued, or charges to be settled, and some that had. A
    #         search for work looks only at these. A dict, because it keeps its order: two runs of
    #         the same schedule choose the same.
    # token:  held for a moment by who brings the ledger up to date; nobody waits for it

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.names: dict[str, Principal] = {}
        self.active: dict[Principal, None] = {}
        self.token = Token()

    def add(self, principal: Principal) -> Principal:
        """Take in one more; return the one that is there of this name."""
        there = self.names.setdefault(principal.name, principal)  # A1: the arbiter
        # Before it is listed: the others look for it once it is.
        self.ledger.standings.setdefault(there, Standing(there, there.queue))
        if not there.listed:  # before anybody who gets it queues a task with it
            self.append(there)  # perhaps twice, which does no harm
            there.listed = True
        return there

    def choose(self) -> Principal | None:
        """The one that has something to run, and of the workers' time has had the least."""
        active = self.active.copy()
        self.settle(active, monotonic_ns())
        standings = self.ledger.standings
        best: Standing | None = None
        for principal in active:
            if principal.queue:
                standing = standings[principal]
                if best is None or standing.weighted < best.weighted:
                    best = standing
        if best is None:
            return None
        if best.weighted > self.ledger.level:
            self.ledger.level = best.weighted
        return best.principal

    def settle(self, active: Iterable[Principal], now: int) -> None:
        """Bring the ledger up to date for these, unless another thread is just doing it."""
        if not self.token.take():
            return
        try:
            ledger = self.ledger
            for principal in active:
                standing = ledger.standings[principal]
                charges = principal.charges
                while charges:
                    ledger.charge(standing, charges.popleft(), now)
                if not principal.queue:
                    standing.listed = False
                    if len(self.active) > ACTIVE:
                        self._deactivate(principal)
                elif not standing.listed:
                    standing.listed = True
                    ledger.arrive(standing, now)
        finally:
            self.token.put()

    def _deactivate(self, principal: Principal) -> None:
        """Nothing of it is queued, it seems."""
        principal.is_active = False  # R0
        self.active.pop(principal, None)  # R1
        # R2: a call on the queue, as S1 is. What was queued before it is seen here; who queues
        # something after it makes the principal active after R1.
        if principal.queue.holds_work() or principal.charges:
            principal.activate()
            principal.scheduler.notify_if_free()  # S3: it was nowhere for a moment
