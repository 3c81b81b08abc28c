"""Locks: one section at a time, in ticket order, and nobody forgotten, in whatever order they come.

As in `test_task`, the steps are made by hand where orders matter: a pool without slots starts no
worker, so what is runnable stays in its queues until the test takes it out. First all orders of
whole steps; then all places between two instructions at which another party may come.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from kit import LONG, TIMEOUT, Desk, Mishap, check_free, in_time, occupy
from unit.instructions import moments

import fairpool
from fairpool import (
    BrokenFairPool,
    CancelledError,
    DeadlockError,
    FairPool,
    Future,
    Lock,
    current_task,
    timeout,
    yield_now,
)
from fairpool._core.here import here
from fairpool._core.threads import yield_cpu
from fairpool._locks import combiner as combiner_module
from fairpool._locks import exit as exit_module
from fairpool._locks import tasks as tasks_module
from fairpool._locks import threads as threads_module
from fairpool._locks.owners import ThreadOwner, current_owner
from fairpool._locks.waiters import ThreadWaiter
from fairpool._scheduler.find_work import MAX_CONSECUTIVE_ACQUIRES
from fairpool._tasks.request import Request
from fairpool._tasks.settling import claim, settle
from fairpool._tasks.state import CANCELLED

MakePool = Callable[..., FairPool]


@pytest.fixture(autouse=True)
def without_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Looking whether the lock becomes free changes nothing of the protocol, and costs many moments.
    monkeypatch.setattr(tasks_module, "LOOKS_BEFORE_QUEUEING", 0)


class Inside:
    """Who is in the section, and who has been: at most one at a time."""

    def __init__(self) -> None:
        self.who: str | None = None
        self.order: list[str] = []

    def enter(self, who: str) -> None:
        assert self.who is None, f"{who} came in beside {self.who}"
        self.who = who
        self.order.append(who)

    def leave(self, who: str) -> None:
        assert self.who == who
        self.who = None


# --- all orders -----------------------------------------------------------------------------------

WAYS = ("task", "holding task", "section", "coroutine section", "link", "thread", "external")


class Party:
    """One that wants to enter the lock of a desk, in one of the ways, and can give up."""

    def __init__(self, desk: Desk, way: str, inside: Inside) -> None:
        self.desk, self.way, self.inside = desk, way, inside
        self.name = f"{way} {id(self):x}"
        self.go_on: Future[None] = Future()
        self.outcome = "waits"
        self.asked = self.agreed = False  # whether it was cancelled; and `cancel` said yes
        self.future: Any = None
        self.thread: threading.Thread | None = None

    def ask(self) -> None:
        pool, lock = self.desk.pool, self.desk.lock
        if self.way == "task":
            self.future = pool.submit(self.brief)
        elif self.way == "holding task":
            self.future = pool.submit(self.holding)
        elif self.way == "section":
            self.future = lock.submit(self.section)
        elif self.way == "coroutine section":
            self.future = lock.submit(self.body_of_section)
        elif self.way == "link":
            source: Future[None] = Future()
            self.future = source.then(lambda _: self.section(), lock=lock)
            source.set_result(None)
        elif self.way == "external":
            self.future = self.hosted()
            self.poll()
        else:
            assert self.way == "thread"
            self.stay()

    # Ways in.

    async def brief(self) -> None:
        async with self.desk.lock:
            self.section()

    async def holding(self) -> None:
        async with self.desk.lock:
            await self.body_of_section()

    def section(self) -> None:
        self.inside.enter(self.name)
        self.inside.leave(self.name)
        self.outcome = "served"

    async def body_of_section(self) -> None:
        self.inside.enter(self.name)
        try:
            await self.go_on
            self.outcome = "served"
        except CancelledError:
            self.outcome = "interrupted"
            raise
        finally:
            self.inside.leave(self.name)

    async def hosted(self) -> None:
        async with self.desk.lock:
            self.section()

    def poll(self) -> None:
        """A step of the coroutine that is run by nobody."""
        if self.outcome != "waits":
            return
        outer, here.worker = here.worker, None
        try:
            while True:  # also past a `Leave`
                yielded = self.future.send(None)
                if not isinstance(yielded, Future):
                    yielded.end_section()
                elif not yielded.done():
                    return
        except StopIteration:
            pass
        finally:
            here.worker = outer

    def stay(self) -> None:
        # By its parts: the thread that waits is no part of the protocol.
        self.owner = ThreadOwner(self.name)
        self.waiter = ThreadWaiter(self.desk.lock, 0, self.owner)
        self.desk.lock.enqueue(self.waiter)
        self.poll_stay()

    def poll_stay(self) -> None:
        if self.outcome == "waits" and self.waiter.parker.acquire(False):
            assert self.desk.lock.owner is self.owner
            self.section()
            self.desk.lock.end_section()

    # What others do to it.

    def look(self) -> None:
        if self.way == "external" and self.future is not None:
            self.poll()
        elif self.way == "thread" and hasattr(self, "waiter"):
            self.poll_stay()

    def cancel(self) -> None:
        if self.future is None and self.way != "thread":
            return
        if self.way == "thread":
            if hasattr(self, "waiter") and self.outcome == "waits" and self.waiter.give_up():
                self.outcome = "gave up"
        elif self.way == "external":
            if self.outcome == "waits":
                outer, here.worker = here.worker, None
                try:
                    self.future.close()
                finally:
                    here.worker = outer
                self.outcome = "gave up"
        else:
            self.asked = True
            self.agreed = self.future.cancel() or self.agreed

    def release(self) -> None:
        if not self.go_on.done():
            self.go_on.set_result(None)

    def finish(self) -> None:
        if self.way == "external" or self.way == "thread":
            assert self.outcome in ("served", "gave up")
        else:
            assert self.future.done(), f"{self.name} was forgotten"
            if self.agreed or self.future.cancelled():
                assert self.asked
                assert self.future.cancelled()
            elif self.future.exception() is None:
                assert self.outcome == "served"


def finish(desk: Desk, parties: list[Party], inside: Inside) -> None:
    for _ in range(3 * len(parties) + 3):
        desk.run()
        for party in parties:
            party.look()
            party.release()
    for party in parties:
        party.finish()
    assert inside.who is None
    check_free(desk.lock)
    assert not desk.scheduler.suspended


@pytest.mark.parametrize("second", WAYS)
@pytest.mark.parametrize("first", WAYS)
def test_all_orders_of_ask_step_cancel_and_release(first: str, second: str, desk: Desk) -> None:
    events = ["first.ask", "second.ask", "step", "step", "second.cancel", "first.release"]
    outcomes: Counter[str] = Counter()
    for order in set(itertools.permutations(events)):
        inside = Inside()
        parties = {"first": Party(desk, first, inside), "second": Party(desk, second, inside)}
        for event in order:
            name, _, what = event.partition(".")
            if name == "step":
                desk.step()
            else:
                getattr(parties[name], what)()
        for party in parties.values():
            if party.future is None and not hasattr(party, "waiter"):
                party.ask()
        finish(desk, [*parties.values()], inside)
        outcomes[parties["second"].outcome] += 1
    assert outcomes["served"]
    if first == "holding task":  # given up in the queue, in some orders
        assert outcomes["waits"] + outcomes["gave up"] + outcomes["interrupted"]


# --- all places between two instructions ----------------------------------------------------------

HELD = ("holding task", "outside")


def outside(action: Callable[[], object]) -> Callable[[], None]:
    """As if another thread did it, which is no worker."""

    def act() -> None:
        worker, here.worker = here.worker, None
        try:
            action()
        finally:
            here.worker = worker

    return act


class Scene:
    """A lock that is held, one who waits, and one who comes."""

    def __init__(self, desk: Desk, held: str, waiting: str, coming: str) -> None:
        self.desk, self.held, self.inside = desk, held, Inside()
        self.waiter = Party(desk, waiting, self.inside)
        self.comer = Party(desk, coming, self.inside)
        self.parties = [self.waiter, self.comer]
        if held == "outside":
            assert desk.lock.acquire(blocking=False)
        else:
            self.holder = Party(desk, held, self.inside)
            self.parties.append(self.holder)
            self.holder.ask()
            desk.run()
            assert self.inside.who == self.holder.name

    def wait(self) -> None:
        self.waiter.ask()
        self.desk.run()
        assert self.waiter.outcome == "waits"

    def come(self) -> None:
        self.comer.ask()
        self.desk.step()

    def leave(self) -> None:
        if self.held == "outside":
            self.desk.lock.end_section()
        else:
            self.holder.release()
            self.desk.step()

    def finish(self) -> None:
        finish(self.desk, self.parties, self.inside)


@pytest.mark.parametrize("coming", WAYS)
@pytest.mark.parametrize("held", [*HELD, "holding task, and one waits"])
def test_one_comes_in_the_midst_of_a_leaving(held: str, coming: str, desk: Desk) -> None:
    for moment in moments(shares=True):
        scene = Scene(desk, held.partition(",")[0], "section", coming)
        # Nobody else asks after that: who would be served, would serve the one that was forgotten.
        if "waits" in held:
            scene.wait()
        else:
            scene.parties.remove(scene.waiter)
        with moment.do(outside(scene.come)):
            scene.leave()
        if not moment.reached:
            scene.come()
        scene.finish()


@pytest.mark.parametrize("second", ["task", "section", "acquire"])
@pytest.mark.parametrize("first", ["task", "section", "thread", "external"])
def test_nobody_overtakes_in_the_midst_of_a_leaving(first: str, second: str, desk: Desk) -> None:
    for moment in moments(shares=True):
        scene = Scene(desk, "holding task", first, "task" if second == "acquire" else second)

        def come(scene: Scene = scene) -> None:
            scene.waiter.ask()
            while scene.waiter.outcome == "waits" and not desk.lock.queue.items():
                assert desk.step()
            if second != "acquire":
                scene.come()
            elif desk.lock.acquire(blocking=False):
                assert scene.waiter.outcome == "served", "overtaken"
                desk.lock.release()

        if second == "acquire":
            scene.parties.remove(scene.comer)
        with moment.do(outside(come)):
            scene.leave()
        if not moment.reached:
            come()
        scene.finish()
        order = [name for name in scene.inside.order if name != scene.holder.name]
        assert order == [party.name for party in scene.parties if party is not scene.holder]


@pytest.mark.parametrize("waiting", WAYS)
@pytest.mark.parametrize("held", ["coroutine section", "outside"])
def test_one_gives_up_in_the_midst_of_a_leaving(held: str, waiting: str, desk: Desk) -> None:
    outcomes: Counter[str] = Counter()
    for moment in moments(shares=True):
        scene = Scene(desk, held, waiting, "task")
        scene.wait()
        scene.comer.ask()
        with moment.do(outside(scene.waiter.cancel)):
            scene.leave()
        scene.finish()
        outcomes[scene.waiter.outcome] += 1
    assert outcomes["served"]
    assert len(outcomes) > 1


@pytest.mark.parametrize("coming", WAYS)
@pytest.mark.parametrize("held", HELD)
def test_the_lock_is_left_in_the_midst_of_a_coming(held: str, coming: str, desk: Desk) -> None:
    for moment in moments(shares=True):
        scene = Scene(desk, held, "section", coming)
        scene.parties.remove(scene.waiter)
        with moment.do(outside(scene.leave)):
            scene.come()
        if not moment.reached:
            scene.leave()
        scene.finish()


@pytest.mark.parametrize("waiting", WAYS)
@pytest.mark.parametrize("held", HELD)
def test_the_lock_is_left_in_the_midst_of_a_giving_up(held: str, waiting: str, desk: Desk) -> None:
    for moment in moments(shares=True):
        scene = Scene(desk, held, waiting, "task")
        scene.wait()
        scene.comer.ask()
        with moment.do(outside(scene.leave)):
            scene.waiter.cancel()
        if not moment.reached:
            scene.leave()
        scene.finish()


@pytest.mark.parametrize("coming", ["task", "holding task"])
@pytest.mark.parametrize("then", ["cancel", "cancel and take back", "cancel, run"])
def test_one_is_asked_to_end_in_the_midst_of_a_coming(then: str, coming: str, desk: Desk) -> None:
    for moment in moments(shares=True):
        scene = Scene(desk, "outside", "section", coming)

        def ask_to_end(scene: Scene = scene) -> None:
            scene.comer.cancel()
            if "take back" in then and not scene.comer.future.done():
                scene.comer.future.uncancel()
                scene.comer.agreed = False
            if "run" in then:
                desk.run()

        scene.comer.ask()
        with moment.do(outside(ask_to_end)):
            desk.step()
        desk.run()
        if scene.comer.asked and "take back" not in then:
            assert scene.comer.future.cancelled(), "it is still in the queue"
        scene.leave()
        scene.waiter.ask()
        scene.finish()
        if "take back" in then and not scene.comer.future.cancelled():
            assert scene.comer.outcome == "served"


def test_a_late_registrant_does_not_take_a_coroutine_out_of_the_queue(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1. The awaited task ends, and takes out of its cell whom it is to resume. 2. The one that
    # awaited it is cancelled, goes on, and waits for the lock. 3. The end comes to resuming it.
    inside = Inside()
    go_on: Future[None] = Future()

    async def awaited() -> None:
        await go_on

    async def body() -> None:
        try:
            await source
        except CancelledError:
            current_task().uncancel()  # type: ignore[union-attr]
        async with desk.lock:
            inside.enter("body")
            inside.leave("body")

    for moment in moments(shares=True):
        assert desk.lock.acquire(blocking=False)
        inside.enter("the test")
        go_on = Future()
        source: Any = desk.pool.submit(awaited)
        task: Any = desk.pool.submit(body)
        desk.run()
        go_on.set_result(None)

        def cancel(task: Any = task) -> None:
            continuation = task._coroutine_state
            if continuation.disarm():  # as a cancellation that has found it not final
                task._status.append(fairpool._tasks.cancel.CancelRequest(None))
                continuation._requested = continuation._attention = True
                desk.scheduler.resume(continuation)
                desk.run()

        with moment.do(outside(cancel)):
            desk.step()
        desk.run()
        inside.leave("the test")
        desk.lock.end_section()
        desk.run()
        assert task.done()
        assert not task.cancelled() or not moment.reached
        check_free(desk.lock)


def test_ticket_order(desk: Desk) -> None:
    # One queued after the other, in all ways: served so, whatever their ways.
    for ways in itertools.product(WAYS, repeat=3):
        inside = Inside()
        assert desk.lock.acquire(blocking=False)
        parties = [Party(desk, way, inside) for way in ways]
        for party in parties:
            party.ask()
            desk.run()
        desk.lock.end_section()
        for _ in range(9):
            desk.run()
            for party in parties:
                party.look()
                if inside.who == party.name:
                    party.release()
        assert inside.order == [party.name for party in parties]
        finish(desk, parties, inside)


@pytest.mark.parametrize("second", ["task", "acquire"])
def test_nobody_overtakes_one_that_is_about_to_be_found(second: str, desk: Desk) -> None:
    # As between `release_key` and `recheck`: the key is free, and nobody has looked again.
    inside = Inside()
    first, other = Party(desk, "section", inside), Party(desk, "task", inside)
    assert desk.lock.acquire(blocking=False)
    first.ask()
    desk.lock.owner = None
    desk.lock.key.release()
    if second == "acquire":
        assert not desk.lock.acquire(blocking=False)
        assert not desk.lock.acquire(timeout=0)
    other.ask()
    desk.step()
    finish(desk, [first, other], inside)
    assert inside.order == [first.name, other.name]


@pytest.mark.thread_unsafe(reason="watches all instructions")
def test_sections_end_while_they_are_counted(shelf: FairPool) -> None:
    """As many as there are inline and combined, whatever ends meanwhile."""
    lock = shelf.lock()

    def enter() -> None:
        with lock:
            pass

    for moment in moments():
        with moment.do(enter):
            statistics = lock.statistics()
        assert statistics.sections == statistics.inline + statistics.combined, moment


@pytest.mark.parametrize("count", [1, 5, 63, 64, 65, 200])
def test_the_sections_are_counted(count: int, desk: Desk) -> None:
    inside = Inside()
    assert desk.lock.acquire(blocking=False)
    parties = [Party(desk, WAYS[i % len(WAYS)], inside) for i in range(count)]
    for party in parties:
        party.ask()
        desk.run()
    desk.lock.end_section()
    while any(party.outcome == "waits" for party in parties):
        desk.run()
        for party in parties:
            party.look()
            party.release()
    finish(desk, parties, inside)
    statistics = desk.lock.statistics()
    assert statistics.sections == count + 1 + 1  # the test's own, and that of `check_free`
    assert statistics.longest_pass <= combiner_module.PASS_SECTIONS
    assert statistics.waiting == 0


# --- the combiner does not wait (guarantee 4) -----------------------------------------------------


def test_a_leaving_task_goes_on_after_the_waiters(desk: Desk) -> None:
    events: list[str] = []

    async def body(name: str, go_on: Future[None] | None = None) -> None:
        async with desk.lock:
            events.append(f"{name} inside")
            if go_on is not None:
                await go_on
        events.append(f"{name} goes on")

    # Where nobody waits, it goes on at once, in the same step, and there is no pass.
    desk.pool.submit(body, "alone")
    assert desk.step()
    assert events == ["alone inside", "alone goes on"]
    assert desk.lock.statistics().passes == 0

    # Where others wait, its worker serves them first, and lets others take what is left of it.
    events.clear()
    go_on: Future[None] = Future()
    desk.pool.submit(body, "a", go_on)
    desk.run()
    for name in "bcd":
        desk.pool.submit(body, name)
        desk.run()
    go_on.set_result(None)
    assert desk.step()
    inside = [f"{name} inside" for name in "abcd"]
    assert events == [*inside, "d goes on"]  # nobody waited for the last one
    tickets = [item.ticket for item in desk.workers[0].published]
    assert len(tickets) == 3
    assert tickets == sorted(tickets)
    desk.run()
    assert events[5:] == ["a goes on", "b goes on", "c goes on"]
    check_free(desk.lock)


# --- bounded waits --------------------------------------------------------------------------------


def test_a_continuation_is_not_kept_waiting_by_locks_that_are_always_wanted(
    make_pool: MakePool,
) -> None:
    # One worker, and two locks with sections that queue the next ones before they end.
    pool = make_pool(1)
    locks = [pool.lock(), pool.lock()]
    served = [0, 0]
    waits: list[tuple[int, int]] = []
    clients, rounds, hot = 6, 20, 32

    def section(which: int) -> None:
        served[which] += 1
        if len(waits) < clients * rounds:
            locks[which].submit(section, which)

    async def client(number: int) -> None:
        for _ in range(rounds):
            async with locks[number % 2]:
                served[number % 2] += 1
                before = served.copy()
            waits.append((served[0] - before[0], served[1] - before[1]))

    async def plain() -> int:
        turns = 0
        while len(waits) < clients * rounds:
            turns += 1
            await yield_now()
        return turns

    for which in (0, 1):
        for _ in range(hot):
            locks[which].submit(section, which)
    futures: list[Any] = [pool.submit(client, i) for i in range(clients)]
    other = pool.submit(plain)
    for future in futures:
        future.result(TIMEOUT)
    assert other.result(TIMEOUT) > 0
    # At most the rest of a pass, and what came to a lock before it.
    bound = combiner_module.PASS_SECTIONS + hot + clients
    assert max(max(wait) for wait in waits) <= bound, sorted(waits)[-5:]
    assert min(served) > 5 * hot, "the locks were not wanted all the time"


def test_a_lock_is_served_although_its_home_is_busy(
    make_pool: MakePool, gate: threading.Event
) -> None:
    # All workers have other things to do all the time, the lock's home one long thing.
    pool = make_pool(2)
    lock = pool.lock()
    over = threading.Event()
    occupy(pool, gate)
    (home,) = [worker for worker in pool._scheduler.workers if worker.task is not None]

    async def busy() -> None:
        while not over.is_set():
            pool.submit(int)
            await yield_now()

    futures = [pool.submit(busy) for _ in range(3)]
    assert lock.acquire()
    lock.home = lock.preferred = home
    future = lock.submit(int)
    lock.release()
    try:
        assert future.result(TIMEOUT) == 0
    finally:
        over.set()
    for each in futures:
        each.result(TIMEOUT)


# --- no work of others inside (guarantee 5) -------------------------------------------------------


def test_no_task_is_run_on_top_of_a_critical_section(make_pool: MakePool) -> None:
    pool = make_pool(1)
    lock = pool.lock()

    def other() -> tuple[int, bool]:
        return threading.get_ident(), lock.acquire(timeout=0.01)

    def asks() -> Any:
        return pool.submit(other).result(), threading.get_ident()

    def in_stack() -> Any:
        with lock:
            return asks()

    async def in_task() -> Any:
        async with lock:
            return asks()

    def waits_for_all() -> Any:
        with lock:
            future = pool.submit(other)
            concurrent.futures.wait([future])
            return future.result(), threading.get_ident()

    ways = [
        pool.submit(in_stack),
        pool.submit(in_task),
        lock.submit(asks),
        pool.submit(waits_for_all),
        pool.submit(int).then(lambda _: asks(), lock=lock),
    ]
    for future in ways:
        (ident, entered), mine = future.result(TIMEOUT)
        assert ident != mine
        assert not entered
    check_free(lock)

    # Where no lock is held, it is run there.
    (ident, entered), mine = pool.submit(asks).result(TIMEOUT)
    assert ident == mine
    assert entered


# --- cycles (guarantee 6) -------------------------------------------------------------------------


def raises_deadlock(call: Callable[[], object]) -> str:
    with pytest.raises(DeadlockError) as caught:
        call()
    return str(caught.value)


def ways_to_enter_twice(pool: FairPool, lock: Lock) -> dict[str, Callable[[], object]]:
    def stack() -> None:
        with lock:
            lock.acquire()

    async def task() -> None:
        async with lock, lock:
            pass

    async def task_then_stack() -> None:
        async with lock:
            lock.acquire()

    async def stack_then_task() -> None:
        with lock:
            async with lock:
                pass

    async def awaits_section() -> None:
        async with lock:
            await lock.submit(int)

    def waits_for_section() -> None:
        with lock:
            lock.submit(int).result()

    def waits_for_link() -> None:
        source = pool.submit(int)
        source.result()
        with lock:
            source.then(str, lock=lock).result()

    async def all_of() -> None:
        async with lock, fairpool.all_of(lock, pool.lock()):
            pass

    def shuts_down() -> None:
        with lock:
            lock.shutdown()

    return {
        "thread": stack,
        "task": task,
        "task, then stack": task_then_stack,
        "stack, then task": stack_then_task,
        "awaits a section": awaits_section,
        "waits for a section": waits_for_section,
        "waits for a link": waits_for_link,
        "all of": all_of,
        "shuts down": shuts_down,
    }


SELF_WAYS = (
    "thread",
    "task",
    "task, then stack",
    "stack, then task",
    "awaits a section",
    "waits for a section",
    "waits for a link",
    "all of",
    "shuts down",
    "section",
)


@pytest.mark.parametrize("way", SELF_WAYS)
def test_waiting_for_a_lock_from_inside_it_raises(make_pool: MakePool, way: str) -> None:
    pool = make_pool(2)
    lock = pool.lock("mine")
    if way == "section":
        future = lock.submit(lock.acquire)
    else:
        future = pool.submit(ways_to_enter_twice(pool, lock)[way])
    assert "the lock mine" in raises_deadlock(lambda: future.result(TIMEOUT))
    if way != "shuts down":
        in_time(lock.submit(int).result)
    check_free(lock)


@pytest.mark.parametrize("way", ["at once", "submit"])
def test_sections_go_home_when_they_are_long_and_not_when_one_was_cut_off(
    way: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    lock = pool.lock()
    clock = 0
    for module in (combiner_module, exit_module, tasks_module, threads_module):
        monkeypatch.setattr(module, "monotonic_ns", lambda: clock)

    def section(length: int) -> None:
        nonlocal clock
        clock += length

    async def enters(length: int) -> None:
        async with lock:
            section(length)

    def sections(*lengths: int) -> bool:
        for length in lengths:
            ended = lock.statistics().sections + 1
            if way == "submit":
                lock.submit(section, length).result(TIMEOUT)
            else:
                pool.submit(enters, length).result(TIMEOUT)
            while lock.statistics().sections != ended:  # final before it is accounted for
                yield_cpu()
        return lock.statistics().home is not None

    once = exit_module.SECTIONS_BETWEEN_REVIEWS
    above, below = exit_module.GO_HOME_ABOVE + 1, exit_module.STAY_BELOW - 1
    assert not sections(*[below] * once)
    assert not sections(*[below] * (once - 1), 100 * above)  # the system has cut it off
    assert not sections(*[below] * once)
    assert not sections(*[above] * once)
    assert sections(*[above] * once)
    assert sections(*[(above + below) // 2] * 2 * once)
    assert not sections(*[below] * once)


@pytest.mark.parametrize("kind", ["submit", "coroutine", "failing", "link", "two"])
@pytest.mark.parametrize("order", ["ticket", "usage"])
def test_a_callback_of_a_section_may_enter_its_lock(
    order: str, kind: str, make_pool: MakePool
) -> None:
    pool = make_pool(1)
    lock = pool.lock(order=order)
    called: list[str] = []
    both = threading.Event()

    def enters(future: Any, name: str = "first") -> None:
        with lock:
            called.append(name)
        if len(called) == 1 + (kind == "two"):
            both.set()

    def fails() -> None:
        raise ValueError

    async def coroutine() -> None:
        pass

    def make() -> None:
        # In a section, so that the callbacks are there before its end.
        if kind == "link":
            future = pool.submit(int).then(str, lock=lock)
        else:
            fn = {"coroutine": coroutine, "failing": fails}.get(kind, int)
            future = lock.submit(fn)
        future.add_done_callback(enters)
        if kind == "two":
            future.add_done_callback(partial(enters, name="second"))
        if kind == "failing":
            future.add_done_callback(lambda future: future.exception())

    lock.submit(make).result(TIMEOUT)
    assert both.wait(TIMEOUT)
    assert called == ["first", "second"][: len(called)]
    in_time(pool.shutdown)


def test_callbacks_of_sections_are_called_when_the_pool_cancels_the_rest(
    make_pool: MakePool, gate: threading.Event
) -> None:
    pool = make_pool(1)
    lock = pool.lock()
    called: list[Any] = []
    started = threading.Event()

    def section() -> None:
        started.set()
        gate.wait(TIMEOUT)

    future = lock.submit(section)
    future.add_done_callback(called.append)
    assert started.wait(TIMEOUT)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    in_time(pool.shutdown)
    assert called == [future]


def test_a_thread_cannot_enter_twice() -> None:
    with FairPool(1) as pool:
        lock = pool.lock("mine")
        with lock:
            assert "the lock mine" in raises_deadlock(lock.acquire)
            assert not lock.acquire(timeout=0.01)
        check_free(lock)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("kind", ["task", "thread", "mixed"])
def test_a_cycle_of_locks_raises_in_one_member(make_pool: MakePool, kind: str, size: int) -> None:
    pool = make_pool(size)
    locks = [pool.lock(f"number {i}") for i in range(size)]
    meeting = threading.Barrier(size)

    def stack(i: int) -> int:
        with locks[i]:
            meeting.wait(TIMEOUT)
            with locks[(i + 1) % size]:
                return i

    async def task(i: int) -> int:
        async with locks[i]:
            meeting.wait(TIMEOUT)
            async with locks[(i + 1) % size]:
                return i

    body = {"task": [task] * size, "thread": [stack] * size, "mixed": [task, stack] * size}[kind]
    futures: list[Any] = [pool.submit(body[i], i) for i in range(size)]
    errors = [future.exception(TIMEOUT) for future in futures]
    found = [error for error in errors if error is not None]
    assert found
    assert all(isinstance(error, DeadlockError) for error in found)
    assert len(found) < size or size == 2, "all of them raised"
    for i in range(size):
        assert f"the lock number {i}" in str(found[0])
    for lock in locks:
        check_free(lock)


def test_a_cycle_of_a_lock_and_a_future(make_pool: MakePool) -> None:
    pool = make_pool(2)
    lock = pool.lock("outer")
    for first in ("lock", "future"):
        inside = threading.Event()

        async def wants_lock() -> None:
            async with lock:
                pass

        async def holds(first: str = first, inside: threading.Event = inside) -> None:
            async with lock:
                inside.set()
                other = pool.submit(wants_lock)
                if first == "lock":
                    while not lock.queue:
                        await yield_now()
                await other

        holder: Any = pool.submit(holds)
        error = holder.exception(TIMEOUT)
        # In one of the two: the one that awaited fails with it in either case.
        assert isinstance(error, DeadlockError)
        assert "outer" in str(error)
        check_free(lock)


def test_a_cycle_through_another_pool(make_pool: MakePool) -> None:
    pool, other = make_pool(2), make_pool(2)
    mine, its = pool.lock("mine"), other.lock("its")
    meeting = threading.Barrier(2)

    async def one(first: Lock, second: Lock) -> None:
        async with first:
            meeting.wait(TIMEOUT)
            async with second:
                pass

    futures: list[Any] = [pool.submit(one, mine, its), other.submit(one, its, mine)]
    errors = [future.exception(TIMEOUT) for future in futures]
    assert any(isinstance(error, DeadlockError) for error in errors)
    for lock in (mine, its):
        check_free(lock)


def test_a_cycle_of_threads_and_tasks(make_pool: MakePool) -> None:
    """Each holds a lock and wants the next one's: threads that are no workers, and a task."""
    pool = make_pool(2)
    locks = [pool.lock(f"lock {number}") for number in range(3)]
    meeting = threading.Barrier(3)
    outcomes: list[str] = []

    def client(number: int) -> None:
        try:
            with locks[number]:
                meeting.wait(TIMEOUT)
                with locks[(number + 1) % 3]:
                    outcomes.append("entered")
        except DeadlockError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=client, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    pool.submit(client, 2).result(TIMEOUT)
    for thread in threads:
        thread.join(TIMEOUT)
    errors = [outcome for outcome in outcomes if outcome != "entered"]
    assert 1 <= len(errors) <= 2 == len(outcomes) - 1  # two may find it at the same time
    assert all(f"lock {number}" in error for error in errors for number in range(3))


