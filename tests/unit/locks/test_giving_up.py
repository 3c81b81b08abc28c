"""Giving up costs the same however many wait, leaves nothing behind, and disturbs no order."""

from __future__ import annotations

import math
import random
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import pytest
from kit import TIMEOUT, check_free, until
from unit.instructions import Places, moments

import fairpool
from fairpool import Event, FairPool, Future, Queue, Semaphore
from fairpool._core.runqueue import SHORT, WaitQueue
from fairpool._locks.key import KeyedLock
from fairpool._locks.usage import UsageQueue
from fairpool._tasks.cancel import CancelRequest
from fairpool._tasks.thread_wait import ThreadCallback

Place = Callable[[FairPool], Any]

MANY = 4000


def all_end(waits: list[Any]) -> None:
    tasks = [each for each in waits if isinstance(each, Future) and not each.done()]
    assert not wait(tasks, TIMEOUT).not_done


class ByHand:
    """A coroutine that waits on a thread that no pool and no loop owns."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.coroutine = coroutine
        coroutine.send(None)

    def cancel(self) -> None:
        with suppress(CancelledError):
            self.coroutine.throw(CancelledError)


class Waiting:
    """Something to wait in. `join()` begins a wait; what it returns is cancelled to give it up."""

    def __init__(self, pool: FairPool, by_hand: bool = False) -> None:
        self.pool = pool
        self.by_hand = by_hand
        self.prepare()

    def prepare(self) -> None:
        """Make what is waited for."""

    def open(self) -> None:
        """Let all in that wait."""

    def left(self) -> int:
        """How many entries are kept of those that wait or have given up."""
        raise NotImplementedError

    def join(self) -> Any:
        raise NotImplementedError

    def until_joined(self, count: int) -> None:
        until(lambda: self.left() >= count)


class InTask(Waiting):
    """Each waits in a task of its own, or is driven by hand, which costs little else."""

    def join(self) -> Any:
        return ByHand(self.wait()) if self.by_hand else self.pool.submit(self.wait)

    async def wait(self) -> None:
        raise NotImplementedError


class Section(Waiting):
    kinds: ClassVar[dict[str, str]] = {}

    def prepare(self) -> None:
        self.lock = self.pool.lock(**self.kinds)  # type: ignore[arg-type]
        self.lock.acquire()
        self.served: list[int] = []
        self.joined = 0

    def join(self) -> Any:
        self.joined += 1
        return self.lock.submit(self.served.append, self.joined - 1)

    def open(self) -> None:
        self.lock.release()

    def left(self) -> int:
        queue = self.lock.queue
        accounts = queue.ledger.accounts.values() if self.kinds else ()
        return max(len(queue), sum(len(account.queue) for account in accounts))


class SectionInUsageOrder(Section):
    kinds: ClassVar[dict[str, str]] = {"order": "usage"}


class Link(Section):
    def prepare(self) -> None:
        super().prepare()
        self.source = self.pool.submit(int)
        self.source.result(TIMEOUT)

    def join(self) -> Any:
        self.joined += 1
        number = self.joined - 1
        return self.source.then(lambda _: self.served.append(number), lock=self.lock)


class AsyncWith(InTask):
    kinds: ClassVar[dict[str, str]] = {}

    def prepare(self) -> None:
        self.lock = self.pool.lock(**self.kinds)  # type: ignore[arg-type]
        self.lock.acquire()

    async def wait(self) -> None:
        async with self.lock:
            pass

    def open(self) -> None:
        self.lock.release()

    left = Section.left  # type: ignore[assignment]


class AsyncWithInUsageOrder(AsyncWith):
    kinds: ClassVar[dict[str, str]] = {"order": "usage"}


class Acquire(InTask):
    def prepare(self) -> None:
        self.semaphore = Semaphore(0)

    async def wait(self) -> None:
        await self.semaphore.acquire()
        self.semaphore.release()

    def open(self) -> None:
        self.semaphore.release()

    def left(self) -> int:
        return len(self.semaphore._permits)


class Get(InTask):
    def prepare(self) -> None:
        self.queue: Queue[int] = Queue()

    async def wait(self) -> None:
        self.queue.put_nowait(await self.queue.get())

    def open(self) -> None:
        self.queue.put_nowait(1)

    def left(self) -> int:
        return len(self.queue._ready)


class Put(InTask):
    def prepare(self) -> None:
        self.queue: Queue[int] = Queue(1)
        self.queue.put_nowait(1)

    async def wait(self) -> None:
        await self.queue.put(1)
        await self.queue.get()

    def open(self) -> None:
        self.queue.get_nowait()

    def left(self) -> int:
        assert self.queue._places is not None
        return len(self.queue._places)


class Join(InTask):
    def prepare(self) -> None:
        self.queue: Queue[int] = Queue()
        self.queue.put_nowait(1)

    async def wait(self) -> None:
        await self.queue.join()

    def open(self) -> None:
        self.queue.task_done()

    def left(self) -> int:
        return len(self.queue._joiners)


def registered(future: Future[Any]) -> int:
    cell = future._status
    crowd = future.__dict__.get("_crowd")
    if type(cell) is not list:
        return 0
    own = sum(each is not crowd and type(each) is not CancelRequest for each in cell)
    return own + len(crowd or ())


class Wait(InTask):
    def prepare(self) -> None:
        self.event = Event()

    async def wait(self) -> None:
        await self.event.wait()

    def open(self) -> None:
        self.event.set()

    def left(self) -> int:
        return len(self.event._gate)


class Registered(ThreadCallback):
    """What a coroutine does that awaits a future, and one that gives up."""

    def __init__(self, future: Future[Any]) -> None:
        self.future = future
        future._suspend(self)

    def cancel(self) -> None:
        self.future._unregister(self)


class Blocked(InTask):
    """What is awaited has been started, and cannot be cancelled."""

    def prepare(self) -> None:
        self.gate = threading.Event()
        began = threading.Event()
        self.awaited = self.pool.submit(lambda: began.set() or self.gate.wait(TIMEOUT))
        assert began.wait(TIMEOUT)

    def join(self) -> Any:
        return Registered(self.awaited) if self.by_hand else super().join()

    async def wait(self) -> None:
        await self.awaited

    def open(self) -> None:
        self.gate.set()

    def left(self) -> int:
        return registered(self.awaited)


class Shielded(Blocked):
    def join(self) -> Any:
        return fairpool.shield(self.awaited) if self.by_hand else InTask.join(self)

    async def wait(self) -> None:
        await fairpool.shield(self.awaited)


class Then(Blocked):
    def join(self) -> Any:
        return self.awaited.then(int)


PLACES = [
    Section,
    SectionInUsageOrder,
    Link,
    AsyncWith,
    AsyncWithInUsageOrder,
    Acquire,
    Get,
    Put,
    Join,
    Wait,
    Blocked,
    Shielded,
    Then,
]


def shuffled(waits: list[Any]) -> list[Any]:
    waits = waits.copy()
    random.Random(1).shuffle(waits)
    return waits


ORDERS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "last to first": lambda waits: waits[::-1],
    "in any order": shuffled,
}


@contextmanager
def place(kind: type[Waiting], by_hand: bool = False) -> Any:
    with FairPool(2) as pool:
        made = kind(pool, by_hand)
        try:
            yield made
        finally:
            made.open()


def crowd(there: Waiting, count: int) -> list[Any]:
    before = there.left()
    waits = [there.join() for _ in range(count)]
    there.until_joined(before + count)
    return waits


def cost(there: Waiting, count: int, order: str) -> float:
    """Processor time for each of so many that give up."""
    waits = ORDERS[order](crowd(there, count))
    before = there.left() - count
    began = time.process_time()
    for each in waits:
        each.cancel()
    all_end(waits)
    used = time.process_time() - began
    assert there.left() <= before
    return used / count


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", PLACES)
def test_giving_up_costs_the_same_however_many_wait(kind: type[Waiting], order: str) -> None:
    # Processor time, and a factor far from both: 16 times as many were 6 to 20 times as dear each.
    # What else the machine does only adds to it, so the least that was measured counts; more is
    # measured as long as that does not show it.
    few = many = math.inf
    with place(kind, by_hand=True) as there:
        for _ in range(6):
            few = min(few, *(cost(there, 1000, order) for _ in range(3)))
            many = min(many, cost(there, 16_000, order))
            if many < few * 3:
                break
    assert many < few * 3


@pytest.mark.parametrize("kind", PLACES)
def test_what_comes_and_goes_is_not_kept(kind: type[Waiting]) -> None:
    # At any time 200 wait, and each has younger ones behind it when it gives up.
    with place(kind) as there:
        idle = there.left()
        waits = crowd(there, 200)
        for _ in range(10):
            waits += crowd(there, 100)
            for each in waits[:100]:
                each.cancel()
            all_end(waits[:100])
            waits = waits[100:]
            assert there.left() <= idle + 2 * 300 + SHORT
        for each in waits:
            each.cancel()
        all_end(waits)
        assert there.left() == idle


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", [Section, SectionInUsageOrder, Link])
def test_those_that_stay_are_served_in_their_order(kind: type[Section], share: float) -> None:
    with place(kind) as there:
        waits = crowd(there, MANY)
        rng = random.Random(2)
        gone = {number for number in range(MANY) if rng.random() < share}
        for number in shuffled([*gone]):
            assert waits[number].cancel()
        statistics = there.lock.statistics()
        assert statistics.waiting == MANY - len(gone)
    assert there.served == [number for number in range(MANY) if number not in gone]


# --- a sweep meets others -------------------------------------------------------------------------


class Scripted:
    """A queue that runs its script once, in the midst of a sweep."""

    script: Callable[[], object] | None = None

    def _drop(self, item: Any) -> bool:
        answer: bool = super()._drop(item)  # type: ignore[misc]
        script, self.script = self.script, None
        if script is not None:
            script()
        return answer


class ScriptedInTicketOrder(Scripted, WaitQueue):
    pass


class ScriptedInUsageOrder(Scripted, UsageQueue):
    pass


class Swept(Section):
    """Many wait, and most give up; the script is run while a thread has the oldest in its hands."""

    waits: list[Any]

    def queue(self) -> Any:
        return ScriptedInTicketOrder()

    def sweep(self, script: Callable[[], object]) -> None:
        queue = self.queue()
        self.lock.keep_requests_in(queue)
        self.waits = crowd(self, 10 * SHORT)
        self.kept = [number for number in range(10 * SHORT) if number == 0 or number % 3 == 2]
        queue.script = script
        for number in sorted({*range(10 * SHORT)}.difference(self.kept)):
            # Where the script has let in those that wait, it may have been served meanwhile.
            if not self.waits[number].cancel():
                self.kept.append(number)
        assert queue.script is None, "there was no sweep"
        self.kept.sort()

    def all_served(self) -> list[int]:
        self.lock.submit(int).result(TIMEOUT)
        assert len(self.lock.queue) == 0
        return self.served


class SweptInUsageOrder(Swept):
    kinds: ClassVar[dict[str, str]] = {"order": "usage"}

    def queue(self) -> Any:
        return ScriptedInUsageOrder(self.lock, strict=False)


in_each_order = pytest.mark.parametrize("kind", [Swept, SweptInUsageOrder])


@in_each_order
def test_a_lock_that_is_left_during_a_sweep_serves_after_it(kind: type[Swept]) -> None:
    with FairPool(1) as pool:
        there = kind(pool)

        def leave() -> None:
            assert there.lock.queue
            there.lock.release()
            pool.submit(int).result(TIMEOUT)
            assert there.served == []  # nobody is served past the one in the sweeper's hands
            assert there.lock.locked()

        there.sweep(leave)
        # From the end of the sweep on the worker serves, and may come to some before they give up.
        served = there.all_served()
        assert served == [i for i, each in enumerate(there.waits) if not each.cancelled()]
        assert {*served} >= {*there.kept}


@in_each_order
def test_one_that_comes_during_a_sweep_is_behind_the_others(kind: type[Swept]) -> None:
    with FairPool(1) as pool:
        there = kind(pool)

        def come() -> None:
            assert not there.lock.acquire(blocking=False)
            there.join()

        there.sweep(come)
        there.open()
        assert there.all_served() == [*there.kept, 10 * SHORT]


@in_each_order
def test_sections_in_a_sweepers_hands_are_cancelled_with_the_others(kind: type[Swept]) -> None:
    with FairPool(1) as pool:
        there = kind(pool)
        there.sweep(lambda: there.lock.cancel_sections(submitted_only=True))
        there.open()
        assert all(each.cancelled() for each in there.waits)
        assert there.all_served() == []


@in_each_order
def test_one_that_gives_up_in_a_sweepers_hands_is_gone(kind: type[Swept]) -> None:
    with FairPool(1) as pool:
        there = kind(pool)
        there.sweep(lambda: there.waits[0].cancel())
        there.open()
        assert there.all_served() == there.kept[1:]


@in_each_order
def test_all_give_up_during_a_sweep(kind: type[Swept]) -> None:
    with FairPool(1) as pool:
        there = kind(pool)
        there.sweep(lambda: [each.cancel() for each in there.waits])
        assert len(there.lock.queue) == 0
        there.open()
        assert there.all_served() == []


@in_each_order
def test_an_interrupt_in_the_midst_of_a_sweep_loses_nobody(kind: type[Swept]) -> None:
    with FairPool(1) as pool:
        there = kind(pool)

        with pytest.raises(KeyboardInterrupt):
            there.sweep(interrupt)
        there.open()
        served = there.all_served()
        assert served == sorted(served)
        assert {*there.kept} <= {*served}


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.thread_unsafe(reason="watches all instructions")
@pytest.mark.parametrize("when", ["later", "meanwhile"])
@in_each_order
def test_an_interrupt_anywhere_in_a_sweep_harms_nobody(
    kind: type[Swept], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of those that wait is lost, nor the key if the lock is left `when`; others sweep on."""
    hand_over = KeyedLock.hand_over_key_safely
    with ThreadPoolExecutor(1) as owner:
        # Not interrupted: what cuts off the end of a section cuts off this.
        monkeypatch.setattr(
            KeyedLock,
            "hand_over_key_safely",
            lambda lock: owner.submit(hand_over, lock).result(TIMEOUT),
        )
        for moment in moments(interrupts=True, places=Places()):
            with FairPool(1) as pool:
                there = owner.submit(kind, pool).result(TIMEOUT)
                queue = there.queue()
                there.lock.keep_requests_in(queue)

                def leave(there: Swept = there) -> None:
                    owner.submit(there.open).result(TIMEOUT)

                queue.idle.take()  # so nobody sweeps for now
                first, *others = crowd(there, 2 * SHORT)
                for each in others:
                    each.cancel()
                queue.idle.put()
                queue.script = leave if when == "meanwhile" else None
                with suppress(KeyboardInterrupt), moment.do(interrupt):
                    there.lock.sweep()
                if when == "later":
                    for each in crowd(there, 4 * SHORT):
                        each.cancel()
                    assert len(queue) < SHORT, moment
                is_left = when == "meanwhile" and queue.script is None
                queue.script = None
                if not is_left:
                    leave()
                assert first.result(TIMEOUT) is None, moment
                check_free(there.lock)


