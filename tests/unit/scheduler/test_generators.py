"""Asynchronous generators that are left early: closed before the end, as by `asyncio.run`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from kit import PATIENCE, in_time

import fairpool
from fairpool import FairPool, Future

MakePool = Callable[..., FairPool]


class Ends:
    """Generators that write down how they end, in the order in which they do."""

    def __init__(self, sleep: Callable[[float], Any]) -> None:
        self.sleep = sleep
        self.log: list[str] = []
        self.kept: list[Any] = []

    async def rows(self, name: str = "rows") -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                yield number
        finally:
            self.log.append(f"{name} ends")
            await self.sleep(0.001)
            await self.sleep(0)
            self.log.append(f"{name} closed")

    async def outer(self) -> AsyncGenerator[int, None]:
        try:
            async for number in self.rows("inner"):
                yield number
        finally:
            await self.sleep(0.001)
            self.log.append("outer closed")

    async def fails(self) -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await self.sleep(0)
            self.log.append("fails")
            raise KeyError

    # The programs.

    async def raises(self) -> None:
        async for _ in self.rows():
            raise ValueError

    async def raises_and_keeps(self) -> None:
        self.kept.append(self.rows())
        async for _ in self.kept[0]:
            raise ValueError

    async def returns_and_keeps(self) -> str:
        self.kept.append(self.rows())
        async for _ in self.kept[0]:
            break
        return "returned"

    async def keeps_nested(self) -> None:
        self.kept.append(self.outer())
        await anext(self.kept[0])

    async def keeps_nested_that_closes(self) -> None:
        self.kept.append(self.wrapper())
        await anext(self.kept[0])

    async def wrapper(self) -> AsyncGenerator[int, None]:
        async with contextlib.aclosing(self.rows("inner")) as rows:
            async for number in rows:
                yield number

    async def keeps_one_that_fails(self) -> None:
        self.kept.append(self.fails())
        await anext(self.kept[0])

    async def keeps_unused_and_exhausted(self) -> None:
        self.kept.append(self.rows("unused"))
        self.kept.append(self.rows())
        async for _ in self.kept[1]:
            pass

    async def closes_itself(self) -> None:
        rows = self.rows()
        await anext(rows)
        await rows.aclose()
        self.log.append("main")


BEGINNINGS = ("raises", "returns", "keeps", "closes")
PROGRAMS = [name for name in vars(Ends) if name.startswith(BEGINNINGS)]


def outcome(run: Callable[[Any], Any], ends: Ends, program: str) -> list[str]:
    try:
        ends.log.append(repr(run(getattr(ends, program)())))
    except ValueError as error:
        ends.log.append(repr(error))
    return ends.log


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("program", PROGRAMS)
def test_run_closes_generators_as_asyncio_does(
    program: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    expected = outcome(asyncio.run, Ends(asyncio.sleep), program)
    if program == "raises":  # asyncio cancels its closing where that has been started
        expected = ["rows ends", "rows closed", "ValueError()"]
    if "that_closes" in program:  # asyncio may close the inner one from two tasks at once
        expected = ["inner closed", "inner ends", "None"]

    def run(coroutine: Any) -> Any:
        return fairpool.run(coroutine, max_workers=workers)

    caplog.clear()
    ended = in_time(lambda: outcome(run, Ends(fairpool.sleep), program))
    if "nested" in program:  # of several, each may be the first to be closed
        ended.sort()
        expected.sort()
    assert ended == expected
    errors = [each.getMessage() for each in caplog.records]
    assert [("was closed" in each) for each in errors] == [True] * ("fails" in program)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("cancel_futures", [False, True])
@pytest.mark.parametrize("how", ["submit", "share", "run", "child", "lock"])
def test_shutdown_waits_for_generators(how: str, cancel_futures: bool, keeps: bool) -> None:
    ends = Ends(fairpool.sleep)
    program = ends.raises_and_keeps if keeps else ends.raises

    async def parent() -> None:
        await fairpool.create_task(program())

    pool = FairPool(2)
    with pytest.raises(ValueError):
        if how == "submit":
            pool.submit(program).result(PATIENCE)
        elif how == "share":
            pool.share("tenant").submit(program).result(PATIENCE)
        elif how == "run":
            pool.run(program)
        elif how == "child":
            pool.submit(parent).result(PATIENCE)
        else:
            pool.lock().submit(program).result(PATIENCE)
    in_time(lambda: pool.shutdown(cancel_futures=cancel_futures) or True)
    assert ends.log == ["rows ends", "rows closed"]


def test_the_last_caller_closes_what_callers_have_left() -> None:
    ends = Ends(fairpool.sleep)
    pool = FairPool(0)
    pool.run(ends.returns_and_keeps)
    with pytest.raises(ValueError):
        pool.run(ends.raises)
    in_time(lambda: pool.shutdown() or True)
    assert sorted(ends.log) == ["rows closed", "rows closed", "rows ends", "rows ends"]


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_a_generator_is_closed_by_the_pool_that_first_iterated_it(
    in_a_cycle: bool, make_pool: MakePool
) -> None:
    pool, other = make_pool(1, "first"), make_pool(1, "other")
    closed: Future[str] = Future()

    class Box:
        rows: Any
        box: Any

    async def rows() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await fairpool.yield_now()
            closed.set_result(threading.current_thread().name)

    async def iterate(box: Box) -> None:
        await anext(box.rows)

    def drop(boxes: list[Box]) -> None:
        boxes.clear()
        gc.collect()

    boxes = [Box()]
    boxes[0].rows = rows()
    boxes[0].box = boxes[0] if in_a_cycle else None
    pool.submit(iterate, boxes[0]).result(PATIENCE)
    other.submit(drop, boxes).result(PATIENCE)
    # No prompt finalizer is promised: the shutdown closes it, if nobody else has.
    in_time(lambda: pool.shutdown() or True)
    assert closed.result(0).startswith("first")


@pytest.mark.parametrize("suspends", [False, True])
def test_after_the_end_a_generator_is_closed_as_far_as_it_can_be(
    suspends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    pool = FairPool(1)

    async def rows() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            log.append("begin")
            if suspends:
                await fairpool.yield_now()
            log.append("end")

    generator = rows()

    async def iterate() -> None:
        await anext(generator)

    pool.submit(iterate).result(PATIENCE)
    pool.shutdown(wait=False)
    for worker in pool._scheduler.threads.copy():
        worker.join()
    pool._scheduler.close_generator(generator)  # the finalizer
    assert log == ["begin"] + ["end"] * (not suspends)
    assert ("cannot clean up" in caplog.text) is suspends


def test_hooks_of_a_caller_are_put_back() -> None:
    seen: list[object] = []
    ends = Ends(fairpool.sleep)

    def call() -> None:
        mine = (lambda _: None, lambda _: None)
        sys.set_asyncgen_hooks(*mine)
        with FairPool(0) as pool:
            pool.run(ends.returns_and_keeps)
            seen.append(sys.get_asyncgen_hooks() == mine)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(PATIENCE)
    assert seen == [True]
    assert ends.log == ["rows ends", "rows closed"]


def test_a_loop_of_asyncio_in_a_task_has_its_own_hooks(make_pool: MakePool) -> None:
    pool = make_pool(1)
    inside, after = Ends(asyncio.sleep), Ends(fairpool.sleep)

    def in_loop() -> list[str]:
        asyncio.run(inside.returns_and_keeps())
        return inside.log.copy()

    assert pool.submit(in_loop).result(PATIENCE) == ["rows ends", "rows closed"]
    pool.submit(after.returns_and_keeps).result(PATIENCE)
    assert len(pool._scheduler.generators) == 1
    in_time(lambda: pool.shutdown() or True)
    assert after.log == ["rows ends", "rows closed"]


def test_generators_that_have_ended_are_forgotten(make_pool: MakePool) -> None:
    ends = Ends(fairpool.sleep)
    pool = make_pool(1)

    async def exhaust() -> None:
        async for _ in ends.rows():
            pass

    for _ in range(5):
        pool.submit(exhaust).result(PATIENCE)
    in_time(lambda: pool.shutdown() or True)
    assert not [each for each in pool._scheduler.generators if each() is not None]