def test_an_end_of_waiting_in_a_cycle_is_no_deadlock(make_pool: MakePool) -> None:
    pool = make_pool(2)
    locks = [pool.lock(), pool.lock()]
    meeting = threading.Barrier(2)

    def one(i: int) -> bool:
        with locks[i]:
            meeting.wait(TIMEOUT)
            entered = locks[1 - i].acquire(timeout=0.05)
            if entered:
                locks[1 - i].release()
            return entered

    futures = [pool.submit(one, i) for i in (0, 1)]
    entered = [future.result(TIMEOUT) for future in futures]
    assert not all(entered)
    for lock in locks:
        check_free(lock)


# --- errors (guarantee 7) -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Mishap, SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("waiting", [False, True])
def test_an_error_inside_releases(
    make_pool: MakePool, error: type[BaseException], waiting: bool
) -> None:
    pool = make_pool(2)
    lock = pool.lock()

    def stack() -> None:
        with lock:
            fail()

    async def task() -> None:
        async with lock:
            fail()

    async def later() -> None:
        async with lock:
            await yield_now()
            fail()

    def fail() -> None:
        if waiting:
            others.append(lock.submit(int))
        raise error("here")

    others: list[Any] = []
    source = pool.submit(int)
    futures: list[Any] = [
        pool.submit(stack),
        pool.submit(task),
        pool.submit(later),
        lock.submit(fail),
        lock.submit(_later(fail)),
        source.then(lambda _: fail(), lock=lock),
    ]
    for future in futures:
        raised = future.exception(TIMEOUT)
        assert type(raised) is error
        length = len(_traceback(raised))
        for _ in range(3):
            with pytest.raises(error):
                future.result()
        assert len(_traceback(future.exception())) <= length + 4
    assert [other.result(TIMEOUT) for other in others] == [0] * len(others)
    pool.submit(int).result(TIMEOUT)
    lock.submit(int).result(TIMEOUT)
    check_free(lock)


