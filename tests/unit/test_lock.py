"""Locks: one section at a time, in ticket order, and nobody forgotten, in whatever order they come.

As in `test_task`, the steps are made by hand where orders matter: a pool without seats starts no
worker, so what is runnable stays in its queues until the test takes it out. First all orders of
whole steps; then all places between two instructions at which another party may come.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from unit.instructions import moments

from fairpool import (
    CancelledError,
    FairPool,
    Future,
    Lock,
)
from fairpool import _combiner as combiner_module
from fairpool._runqueue import RunQueue
from fairpool._sync import here
from fairpool._worker import Worker

MakePool = Callable[..., FairPool]


class Mishap(Exception):
    pass


class Desk:
    """A pool whose steps are run by the test, and one lock of it."""

    def __init__(self) -> None:
        self.pool = FairPool(1)
        self.scheduler = self.pool._scheduler
        self.scheduler.parking.seats.clear()  # so nobody is ever notified
        self.workers = [self._worker(i) for i in range(4)]
        self.scheduler.workers.extend(self.workers)
        self.depth = 0
        self.lock = self.pool.lock("it")

    def _worker(self, number: int) -> Worker:
        worker = Worker(self.scheduler, f"by-hand-{number}")
        worker.queue = RunQueue()
        return worker

    def take(self) -> Any:
        """The next runnable thing, whichever queue it is in."""
        for worker in self.workers:
            if worker.published:
                return worker.published.pop(0)
        queues = [self.scheduler.injector, *(worker.queue for worker in self.workers)]
        for queue in [*queues, *(worker.services for worker in self.workers)]:
            item = queue.take()
            if item is not None:
                return item
        return None

    def step(self) -> bool:
        """Run the next runnable thing, as a worker would; False if there is none.

        Within a step: on another worker, as if it came at this moment.
        """
        item = self.take()
        if item is None:
            return False
        outer, worker = here.worker, self.workers[self.depth]
        here.worker = worker
        before = worker.item, worker.fn
        self.depth += 1
        try:
            while item is not None:
                following = item.run(worker)
                if following is item:  # it has only yielded
                    worker.queue.append(following)
                    break
                item = following
        finally:
            self.depth -= 1
            here.worker = outer
            worker.item, worker.fn = before
            item = following = None
        return True

    def run(self) -> None:
        """Run all that is runnable."""
        for _ in range(10_000):
            if not self.step():
                return
        raise AssertionError("no end of steps")

    def close(self) -> None:
        for continuation in self.scheduler.suspended.copy():
            continuation.task.interrupt()
        self.run()
        for worker in self.workers:
            self.scheduler.workers.remove(worker)
        self.pool.shutdown(wait=False, cancel_futures=True)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


@pytest.fixture(autouse=True)
def without_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Looking whether the lock becomes free changes nothing of the protocol, and costs many moments.
    monkeypatch.setattr(combiner_module, "LOOKS_BEFORE_QUEUEING", 0)


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


def check_free(lock: Lock) -> None:
    """Nobody is inside, nobody waits, and everybody can enter."""
    assert not lock.queue.items()
    assert not lock.locked()
    assert lock.owner is None
    assert lock.acquire(blocking=False)
    lock.release()


# --- all orders -----------------------------------------------------------------------------------

WAYS = ("task", "holding task", "section", "coroutine section", "link", "stack", "guest")


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
        elif self.way == "guest":
            self.future = self.hosted()
            self.poll()
        else:
            assert self.way == "stack"
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
                    yielded.lock.leave_stack()
                elif not yielded.done():
                    return
        except StopIteration:
            pass
        finally:
            here.worker = outer

    def stay(self) -> None:
        # By its parts: the thread that waits is no part of the protocol.
        self.owner = combiner_module.Visitor(self.name)
        self.wish = combiner_module.Stay(self.desk.lock, 0, self.owner)
        self.desk.lock.enqueue(self.wish)
        self.poll_stay()

    def poll_stay(self) -> None:
        if self.outcome == "waits" and self.wish.parker.acquire(False):
            assert self.desk.lock.owner is self.owner
            self.section()
            self.desk.lock.leave_stack()

    # What others do to it.

    def look(self) -> None:
        if self.way == "guest" and self.future is not None:
            self.poll()
        elif self.way == "stack" and hasattr(self, "wish"):
            self.poll_stay()

    def cancel(self) -> None:
        if self.future is None and self.way != "stack":
            return
        if self.way == "stack":
            if hasattr(self, "wish") and self.outcome == "waits" and self.wish.give_up():
                self.outcome = "gave up"
        elif self.way == "guest":
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
        if self.way == "guest" or self.way == "stack":
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
            if party.future is None and not hasattr(party, "wish"):
                party.ask()
        finish(desk, [*parties.values()], inside)
        outcomes[parties["second"].outcome] += 1
    assert outcomes["served"]
    if first == "holding task":  # given up in the queue, in some orders
        assert outcomes["waits"] + outcomes["gave up"] + outcomes["interrupted"]


# --- all places between two instructions ----------------------------------------------------------

HELD = ("holding task", "coroutine section", "outside")


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
            self.desk.lock.leave_stack()
        else:
            self.holder.release()
            self.desk.step()

    def finish(self) -> None:
        finish(self.desk, self.parties, self.inside)


@pytest.mark.parametrize("coming", WAYS)
@pytest.mark.parametrize("held", HELD)
def test_one_comes_in_the_midst_of_a_leaving(held: str, coming: str, desk: Desk) -> None:
    for moment in moments(shares=True):
        scene = Scene(desk, held, "section", coming)
        with moment.do(outside(scene.come)):
            scene.leave()
        if not moment.reached:
            scene.come()
        scene.waiter.ask()
        scene.finish()


@pytest.mark.parametrize("waiting", WAYS)
@pytest.mark.parametrize("held", HELD)
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
        with moment.do(outside(scene.leave)):
            scene.come()
        if not moment.reached:
            scene.leave()
        scene.waiter.ask()
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
        scene.leave()
        scene.waiter.ask()
        scene.finish()
        if "take back" in then and not scene.comer.future.cancelled():
            assert scene.comer.outcome == "served"
