"""The children of a `gather`: started once each, and tasks only when they have to be."""

from __future__ import annotations

import threading
import warnings
from asyncio import CancelledError
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest
from unit.conftest import PATIENCE, in_time, occupy

import fairpool
from fairpool import DeadlockError, FairPool, current_task
from fairpool._gather import CHILDREN_AT_ONCE, Gather
from fairpool._runqueue import RunQueue

MakePool = Callable[..., FairPool]

number: ContextVar[int] = ContextVar("number", default=0)


async def same(value: Any) -> Any:
    return value


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("size", [1, 2, CHILDREN_AT_ONCE - 1, CHILDREN_AT_ONCE + 1, 2000])
def test_results_in_order(workers: int, size: int, make_pool: MakePool) -> None:
    async def main() -> list[int]:
        return await fairpool.gather(*[same(i) for i in range(size)])

    assert make_pool(workers).submit(main).result(PATIENCE) == [*range(size)]


def test_each_child_has_a_context_of_its_own(make_pool: MakePool) -> None:
    async def child(i: int, yields: bool) -> tuple[int, int]:
        before = number.get()
        number.set(i)
        if yields:
            await fairpool.yield_now()
        return before, number.get()

    async def main() -> Any:
        number.set(-1)
        both = fairpool.gather(*[child(i, i % 3 == 0) for i in range(20)])
        number.set(-2)  # too late: the context is that of the call
        return await both, number.get()

    assert make_pool(2).submit(main).result(PATIENCE) == ([(-1, i) for i in range(20)], -2)


def test_a_child_has_a_task_of_its_own_when_it_asks(make_pool: MakePool) -> None:
    async def child(yields: bool) -> tuple[Any, Any, str]:
        task: Any = current_task()
        name = task.get_name()
        if yields:
            await fairpool.yield_now()
        return task, current_task(), name

    async def main() -> Any:
        return current_task(), await fairpool.gather(child(False), same(1), child(True))

    parent, (first, _, last) = make_pool(1).submit(main).result(PATIENCE)
    assert first[0] is first[1]
    assert last[0] is last[1]
    assert len({parent, first[0], last[0]}) == 3
    assert "child" in first[2]
    assert "child" in last[2]
    assert first[0].result(0) == first
    assert last[0].result(0) == last


def test_a_child_that_blocks_does_not_keep_its_siblings(make_pool: MakePool) -> None:
    """They are started by the worker that takes its seat."""
    pool = make_pool(1)
    event = threading.Event()

    async def blocks() -> bool:
        with fairpool.blocking():
            return event.wait(PATIENCE)

    async def sets() -> None:
        event.set()

    async def main() -> Any:
        return await fairpool.gather(same(0), blocks(), same(2), sets())

    assert pool.submit(main).result(PATIENCE) == [0, True, 2, None]


def test_children_that_wait_for_one_another_close_a_cycle(make_pool: MakePool) -> None:
    async def child(box: SimpleNamespace) -> None:
        await box.parent

    async def main(box: SimpleNamespace) -> None:
        box.parent = current_task()
        await fairpool.gather(same(1), child(box))

    future = make_pool(2).submit(main, SimpleNamespace())
    with pytest.raises(DeadlockError):
        future.result(PATIENCE)


def test_a_cancelled_gather_cancels_children_in_their_first_step(
    make_pool: MakePool, gate: threading.Event
) -> None:
    pool = make_pool(2)
    started = threading.Event()
    ends: list[str] = []

    async def child() -> None:
        started.set()
        gate.wait(PATIENCE)  # it is no task yet when the gather is cancelled
        try:
            await fairpool.sleep(1000)
        except CancelledError:
            ends.append("cancelled")
            raise

    async def main() -> None:
        both = fairpool.gather(child())
        assert started.wait(PATIENCE)
        assert both.cancel()
        gate.set()
        with pytest.raises(CancelledError):
            await both

    pool.submit(main).result(PATIENCE)
    assert ends == ["cancelled"]


@pytest.mark.parametrize("exceptions", [False, True])
def test_children_that_are_dropped_are_closed(
    exceptions: bool, make_pool: MakePool, gate: threading.Event
) -> None:
    pool = make_pool(1)
    box = SimpleNamespace()

    async def main() -> None:
        children = [same(i) for i in range(100)]
        box.gather = fairpool.gather(*children, return_exceptions=exceptions)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        future = pool.submit(main)
        busy = occupy(pool, gate)
        future.result(PATIENCE)
        done = box.gather.done()
        box.gather.cancel()
        gate.set()
        in_time(lambda: pool.shutdown(cancel_futures=True))
        assert all(each.result(PATIENCE) for each in busy)
    assert box.gather.done()
    assert done or box.gather.cancelled()
    assert not [each for each in caught if "never awaited" in str(each.message)]


def test_cancel_futures_drops_what_was_not_started(
    make_pool: MakePool, gate: threading.Event
) -> None:
    pool = make_pool(1)
    box = SimpleNamespace(ran=[])
    started = threading.Event()

    async def child(i: int) -> None:
        box.ran.append(i)
        if i == 1:
            started.set()
            gate.wait(PATIENCE)

    async def main() -> None:
        box.gather = fairpool.gather(*[child(i) for i in range(5)])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pool.submit(main).result(PATIENCE)
        assert started.wait(PATIENCE)
        pool.shutdown(wait=False, cancel_futures=True)
        gate.set()
        in_time(pool.shutdown)
    assert box.ran == [0, 1]
    assert box.gather.cancelled()
    assert not [each for each in caught if "never awaited" in str(each.message)]


def test_what_others_have_taken_leaves_an_entry_that_does_nothing() -> None:
    gather = Gather(1, False)
    coroutine = same(1)
    gather.of_coroutines((coroutine,), None)  # type: ignore[arg-type]
    assert gather.drop()
    assert not gather.drop()
    assert gather.run(SimpleNamespace(queue=RunQueue())) is None
    assert gather.cancelled()


@pytest.mark.parametrize("threads", [2, 5])
def test_the_account_has_one_that_completes_it(threads: int) -> None:
    parts = 40
    for _ in range(200):
        gather = Gather(threads * parts, False)
        start = threading.Barrier(threads)
        answers: list[bool] = []

        def account(
            gather: Gather = gather, start: Any = start, answers: list[bool] = answers
        ) -> None:
            start.wait(PATIENCE)
            answers.extend([gather._have_ended(1) for _ in range(parts)])

        crew = [threading.Thread(target=account) for _ in range(threads)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join(PATIENCE)
        assert answers.count(True) == 1
        assert len(answers) == threads * parts
