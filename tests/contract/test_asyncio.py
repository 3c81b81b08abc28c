"""The executor behind an asyncio loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from contract.conftest import occupied
from kit import TIMEOUT

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(main, TIMEOUT))


def test_run_in_executor(executor: Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, pow, i, 2) for i in range(20)))

    assert run(main()) == [i * i for i in range(20)]


def test_exception_reaches_the_coroutine(executor: Executor) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(executor, int, "x")

    with pytest.raises(ValueError, match="invalid literal"):
        run(main())


def test_wrap_future(executor: Executor, gate: threading.Event) -> None:
    async def main() -> object:
        with occupied(executor, 1, gate) as [blocked]:
            waiting = asyncio.wrap_future(blocked)
            await asyncio.sleep(0)
            assert not waiting.done()
            gate.set()
            return await waiting

    assert run(main()) is True


def test_wrap_future_of_a_finished_task(executor: Executor) -> None:
    future = executor.submit(int)
    future.result(TIMEOUT)

    async def main() -> int:
        return await asyncio.wrap_future(future)

    assert run(main()) == 0


def test_cancelling_the_coroutine_cancels_the_task(
    executor: Executor, workers: int, gate: threading.Event
) -> None:
    calls: list[int] = []

    async def main() -> Future[None]:
        with occupied(executor, workers, gate):
            future = executor.submit(calls.append, 1)
            waiting = asyncio.wrap_future(future)
            waiting.cancel()
            await asyncio.sleep(0)  # the loop passes it on with its callbacks
            assert future.cancelled()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        return future

    run(main())
    executor.shutdown()
    assert calls == []


def test_cancelling_the_task_cancels_the_coroutine(
    executor: Executor, workers: int, gate: threading.Event
) -> None:
    async def main() -> None:
        with occupied(executor, workers, gate):
            future = executor.submit(int)
            waiting = asyncio.wrap_future(future)
            assert future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    run(main())


def test_cancelling_a_coroutine_does_not_stop_a_running_task(
    executor: Executor, gate: threading.Event
) -> None:
    async def main() -> None:
        with occupied(executor, 1, gate) as [future]:
            waiting = asyncio.wrap_future(future)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert future.running()
            gate.set()
            assert await asyncio.to_thread(future.result, TIMEOUT) is True

    run(main())


def test_default_executor(executor: Executor) -> None:
    if not isinstance(executor, ThreadPoolExecutor):
        pytest.skip("asyncio insists on the type")
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def main() -> tuple[int, str]:
        asyncio.get_running_loop().set_default_executor(executor)  # type: ignore[arg-type]
        variable.set(5)
        name = await asyncio.to_thread(lambda: threading.current_thread().name)
        return await asyncio.to_thread(variable.get), name

    value, name = run(main())
    assert value == 5
    assert name != threading.current_thread().name
    with pytest.raises(RuntimeError):  # asyncio.run has shut the loop's executor down
        executor.submit(int)