def _later(fail: Callable[[], None]) -> Callable[[], Any]:
    async def body() -> None:
        await yield_now()
        fail()

    return body


def _traceback(error: Any) -> list[Any]:
    frames, at = [], error.__traceback__
    while at is not None:
        frames.append(at)
        at = at.tb_next
    return frames


def test_a_loop_that_finds_the_lock_free_does_not_keep_a_continuation_waiting(
    make_pool: MakePool,
) -> None:
    # 1. While the holder waits inside, `first` and `loop` queue their requests. 2. The pass
    # publishes what is left of `first`; `loop` leaves when nobody waits, and goes on inline.
    pool = make_pool(1)
    lock = pool.lock()
    gate = fairpool.Event()
    order: list[str] = []

    async def holder() -> None:
        async with lock:
            await gate.wait()

    async def first() -> None:
        async with lock:
            pass
        order.append("first")

    async def loop() -> None:
        for _ in range(50):
            async with lock:
                pass
        order.append("loop")

    async def opens() -> None:
        gate.set()

    ways = [pool.submit(way) for way in (holder, first, loop, opens)]
    for future in ways:
        future.result(TIMEOUT)
    assert order == ["first", "loop"]
    check_free(lock)


def test_consecutive_acquires_end_in_a_yield_without_a_request(make_pool: MakePool) -> None:
    # As above, with two loops; a request would make the other one queue up behind it, and so on.
    pool = make_pool(1)
    lock = pool.lock()
    gate = fairpool.Event()
    running: list[str] = []

    async def holder() -> None:
        async with lock:
            await gate.wait()

    async def loop(name: str) -> None:
        for _ in range(10 * MAX_CONSECUTIVE_ACQUIRES):
            async with lock:
                running.append(name)

    async def opens() -> None:
        gate.set()

    ways = [pool.submit(holder), pool.submit(loop, "a"), pool.submit(loop, "b"), pool.submit(opens)]
    for future in ways:
        future.result(TIMEOUT)
    check_free(lock)
    # What has gone through the queue is the first section of each loop.
    assert lock.statistics().combined <= 3
    changes = [(one, other) for one, other in itertools.pairwise(running) if one != other]
    assert len(changes) >= 10


