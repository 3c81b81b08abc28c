"""Locks that charge shares: who is next, who is held back, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
from kit import TIMEOUT, in_time, occupy
from unit.instructions import Places, moments

import fairpool
from fairpool import FairPool, Lock
from fairpool._core import accounts as _share
from fairpool._core.accounts import (
    VIRTUAL_NANOSECOND,
    WEIGHT_MIN,
    Ledger,
    Principal,
    jain_index,
)
from fairpool._core.threads import yield_cpu
from fairpool._locks import charging as _charging
from fairpool._locks import combiner as _combiner
from fairpool._locks import exit as _exit
from fairpool._locks import tasks as _tasks
from fairpool._locks import threads as _threads
from fairpool._locks import usage as _usage
from fairpool._locks.combiner import PASS_SECTIONS
from fairpool._locks.usage import HOLD_BACK, PASSED_OVER_MAX, PASSES_MAX, SLACK, UsageQueue
from fairpool._tasks.request import Request

MILLISECOND = 1_000_000


class KeyHolder:
    """A queue without a lock: the test holds the key, and moves the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, strict: bool = False) -> None:
        self.now = 1_000_000_000_000
        for module in (_charging, _usage):
            monkeypatch.setattr(module, "monotonic_ns", lambda: self.now)
        self.key = threading.Lock()
        self.scheduler = self.timers = self
        self.armed: list[tuple[int, Any]] = []
        self.looks = 0
        self.queue = UsageQueue(self, strict)  # type: ignore[arg-type]
        self.shares: dict[str, Principal] = {}
        self.tickets = 0

    def add(self, deadline: float, target: Any) -> None:  # of timers
        self.armed.append((round(deadline * 1e9), target))

    def hand_over_key_safely(self) -> None:  # of a lock
        self.looks += 1
        self.key.release()

    def share(self, name: str, weight: float = 1.0) -> Principal:
        return self.shares.setdefault(name, Principal(None, name, weight))

    def ask(self, name: str) -> Request:
        """Queue a request."""
        request = Request()
        request.append(name)
        request.share = self.share(name)
        request.ticket = self.tickets = self.tickets + 1
        self.queue.append(request)
        return request

    def serve(self) -> str | None:
        """Begin the next section; whose it is, or None where there is none."""
        try:
            return str(self.queue.popleft().share.name)
        except IndexError:
            return None

    def use(self, milliseconds: float) -> None:
        """End the section after so long."""
        self.now += int(milliseconds * MILLISECOND)
        self.queue.end(self.now)

    def used(self, name: str) -> float:
        account = self.queue.ledger.find(self.share(name))
        return account.usage / MILLISECOND


@pytest.fixture
def holder(monkeypatch: pytest.MonkeyPatch) -> KeyHolder:
    return KeyHolder(monkeypatch)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> KeyHolder:
    return KeyHolder(monkeypatch, strict=True)


# --- who is next ----------------------------------------------------------------------------------


def test_the_share_that_has_used_least_is_first(holder: KeyHolder) -> None:
    for name in "aaabbb":
        holder.ask(name)
    order = ""
    for length in (10, 1, 1, 20, 1, 1):
        order += holder.serve() or "-"
        holder.use(length)
    assert order == "abbbaa"
    assert holder.serve() is None
    assert (holder.used("a"), holder.used("b")) == (12, 22)


def test_ties_are_broken_by_ticket(holder: KeyHolder) -> None:
    for name in "cabcab":
        holder.ask(name)
    order = ""
    for _ in range(6):
        order += holder.serve() or "-"
        holder.use(1)
    assert order == "cabcab"


