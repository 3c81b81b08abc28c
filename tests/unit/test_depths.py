"""What undoes needs no more stack than what did: every door, with the stack ending anywhere in it.

A door is opened again and again by a thread, or a task, that has less and less of its stack left.
It goes through or raises RecursionError. Afterwards all is as before: the lock is free, no permit
and no slot is lost, every waiter is woken, and the pool can be shut down.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future as StdFuture
from concurrent.futures import wait
from typing import Any

import pytest
from kit import LONG, TIMEOUT, check_slots

import fairpool
from fairpool import FairPool

# A coroutine that was made, and could not be handed over.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# How many frames are left when the sweep begins: more than any door needs.
DEEPEST = 70


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """What a collection calls at the end of a stack fails, and so does pytest's hook for it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def room() -> int:
    """How many more frames fit on this stack."""
    try:
        return 1 + room()
    except RecursionError:
        return 1


def dive(depth: int, door: Callable[[], Any]) -> Any:
    return dive(depth - 1, door) if depth > 0 else door()


async def dive_async(depth: int, door: Callable[[], Any]) -> Any:
    return await (dive_async(depth - 1, door) if depth > 0 else door())


def sweep(door: Callable[[], Any]) -> int:
    """Open a door with every length of stack that may be too short; how often it was."""
    most = room()
    raised = 0
    for left in range(DEEPEST):
        try:
            dive(most - left, door)
        except RecursionError:
            raised += 1
    return raised


async def sweep_async(door: Callable[[], Any]) -> int:
    most = room()
    raised = 0
    for left in range(DEEPEST):
        try:
            await dive_async(most - left, door)
        except RecursionError:
            raised += 1
    return raised


class Place:
    """A pool, and what its doors lead to."""

    def __init__(self, workers: int = 2) -> None:
        self.workers = workers
        self.pool = FairPool(workers, idle_timeout=LONG)
        self.locks: list[Any] = [
            self.pool.lock("plain"),
            self.pool.lock("usage", order="usage"),
            self.pool.lock("strict", order="usage", strict=True),
        ]
        self.state = self.pool.guarded([])
        self.semaphore = fairpool.Semaphore(1)
        self.event = fairpool.Event()
        self.queue: fairpool.Queue[int] = fairpool.Queue()
        self.made: list[Any] = []  # futures that the doors have given back

    def check(self) -> None:
        pool = self.pool
        for lock in [*self.locks, self.state.lock]:
            assert lock.acquire(timeout=TIMEOUT), lock
            lock.release()
            assert lock.submit(int).result(TIMEOUT) == 0
            assert pool.submit(self.enter, lock).result(TIMEOUT)
            assert not lock.locked(), lock
        assert pool.submit(self.take).result(TIMEOUT)
        assert not wait(self.made, TIMEOUT).not_done
        assert [f.result(TIMEOUT) for f in [pool.submit(int) for _ in range(5)]] == [0] * 5
        pool.statistics()
        ended = threading.Thread(target=pool.shutdown, daemon=True)
        ended.start()
        ended.join(TIMEOUT)
        assert not ended.is_alive()
        parking = pool._scheduler.parking
        check_slots(pool)
        assert not parking.searching
        assert not pool._scheduler.suspended

    async def enter(self, lock: Any) -> bool:
        async with lock:
            await fairpool.yield_now()
        return True

    async def take(self) -> bool:
        async with fairpool.timeout(TIMEOUT), self.semaphore:
            return True


# --- doors of threads -----------------------------------------------------------------------------


def with_lock(place: Place, index: int) -> None:
    with place.locks[index]:
        pass


def acquire_release(place: Place) -> None:
    if place.locks[0].acquire(timeout=TIMEOUT):
        place.locks[0].release()


def try_acquire(place: Place) -> None:
    if place.locks[0].acquire(False):
        place.locks[0].release()


def guarded(place: Place) -> None:
    with place.state:
        pass


def all_of(place: Place) -> None:
    with fairpool.all_of(*place.locks, place.state):
        pass


def raises_inside(place: Place) -> None:
    try:
        with place.locks[0]:
            raise KeyError
    except KeyError:
        pass


def crowded(place: Place, index: int) -> None:
    """Somebody waits when it is left: a section, a thread, or a task."""
    lock = place.locks[index]
    with lock:
        place.made.append(lock.submit(int))


def gives_up(place: Place) -> None:
    with place.locks[0]:
        place.locks[0].acquire(timeout=0.001)


def submit(place: Place) -> None:
    place.made.append(place.pool.submit(int))


def submit_section(place: Place) -> None:
    place.made.append(place.locks[0].submit(int))


def submit_to_share(place: Place) -> None:
    place.made.append(place.pool.share("share").submit(int))


def result(place: Place) -> None:
    assert place.pool.submit(int).result(TIMEOUT) == 0


def result_for_ever(place: Place) -> None:
    assert place.pool.submit(int).result() == 0


def waits(place: Place) -> None:
    wait([place.pool.submit(int)], timeout=TIMEOUT)


def blocks(place: Place) -> None:
    with fairpool.blocking():
        pass


def runs(place: Place) -> None:
    assert place.pool.run(int) == 0


def chain(place: Place) -> None:
    place.made.append(place.pool.submit(int).then(str).finally_(int).catch(int))


def chain_in_lock(place: Place) -> None:
    place.made.append(place.pool.submit(int).then(str, lock=place.locks[0]))