def test_a_task_that_yielded_the_lock_waits_for_a_bounded_time(make_pool: MakePool) -> None:
    # The third one yields before its turns are used up: they are its own, and nobody else's.
    pool = make_pool(1)
    lock = pool.lock()
    gate = fairpool.Event()
    turns: Counter[str] = Counter()
    stop = 200 * MAX_CONSECUTIVE_ACQUIRES

    async def holder() -> None:
        async with lock:
            await gate.wait()

    async def loop(name: str) -> None:
        while turns.total() < stop:
            async with lock:
                turns[name] += 1

    async def yields() -> None:
        while turns.total() < stop:
            for _ in range(MAX_CONSECUTIVE_ACQUIRES - 1):
                async with lock:
                    turns["yields"] += 1
            await yield_now()

    async def opens() -> None:
        gate.set()

    ways: list[Any] = [(holder,), (loop, "a"), (loop, "b"), (yields,), (opens,)]
    for future in [pool.submit(*way) for way in ways]:
        future.result(TIMEOUT)
    assert min(turns["a"], turns["b"]) > turns["yields"] / 4, turns
    check_free(lock)


def test_a_section_that_was_cancelled_as_its_turn_came_is_not_counted(desk: Desk) -> None:
    lock = desk.lock
    assert lock.key.acquire(False)
    sections = [lock.submit(int) for _ in range(3)]
    assert claim(sections[1]) is not None  # by somebody who cancels it
    assert lock.run(desk.workers[0]) is None
    assert lock.statistics().sections == 2
    settle(sections[1], CANCELLED, None)
    check_free(lock)


