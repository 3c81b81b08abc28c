"""What an observer of a real pool is told: each event once, in its order, and none afterwards."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from kit import in_time

from fairpool import FairPool, blocking, gather, yield_now
from fairpool._core.observer import EVENTS, Observer
from fairpool._inspect.points import attached

pytestmark = pytest.mark.thread_unsafe(reason="functions of classes are replaced")


class Recorder(Observer):
    """Keeps each event, with the thread on which it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[Any, ...], int]] = []

    def count(self) -> Counter[str]:
        return Counter(name for name, _, _ in self.events)

    def of(self, *names: str) -> list[str]:
        return [name for name, _, _ in self.events if name in names]


def _recording(name: str) -> Callable[..., None]:
    def record(self: Recorder, *args: Any) -> None:
        self.events.append((name, args, threading.get_ident()))

    return record


for _name in EVENTS:
    setattr(Recorder, _name, _recording(_name))


def test_plain_tasks() -> None:
    recorder = Recorder()
    with attached(recorder), FairPool(2) as pool:
        futures = [pool.submit(int, i) for i in range(10)]
        assert [future.result() for future in futures] == list(range(10))
        failing = pool.submit(int, "x")
        assert isinstance(failing.exception(), ValueError)
    count = recorder.count()
    for event in ("submitted", "settled", "work_taken", "step_began", "step_ended"):
        assert count[event] == 11, event
    assert count["parked"] == count["unparked"]
    assert not count["section_began"]


def test_a_coroutine_has_a_step_for_each_suspension() -> None:
    async def main() -> None:
        await yield_now()
        await yield_now()

    recorder = Recorder()
    with attached(recorder), FairPool(1) as pool:
        pool.submit(main).result()
    assert recorder.of("step_began", "step_ended", "settled") == [
        *("step_began", "step_ended") * 2,
        *("step_began", "settled", "step_ended"),
    ]


def test_sections_of_tasks() -> None:
    async def enter(lock: Any) -> None:
        for _ in range(20):
            async with lock:
                pass

    async def main(lock: Any) -> None:
        await gather(*(enter(lock) for _ in range(5)))

    recorder = Recorder()
    with attached(recorder), FairPool(2) as pool:
        lock = pool.lock()
        in_time(lambda: pool.submit(main, lock).result())
    count = recorder.count()
    assert count["section_began"] == count["section_ended"] == 100
    assert count["pass_began"] == count["pass_ended"]
    sections = recorder.of("section_began", "section_ended")
    assert sections == ["section_began", "section_ended"] * 100


@pytest.mark.parametrize("order", ["ticket", "usage"])
def test_sections_of_all_kinds(order: Any) -> None:
    recorder = Recorder()
    with attached(recorder), FairPool(2) as pool:
        lock = pool.lock(order=order)
        inside: list[None] = []

        def blocking() -> None:
            with lock:
                inside.append(None)

        async def entering() -> None:
            async with lock:
                inside.append(None)
                await yield_now()

        async def suspended() -> None:
            inside.append(None)
            await yield_now()

        futures: list[Any] = []
        for _ in range(10):
            futures.append(lock.submit(inside.append, None))
            futures.append(lock.submit(suspended))
            futures.append(pool.submit(blocking))
            futures.append(pool.submit(entering))
            futures.append(pool.submit(int).then(inside.append, lock=lock))
            blocking()
        for future in futures:
            in_time(future.result)
        assert len(inside) == 60
    sections = recorder.of("section_began", "section_ended")
    assert sections.count("section_began") == 60
    assert sections == ["section_began", "section_ended"] * 60


def test_nothing_is_told_afterwards() -> None:
    recorder = Recorder()
    with FairPool(1) as pool:
        with attached(recorder):
            pool.submit(int).result()
        told = len(recorder.events)
        pool.submit(int).result()
        assert len([1 for name, _, _ in recorder.events[told:] if name != "unparked"]) == 0


def test_a_task_that_waits_blocks_its_worker() -> None:
    def waits() -> None:
        with blocking():
            pass

    recorder = Recorder()
    with attached(recorder), FairPool(1) as pool:
        in_time(lambda: pool.submit(waits).result())
        with blocking():  # on a thread that is no worker
            pass
    assert recorder.of("blocked", "unblocked") == ["blocked", "unblocked"]
