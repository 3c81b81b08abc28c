"""The same programs on asyncio and on fairpool: what comes out of a wait that is cancelled."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import Any

import pytest
from kit import Mishap, in_time

import fairpool
from fairpool import CancelledError

# One item for each of the innermost coroutines that has begun: one that has not ends otherwise.
BEGUN: ContextVar[list[None]] = ContextVar("BEGUN")


async def raises(rt: Any) -> None:
    note_begin()
    try:
        await rt.sleep(1000)
    finally:
        raise Mishap


async def returns(rt: Any) -> int:
    note_begin()
    try:
        await rt.sleep(1000)
    except CancelledError:
        pass
    return 5


async def cleans_up(rt: Any) -> None:
    note_begin()
    try:
        await rt.sleep(1000)
    finally:
        await rt.sleep(0.001)


def note_begin() -> None:
    BEGUN.get([]).append(None)


async def in_group(rt: Any) -> None:
    async with rt.TaskGroup() as group:
        group.create_task(raises(rt))


async def in_groups(rt: Any) -> None:
    async with rt.TaskGroup() as group:
        group.create_task(in_group(rt))
        group.create_task(raises(rt))


async def in_gather(rt: Any) -> None:
    await rt.gather(raises(rt), cleans_up(rt))


async def nested(rt: Any) -> Any:
    return await rt.create_task(returns(rt))


INNERMOST = {in_groups: 2, in_gather: 2}  # how many, where not one

INNER = [raises, returns, cleans_up, in_group, in_groups, in_gather, nested]


def shown(error: BaseException) -> Any:
    if isinstance(error, BaseExceptionGroup):
        return sorted(map(repr, map(shown, error.exceptions)))
    return type(error).__name__  # a cancelled future of fairpool does not keep the message


async def through_task(rt: Any, inner: Any) -> Any:
    return await rt.create_task(inner(rt))


async def through_shielded_wait(rt: Any, inner: Any) -> Any:
    task = rt.create_task(inner(rt))
    try:
        return await rt.shield(task)
    finally:
        task.cancel()
        await rt.gather(task, return_exceptions=True)


async def through_gather(rt: Any, inner: Any) -> Any:
    return await rt.gather(inner(rt), inner(rt))


async def through_coroutine(rt: Any, inner: Any) -> Any:
    return await inner(rt)


async def through_timeout(rt: Any, inner: Any) -> Any:
    async with rt.timeout(1000):
        return await rt.create_task(inner(rt))


async def through_group(rt: Any, inner: Any) -> Any:
    async with rt.TaskGroup() as group:
        return await group.create_task(inner(rt))


WAYS = [
    through_task,
    through_shielded_wait,
    through_gather,
    through_coroutine,
    through_timeout,
    through_group,
]


async def settled(rt: Any) -> None:
    """Long enough that everybody is suspended, on one worker or in one loop."""
    for _ in range(20):
        await rt.sleep(0)


def outcome(rt: Any, inner: Any, way: Any, when: str) -> list[Any]:
    log: list[Any] = []

    async def outer() -> Any:
        try:
            if when == "by itself":
                current: Any = rt.current_task()
                current.cancel("by itself")
            result = await way(rt, inner)
        except BaseException as error:
            log.append(shown(error))
            raise
        log.append(result)
        await rt.sleep(0)
        log.append("goes on")
        return result

    async def main() -> None:
        task: Any = rt.create_task(outer())
        await settled(rt)
        if when == "suspended":
            log.append(task.cancel("enough"))
        try:
            log.append(await task)
        except BaseException as error:
            log.append(shown(error))
        log.append(task.cancelled())

    if rt is asyncio:
        asyncio.run(main())
    else:
        in_time(lambda: fairpool.run(main(), max_workers=1) or True)
    return log


@pytest.mark.parametrize("when", ["suspended", "by itself"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inner", INNER)
def test_what_is_awaited_decides_what_a_cancellation_comes_to(
    inner: Any, way: Any, when: str
) -> None:
    assert outcome(fairpool, inner, way, when) == outcome(asyncio, inner, way, when)


@pytest.mark.parametrize("inner", INNER)
def test_what_is_awaited_decides_what_a_timeout_comes_to(inner: Any) -> None:
    def run(rt: Any) -> list[Any]:
        log: list[Any] = []

        async def main() -> None:
            BEGUN.set(begun := [])
            try:
                async with rt.timeout(None) as limit:
                    task = rt.create_task(inner(rt))
                    while len(begun) < INNERMOST.get(inner, 1):
                        await rt.sleep(0)
                    limit.reschedule(time.monotonic())
                    log.append(await task)
            except BaseException as error:
                log.append(shown(error))
            log.append(limit.expired())

        rt.run(main())
        return log

    assert in_time(lambda: run(fairpool)) == run(asyncio)