@pytest.mark.parametrize("order", ["ticket", "usage"])
def test_an_initializer_may_run_a_loop_that_uses_a_lock(order: str, make_pool: MakePool) -> None:
    lock = make_pool(1).lock(order=order)

    async def enters() -> None:
        async with lock:
            entered.append(lock.locked())

    entered: list[bool] = []
    pool = make_pool(1, initializer=lambda: asyncio.run(enters()))
    assert pool.submit(int).result(TIMEOUT) == 0
    assert entered == [True]
    check_free(lock)


# --- stacks and their time-outs -------------------------------------------------------------------


def test_a_stay_that_is_granted_as_its_time_is_over(make_pool: MakePool) -> None:
    # 1. Who leaves takes the stay out of the queue. 2. Its time is over: it finds that it was let
    # in, goes on, and leaves. 3. The one that let it in comes to writing down who is inside.
    pool = make_pool(1)
    lock = pool.lock()
    for moment in moments(shares=True):
        assert lock.acquire()
        outcome: list[bool] = []
        begin = threading.Event()

        def stay(outcome: list[bool] = outcome, begin: threading.Event = begin) -> None:
            owner = current_owner()
            waiter = ThreadWaiter(lock, 0, owner)
            lock.enqueue(waiter)
            begin.set()
            go_on.wait(TIMEOUT)
            if not lock._gave_up(waiter):
                lock.release()
                outcome.append(True)

        go_on = threading.Event()
        thread = threading.Thread(target=stay)
        thread.start()
        assert begin.wait(TIMEOUT)

        def time_is_over(thread: threading.Thread = thread, event: Any = go_on) -> None:
            event.set()
            thread.join(0.001)

        with moment.do(time_is_over):
            lock.release()
        go_on.set()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
        check_free(lock)


