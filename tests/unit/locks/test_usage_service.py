"""The lock's time is shared by usage also where other work lies in front of those to be served."""

from __future__ import annotations

import asyncio
import time

import pytest
from kit import TIMEOUT

from fairpool import FairPool, yield_now
from fairpool._core.accounts import jain_index
from fairpool.testing import simulate, work

LIGHT = 15e-6  # seconds: half the clients have sections eight times as long


@pytest.mark.parametrize("bystanders", [0, 2])
def test_shares_get_the_same_time_beside_tasks_that_always_run(bystanders: int) -> None:
    """Sixteen shares on two workers: the lock is what they wait for."""

    def program(pool: FairPool) -> list[float]:
        lock = pool.lock(order="usage")
        service = [0.0] * 16
        end = time.monotonic() + 0.15

        async def client(number: int) -> None:
            cost = LIGHT * (8 if number % 2 else 1)
            while time.monotonic() < end:
                async with lock:
                    work(cost)
                    service[number] += cost
                work(LIGHT / 2)

        async def bystander() -> None:
            while time.monotonic() < end:
                work(LIGHT)
                await yield_now()

        tasks = [pool.share(f"s{i}").submit(client, i) for i in range(len(service))]
        tasks += [pool.submit(bystander) for _ in range(bystanders)]
        for task in tasks:
            task.result()
        return service

    assert jain_index(simulate(program, workers=2).result) > 0.97


def test_what_follows_a_section_goes_to_its_share() -> None:
    """In usage order; in ticket order it is published on the combiner's worker."""
    for order, expected in ("ticket", False), ("usage", True):
        with FairPool(1) as pool:
            share = pool.share("one")
            lock = pool.lock(order=order)
            seen: list[int] = []

            async def enter(lock=lock) -> None:  # type: ignore[no-untyped-def]
                async with lock:
                    pass

            async def look(lock=lock, share=share, seen=seen) -> None:  # type: ignore[no-untyped-def]
                async with lock:
                    seen.append(len(share._principal.queue))

            with lock:
                tasks = [share.submit(enter), share.submit(look)]
                while len(lock.queue.items()) < 2:
                    time.sleep(0)
            for task in tasks:
                task.result(TIMEOUT)
            assert [bool(length) for length in seen] == [expected], order


def test_what_follows_a_section_is_timed() -> None:
    """Also where it goes to its share: the statistics have the responses."""
    with FairPool(1) as pool:
        share = pool.share("one")
        lock = pool.lock(order="usage")

        async def enter() -> None:
            async with lock:
                pass

        with lock:
            tasks = [share.submit(enter) for _ in range(3)]
            while len(lock.queue.items()) < len(tasks):
                time.sleep(0)
        for task in tasks:
            task.result(TIMEOUT)
        statistics = lock.statistics()
        assert max(*statistics.own_responses, *statistics.combined_responses) > 0


def test_a_task_of_asyncio_is_charged_without_a_look_at_its_truth() -> None:
    """It may be of a class of the user's."""

    class Odd(asyncio.Task[None]):
        def __bool__(self) -> bool:
            raise ZeroDivisionError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **kwargs: Odd(coro, loop=loop, **kwargs))
        await asyncio.gather(asyncio.create_task(enter()))

    async def enter() -> None:
        async with lock:
            pass

    with FairPool(1) as pool:
        lock = pool.lock(order="usage", charge="task")
        asyncio.run(main())
