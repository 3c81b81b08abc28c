"""What all tests share: how long to wait, what a test raises, pools that are looked after."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from functools import cached_property
from typing import Any, TypeVar

from fairpool import FairPool, Guarded, Lock, yield_now
from fairpool._core.here import here
from fairpool._core.runqueue import RunQueue
from fairpool._core.threads import cpu_count, yield_cpu
from fairpool._scheduler.worker import Worker

T = TypeVar("T")

TIMEOUT = 60  # seconds; no test comes near it, unless what it waits for will never happen
PATIENCE = 10  # the same, for what is expected to take microseconds
LONG = 1000.0  # an idle time-out that does not wake a worker whose wake-up was lost

WORKERS = 4  # of a pool in which threads meet
# How long a test goes on that makes up programs; a minute at most.
SECONDS = min(float(os.environ.get("FAIRPOOL_STRESS_SECONDS") or "1"), 60.0)


class Mishap(Exception):
    """What a test raises, and nothing else does."""


def until(condition: Callable[[], object]) -> None:
    """Wait until this is true, or fail."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that"
        yield_cpu()


async def come_true(condition: Callable[[], object]) -> None:
    """As `until`, in a task."""
    while not condition():
        await yield_now()


def run_on(workers: int, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of a coroutine function, run by a pool of its own."""
    with FairPool(workers) as pool:
        return pool.submit(main).result(TIMEOUT)


def seeds() -> Iterator[int]:
    """Numbers, for `SECONDS`."""
    end = time.monotonic() + SECONDS
    for seed in itertools.count():
        if time.monotonic() > end:
            return
        yield seed


def in_time(fn: Callable[[], T], seconds: float = PATIENCE) -> T:
    """What `fn` returns, or a failure where it hangs; for what cannot be given a time-out."""
    result: list[T] = []
    thread = threading.Thread(target=lambda: result.append(fn()), daemon=True)
    thread.start()
    thread.join(seconds)
    if not result:
        frame = sys._current_frames().get(thread.ident or 0)
        stack = "".join(traceback.format_stack(frame)) if frame else "its thread has ended"
        raise AssertionError(f"{fn} hangs:\n{stack}")
    return result[0]


def occupy(pool: FairPool, gate: threading.Event, count: int = 1) -> list[Any]:
    """Have `count` workers busy, each with a task that holds its slot until `gate` is open."""
    futures: list[Any] = []
    for _ in range(count):
        started = threading.Event()
        futures.append(pool.submit(_hold, started, gate))
        assert started.wait(TIMEOUT)
    return futures


def _hold(started: threading.Event, gate: threading.Event) -> bool:
    started.set()
    return gate.wait(TIMEOUT)


def threads_of(pool: FairPool) -> list[threading.Thread]:
    prefix = pool._scheduler._prefix + "_"
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


def check_free(*guards: Lock | Guarded[Any]) -> None:
    """Nobody is inside, nobody waits, and everybody can enter."""
    for guard in guards:
        lock = guard.lock if isinstance(guard, Guarded) else guard
        until(lambda: not lock.locked())  # a section's future is final a moment before it is left
        assert not lock.queue.items()
        assert lock.owner is None
        assert lock.acquire(timeout=TIMEOUT), f"{lock!r} is not free"
        lock.release()
        assert not lock.locked()


def check_slots(pool: FairPool) -> None:
    """After its shutdown, each slot of the pool is free.

    A thread that comes late to its `notify` has one in hand for a moment, and gives it back.
    """
    parking = pool._scheduler.parking
    slots = pool._scheduler.max_workers or cpu_count()
    until(lambda: len(parking.free_slots) - len(parking.overcommits) == slots)


def check_whole(pool: FairPool, seconds: float = PATIENCE) -> None:
    """Shut down, and see that nothing and nobody is left behind."""
    in_time(pool.shutdown, seconds)
    scheduler = pool._scheduler
    parking = scheduler.parking
    check_slots(pool)
    assert not parking.searching
    assert not parking.parked
    assert not scheduler.workers
    assert not scheduler.has_work()
    assert not threads_of(pool)


def made_by(kind: type[threading.Thread]) -> Callable[..., threading.Thread]:
    """What stands in for `_sync.new_thread`, and makes threads of this kind."""

    def new_thread(target: Callable[[], object], name: str, daemon: bool) -> threading.Thread:
        return kind(target=target, name=name, daemon=daemon)

    return new_thread


class Desk:
    """A pool whose steps are run by the test, on workers without a thread."""

    def __init__(self) -> None:
        self.pool = FairPool(1)
        self.scheduler = self.pool._scheduler
        self.scheduler.parking.free_slots.clear()  # so nobody is ever notified
        self.workers = [self._worker(i) for i in range(4)]
        self.scheduler.workers.extend(self.workers)
        self.depth = 0

    def _worker(self, number: int) -> Worker:
        worker = Worker(self.scheduler, f"by-hand-{number}")
        worker.queue = RunQueue()
        return worker

    @cached_property
    def lock(self) -> Lock:
        """A lock of the pool's. Made when a test asks for it: with one, tasks do more."""
        return self.pool.lock("it")

    def queued(self) -> int:
        """How much lies in the queues of tasks."""
        return len(self.scheduler.injector) + sum(len(worker.queue) for worker in self.workers)

    def take(self) -> Any:
        """The next runnable thing, whichever queue it is in."""
        for worker in self.workers:
            if worker.published:
                return worker.published.pop(0)
        queues = [self.scheduler.injector, *(worker.queue for worker in self.workers)]
        for queue in [*queues, *(worker.home_queue for worker in self.workers)]:
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
            item = following = None  # the traceback of an error leads to this frame: no cycle
        return True

    def run(self) -> None:
        """Run all that is runnable."""
        for _ in range(10_000):
            if not self.step():
                return
        raise AssertionError("no end of steps")

    def close(self) -> None:
        """End what is suspended, and the pool."""
        for continuation in self.scheduler.suspended.copy():
            continuation.task.interrupt()
        self.run()
        for worker in self.workers:
            self.scheduler.workers.remove(worker)
        self.pool.shutdown(wait=False, cancel_futures=True)