def test_a_link_after_a_section_is_run(make_pool: MakePool) -> None:
    # More of them than a worker takes between two looks at how long a continuation waited.
    pool = make_pool(2)
    lock = pool.lock()
    futures = [lock.submit(int, i).then(lambda value: value + 1) for i in range(200)]
    assert [future.result(TIMEOUT) for future in futures] == [*range(1, 201)]


# --- cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [False, True])
def test_a_section_that_is_cancelled_leaves_the_queue(make_pool: MakePool, link: bool) -> None:
    pool = make_pool(1)
    lock = pool.lock()
    called: list[int] = []
    with lock:
        source = pool.submit(int)
        source.result(TIMEOUT)
        futures: list[Any] = [
            source.then(called.append, lock=lock) if link else lock.submit(called.append, i)
            for i in range(5)
        ]
        in_time(lambda: _until(lambda: len(lock.queue) == 5))
        for future in futures[1:4]:
            assert future.cancel()
        assert len(lock.queue) == 2
    futures[0].result(TIMEOUT)
    futures[4].result(TIMEOUT)
    assert len(called) == 2
    check_free(lock)


def test_a_timeout_takes_a_task_out_of_the_queue(make_pool: MakePool) -> None:
    pool = make_pool(1)
    lock = pool.lock()

    async def body() -> str:
        try:
            async with timeout(0.01), lock:
                return "entered"
        except TimeoutError:
            return "too late"

    with lock:
        assert pool.submit(body).result(TIMEOUT) == "too late"
        assert not lock.queue
    assert pool.submit(body).result(TIMEOUT) == "entered"
    check_free(lock)


