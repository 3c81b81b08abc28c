"""`UsageQueue`: the share first that has used the lock least, for its weight.

Protocol, proof of the bounds, and the cost of the strict kind: `docs/protocols/usage.md`.

Assumes: atomic call, mutex order, try-lock (`_core.atomicity`). The key holder writes the
attributes that are marked *key* (see `key.py`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from heapq import heappop, heappush, heapreplace
from itertools import count
from logging import WARNING
from typing import Any
from weakref import ref

from fairpool._core.accounts import VIRTUAL_NANOSECOND, Account, Ledger, Payer
from fairpool._core.report import log
from fairpool._core.room import put_in_any_case
from fairpool._core.runqueue import SHORT, RunQueue, WaitQueue
from fairpool._core.threads import monotonic_ns, yield_cpu
from fairpool._core.token import PRESENT, Token
from fairpool._locks.charging import ChargingQueue
from fairpool._locks.combiner import PASS_SECTIONS, Combiner
from fairpool._tasks.request import Waiter

# The oldest request of a share is served when others have been served so many times, for each share
# that waits, whatever that share has used. It bounds the ratio of section lengths up to which two
# shares get equal times.
PASSED_OVER_MAX = 64

# B: and it is served within so many passes and one, whatever their number. A pass is counted as
# `PASS_SECTIONS` sections here: one that its time has ended is a part of one.
PASSES_MAX = 16

# A strict lock holds back a share that is further ahead (virtual time) of one that is expected to
# come again: 1 ms for a weight of 1, half of a pass, so that short sections still come in passes.
SLACK = 1_000_000 * VIRTUAL_NANOSECOND

# For so long (ns) after it was seen last. The switch interval of a GIL build: there, a task
# that has work to do may not come to do it for that long.
HOLD_BACK = 5_000_000

# How often a look at all requests waits for one that moves. A move takes a microsecond, but a
# signal handler may look in the midst of a move of its own thread.
LOOKS_AT_A_MOVE = 1000

_take_oldest = deque.popleft


class _Mark:
    """Stands in the deque while requests are in lines, so that its length says that some wait."""

    given_up = False


_MARK: Any = _Mark()  # it stands among waiters, and is none


class _StrictLedger(Ledger):
    """A ledger that keeps the order in which its accounts were seen."""

    __slots__ = ("recent",)

    # recent: the accounts in the order in which they were seen, the last one last

    def __init__(self) -> None:
        super().__init__()
        self.recent: OrderedDict[Account, None] = OrderedDict()

    def arrive(self, account: Account, now: int) -> None:
        """As that of `Ledger`."""
        Ledger.arrive(self, account, now)
        self._note(account)

    def charge(self, account: Account, used: int, now: int) -> None:
        """As that of `Ledger`."""
        Ledger.charge(self, account, used, now)
        self._note(account)

    def forget(self, account: Account) -> None:
        """As that of `Ledger`."""
        Ledger.forget(self, account)
        self.recent.pop(account, None)

    def _note(self, account: Account) -> None:
        self.recent[account] = None
        self.recent.move_to_end(account)


class UsageQueue(ChargingQueue):
    """Requests, those of the share first that has used the lock least.

    The deque itself holds the *arrivals*: requests that the key holder has not seen yet. So a
    request arrives by one call on a deque, as in ticket order: two threads that meet at a container
    lose 20 µs. The key holder moves the arrivals into *lines*, one for each share. While any line
    has requests, a mark stands in the deque: `if queue:` is asked three times a section, and must
    not cost a call.
    """

    __slots__ = (
        "_armed",
        "_chosen",
        "_heap",
        "_held",
        "_lined",
        "_lock",
        "_marked",
        "_moves",
        "_moving",
        "_numbers",
        "_recent",
        "_served",
        "_strict",
        "_turns",
        "chooses",
        "longest_wait",
    )

    # _lined:   the requests in lines that are neither served nor given up
    # _moving:  (key) the request on its way from the arrivals into its line. It stays in there if
    #           an error or an interrupt cuts the move off, and the next look goes on
    # _moves:   (key) 1 while there may be one, else 0
    # _marked:  (key) 1 only if the mark is in the deque or in `_moving`
    # _heap:    (key) the shares that wait: (weighted usage, ticket, number, account). The usage
    #           only grows: an entry that is behind is put right when it has come to the top
    # _turns:   (key) the shares that wait, the longest unserved first, and what `_served` was then
    # _served:  (key) sections that were begun
    # _chosen:  (key) what was looked at: it is the next one
    # _recent:  (key, strict) the shares in the order in which they were seen
    # _held:    (key) whether there is something that is held back
    # _armed:   holds an item while a timer is to come
    # longest_wait: (key) for how many sections of others a share has waited at most, and one
    # chooses:  (key) whether a pass is about to take the next one, and the above is in flux

    def __init__(self, lock: Combiner, strict: bool, by_task: bool = False) -> None:
        super().__init__()
        self._lock = ref(lock)  # which refers to this: no cycle
        self._strict = strict
        if strict:
            self.ledger = ledger = _StrictLedger()
            self._recent = ledger.recent
        self.ledger.keeps = not by_task
        self._lined: set[Waiter] = set()
        self._marked = self._moves = 0
        self._moving: list[Waiter] = []
        self._heap: list[tuple[int, int, int, Account]] = []
        self._numbers = count()
        self._turns: dict[Account, int] = {}
        self._served = self.longest_wait = 0
        self._chosen: Waiter | None = None
        self._held = False
        self._armed: list[None] = []
        self.chooses = False

    def remove(self, item: Waiter) -> None:
        """Take a request out, to serve it (key). ValueError if it was given up."""
        if item in self._lined:
            try:
                self._lined.remove(item)  # atomic: the arbiter
            except KeyError:
                raise ValueError("it does not wait") from None
            self._mark()
            self.ledger.find(item.share).queue.discard(item)  # it is the first there
        else:
            RunQueue.remove(self, item)

    def give_up(self, item: Waiter) -> bool:
        """A request is given up; whether the arrivals are to be swept now. From any thread."""
        if len(self) <= SHORT:
            try:
                RunQueue.remove(self, item)
            except ValueError:
                pass
            else:
                return False
        else:
            self.rotate(0)  # a fence
        if item in self._lined:
            self._lined.discard(item)
            self.ledger.find(item.share).queue.give_up(item)
            return False
        # Among the arrivals, or on its way from there: `_join_line` reads `given_up` after it has
        # added it to `_lined`, and this thread looked there after it wrote that. Both make an
        # atomic call in between (a fence).
        self.given_up.append(None)
        return self.is_half_empty()

    def holds_work(self) -> bool:
        """Whether anything can be served, ordered as that of `RunQueue`.

        A caller that has left something held back, and finds no timer armed, must look again.
        """
        self.rotate(0)
        if len(self) > self._marked or self._moving:
            return True
        return self._held and not self._armed.copy()

    def begin(self, principal: Payer | None, now: int) -> bool:
        """A section begins at once, because nobody waits (key), unless it is to be held back."""
        account = self.ledger.find(principal)
        self.ledger.arrive(account, now)
        if self._strict and self._held_until(account, now):
            return False
        self._served += 1
        self.current = account
        self.since = now
        self.until = 0
        return True

    def let_in(self, item: Waiter) -> None:
        """The section of a request begins, which was taken out (key)."""
        account = self.ledger.find(item.share)
        waits_since = self._turns.pop(account, self._served)
        self._served += 1
        if self._served - waits_since > self.longest_wait:
            self.longest_wait = self._served - waits_since
        if self._anyone_of(account):
            self._turns[account] = self._served
        self.current = account
        self.since = monotonic_ns()  # what the choice has taken is not charged to it
        self.until = 0

    def popleft(self) -> Waiter:
        """The section has ended, and the next one begins (key).

        IndexError if none waits, or all are held back.
        """
        self.chooses = True
        try:
            self.end(monotonic_ns())
            while (item := self.first()) is not None:
                self._chosen = None
                try:
                    self.remove(item)
                except ValueError:  # given up just now
                    continue
                if item.has_section:
                    self.let_in(item)
                return item
        finally:
            self.chooses = False
        raise IndexError("nothing waits, or all that wait are held back")

    def first(self) -> Waiter | None:
        """The next one, or None if none waits, or all are held back (key). It stays so."""
        chosen = self._chosen
        if chosen is None or chosen not in self._lined:
            chosen = self._choose(monotonic_ns())
            self._chosen = chosen if chosen is None or chosen.has_section else None
        return chosen

    def take(self) -> Waiter | None:
        """A request, or None: to empty the queue (key)."""
        self._chosen = None
        if (sweep := self._line_up(monotonic_ns())) is not None:
            self.discard(sweep)
            return sweep
        for account in self.ledger.accounts.copy().values():
            while (item := self._first_of(account)) is not None:
                try:
                    self.remove(item)
                except ValueError:  # given up just now
                    continue
                return item
        return None

    def items(self) -> list[Waiter]:
        """All that wait, at one moment, oldest first. From any thread."""
        for _ in range(LOOKS_AT_A_MOVE):
            found = {*RunQueue.items(self)}
            # Looked at between the two, because a request is in neither while it moves.
            moves = self._moves
            found.update(self._moving.copy())
            found.update(self._lined.copy())
            if not moves:
                break
            yield_cpu()
        found.discard(_MARK)
        return sorted(found, key=_ticket_of)

    def how_many(self, has_given_up: Callable[[Waiter], bool]) -> int:
        """How many wait."""
        return sum(not has_given_up(item) for item in self.items())

    def clear(self) -> None:
        """Forget all that wait: for the child of a fork."""
        RunQueue.clear(self)
        self.given_up.clear()
        self.idle = Token(PRESENT)
        self._lined.clear()
        self._moving.clear()
        self._marked = self._moves = 0
        for account in self.ledger.accounts.values():
            account.queue.clear()

    def wake(self) -> None:
        """The time is up for which something was held back."""
        self._armed.clear()  # usage: disarm
        lock = self._lock()
        if lock is not None and lock.key.acquire(False):  # usage: try_key
            lock.hand_over_key_safely()

    # --- for the key holder ----------------------------------------------------------------------

    def _line_up(self, now: int) -> Waiter | None:
        """Move the arrivals into the lines of their shares.

        Stops at a thread that sweeps the arrivals, and returns that: it is to be served next.
        """
        try:
            sweep = self._line_up_arrivals(now)
            self._mark()
        except BaseException:
            self._mark()
            raise
        return sweep

    def _line_up_arrivals(self, now: int) -> Waiter | None:
        moving = self._moving
        while moving or len(self) > self._marked:
            self._moves = 1
            if not moving:
                try:
                    # In one C call: an interrupt (Ctrl-C) finds the request in one of the two.
                    moving.extend(map(_take_oldest, (self,)))
                except IndexError:
                    break
            item = moving[0]
            if item is _MARK:
                self._marked = 0
            elif not item.given_up:
                if not item.has_section:
                    deque.appendleft(self, item)
                    moving.clear()
                    self._moves = 0
                    return item
                self._join_line(item, now)
            moving.clear()
        self._moves = 0
        return None

    def _mark(self) -> None:
        """Have the mark in the deque if a line has requests, and else not."""
        if not self._lined:
            if self._marked:
                self._marked = 0  # first, and last below: a mark too many only costs a look
                self._drop(_MARK)
        elif not self._marked:
            try:
                deque.append(self, _MARK)
            except MemoryError:
                put_in_any_case(deque.append, self, _MARK)
            self._marked = 1

    def _join_line(self, item: Waiter, now: int) -> None:
        account = self.ledger.find(item.share)
        line = account.queue
        if line.is_half_empty():
            line.given_up.clear()
            for _ in range(len(line)):
                if (each := line.take()) is not None and each in self._lined:
                    line.append(each)  # in the place that has become free
        if not self._anyone_of(account):
            self.ledger.arrive(account, now)
            self._turns.pop(account, None)
            self._turns[account] = self._served
            if not account.listed:
                entry = (account.virtual_time, item.ticket, next(self._numbers), account)
                heappush(self._heap, entry)
                account.listed = True
        line.append(item)
        self._lined.add(item)
        if item.given_up and item in self._lined:  # see `give_up`
            self._lined.discard(item)
            line.give_up(item)

    def _choose(self, now: int) -> Waiter | None:
        self._held = False
        if (sweep := self._line_up(now)) is not None:
            return sweep
        while True:
            account = self._unserved_longest()
            if account is None:
                account = self._least()
                if account is None:
                    return None
                if self._strict and (until := self._held_until(account, now)):
                    self._held = True
                    if self._arm(until):
                        return None
                    self._held = False
                self.ledger.virtual_time = max(self.ledger.virtual_time, account.virtual_time)
            item = self._first_of(account)
            if item is not None:
                return item

    def _unserved_longest(self) -> Account | None:
        """The share that has been passed over too often, if there is one."""
        turns = self._turns
        while turns:
            account = next(iter(turns))
            if not account.queue:  # all given up
                del turns[account]
            elif self._served - turns[account] < passed_over_max(len(turns)):
                break
            else:
                return account
        return None

    def _least(self) -> Account | None:
        """The share that has used least, of those that wait."""
        heap = self._heap
        while heap:
            weighted, _, _, account = heap[0]
            if account.queue and account.virtual_time <= weighted:
                return account
            first = self._first_of(account)
            if first is None:
                heappop(heap)
                account.listed = False
            else:
                entry = (account.virtual_time, first.ticket, next(self._numbers), account)
                heapreplace(heap, entry)
        return None

    def _anyone_of(self, account: Account) -> bool:
        """Whether anything of a share's waits in its line."""
        line = account.queue
        return bool(line) and (not line.given_up or self._first_of(account) is not None)

    def _first_of(self, account: Account) -> Waiter | None:
        """The oldest that waits of a share, or None."""
        line: WaitQueue[Waiter] = account.queue
        while (item := line.first()) is not None:
            if item in self._lined:
                return item
            line.discard(item)  # given up, perhaps while it was not in the line
        return None

    def _held_until(self, account: Account, now: int) -> int:
        """Until when to wait for one that has used less (ns); 0 for not at all."""
        limit = account.virtual_time - SLACK
        for each in reversed(self._recent):
            until = each.seen + HOLD_BACK
            if until <= now:  # and so were those before it
                break
            if each.virtual_time < limit:
                return until
        return 0

    def _arm(self, until: int) -> bool:
        """See to it that somebody looks again after that; False if nobody can be found."""
        if self._armed.copy():
            return True  # not later than that, or a little
        self._armed.append(None)
        try:
            lock = self._lock()
            if lock is not None:
                lock.scheduler.timers.add(until * 1e-9, self)
        except BaseException:
            log(WARNING, "no timer could be started", exc_info=True)
            self._armed.clear()
            return False
        return True


def passed_over_max(shares: int) -> int:
    """How many sections of others a share waits until it is due, if so many shares wait."""
    # Before a due share is served: all others that are due, once, and one that was chosen.
    most = (PASSES_MAX + 1) * PASS_SECTIONS - shares - 1
    return min(PASSED_OVER_MAX * shares, max(most, shares))


def _ticket_of(item: Waiter) -> int:
    return item.ticket
