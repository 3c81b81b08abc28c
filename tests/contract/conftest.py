"""The executors that the contract is run over; ThreadPoolExecutor says what the contract is."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from kit import TIMEOUT

from fairpool import FairPool, Lock


class LockOfItsOwn(Lock):
    """A lock with its pool, so that closing it closes all, and its options are those of a pool.

    `with` means what it means for an executor, not for a lock.
    """

    __enter__ = Executor.__enter__
    __exit__ = Executor.__exit__  # type: ignore[assignment]

    def __init__(self, max_workers: int, **options: Any) -> None:
        self._pool = FairPool(max_workers, **options)
        super().__init__(self._pool._scheduler, None)
        self._pool._scheduler.locks.add(self.entry)  # as `make_lock` does

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


# name -> how to make one (more keywords are passed on), and how many tasks it runs at once
EXECUTORS: dict[str, tuple[Callable[..., Executor], int]] = {
    "FairPool(1)": (functools.partial(FairPool, 1), 1),
    "FairPool(2)": (functools.partial(FairPool, 2), 2),
    "FairPool(8)": (functools.partial(FairPool, 8), 8),
    "FairPool(2, max_pending=4)": (functools.partial(FairPool, 2, max_pending=4), 2),
    "Lock(1)": (functools.partial(LockOfItsOwn, 1), 1),
    "Lock(2)": (functools.partial(LockOfItsOwn, 2), 1),
    "FairPool(2).share": (lambda **options: FairPool(2, **options).share("one"), 2),
    "ThreadPoolExecutor(2)": (functools.partial(ThreadPoolExecutor, 2), 2),
}


@pytest.fixture(params=EXECUTORS)
def make_executor(request: pytest.FixtureRequest) -> Callable[..., Executor]:
    return EXECUTORS[request.param][0]


@pytest.fixture
def executor(make_executor: Callable[..., Executor]) -> Iterator[Executor]:
    with make_executor() as executor:
        yield executor


@pytest.fixture
def workers(request: pytest.FixtureRequest, make_executor: object) -> int:
    """How many tasks the executor of this test runs at once."""
    return EXECUTORS[request.node.callspec.params["make_executor"]][1]


@pytest.fixture
def fair(executor: Executor) -> FairPool | Lock:
    """The executor, where the standard library's has not what is tested."""
    if not isinstance(executor, (FairPool, Lock)):
        pytest.skip("ThreadPoolExecutor has this in later versions, or not at all")
    return executor


@contextmanager
def occupied(executor: Executor, count: int, gate: threading.Event) -> Iterator[list[Any]]:
    """`count` workers are busy inside of this, each with a task that waits for `gate`."""
    futures = []
    try:
        for _ in range(count):
            started = threading.Event()
            futures.append(executor.submit(_wait_for, started, gate))
            assert started.wait(TIMEOUT)
        yield futures
    finally:
        gate.set()


def _wait_for(started: threading.Event, gate: threading.Event) -> bool:
    started.set()
    return gate.wait(TIMEOUT)
