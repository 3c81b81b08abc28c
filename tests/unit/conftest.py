"""Fixtures of the unit tests: pools that are gone after the test, pools without threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from kit import LONG, Desk

from fairpool import FairPool
from fairpool._scheduler.scheduler import Scheduler

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
def desk() -> Iterator[Desk]:
    """A pool whose steps are run by the test."""
    desk = Desk()
    yield desk
    desk.close()


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[FairPool]:
    """A pool whose tasks are not queued: the test runs them, or does not."""
    monkeypatch.setattr(Scheduler, "put", lambda self, task: None)
    pool = FairPool(1)
    yield pool
    pool.shutdown()
