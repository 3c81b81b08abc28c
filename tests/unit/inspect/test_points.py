"""What an observer of a real pool is told: each event once, in its order, and none afterwards."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
from kit import Mishap, in_time, until

from fairpool import FairPool, Future, blocking, create_task, gather, yield_now
from fairpool._core.observer import EVENTS, Observer
from fairpool._inspect.points import attached
from fairpool._locks import combiner

pytestmark = pytest.mark.thread_unsafe(reason="functions of classes are replaced")


class Recorder(Observer):
    """Keeps each event, with the thread on which it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[Any, ...], int]] = []

    def count(self) -> Counter[str]:
        return Counter(name for name, _, _ in self.events)

    def with_args(self, *names: str) -> list[tuple[str, tuple[Any, ...], int]]:
        return [event for event in self.events if event[0] in names]

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
    assert len(recorder.events) == told


def test_nothing_is_kept_alive() -> None:
    with attached(Recorder()):
        future: Future[None] = Future()
        future.set_result(None)
    gone = ref(future)
    del future
    gc.collect()
    assert gone() is None


def test_a_section_that_ends_while_its_pass_looks_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate: Future[None] = Future()

    async def section() -> None:
        await gate

    def is_final_in_the_end(item: Any) -> bool:
        if not gate.done():
            gate.set_result(None)
        until(item.done)  # on the other worker
        return True

    monkeypatch.setattr(combiner, "is_final", is_final_in_the_end)
    recorder = Recorder()
    with attached(recorder), FairPool(2) as pool:
        in_time(lambda: pool.lock().submit(section).result())
    assert recorder.of("section_began", "section_ended") == ["section_began", "section_ended"]


def test_a_cancelled_section_has_not_begun() -> None:
    recorder = Recorder()
    with attached(recorder), FairPool(1) as pool:
        lock = pool.lock()
        with lock:
            assert lock.submit(int).cancel()
        lock.submit(int).result()
    assert recorder.of("section_began", "section_ended") == ["section_began", "section_ended"] * 2


def test_steps_that_a_pass_runs() -> None:
    """Each task waits for the lock. The pass runs its step up to the end of the section."""

    async def enter(lock: Any, after: str) -> None:
        async with lock:
            if after == "suspends inside":
                await yield_now()
        if after == "fails":
            raise Mishap

    async def main(lock: Any) -> list[Any]:
        waiting = [enter(lock, after) for after in ("", "fails", "suspends inside", "")]
        async with lock:
            futures = [create_task(each) for each in waiting]
            while lock.how_many_wait() < len(waiting):
                await yield_now()
        await gather(*futures, return_exceptions=True)
        return futures

    recorder = Recorder()
    with attached(recorder), FairPool(1) as pool:
        lock = pool.lock()
        tasks = in_time(lambda: pool.submit(main, lock).result())
    steps = [(name, item) for name, (_, item), _ in recorder.with_args("step_began", "step_ended")]
    for each in {item for _, item in steps}:
        mine = [name for name, item in steps if item is each]
        assert mine == ["step_began", "step_ended"] * (len(mine) // 2)
    # Up to the lock, up to the end of the section, and the rest. The last one leaves without delay.
    began = Counter(item.task for name, item in steps if name == "step_began")
    assert [began[task] for task in tasks] == [3, 3, 4, 2]


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


def test_the_first_step_of_each_child_is_told() -> None:
    async def child() -> None:
        pass

    async def main() -> None:
        await gather(*(child() for _ in range(5)), eager_start=True)

    recorder = Recorder()
    with attached(recorder), FairPool(1) as pool:
        in_time(lambda: pool.submit(main).result())
    assert recorder.of("step_began", "step_ended") == [
        "step_began",
        *("step_began", "step_ended") * 5,
        "step_ended",
    ]


def test_locks_and_looks_are_told() -> None:
    recorder = Recorder()
    with attached(recorder), FairPool(1) as pool:
        lock = pool.lock()
        in_time(lambda: pool.submit(int).result())
    assert [args for _, args, _ in recorder.with_args("lock_made")] == [(lock,)]
    count = recorder.count()
    assert count["queues_scanned"] >= count["parked"]
    assert count["locks_scanned"] >= count["parked"]
    assert count["work_checked"] >= count["parked"] > 0


def test_a_scan_ends_at_the_queue_that_held_something() -> None:
    def parent() -> None:
        child = pool.submit(int)
        with blocking():
            in_time(child.result)

    recorder = Recorder()
    with attached(recorder), FairPool(1) as pool:
        in_time(lambda: pool.submit(parent).result())
    (thief, _), *others = [args for _, args, _ in recorder.with_args("stolen")]
    assert not others
    found = [args for _, args, _ in recorder.with_args("queues_scanned") if args[1] is not None]
    assert [worker for worker, queue in found if queue is not worker.queue] == [thief]