@pytest.mark.parametrize("strict", [False, True])
def test_what_one_share_has_used_of_a_lock_absorbs_nothing_of_others(
    monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    holder = KeyHolder(monkeypatch, strict)
    holder.shares["a"] = Principal(None, "a", WEIGHT_MIN)
    holder.ask("a")
    assert holder.serve() == "a"
    holder.use(20 * 60 * 1000)  # twenty minutes
    served = ""
    for name in "bc" * 500:
        holder.ask(name)
    for _ in range(1000):
        served += holder.serve() or "-"
        holder.use(1e-4)  # 100 ns
    assert served[:100] in ("bc" * 50, "cb" * 50)


def test_usage_counts_by_weight(holder: KeyHolder) -> None:
    holder.share("a", 3)
    for _ in range(400):
        holder.ask("a")
        holder.ask("b")
    for _ in range(400):
        holder.serve()
        holder.use(1)
    assert (holder.used("a"), holder.used("b")) == (300, 100)
    assert holder.queue.ledger.jain() == 1


def test_a_newcomer_starts_at_the_average(holder: KeyHolder) -> None:
    for _ in range(100):
        holder.ask("a")
        holder.ask("b")
    for _ in range(100):
        holder.serve()
        holder.use(1)
    for _ in range(100):
        holder.ask("c")
    for _ in range(60):
        holder.serve()
        holder.use(1)
    assert holder.used("c") == 20  # not 50, which it would need to draw level from zero


def test_work_without_a_share_is_one_of_them(holder: KeyHolder) -> None:
    for _ in range(4):
        holder.ask("a")
        holder.ask("b").share = None
    for _ in range(4):
        holder.queue.popleft()
        holder.use(1)
    assert holder.queue.ledger.usage() == {"a": 0.002, None: 0.002}


def test_what_is_only_looked_at_is_not_charged_and_not_counted(holder: KeyHolder) -> None:
    one_ahead(holder)
    served = holder.queue._served
    last = holder.ask("a")
    for _ in range(10 * PASSED_OVER_MAX):
        assert holder.queue.first() is last
        assert len(holder.queue.items()) == 1
        holder.now += 1
    assert holder.queue._served == served
    holder.ask("b")
    assert holder.serve() == "a"  # what was promised to it stays so
    holder.use(1)
    assert holder.used("a") == 101
    assert holder.serve() == "b"


def one_ahead(holder: KeyHolder, by: float = 100) -> None:
    """`a` and `b` have used the lock, `a` more than `b` by so much (in ms)."""
    for name, length in (("b", 1), ("a", by), ("b", 0)):
        holder.ask(name)
        assert holder.serve() == name
        holder.use(length)


# --- nobody is passed over for ever ---------------------------------------------------------------


def test_one_that_is_far_ahead_is_served_all_the_same(holder: KeyHolder) -> None:
    one_ahead(holder, by=500)
    holder.ask("a")
    order = ""
    for _ in range(2 * PASSED_OVER_MAX + 1):
        holder.ask("b")
        order += holder.serve() or "-"
        holder.use(0.001)
    assert order == "b" * 2 * PASSED_OVER_MAX + "a"


@pytest.mark.thread_unsafe(reason="the holder sets the clock")
@pytest.mark.parametrize("kind", ["holder", "strict"])
@pytest.mark.parametrize("seed", range(20))
def test_the_wait_is_bounded(kind: str, seed: int, request: pytest.FixtureRequest) -> None:
    """Of random programs: the first of each share waits for no more sections than are proved."""
    holder: KeyHolder = request.getfixturevalue(kind)
    rng = random.Random(seed)
    names = "abcdefgh"[: rng.randint(2, 8)]
    for name in names:
        holder.share(name, rng.choice([0.01, 1, 100]))
    lengths = {name: rng.choice([0.001, 0.1, 50]) for name in names}
    waiting: dict[str, list[Request]] = {name: [] for name in names}
    first_since = dict.fromkeys(names, 0)
    served = 0
    for _ in range(3000):
        for name in rng.choices(names, k=rng.randint(0, 2)):
            if not waiting[name]:
                first_since[name] = served
            waiting[name].append(holder.ask(name))
        if rng.random() < 0.1 and waiting[name := rng.choice(names)]:
            given_up = waiting[name].pop(rng.randrange(len(waiting[name])))
            given_up.clear()
            holder.queue.give_up(given_up)
        assert len(holder.queue.items()) == sum(map(len, waiting.values()))
        try:
            item = holder.queue.popleft()
        except IndexError:
            assert holder.queue._strict or not len(holder.queue)
            holder.now += HOLD_BACK
            continue
        served += 1
        name = item.share.name
        assert item is waiting[name].pop(0)
        # The first look at a request comes before the section that follows it: one more.
        assert served - first_since[name] <= (PASSED_OVER_MAX + 1) * len(names) + 1
        first_since[name] = served
        holder.use(lengths[name])


@pytest.mark.thread_unsafe(reason="the holder sets the clock")
@pytest.mark.parametrize("shares", [2, 16, 17, 100, 544])
def test_one_that_is_far_ahead_waits_for_so_many_passes(holder: KeyHolder, shares: int) -> None:
    """All others come again at once, and all are due at the same moment, a the last one of them."""
    others = [f"s{i}" for i in range(shares - 1)]
    for name in [*others, "a"]:
        holder.ask(name)
        assert holder.serve() == name
        holder.use(900 if name == "a" else 0)
    for name in [*others, "a"]:
        holder.ask(name)
    served = 0
    while (name := holder.serve()) != "a":
        assert name is not None
        served += 1
        holder.use(0.001)
        holder.ask(name)
    assert served >= min(PASSED_OVER_MAX * shares, PASS_SECTIONS * PASSES_MAX // 2)
    assert served < PASS_SECTIONS * (PASSES_MAX + 1)
    assert holder.queue.longest_wait == served + 1


# --- what is given up is out of the line ----------------------------------------------------------


@pytest.mark.parametrize("looked", ["not yet", "lined up", "chosen"])
def test_a_request_that_is_given_up_is_out_of_the_line(holder: KeyHolder, looked: str) -> None:
    holder.ask("b")
    request = holder.ask("a")
    if looked == "lined up":
        assert holder.serve() == "b"
    elif looked == "chosen":
        assert holder.serve() == "b"
        holder.use(1)
        assert holder.queue.first() is request
    before = len(holder.queue.items())
    holder.queue.give_up(request)
    assert len(holder.queue.items()) == before - 1
    assert holder.serve() == ("b" if looked == "not yet" else None)
    assert holder.serve() is None
    assert not holder.queue.holds_work()


def test_a_request_that_is_given_up_on_its_way_into_the_line(holder: KeyHolder) -> None:
    """1. it is taken out of what has come; 2. its owner looks for it; 3. it goes into the line."""
    request = holder.ask("a")
    line = holder.queue.ledger.find(holder.share("a")).queue

    class Slow(type(line)):  # type: ignore[misc]
        def append(self, item: Any) -> None:
            item.given_up = True
            holder.queue.give_up(item)
            super().append(item)

    account = holder.queue.ledger.find(holder.share("a"))
    account.queue = Slow()
    assert holder.serve() is None
    assert len(holder.queue) == 0
    assert not account.queue
    account.queue = line
    assert request not in line


def test_a_request_given_up_just_before_it_is_taken_is_passed_over(
    holder: KeyHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = holder.ask("a"), holder.ask("a")
    first_of = UsageQueue._first_of

    def and_give_up(queue: UsageQueue, account: Any) -> Any:
        item = first_of(queue, account)
        if item is one and not one.given_up:
            one.given_up = True
            queue.give_up(one)
        return item

    holder.queue._line_up(holder.now)
    monkeypatch.setattr(UsageQueue, "_first_of", and_give_up)
    assert holder.queue.take() is other


@pytest.mark.thread_unsafe(reason="watches all instructions")
def test_an_interrupt_anywhere_in_a_look_loses_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    for moment in moments(interrupts=True, places=Places()):
        holder = KeyHolder(monkeypatch)
        for name in "aab":
            holder.ask(name)
        with contextlib.suppress(KeyboardInterrupt), moment.do(interrupt):
            holder.queue.first()
        assert len(holder.queue.items()) == 3, moment
        assert holder.queue.holds_work() or holder.queue, moment
        assert sorted(str(holder.serve()) for _ in range(3)) == ["a", "a", "b"], moment
        assert holder.serve() is None
        assert len(holder.queue) == 0


def test_a_look_at_all_requests_sees_one_that_moves(
    holder: KeyHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = holder.ask("a")
    moves, moved = threading.Event(), threading.Event()
    join_line = UsageQueue._join_line

    def slowly(queue: UsageQueue, item: Any, now: int) -> None:
        moves.set()
        moved.wait(TIMEOUT)
        join_line(queue, item, now)

    monkeypatch.setattr(UsageQueue, "_join_line", slowly)
    mover = threading.Thread(target=holder.queue._line_up, args=(holder.now,))
    mover.start()
    assert moves.wait(TIMEOUT)
    monkeypatch.setattr(_usage, "yield_cpu", lambda: (moved.set(), mover.join()))
    assert holder.queue.items() == [request]
    mover.join()


def test_emptying_the_queue_returns_all_of_it(strict: KeyHolder) -> None:
    one_ahead(strict)
    held = strict.ask("a")
    strict.ask("b")
    assert strict.serve() == "b"
    assert strict.serve() is None  # a is held back
    late, later = strict.ask("a"), strict.ask("c")
    taken = [strict.queue.take() for _ in range(3)]
    assert set(taken) == {held, late, later}
    assert strict.queue.take() is None
    assert len(strict.queue) == 0
    assert strict.serve() is None


# --- strict ---------------------------------------------------------------------------------------


def test_one_that_is_ahead_is_held_back(strict: KeyHolder) -> None:
    one_ahead(strict)
    strict.ask("a")
    assert strict.serve() is None
    assert len(strict.queue.items()) == 1
    assert strict.queue  # so that the end of a section looks again
    assert not strict.queue.holds_work()
    [(deadline, target)] = strict.armed
    assert deadline == strict.now + HOLD_BACK
    strict.ask("b")
    assert strict.queue.holds_work()
    assert strict.serve() == "b"
    strict.use(1)
    assert strict.serve() is None  # still
    assert strict.armed == [(deadline, target)]  # one timer for all of it


def test_one_that_is_held_back_is_served_when_the_others_do_not_come(strict: KeyHolder) -> None:
    one_ahead(strict)
    strict.ask("a")
    assert strict.serve() is None
    strict.now += HOLD_BACK
    [(_, target)] = strict.armed
    target.wake()
    assert strict.looks == 1
    assert strict.serve() == "a"


def test_a_timer_that_comes_when_the_key_is_held_loses_nothing(strict: KeyHolder) -> None:
    """1. it is decided to hold back; 2. the timer comes; 3. the key is released."""
    one_ahead(strict)
    strict.ask("a")
    strict.key.acquire()
    assert strict.serve() is None
    strict.armed[0][1].wake()
    assert strict.looks == 0
    strict.key.release()
    assert strict.queue.holds_work()  # recheck: the releaser looks again
    assert strict.serve() is None
    assert len(strict.armed) == 2
    assert not strict.queue.holds_work()


def test_nobody_is_held_back_where_no_timer_can_be_had(
    strict: KeyHolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(deadline: float, target: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(strict, "add", fail)
    one_ahead(strict)
    strict.ask("a")
    assert strict.serve() == "a"
    assert "no timer could be started" in caplog.text


def test_one_that_is_a_little_ahead_is_not_held_back(strict: KeyHolder) -> None:
    one_ahead(strict, by=SLACK / VIRTUAL_NANOSECOND / MILLISECOND)
    strict.ask("a")
    assert strict.serve() == "a"


def test_one_that_is_alone_is_not_held_back(strict: KeyHolder) -> None:
    for _ in range(10):
        strict.ask("a")
        assert strict.serve() == "a"
        strict.use(100)
        assert strict.queue.begin(strict.share("a"), strict.now)
        strict.use(100)


def test_one_that_is_ahead_does_not_enter_at_once(strict: KeyHolder) -> None:
    one_ahead(strict)
    assert not strict.queue.begin(strict.share("a"), strict.now)
    assert strict.queue.current is None
    assert strict.queue.begin(strict.share("b"), strict.now)
    strict.use(1)
    strict.now += HOLD_BACK
    assert strict.queue.begin(strict.share("a"), strict.now)


def closed_loop(holder: KeyHolder, shares: int, milliseconds: float) -> list[float]:
    """Each share has one client, which asks again 50 µs after its section; sections 1:10."""
    names = [f"{index}" for index in range(shares)]
    lengths = {name: 0.15 if index % 2 else 0.015 for index, name in enumerate(names)}
    returns = dict.fromkeys(names, holder.now)
    end = holder.now + int(milliseconds * MILLISECOND)
    while holder.now < end:
        for name in sorted(returns, key=returns.__getitem__):
            if returns[name] <= holder.now:
                del returns[name]
                holder.ask(name)
        name = holder.serve() or ""
        if name:
            holder.use(lengths[name])
            returns[name] = holder.now + 50_000
        else:
            due = [deadline for deadline, _ in holder.armed]
            holder.now = max(holder.now, min([*returns.values(), *due]))
            for entry in holder.armed[:]:
                if entry[0] <= holder.now:
                    holder.armed.remove(entry)
                    entry[1].wake()
    return [holder.used(name) for name in names]


@pytest.mark.parametrize("shares", [2, 4, 16])
def test_strict_makes_closed_loops_equal(strict: KeyHolder, shares: int) -> None:
    used = closed_loop(strict, shares, 1000)
    assert jain_index(used) >= 0.99
    assert sum(used) > 1000 / 4


def test_closed_loops_are_not_equal_otherwise(holder: KeyHolder) -> None:
    """What strict is for: one who is away when the lock is given out gets nothing."""
    assert jain_index(closed_loop(holder, 2, 1000)) < 0.7


# --- on a pool ------------------------------------------------------------------------------------


KINDS: list[dict[str, Any]] = [
    {"order": "ticket"},
    {"order": "usage"},
    {"order": "usage", "strict": True},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_ways_in_are_charged_and_exclude_one_another(
    make_pool: Callable[..., FairPool], kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(2)
    shares = [pool.share(name) for name in "abcd"]
    state = pool.guarded(lambda: [0], **kind)
    lock = state.lock
    inside = []
    charged: list[object] = []
    ledger: Any = lock.queue.ledger

    def charge(self: Any, account: Any, *args: Any, charge: Any = Ledger.charge) -> None:
        if self is ledger:
            charged.append(account)
        charge(self, account, *args)

    monkeypatch.setattr(Ledger, "charge", charge)

    def section(*args: object) -> None:
        inside.append(None)
        assert len(inside) == 1
        state._state[0][0] += 1
        inside.pop()

    async def long_section() -> None:
        inside.append(None)
        await fairpool.yield_now()
        assert len(inside) == 1
        state._state[0][0] += 1
        inside.pop()

    async def task() -> None:
        for _ in range(20):
            async with state:
                section()
            async with state:
                await long_section()
            await lock.submit(section)
            await lock.submit(long_section)
            await pool.submit(len, "").then(section, lock=lock)

    def stack() -> None:
        for _ in range(20):
            with lock:
                section()

    async def external() -> None:
        for _ in range(20):
            async with lock:
                section()
                await asyncio.sleep(0)

    futures = [share.submit(task) for share in shares] + [share.submit(stack) for share in shares]
    threads = [
        threading.Thread(target=stack),
        threading.Thread(target=asyncio.run, args=[external()]),
    ]
    for thread in threads:
        thread.start()
    for future in futures:
        future.result(TIMEOUT)
    for thread in threads:
        thread.join(TIMEOUT)
    assert state._state[0][0] == 4 * 20 * 5 + 4 * 20 + 2 * 20
    assert not inside
    with lock:  # a section is final a moment before its worker has left the lock
        pass
    assert not lock.locked()
    assert len(lock.queue) == 0
    statistics = lock.statistics()
    assert set(statistics.usage) == {*"abcd", None}
    assert 0.2 <= statistics.jain <= 1
    # Each section is charged once: five in each turn of a task, and one in each of a stack.
    for share in shares:
        assert charged.count(ledger.find(share._principal)) == 6 * 20
    assert charged.count(ledger.find(None)) >= 2 * 20
    # What lies between two sections of a pass is the lock's time, and no share's.
    assert 0 < sum(statistics.usage.values()) <= statistics.busy
    assert pool.statistics().locks == (lock.statistics(),)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_pass_ends_and_the_next_one_goes_on(
    make_pool: Callable[..., FairPool], kind: dict[str, Any], gate: threading.Event
) -> None:
    pool = make_pool(1)
    shares = [pool.share(name) for name in "ab"]
    lock: Any = pool.lock(**kind)
    with lock:
        sections = [
            share.submit(lock.submit, len, "").result(TIMEOUT)
            for share in shares
            for _ in range(200)
        ]
    for section in sections:
        assert section.result(TIMEOUT) == 0
    assert lock.statistics().passes > 400 // 64
    assert lock.statistics().longest_pass <= 64
    assert sum(lock.statistics().usage.values()) > 0


def test_what_a_combiner_does_after_a_section_is_not_charged_to_it(
    make_pool: Callable[..., FairPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it takes a second to publish what is left of a task."""
    now = [1_000_000_000_000]
    for module in (_charging, _usage):
        monkeypatch.setattr(module, "monotonic_ns", lambda: now[0])
    pool = make_pool(1)
    lock: Any = pool.lock(order="usage")

    append = Principal.append

    def append_slowly(principal: Principal, item: Any) -> None:
        now[0] += 1000 * MILLISECOND
        append(principal, item)

    async def enters() -> None:
        async with lock:
            now[0] += MILLISECOND

    share = pool.share("a")
    share.submit(len, "").result(TIMEOUT)
    with lock:
        tasks = [share.submit(enters) for _ in range(10)]
        while len(lock.queue.items()) < len(tasks):
            pass
        monkeypatch.setattr(Principal, "append", append_slowly)
    for task in tasks:
        task.result(TIMEOUT)
    assert now[0] > 1_000_000_000_000 + 9000 * MILLISECOND
    assert lock.statistics().usage["a"] == pytest.approx(0.01)


@pytest.mark.parametrize("order", ["ticket", "usage"])
def test_each_tiny_section_is_charged(
    order: str, make_pool: Callable[..., FairPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000_000_000
    for module in (_usage, _charging, _combiner, _exit, _tasks, _threads):
        monkeypatch.setattr(module, "monotonic_ns", lambda: now)
    pool = make_pool(1)
    share = pool.share("a")
    lock = pool.lock(order=order)

    async def enters() -> None:
        nonlocal now
        for i in range(100):
            async with lock:
                now += i % 8

    share.submit(enters).result(TIMEOUT)
    assert lock.statistics().usage["a"] == pytest.approx(sum(i % 8 for i in range(100)) * 1e-9)


def test_a_request_that_is_made_again_is_charged_to_the_same_share(
    make_pool: Callable[..., FairPool], gate: threading.Event
) -> None:
    """Its task was cancelled, and that was taken back before the task could see it."""
    pool = make_pool(1)
    share = pool.share("a")
    lock = pool.lock(order="usage")

    async def enters() -> None:
        async with lock:
            pass

    with lock:
        future = share.submit(enters)
        while not lock.queue:
            yield_cpu()
        busy = pool.submit(gate.wait)
        while not busy.running():
            yield_cpu()
        future.cancel()
        future.uncancel()
        gate.set()
        busy.result(TIMEOUT)
        while not lock.queue:
            yield_cpu()
    future.result(TIMEOUT)
    while not lock.statistics().usage.get("a"):
        yield_cpu()


def ahead(pool: FairPool, lock: Any, name: str, other: str) -> None:
    """Let a share have used the lock for long, and another one be seen there just now."""
    ledger = lock.queue.ledger
    now = _usage.monotonic_ns()
    ledger.charge(ledger.find(pool.share(other)._principal), 1, now)
    ledger.charge(ledger.find(pool.share(name)._principal), 10**12, now)


@pytest.mark.parametrize("way", ["async with", "with", "submit", "acquire(False)"])
def test_one_that_is_held_back_is_let_in_at_last(
    make_pool: Callable[..., FairPool], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(_usage, "HOLD_BACK", 50 * MILLISECOND)
    pool = make_pool(1)
    lock: Any = pool.lock(order="usage", strict=True)
    share = pool.share("a")

    async def enters() -> bool:
        async with lock:
            return bool(lock.locked())

    def stays() -> bool:
        with lock:
            return bool(lock.locked())

    ahead(pool, lock, "a", "b")
    if way == "submit":
        future = share.submit(lambda: lock.submit(lock.locked)).result(TIMEOUT)
    elif way == "acquire(False)":
        assert share.submit(lock.acquire, False).result(TIMEOUT) is False
        assert not lock.locked()
        return
    else:
        future = share.submit(enters if way == "async with" else stays)
    assert future.result(TIMEOUT) is True
    while lock.locked():  # its result is there before the section has ended
        pass


def test_one_that_is_held_back_gives_way(
    make_pool: Callable[..., FairPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_usage, "HOLD_BACK", TIMEOUT * 1000 * MILLISECOND)
    monkeypatch.setattr(_share, "ABSENCE", TIMEOUT * 1000 * MILLISECOND)  # else b is a newcomer
    pool = make_pool(1)
    lock: Any = pool.lock(order="usage", strict=True)
    order: list[str] = []

    async def enters(name: str) -> None:
        async with lock:
            order.append(name)
            if name == "b":
                ledger = lock.queue.ledger
                account = ledger.find(pool.share("b")._principal)
                ledger.charge(account, 10**12, _usage.monotonic_ns())  # it has drawn level

    ahead(pool, lock, "a", "b")
    future = pool.share("a").submit(enters, "a")
    while not lock.queue._held or lock.locked():
        pass
    pool.share("b").submit(enters, "b").result(TIMEOUT)
    future.result(TIMEOUT)
    assert order == ["b", "a"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_request_that_is_cancelled_is_out_of_the_line_at_once(
    make_pool: Callable[..., FairPool], kind: dict[str, Any], gate: threading.Event
) -> None:
    pool = make_pool(2)
    share = pool.share("a")
    lock: Any = pool.lock(**kind)

    async def enters() -> None:
        async with lock:
            pass

    def holds() -> None:
        with lock:
            started.set()
            gate.wait(TIMEOUT)

    started = threading.Event()
    holder = pool.submit(holds)
    assert started.wait(TIMEOUT)
    tasks = [share.submit(enters) for _ in range(3)]
    sections = [share.submit(lock.submit, len, "").result(TIMEOUT) for _ in range(3)]
    while len(lock.queue.items()) < 6:
        pass
    for left, future in zip((5, 4), (tasks[1], sections[1]), strict=True):
        assert future.cancel()
        assert len(lock.queue) == left
    assert not lock.acquire(timeout=0.001)
    assert len(lock.queue) == 4
    gate.set()
    for future in (holder, *tasks[::2], *sections[::2]):
        future.result(TIMEOUT)
    with pytest.raises(CancelledError):
        tasks[1].result(TIMEOUT)
    assert len(lock.queue) == 0


def test_shutdown_waits_for_what_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_usage, "HOLD_BACK", 100 * MILLISECOND)
    pool = FairPool(2)
    lock: Any = pool.lock(order="usage", strict=True)
    ahead(pool, lock, "a", "b")
    section = pool.share("a").submit(lock.submit, len, "a").result(TIMEOUT)
    in_time(pool.shutdown)
    assert section.result(0) == 1


def test_shutdown_cancels_what_waits(gate: threading.Event) -> None:
    pool = FairPool(1)
    lock: Any = pool.lock(order="usage", strict=True)
    ahead(pool, lock, "a", "b")
    occupy(pool, gate)
    sections = []
    threading.Thread(target=lambda: sections.append(lock.submit(len, "a"))).start()
    while not sections:
        pass
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    in_time(pool.shutdown)
    assert sections[0].cancelled()


def test_a_lock_counts_if_its_pool_has_shares(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(1)
    before = pool.lock()
    assert type(before) is Lock
    share = pool.share("a")
    after = pool.lock()
    for lock in (before, after):
        # Two: a section is final a moment before it is charged, and that is before the next begins.
        for _ in range(2):
            share.submit(lock.submit, len, "").result(TIMEOUT).result(TIMEOUT)
    assert before.statistics().usage == {}
    assert before.statistics().jain == 1
    assert list(after.statistics().usage) == ["a"]


def test_arguments(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(1)
    with pytest.raises(ValueError, match="not 'fifo'"):
        pool.lock(order="fifo")
    with pytest.raises(TypeError, match="strict must be a bool, not 1"):
        pool.lock(order="usage", strict=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='only a lock with order="usage" can be strict'):
        pool.guarded(dict, strict=True)


def test_charge_needs_usage_order(make_pool: Callable[..., FairPool]) -> None:
    pool = make_pool(1)
    with pytest.raises(ValueError, match='charge must be "share" or "task", not \'thread\''):
        pool.lock(order="usage", charge="thread")
    for charge in ("share", "task"):
        with pytest.raises(ValueError, match='charge is for a lock with order="usage"'):
            pool.lock(charge=charge)
        pool.guarded(dict, order="usage", charge=charge)


def payers(lock: Any) -> list[int]:
    """How often each payer has used a lock, whose sections take no time: an account for each."""
    return [account.usage for account in lock.ledger.accounts.values()]


def test_each_task_pays_for_itself(make_pool: Callable[..., FairPool]) -> None:
    """Also a child of a gather, and one whose context is a copy of its parent's."""
    pool = make_pool(2)
    lock: Any = pool.lock(order="usage", charge="task")

    async def child() -> None:
        for _ in range(3):
            async with lock:
                await fairpool.yield_now()

    async def parent() -> None:
        async with lock:
            pass
        await fairpool.gather(child(), child(), eager_start=True)
        await fairpool.gather(child(), child())
        await pool.submit(child)
        async with lock:
            pass

    pool.submit(parent).result(TIMEOUT)
    assert len(payers(lock)) == 6
    assert list(lock.statistics().usage) == [None]


def test_sections_are_charged_to_the_task_that_made_them(
    make_pool: Callable[..., FairPool],
) -> None:
    pool = make_pool(2)
    lock: Any = pool.lock(order="usage", charge="task")

    async def program() -> None:
        sections = [lock.submit(int) for _ in range(3)]
        sections += [pool.submit(int).then(abs, lock=lock) for _ in range(3)]
        await fairpool.gather(*sections)

    pool.submit(program).result(TIMEOUT)
    assert len(payers(lock)) == 1
    with lock:
        pass
    with lock:
        pass
    assert len(payers(lock)) == 2  # this thread, and once

    async def foreign() -> None:
        async with lock:
            pass

    async def loop() -> None:
        await asyncio.gather(foreign(), foreign())

    asyncio.run(loop())
    assert len(payers(lock)) == 4


@pytest.mark.parametrize("strict", [False, True])
def test_a_lock_forgets_the_tasks_that_have_gone(
    make_pool: Callable[..., FairPool], monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    monkeypatch.setattr(_share, "ABSENCE", -1)
    pool = make_pool(1)
    lock: Any = pool.lock(order="usage", strict=strict, charge="task")

    async def client() -> None:
        async with lock:
            pass

    for _ in range(100):
        pool.submit(client).result(TIMEOUT)
    assert len(payers(lock)) <= 2
    assert not strict or len(lock.ledger.recent) <= 2


def test_a_task_that_is_forgotten_in_its_section_is_charged(holder: KeyHolder) -> None:
    ledger = holder.queue.ledger
    ledger.keeps = False
    account = ledger.find(holder.share("a"))
    ledger.arrive(account, holder.now)
    ledger.arrive(ledger.find(holder.share("b")), holder.now + 2 * _share.ABSENCE)
    assert list(ledger.accounts) == [holder.share("b")]
    ledger.charge(account, MILLISECOND, holder.now + 2 * _share.ABSENCE)
    assert ledger.find(holder.share("a")) is account
    assert holder.used("a") == 1


def test_tasks_get_equal_times_without_shares(
    make_pool: Callable[..., FairPool], gate: threading.Event
) -> None:
    """And the longest wait is in the statistics."""
    pool = make_pool(2)
    lock = pool.lock(order="usage", charge="task")
    order = ""

    def section(name: str, length: int) -> None:
        nonlocal order
        order += name
        end = time.perf_counter_ns() + length * 100_000
        while time.perf_counter_ns() < end:
            pass

    def client(name: str, length: int, count: int) -> list[fairpool.Future[None]]:
        return [lock.submit(section, name, length) for _ in range(count)]

    first = lock.submit(gate.wait)
    sections = pool.submit(client, "l", 8, 20).result(TIMEOUT)
    sections += pool.submit(client, "s", 1, 160).result(TIMEOUT)
    gate.set()
    for each in [first, *sections]:
        each.result(TIMEOUT)
    half = [place for place, name in enumerate(order) if name == "l"][10]
    # All of those were asked for later: first come, first served has none of them here.
    assert order[:half].count("s") > 20
    assert 1 <= lock.statistics().longest_wait_passes <= PASSES_MAX + 1


@pytest.mark.parametrize("strict", [False, True])
def test_a_link_is_cancelled_before_it_is_queued(strict: bool) -> None:
    """It belongs to no share yet, and has no place in the line of any."""
    with FairPool(1) as pool:
        lock = pool.lock(order="usage", strict=strict)
        # It has begun: else to cancel its only link would cancel it, too.
        [source] = occupy(pool, gate := threading.Event())
        link = source.then(lambda _: None, lock=lock)
        assert link.cancel()
        gate.set()
        assert source.result()
        assert lock.submit(int).result() == 0
