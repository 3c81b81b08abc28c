"""What threads of this process share has no copy: `pickle` and `copy` say what to do instead."""

from __future__ import annotations

import concurrent.futures
import copy
import inspect
import pickle
from collections.abc import Callable, Iterator

import pytest

import fairpool
from fairpool import FairPool

MAKERS: dict[str, Callable[[FairPool], object]] = {
    "Future": lambda pool: fairpool.Future(),
    "Task": lambda pool: pool.submit(int),
    "link": lambda pool: pool.submit(int).then(int),
    "critical link": lambda pool: pool.submit(int).then(int, lock=pool.lock()),
    "section": lambda pool: pool.lock().submit(int),
    "gather": lambda pool: fairpool.gather(),
    "shield": lambda pool: fairpool.shield(pool.submit(int)),
    "wrap_future": lambda pool: fairpool.wrap_future(concurrent.futures.Future()),
    "FairPool": lambda pool: pool,
    "Share": lambda pool: pool.share("a"),
    "Lock": lambda pool: pool.lock(),
    "lock by usage": lambda pool: pool.lock(order="usage"),
    "Guarded": lambda pool: pool.guarded(0),
    "all_of": lambda pool: fairpool.all_of(pool.lock()),
    "TaskGroup": lambda pool: fairpool.TaskGroup(),
    "Timeout": lambda pool: fairpool.timeout(None),
    "Event": lambda pool: fairpool.Event(),
    "Semaphore": lambda pool: fairpool.Semaphore(),
    "BoundedSemaphore": lambda pool: fairpool.BoundedSemaphore(),
    "Queue": lambda pool: fairpool.Queue(),
    "blocking": lambda pool: fairpool.blocking(),
}

WAYS: dict[str, Callable[[object], object]] = {
    **{
        f"pickle {protocol}": lambda what, protocol=protocol: pickle.dumps(what, protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "pickle in a list": lambda what: pickle.dumps([what]),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy in a dict": lambda what: copy.deepcopy({"a": what}),
}


@pytest.fixture
def pool() -> Iterator[FairPool]:
    with FairPool(1) as pool:
        yield pool


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_of_this_process_cannot_be_copied(pool: FairPool, kind: str, way: str) -> None:
    what = MAKERS[kind](pool)
    with pytest.raises(
        TypeError, match=r"^cannot pickle or copy <fairpool.* at 0x.*>: ."
    ) as caught:
        WAYS[way](what)
    advice = str(caught.value).partition(">: ")[2]
    assert advice.split()[0] in ("pass", "its", "make", "copy", "call", "enter", "get"), advice


@pytest.mark.parametrize("way", WAYS)
def test_what_is_of_no_process_can_be_copied(pool: FairPool, way: str) -> None:
    for what in (
        pool.lock().statistics(),
        fairpool.DeadlockError("a"),
        fairpool.BrokenFairPool("b"),
    ):
        WAYS[way](what)


def test_all_public_classes_are_looked_at() -> None:
    classes = {name for name in fairpool.__all__ if inspect.isclass(getattr(fairpool, name))}
    copyable = {"LockStatistics", "PoolStatistics"} | {
        name for name in classes if issubclass(getattr(fairpool, name), BaseException)
    }
    assert classes - copyable <= MAKERS.keys()
