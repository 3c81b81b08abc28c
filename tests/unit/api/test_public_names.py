"""What users see of the public names: where they say they are, and what `dir` lists."""

from __future__ import annotations

import asyncio
import pickle
import typing
from collections.abc import Callable
from typing import Any

import pytest

import fairpool
from fairpool import DeadlockError, FairPool, Future, Share, Task, TaskGroup, Timeout
from fairpool._api.publish import NOTES

# These are asyncio's.
FOREIGN = {"CancelledError", "QueueEmpty", "QueueFull"}
if fairpool.QueueShutDown is getattr(asyncio, "QueueShutDown", None):
    FOREIGN.add("QueueShutDown")

OURS = sorted(set(fairpool.__all__) - FOREIGN)
CLASSES = [name for name in OURS if isinstance(getattr(fairpool, name), type)]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


@pytest.mark.parametrize("name", OURS)
def test_public_names_say_that_they_are_of_the_package(name: str) -> None:
    thing = getattr(fairpool, name)
    assert thing.__module__ == "fairpool"
    assert thing.__qualname__ == name
    assert pickle.loads(pickle.dumps(thing)) is thing


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_what_is_of_asyncio_is_left_alone(name: str) -> None:
    assert getattr(fairpool, name) is getattr(asyncio, name)
    assert getattr(fairpool, name).__module__.startswith("asyncio")


def test_repr_of_classes() -> None:
    assert repr(FairPool) == "<class 'fairpool.FairPool'>"
    assert repr(Future[int]) == "fairpool.Future[int]"


def test_exceptions_travel() -> None:
    for kind in (DeadlockError, fairpool.BrokenFairPool, fairpool.QueueShutDown):
        again = pickle.loads(pickle.dumps(kind("why")))
        assert type(again) is kind
        assert again.args == ("why",)


@pytest.mark.parametrize("name", CLASSES)
def test_hints_of_public_classes_can_be_read(name: str) -> None:
    typing.get_type_hints(getattr(fairpool, name))


def instances(pool: FairPool) -> dict[str, object]:
    """One of each public class."""
    lock = pool.lock("name")
    failed = pool.submit(int)
    failed.result()
    limit: list[Timeout] = []

    async def enter() -> None:
        async with fairpool.timeout(None) as entered:
            limit.append(entered)

    pool.submit(enter).result()
    found: list[object] = [
        *(pool, pool.share("name"), pool.statistics(), lock, lock.statistics(), pool.guarded(1)),
        *(Future(), failed, TaskGroup(), limit[0], fairpool.Event(), fairpool.Semaphore()),
        *(fairpool.BoundedSemaphore(), fairpool.Queue(), DeadlockError()),
        *(fairpool.BrokenFairPool(), fairpool.QueueShutDown(), fairpool.blocking()),
    ]
    return {type(each).__name__: each for each in found}


def test_dir_lists_public_names_only() -> None:
    with FairPool(1) as pool:
        found = instances(pool)
        assert found.keys() >= set(CLASSES)
        for name in CLASSES:
            listed = dir(found[name])
            assert not [each for each in listed if is_private(each)], name
            public = {each for each in dir(type(found[name])) if not is_private(each)}
            assert public <= set(listed), name
        assert {"submit", "map", "shutdown", "lock", "__enter__"} <= set(dir(pool))


def test_a_subclass_keeps_its_own_names() -> None:
    class Mixin:
        def _mixed(self) -> None: ...

    class Mine(Mixin, FairPool):
        def _helper(self) -> None: ...

        def helper(self) -> None: ...

    class MyFuture(Future[Any]):
        def __init__(self) -> None:
            super().__init__()
            self._mine = 1

    class MyGroup(TaskGroup):
        def __init__(self) -> None:
            super().__init__()
            self._mine = 1
            self.public = 2

    with Mine(1) as pool:
        listed = dir(pool)
        assert {"_mixed", "_helper", "helper", "submit"} <= set(listed)
        assert {each for each in listed if is_private(each)} == {"_mixed", "_helper"}
    for instance, names in ((MyFuture(), {"_mine"}), (MyGroup(), {"_mine"})):
        assert {each for each in dir(instance) if is_private(each)} == names


def test_notes_on_a_future_are_all_known() -> None:
    """What the package writes into the `__dict__` of a future has a name in `NOTES`."""
    with FairPool(1) as pool:
        share: Share = pool.share("name")
        task = share.submit(int)
        assert isinstance(task, Task)
        task.set_name("name")
        link = task.then(str)
        link.result()
        by_hand: Future[None] = Future()
        for each in (task, link, by_hand):
            waits: Callable[..., Any] = each.add_done_callback
            for _ in range(100):
                waits(lambda _: None)
        by_hand.set_running_or_notify_cancel()
        by_hand.set_result(None)
        for each in (task, link, by_hand):
            each._condition  # noqa: B018
            assert {name for name in vars(each) if is_private(name)} <= NOTES
