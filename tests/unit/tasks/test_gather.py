"""The children of a `gather`: started once each, and tasks only when they have to be."""

from __future__ import annotations

import threading
import time
import warnings
from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelledError
from contextvars import ContextVar, copy_context
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from kit import PATIENCE, in_time, occupy, until

import fairpool
from fairpool import DeadlockError, FairPool, Future, current_task
from fairpool._core.here import here
from fairpool._core.runqueue import RunQueue
from fairpool._core.waitgraph import waits
from fairpool._scheduler.waiting import FORKS_MAX
from fairpool._tasks.gather import CHILDREN_AT_ONCE, FORKED_MAX, FORKED_TIME, Gather

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
    """They are started by the worker that takes its slot."""
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


# --- started on top of the one that waits -------------------------------------------------------


eager = partial(fairpool.gather, eager_start=True)


async def tree(depth: int) -> int:
    return 1 + sum(await eager(tree(depth - 1), tree(depth - 1))) if depth else 1


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_tree_counts_its_nodes(workers: int, make_pool: MakePool) -> None:
    assert make_pool(workers).submit(tree, 11).result(PATIENCE) == 2**12 - 1


def test_a_small_tree_is_one_step(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fairpool._tasks.gather.FORKED_TIME", 10**12
    )  # whatever else the machine does
    pool = make_pool(1)
    box = SimpleNamespace()

    async def main() -> list[int]:
        box.parent = current_task()
        worker = here.worker
        before = len(worker.queue)
        nodes = await tree(4)
        assert current_task() is box.parent
        assert here.worker is worker
        assert not worker.forks
        return [nodes, len(worker.queue) - before, len(worker.scheduler.suspended)]

    assert pool.submit(main).result(PATIENCE) == [31, 0, 0]


def test_a_long_line_of_children_is_not_a_deep_stack(make_pool: MakePool) -> None:
    async def line(length: int) -> int:
        depths.append(len(here.worker.forks))
        return 1 + sum(await eager(line(length - 1))) if length else 0

    depths: list[int] = []
    assert make_pool(1).submit(line, 2000).result(PATIENCE) == 2000
    assert 1 < max(depths) <= FORKS_MAX


@pytest.mark.parametrize("outside", [False, True])
def test_a_loop_of_gathers_lets_others_go_first(outside: bool, make_pool: MakePool) -> None:
    pool = make_pool(1)
    done: list[None] = []
    rounds = 0

    async def main() -> None:
        nonlocal rounds
        if not outside:
            pool.submit(done.append, None)
        while outside and not pool._scheduler.injector:
            pass
        while not done and rounds < 10_000:
            rounds += 1
            await eager(same(1), same(2))

    future = pool.submit(main)
    if outside:
        pool.submit(done.append, None)
    future.result(PATIENCE)
    assert done
    assert 2 * rounds <= (CHILDREN_AT_ONCE if outside else FORKED_MAX) + 4