def test_leaving_in_a_loop_can_be_cancelled_at_once(make_pool: MakePool) -> None:
    lock = make_pool(1).lock()

    async def main() -> None:
        async def leaves() -> None:
            async with lock:
                others.append(lock.submit(int))
                asyncio.current_task().cancel()  # type: ignore[union-attr]

        others: list[Any] = []
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: errors.append(what))
        with pytest.raises(CancelledError):
            await asyncio.ensure_future(leaves())
        assert await others[0] == 0
        assert not errors

    asyncio.run(main())
    check_free(lock)


@pytest.mark.parametrize("way", ["ends otherwise", "swallows it", "waits again"])
def test_a_coroutine_that_is_abandoned_leaves_its_lock(
    desk: Desk, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    never: Future[None] = Future()

    async def stubborn() -> None:
        async with desk.lock:
            try:
                await never
            except GeneratorExit:
                if way == "ends otherwise":
                    raise Mishap from None
                if way == "waits again":
                    await never

    task: Any = desk.pool.submit(stubborn)
    desk.run()
    section = desk.lock.submit(int)
    continuation = task._coroutine_state
    assert continuation.disarm()
    continuation.abandon(Mishap())
    assert isinstance(task.exception(0), Mishap)
    desk.run()
    if way != "waits again":  # such a one is logged
        assert section.result(0) == 0
        check_free(desk.lock)
    else:
        assert "ignored" in caplog.text


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["stay", "late stay", "section"])
def test_shutdown_does_not_wait_for_a_lock_that_nobody_waits_for(
    make_pool: MakePool, who: str
) -> None:
    # Its workers stay while somebody waits at one of its locks: to the last one's going.
    pool = make_pool(2, idle_timeout=LONG)
    lock = pool.lock()
    pool.submit(int).result(TIMEOUT)
    done = threading.Event()
    lock.acquire()

    def stay() -> None:
        if lock.acquire(timeout=0.05 if who == "late stay" else TIMEOUT):
            lock.release()
        done.set()

    section = None
    if who == "section":
        section = lock.submit(int)
    else:
        threading.Thread(target=stay).start()
        in_time(lambda: _until(lambda: bool(lock.queue)))
    closer = threading.Thread(target=pool.shutdown, daemon=True)
    closer.start()
    in_time(lambda: _until(pool._scheduler.is_closed))
    in_time(
        lambda: _until(lambda: len(pool._scheduler.parking.parked) == len(pool._scheduler.workers))
    )
    if section is not None:
        assert section.cancel()
    elif who == "late stay":
        assert done.wait(TIMEOUT)
    else:
        lock.release()
    closer.join(TIMEOUT)
    assert not closer.is_alive()
    if who != "stay":
        lock.release()


