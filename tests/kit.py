"""What all tests share: how long to wait, what a test raises, pools that are looked after."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from fairpool import FairPool, Guarded, Lock
from fairpool._core.threads import cpu_count, yield_cpu

T = TypeVar("T")

TIMEOUT = 60  # seconds; no test comes near it, unless what it waits for will never happen
PATIENCE = 10  # the same, for what is expected to take microseconds
LONG = 1000.0  # an idle time-out that does not wake a worker whose wake-up was lost


class Mishap(Exception):
    """What a test raises, and nothing else does."""


def until(condition: Callable[[], object]) -> None:
    """Wait until this is true, or fail."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that"
        yield_cpu()


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


def check_whole(pool: FairPool, seconds: float = PATIENCE) -> None:
    """Shut down, and see that nothing and nobody is left behind."""
    in_time(pool.shutdown, seconds)
    scheduler = pool._scheduler
    parking = scheduler.parking
    assert len(parking.free_slots) - len(parking.overcommits) == (
        scheduler.max_workers or cpu_count()
    )
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