@pytest.mark.parametrize("suspends", [True, False])
def test_the_time_for_it_begins_anew_with_a_step(
    suspends: bool, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 10**9
    monkeypatch.setattr("fairpool._tasks.gather.monotonic_ns", lambda: clock)
    turns: list[Future[None]] = [Future() for _ in range(4)]

    async def main() -> list[int]:
        nonlocal clock
        forked = []
        for turn in turns:
            forked.append(sum(await eager(*[child() for _ in range(5)])))
            clock += 3 * FORKED_TIME
            if suspends:
                await turn
        return forked

    async def child() -> int:
        return bool(here.worker.forks)

    pool = make_pool(1)
    future = pool.submit(main)
    if suspends:
        for turn in turns:
            until(pool._scheduler.parking.parked.copy)  # the worker has looked around, and waits
            turn.set_result(None)
    forked = future.result(PATIENCE)
    if suspends:
        assert forked == [5, 5, 5, 5]
    else:  # others are to go first, so that it is suspended, too
        assert forked[:2] == [5, 1]


def test_a_gather_that_the_pool_does_not_take_closes_its_coroutines(make_pool: MakePool) -> None:
    pool = make_pool(1)

    async def main() -> None:
        pool.shutdown(wait=False)
        with pytest.raises(RuntimeError):
            fairpool.gather(fairpool.Future(), *[same(i) for i in range(3)])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pool.submit(main).result(PATIENCE)
    assert not [each for each in caught if "never awaited" in str(each.message)]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_child_that_blocks_for_its_ancestor_closes_a_cycle(
    workers: int, depth: int, make_pool: MakePool
) -> None:
    box = SimpleNamespace()

    async def child(left: int) -> None:
        if left:
            await eager(same(1), child(left - 1))
        else:
            box.top.result()

    async def main() -> None:
        box.top = current_task()
        await eager(child(depth - 1))

    with pytest.raises(DeadlockError):
        make_pool(workers).submit(main).result(PATIENCE)
    assert not [task for task, _ in waits() if task is box.top]


def test_no_child_is_started_inside_a_section(make_pool: MakePool) -> None:
    pool = make_pool(1)
    lock = pool.lock()

    async def child() -> int:
        return len(here.worker.forks)

    async def main() -> Any:
        before = await eager(child())
        async with lock:
            inside = await eager(child())
        return before + inside + await eager(child())

    assert pool.submit(main).result(PATIENCE) == [1, 0, 1]


def test_what_somebody_handles_is_not_the_context_of_a_childs_error(make_pool: MakePool) -> None:
    async def child() -> None:
        raise KeyError

    async def main() -> Any:
        try:
            raise ValueError
        except ValueError:
            (error,) = await eager(child(), return_exceptions=True)
            return error

    error = make_pool(1).submit(main).result(PATIENCE)
    assert isinstance(error, KeyError)
    assert error.__context__ is None


def test_children_are_run_by_the_pool_in_which_they_were_gathered(
    make_pool: MakePool, gate: threading.Event
) -> None:
    first, second = make_pool(1), make_pool(1)

    async def child() -> str:
        return threading.current_thread().name

    async def both(gather: Any) -> Any:
        return threading.current_thread().name, await gather

    async def hold() -> Any:
        box.append(eager(child(), child()))
        made.set()
        gate.wait(PATIENCE)  # the children have not been started when the other pool awaits them

    box: list[Any] = []
    made = threading.Event()
    held = first.submit(hold)
    assert made.wait(PATIENCE)
    waiting = second.submit(both, box[0])
    while not waiting.running():
        pass
    gate.set()
    name, names = waiting.result(PATIENCE)
    held.result(PATIENCE)
    assert len({*names}) == 1
    assert name not in names


def test_a_failure_on_top_is_raised_at_once_and_the_others_run(make_pool: MakePool) -> None:
    pool = make_pool(1)
    ran: list[int] = []

    async def child(i: int) -> None:
        ran.append(i)
        if i == 1:
            raise ValueError(i)

    async def main() -> list[int]:
        with pytest.raises(ValueError, match="1"):
            await eager(*[child(i) for i in range(4)])
        return [*ran]

    assert pool.submit(main).result(PATIENCE) == [0, 1]
    pool.shutdown()
    assert ran == [0, 1, 2, 3]


def test_a_cancelled_task_is_told_after_the_steps_on_top(make_pool: MakePool) -> None:
    pool = make_pool(1)
    box = SimpleNamespace(ends=[])

    async def child(i: int) -> None:
        if i == 0:
            box.main.cancel()
        try:
            await fairpool.sleep(1000)
        except CancelledError:
            box.ends.append(i)
            raise

    async def main() -> None:
        box.main = current_task()
        await eager(child(0), child(1))

    with pytest.raises(FutureCancelledError):
        pool.submit(main).result(PATIENCE)
    assert box.ends == [0, 1]


# --- dropped, cancelled, accounted for ------------------------------------------------------------


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


def test_a_cancellation_is_not_kept_waiting_by_long_children(make_pool: MakePool) -> None:
    ran: list[int] = []

    async def child(i: int, parent: Any) -> None:
        ran.append(i)
        if not i:
            parent.cancel()
        time.sleep(2e-9 * FORKED_TIME)

    async def main() -> None:
        parent = current_task()
        await fairpool.gather(*[child(i, parent) for i in range(30)])

    future = make_pool(1).submit(main)
    with pytest.raises(FutureCancelledError):
        future.result(PATIENCE)
    assert len(ran) <= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_child_of_a_deep_stack_has_a_stack_of_its_own(workers: int, make_pool: MakePool) -> None:
    def depth(n: int) -> int:
        return n and 1 + depth(n - 1)

    async def leaf() -> int:
        return depth(600)

    async def descend(n: int) -> Any:
        return await (descend(n - 1) if n else fairpool.gather(leaf(), leaf()))

    async def main() -> Any:  # the second time on top of a fork
        return [await descend(600), await fairpool.gather(descend(600), descend(600))]

    pool = make_pool(workers)
    results = pool.submit(main).result(PATIENCE) if workers else pool.run(main)
    assert results == [[600, 600], [[600, 600]] * 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_child_may_be_asked_for_when_it_has_returned(workers: int, make_pool: MakePool) -> None:
    kept: ContextVar[Any] = ContextVar("kept")
    asked: list[Any] = []

    class Curious:
        def __del__(self) -> None:
            asked.append(current_task())

    async def child(i: int) -> int:
        kept.set(Curious())  # freed with the context, after the child
        return i

    async def main() -> Any:
        return await fairpool.gather(*[child(i) for i in range(3)])

    assert make_pool(workers).submit(main).result(PATIENCE) == [0, 1, 2]
    assert len(asked) == 3
    assert all(task is None or task.done() for task in asked)


def test_a_gather_that_is_freed_does_not_ask_for_a_child_of_the_next(make_pool: MakePool) -> None:
    box = SimpleNamespace(asked=0)

    class Curious:
        def __del__(self) -> None:
            box.asked += 1
            current_task()

    async def make(i: int, ready: fairpool.Future[None]) -> Curious:
        if i == 2:
            box.next = fairpool.gather(*[same(i) for i in range(4)])
            ready.set_result(None)
        return Curious()

    async def main() -> Any:
        ready: fairpool.Future[None] = fairpool.Future()
        fairpool.gather(*[make(i, ready) for i in range(3)])
        await ready
        return await box.next

    assert make_pool(1).submit(main).result(PATIENCE) == [0, 1, 2, 3]
    assert box.asked == 3


def test_what_others_have_taken_leaves_an_entry_that_does_nothing() -> None:
    gather = Gather(1, False)
    coroutine = same(1)
    gather.of_coroutines((coroutine,), copy_context(), None)
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