def test_shutdown_of_a_lock_cancels_at_once(make_pool: MakePool, gate: threading.Event) -> None:
    pool = make_pool(1)
    lock = pool.lock()
    started = threading.Event()
    running = lock.submit(lambda: (started.set(), gate.wait(TIMEOUT)))
    assert started.wait(TIMEOUT)
    waiting = [lock.submit(int) for _ in range(3)]
    lock.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    assert not running.done()
    gate.set()
    lock.shutdown()
    assert running.done()
    assert pool.submit(int).result(TIMEOUT) == 0
    check_free(lock)


def test_shutdown_of_a_pool_cancels_what_waits_at_its_locks(make_pool: MakePool) -> None:
    pool = make_pool(1)
    lock = pool.lock()
    with lock:
        waiting = [lock.submit(int) for _ in range(3)]
        pool.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in waiting)
    pool.shutdown()
    check_free(lock)


def test_no_worker_can_be_started(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = make_pool(1)
    lock = pool.lock()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        future = lock.submit(int)
        with pytest.raises(RuntimeError, match="no worker could be started"):
            future.result(0.5)
        check_free(lock)
        with lock:
            future = lock.submit(int)
        assert isinstance(future.exception(0.5), RuntimeError)
    assert lock.submit(int).result(TIMEOUT) == 0


def test_a_failed_initializer_ends_what_waits_at_the_locks(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(1, initializer=int, initargs=("x",))
    lock = pool.lock()
    with lock:
        section = lock.submit(int)
        task = pool.submit(int)
        assert isinstance(task.exception(TIMEOUT), BrokenFairPool)
        assert isinstance(section.exception(TIMEOUT), BrokenFairPool)
    with pytest.raises(BrokenFairPool):
        lock.submit(int)
    check_free(lock)
    pool.shutdown()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_serves_no_waiter_of_the_parent(make_pool: MakePool) -> None:
    pool = make_pool(1)
    lock = pool.lock()
    with lock:
        section = lock.submit(os.getpid)
        child = os.fork()
        if child == 0:
            try:
                lock.end_section()
                os._exit(len(lock.queue) + 2 * bool(pool._scheduler.workers))
            finally:
                os._exit(9)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert section.result(TIMEOUT) == os.getpid()


def test_a_task_that_has_waited_leaves_no_cycle(desk: Desk) -> None:
    def requests() -> int:
        return sum(type(each) is Request for each in gc.get_objects())

    inside = Inside()
    gc.collect()
    gc.disable()
    before = requests()  # of explored runs that were cut off in the midst of it, say
    try:
        assert desk.lock.acquire(blocking=False)
        parties = [Party(desk, "task", inside) for _ in range(3)]
        for party in parties:
            party.ask()
            desk.run()
        parties[1].cancel()
        assert requests() == before + 3
        desk.lock.end_section()
        finish(desk, parties, inside)
        assert requests() == before
    finally:
        gc.enable()


def _until(condition: Callable[[], bool]) -> bool:
    while not condition():
        time.sleep(0)
    return True