@pytest.mark.parametrize("order", ["ticket", "usage"])
def test_stress_sections_come_and_go_while_others_are_served(order: str) -> None:
    """Each that is not cancelled is run once, those of one thread in their order."""
    ran: list[tuple[int, int]] = []
    kept: list[tuple[int, int]] = []

    with FairPool(2) as pool:
        lock = pool.lock(order=order)

        def come_and_go(name: int) -> None:
            rng = random.Random(name)
            mine: list[Any] = []
            for number in range(3000):
                mine.append(((name, number), lock.submit(ran.append, (name, number))))
                if len(mine) > 300 or number == 2999:
                    rng.shuffle(mine)
                    for key, each in mine:
                        if rng.random() < 0.1 or not each.cancel():
                            kept.append(key)
                    mine = []

        threads = [threading.Thread(target=come_and_go, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            with lock:  # in turns held, so that the queue becomes long, and served
                time.sleep(0.002)
        for thread in threads:
            thread.join()
        lock.submit(int).result(TIMEOUT)
        assert len(lock.queue) == 0
    assert sorted(ran) == sorted(kept)
    for name in range(4):
        own = [number for owner, number in ran if owner == name]
        assert own == sorted(own)


def test_stress_a_crowd_comes_and_goes_while_the_future_ends() -> None:
    """Each that has not left is called once."""
    for _ in range(20):
        future: Future[int] = Future()
        calls: list[Any] = []
        left: list[Any] = []

        class Registrant(ThreadCallback):
            def __call__(self, future: Any) -> None:
                calls.append(self)

        def come_and_go() -> None:
            for _ in range(300):
                stays, goes = Registrant(), Registrant()
                left.append(stays)
                future.register_for_now(stays)
                future.register_for_now(goes)
                future._unregister(goes)

        threads = [threading.Thread(target=come_and_go) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: registered(future) > 3 * SHORT)
        future.set_result(1)
        for thread in threads:
            thread.join()
        assert len(calls) == len({*calls})
        assert {*left} <= {*calls}
