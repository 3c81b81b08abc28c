"""The kinds of waiters: each says how it is let in; and what locks ask of the room above."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from fairpool import FairPool, Lock
from fairpool._core.here import here
from fairpool._locks import host, threads
from fairpool._locks.owners import ThreadOwner
from fairpool._locks.waiters import CriticalLink, ExternalWaiter, Section, Sweep, ThreadWaiter
from fairpool._tasks.request import LockRequest, Request, Waiter

RUN_IN_A_PASS = [Request, Section, CriticalLink]
GIVEN_THE_KEY = [ThreadWaiter, ExternalWaiter, Sweep]

MakePool = Callable[[int], FairPool]


def kinds_of(base: type) -> set[type]:
    below = {kind for each in base.__subclasses__() for kind in kinds_of(each)}
    return below or {base}


def test_these_are_all_kinds() -> None:
    ours = {kind for kind in kinds_of(Waiter) if kind.__module__.startswith("fairpool.")}
    assert ours == {*RUN_IN_A_PASS, *GIVEN_THE_KEY}


@pytest.mark.parametrize("kind", RUN_IN_A_PASS)
def test_one_that_needs_a_worker_can_be_ended_without_one(kind: type[Waiter]) -> None:
    assert kind.needs_worker
    assert kind.grant is Waiter.grant
    assert kind.claim_to_end is not Waiter.claim_to_end


@pytest.mark.parametrize("kind", GIVEN_THE_KEY)
def test_one_that_needs_no_worker_is_granted(kind: type[Waiter]) -> None:
    assert not kind.needs_worker
    assert kind.grant is not Waiter.grant


@pytest.mark.parametrize("kind", [*RUN_IN_A_PASS, *GIVEN_THE_KEY])
def test_each_can_give_up(kind: type[Waiter]) -> None:
    assert kind.give_up is not Waiter.give_up
    assert inspect.getattr_static(kind, "given_up") is not vars(Waiter)["given_up"]
    if issubclass(kind, LockRequest):
        assert kind.__eq__ is object.__eq__  # compared by identity, in C


def blocked(lock: Lock) -> Waiter:
    return ThreadWaiter(lock, 0, ThreadOwner("somebody"))


def external(lock: Lock) -> Waiter:
    return ExternalWaiter(lock, None)


@pytest.mark.parametrize("make", [blocked, external])
def test_one_that_has_given_up_is_not_granted(
    make: Callable[[Lock], Waiter], make_pool: MakePool
) -> None:
    lock = make_pool(1).lock()
    waiter = make(lock)
    assert lock.acquire()
    lock.enqueue(waiter)
    assert not waiter.given_up
    assert waiter.give_up()
    assert waiter.given_up
    assert not waiter.give_up() or isinstance(waiter, ExternalWaiter)
    owner = lock.owner
    assert not waiter.grant(lock)
    lock.owner = owner
    lock.release()
    assert not lock.locked()


@pytest.mark.parametrize("make", [blocked, external])
def test_one_that_was_granted_cannot_give_up(
    make: Callable[[Lock], Waiter], make_pool: MakePool
) -> None:
    lock = make_pool(1).lock()
    waiter = make(lock)
    lock.enqueue(waiter)  # the lock is free: it is given the key at once
    assert lock.locked()
    assert not waiter.give_up()
    assert lock.owner is getattr(waiter, "owner", waiter)
    lock.end_section()
    assert not lock.locked()


# --- what locks ask of the room above -------------------------------------------------------------


def members_of(protocol: type) -> set[str]:
    names = {*inspect.get_annotations(protocol), *vars(protocol)}
    return {name for name in names if not name.startswith("_")}


ROLES = {
    "scheduler": [host.LockHost, threads.HelpHost],
    "worker": [host.PassWorker, host.TaskWorker],
}


@pytest.mark.parametrize("whose", ROLES)
def test_a_role_is_small_and_played(whose: str, make_pool: MakePool) -> None:
    pool = make_pool(1)
    worker: Any = pool.submit(lambda: here.worker).result()
    played = worker if whose == "worker" else worker.scheduler
    for role in ROLES[whose]:
        members = members_of(role)
        assert 0 < len(members) <= 12, role
        assert {name for name in members if not hasattr(played, name)} == set(), role