def maps(place: Place) -> None:
    list(place.pool.map(str, [1, 2]))


def cancels(place: Place) -> None:
    future = place.pool.submit(int)
    place.made.append(future)
    future.cancel()


def releases(place: Place) -> None:
    if place.semaphore._permits.try_take():
        place.semaphore.release()


def sets_result(place: Place) -> None:
    future: fairpool.Future[int] = fairpool.Future()
    future.add_done_callback(int)
    future.set_result(1)


def times_out_on_result(place: Place) -> None:
    future: fairpool.Future[int] = fairpool.Future()
    try:
        future.result(0.001)
    except TimeoutError:
        pass


DOORS: dict[str, Callable[[Place], Any]] = {
    "with": lambda place: with_lock(place, 0),
    "with usage": lambda place: with_lock(place, 1),
    "with strict": lambda place: with_lock(place, 2),
    "acquire": acquire_release,
    "try": try_acquire,
    "guarded": guarded,
    "all_of": all_of,
    "raises": raises_inside,
    "crowded": lambda place: crowded(place, 0),
    "crowded usage": lambda place: crowded(place, 1),
    "gives up": gives_up,
    "submit": submit,
    "section": submit_section,
    "share": submit_to_share,
    "result": result,
    "result for ever": result_for_ever,
    "wait": waits,
    "blocking": blocks,
    "run": runs,
    "chain": chain,
    "chain in lock": chain_in_lock,
    "map": maps,
    "cancel": cancels,
    "semaphore": releases,
    "set_result": sets_result,
    "time-out": times_out_on_result,
}


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)
    yield
    logging.getLogger("concurrent.futures").setLevel(logging.NOTSET)


def in_thread(function: Callable[[], int]) -> int:
    future: StdFuture[int] = StdFuture()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future.result(TIMEOUT)


@pytest.mark.parametrize("where", ["thread", "task"])
@pytest.mark.parametrize("door", DOORS)
def test_a_door_at_every_depth(door: str, where: str) -> None:
    place = Place()
    opens = lambda: DOORS[door](place)  # noqa: E731
    if where == "thread":
        raised = in_thread(lambda: sweep(opens))
    else:
        raised = place.pool.submit(sweep, opens).result(TIMEOUT)
    assert raised
    place.check()


# --- doors of coroutines --------------------------------------------------------------------------


async def async_with(place: Place, index: int) -> None:
    async with place.locks[index]:
        pass


async def async_suspended(place: Place, index: int) -> None:
    async with place.locks[index]:
        await fairpool.yield_now()


async def async_crowded(place: Place, index: int) -> None:
    lock = place.locks[index]
    async with lock:
        place.made.append(lock.submit(int))


async def async_guarded(place: Place) -> None:
    async with place.state:
        pass


async def async_all_of(place: Place) -> None:
    async with fairpool.all_of(*place.locks, place.state):
        pass


async def awaits(place: Place) -> None:
    await place.pool.submit(int)


async def gathers(place: Place) -> None:
    await fairpool.gather(async_with(place, 0), async_with(place, 1))


async def times_out(place: Place) -> None:
    async with fairpool.timeout(TIMEOUT):
        await fairpool.yield_now()


async def groups(place: Place) -> None:
    async with fairpool.TaskGroup() as group:
        group.create_task(async_with(place, 0))


async def semaphores(place: Place) -> None:
    async with place.semaphore:
        await fairpool.yield_now()


async def queues(place: Place) -> None:
    place.queue.put_nowait(1)
    await place.queue.get()


async def gives_up_when_cancelled(place: Place) -> None:
    async with place.locks[0]:
        waits = place.pool.submit(async_with, place, 0)
        place.made.append(waits)
        await fairpool.yield_now()
        waits.cancel()


async def waits_for_event(place: Place) -> None:
    place.event.clear()
    place.made.append(place.pool.submit(place.event.set))
    await place.event.wait()


async def waits_for_queue(place: Place) -> None:
    while not place.queue.empty():  # what an item that came too late has left
        place.queue.get_nowait()
    place.made.append(place.pool.submit(place.queue.put_nowait, 1))
    await place.queue.get()


async def sleeps(place: Place) -> None:
    await fairpool.sleep(0)


ASYNC_DOORS: dict[str, Callable[[Place], Any]] = {
    "async with": lambda place: async_with(place, 0),
    "async with usage": lambda place: async_with(place, 1),
    "async with strict": lambda place: async_with(place, 2),
    "suspended": lambda place: async_suspended(place, 0),
    "suspended usage": lambda place: async_suspended(place, 1),
    "async crowded": lambda place: async_crowded(place, 0),
    "async crowded usage": lambda place: async_crowded(place, 1),
    "async guarded": async_guarded,
    "async all_of": async_all_of,
    "await": awaits,
    "gather": gathers,
    "timeout": times_out,
    "group": groups,
    "async semaphore": semaphores,
    "queue": queues,
    "async gives up": gives_up_when_cancelled,
    "wait for event": waits_for_event,
    "wait for queue": waits_for_queue,
    "sleep": sleeps,
}


@pytest.mark.parametrize("door", ASYNC_DOORS)
def test_a_door_of_a_coroutine_at_every_depth(door: str) -> None:
    place = Place()
    assert place.pool.submit(sweep_async, lambda: ASYNC_DOORS[door](place)).result(TIMEOUT)
    place.check()
