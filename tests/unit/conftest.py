"""What the unit tests share: pools that are gone after the test, gates that open at its end."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from fairpool import FairPool
from fairpool._core.threads import cpu_count, yield_cpu
from fairpool._scheduler.scheduler import Scheduler

T = TypeVar("T")

TIMEOUT = 30  # seconds; no test comes near it, unless what it waits for will never happen

PATIENCE = 10  # the same, for what is expected to take microseconds
# `tox -e parallel` runs each test in several threads at once, but not those that use one of these.
# They patch the package for the whole process, watch all of its instructions, catch what it says,
# or are one gate, one clock or one pool that the threads would open, set or step for each other.
SINGLE_THREADED = {
    "caplog",
    "capsys",
    "clock",
    "collector_off",
    "desk",
    "gate",
    "held",
    "moments",
    "monkeypatch",
    "one_look",
    "pool",
    "quiet",
    "recwarn",
    "shelf",
    "timers",
    "without_looks",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SINGLE_THREADED.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("thread_unsafe")


LONG = 1000.0  # an idle time-out that does not wake a worker whose wake-up was lost


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event for tasks to wait on; open at the end, so that a failure cannot hang."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def make_pool(gate: threading.Event) -> Iterator[Callable[..., FairPool]]:
    """FairPool, with a shutdown at the end of the test."""
    pools: list[FairPool] = []

    def make(*args: object, **kwargs: object) -> FairPool:
        kwargs.setdefault("idle_timeout", LONG)
        pools.append(FairPool(*args, **kwargs))  # type: ignore[arg-type]
        return pools[-1]

    yield make
    gate.set()
    for pool in pools:
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[FairPool]:
    """A pool whose tasks are not queued: the test runs them, or does not."""
    monkeypatch.setattr(Scheduler, "put", lambda self, task: None)
    pool = FairPool(1)
    yield pool
    pool.shutdown()


def until(condition: Callable[[], object]) -> None:
    """Wait until this is true, or fail."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that"
        yield_cpu()


def in_time(fn: Callable[[], T]) -> T:
    """What `fn` returns, or a failure where it hangs; for what cannot be given a time-out."""
    result: list[T] = []
    thread = threading.Thread(target=lambda: result.append(fn()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
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


def check_whole(pool: FairPool) -> None:
    """Shut down, and see that nothing and nobody is left behind."""
    in_time(pool.shutdown)
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
