"""`Queue`, `Semaphore`, `BoundedSemaphore` and `Event` do what asyncio's do, step by step.

One worker, the same operations in both, and after each of them the same state, answers and errors.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import TIMEOUT

import fairpool
from fairpool import FairPool

waits = st.tuples(st.just("wait"), st.sampled_from(["acquire", "get", "put", "join"]))
calls = st.sampled_from(["put_nowait", "get_nowait", "task_done", "release", "set", "clear"])
steps = st.lists(
    st.one_of(
        waits,
        st.tuples(st.just("call"), calls),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("shutdown"), st.booleans()),
        st.tuples(st.just("settle"), st.none()),
    ),
    max_size=25,
)


class Sides:
    """What one of the two has to offer."""

    def __init__(self, module: Any, pause: Any) -> None:
        self.module, self.pause = module, pause

    async def settle(self) -> None:
        for _ in range(30):
            await self.pause()


ASYNCIO = Sides(asyncio, lambda: asyncio.sleep(0))
FAIRPOOL = Sides(fairpool, fairpool.yield_now)


def state_of(thing: Any) -> list[Any]:
    names = ("qsize", "empty", "full", "locked", "is_set")
    return [getattr(thing, name)() for name in names if hasattr(thing, name)]


def answer(call: Any, *args: Any) -> str:
    try:
        return repr(call(*args))
    except Exception as error:
        return type(error).__name__


async def program(side: Sides, kind: str, size: int, script: list[Any]) -> list[Any]:
    thing = getattr(side.module, kind)(*() if kind == "Event" else (size,))
    tasks: list[Any] = []
    ends: dict[int, str] = {}
    seen: list[Any] = []

    async def waiter(number: int, method: Any, args: tuple[Any, ...]) -> None:
        try:
            ends[number] = repr(await method(*args))
        except asyncio.CancelledError:
            ends[number] = "cancelled"
            raise
        except Exception as error:
            ends[number] = type(error).__name__

    for number, (what, which) in enumerate(script):
        if what == "wait":
            name = "wait" if kind == "Event" else which
            if (method := getattr(thing, name, None)) is not None:
                args = (number,) if name == "put" else ()
                tasks.append(side.module.create_task(waiter(number, method, args)))
                await side.settle()
        elif what == "call":
            if (method := getattr(thing, which, None)) is not None:
                seen.append(answer(method, *((number,) if which == "put_nowait" else ())))
        elif what == "cancel":
            if which < len(tasks):
                tasks[which].cancel()
        elif what == "shutdown" and kind == "Queue" and hasattr(asyncio.Queue, "shutdown"):
            seen.append(answer(thing.shutdown, which))
        if what != "call" or number % 2:
            await side.settle()
            seen.append((state_of(thing), sorted(ends.items())))
    for task in tasks:
        task.cancel()
    await side.settle()
    seen.append((state_of(thing), sorted(ends.items())))
    return seen


# The worker looks for work, in an order by chance, while hypothesis draws.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("kind", ["Queue", "Semaphore", "BoundedSemaphore", "Event"])
def test_the_same_as_asyncio(kind: str, size: int) -> None:
    with FairPool(1) as pool:

        @settings(max_examples=100, deadline=None, database=None, derandomize=True)
        @given(steps)
        def compare(script: list[Any]) -> None:
            there = asyncio.run(program(ASYNCIO, kind, size, script))
            here = pool.submit(program, FAIRPOOL, kind, size, script).result(TIMEOUT)
            assert here == there

        compare()
