"""`guarded`: state that is reached only inside its lock; `all_of`: several locks at once."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
from kit import TIMEOUT, Mishap, check_free, in_time

from fairpool import FairPool, Lock, all_of, yield_now

MakePool = Callable[..., FairPool]


def test_all_ways_reach_the_same_state(make_pool: MakePool) -> None:
    pool = make_pool(2)
    made: list[str] = []

    def make() -> dict[str, int]:
        made.append(threading.current_thread().name)
        return {}

    counts = pool.guarded(make, name="counts")

    async def task() -> None:
        for _ in range(50):
            async with counts as state:
                state["n"] = state.get("n", 0) + 1

    def stack() -> None:
        for _ in range(50):
            with counts as state:
                state["n"] = state.get("n", 0) + 1

    def add(state: dict[str, int], by: int, *, key: str) -> int:
        state[key] = state.get(key, 0) + by
        return state[key]

    futures: list[Any] = [pool.submit(task) for _ in range(3)]
    futures += [pool.submit(stack) for _ in range(3)]
    futures += [counts.submit(add, 1, key="n") for _ in range(50)]
    stack()
    for future in futures:
        future.result(TIMEOUT)
    with counts as state:
        assert state == {"n": 400}
    assert made == [next(iter(made))], "the factory was called more than once"
    assert made[0].startswith("FairPool")  # by a worker
    assert counts.statistics().name == "counts"
    check_free(counts)


def test_a_value_is_the_state_itself(make_pool: MakePool) -> None:
    state: list[int] = []
    guarded = make_pool(1).guarded(state)
    with guarded as inside:
        assert inside is state


def test_a_coroutine_that_is_submitted_holds_the_lock(make_pool: MakePool) -> None:
    pool = make_pool(2)
    guarded = pool.guarded(list)
    go_on = threading.Event()

    async def slow(state: list[int]) -> None:
        state.append(1)
        while not go_on.is_set():
            await yield_now()
        state.append(2)

    first = guarded.submit(slow)
    second = guarded.submit(list.append, 3)
    assert not guarded.lock.acquire(timeout=0.01)
    assert not second.done()
    go_on.set()
    first.result(TIMEOUT)
    second.result(TIMEOUT)
    with guarded as state:
        assert state == [1, 2, 3]


@pytest.mark.parametrize("times", [1, 3])
def test_a_factory_that_raises_does_so_at_each_entry(make_pool: MakePool, times: int) -> None:
    pool = make_pool(1)

    def fail() -> None:
        raise Mishap

    guarded = pool.guarded(fail)

    async def task() -> None:
        async with guarded:
            pass

    def stack() -> None:
        with guarded:
            pass

    async def several() -> None:
        async with all_of(guarded, other):
            pass

    other = pool.lock()
    for _ in range(times):
        for future in (
            pool.submit(task),
            pool.submit(stack),
            guarded.submit(len),
            pool.submit(several),
        ):
            with pytest.raises(Mishap):
                future.result(TIMEOUT)
        with pytest.raises(Mishap):
            stack()
    check_free(guarded, other)


def test_an_error_inside_releases(make_pool: MakePool) -> None:
    pool = make_pool(1)
    guarded = pool.guarded(dict)

    async def task() -> None:
        async with guarded as state:
            state["missing"]

    for future in (pool.submit(task), guarded.submit(dict.__getitem__, "missing")):
        with pytest.raises(KeyError):
            future.result(TIMEOUT)
    with pytest.raises(KeyError), guarded as state:
        state["missing"]
    check_free(guarded)


def test_arguments_are_checked_at_the_call(make_pool: MakePool) -> None:
    pool = make_pool(1)
    guarded = pool.guarded(list)
    lock = pool.lock()
    with pytest.raises(TypeError, match="submit"):
        guarded.submit(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="all_of"):
        all_of(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="at least one"):
        all_of()
    with pytest.raises(ValueError, match="twice"):
        all_of(guarded, lock, guarded.lock)
    with pytest.raises(TypeError, match="name"):
        pool.lock(3)  # type: ignore[arg-type]


# --- all_of ---------------------------------------------------------------------------------------


def test_all_of_gives_the_states_in_the_order_of_the_arguments(make_pool: MakePool) -> None:
    pool = make_pool(1)
    guards: list[Any] = [pool.guarded({"a": 1}), pool.lock(), pool.guarded([2])]
    for order in itertools.permutations(range(3)):
        states = [{"a": 1}, None, [2]]
        with all_of(*(guards[i] for i in order)) as got:
            assert got == tuple(states[i] for i in order)
        check_free(*guards)


def test_all_of_cannot_deadlock(make_pool: MakePool) -> None:
    # Each takes two of three in an order of its own; nothing is lost between the accounts.
    pool = make_pool(4)
    accounts = [pool.guarded([100]) for _ in range(3)]

    async def move(number: int) -> None:
        for i in range(30):
            one, other = (number + i) % 3, (number + i + 1 + i % 2) % 3
            async with all_of(accounts[one], accounts[other]) as (a, b):
                before = a[0] + b[0]
                a[0] -= 1
                if i % 5 == 0:
                    await yield_now()
                b[0] += 1
                assert a[0] + b[0] == before

    def move_on_stack(number: int) -> None:
        for i in range(30):
            with all_of(accounts[number % 3], accounts[(number + 1 + i % 2) % 3]) as (a, b):
                a[0] -= 1
                b[0] += 1

    futures: list[Any] = [pool.submit(move, i) for i in range(6)]
    futures += [pool.submit(move_on_stack, i) for i in range(6)]
    for future in futures:
        future.result(TIMEOUT)
    with all_of(*accounts) as states:
        assert sum(state[0] for state in states) == 300
    check_free(*accounts)


@pytest.mark.parametrize("held", [0, 1, 2])
def test_all_of_that_is_cancelled_holds_none(make_pool: MakePool, held: int) -> None:
    pool = make_pool(2)
    locks = [pool.lock() for _ in range(3)]
    inside: list[int] = []

    async def all_three() -> None:
        async with all_of(*locks):
            inside.append(1)

    with locks[held]:
        task: Any = pool.submit(all_three)
        in_time(lambda: _until_somebody_waits(locks[held]))
        assert task.cancel()
        with pytest.raises(CancelledError):
            task.result(TIMEOUT)
        check_free(*(lock for lock in locks if lock is not locks[held]))
    check_free(*locks)
    assert not inside


def _until_somebody_waits(lock: Lock) -> bool:
    while not lock.queue:
        time.sleep(0)
    return True
