"""What undoes needs no memory that may be missing: every door, with one allocation failing in it.

A door is opened and closed again and again by one thread, or by one task. Each time memory fails
once, at another place: MemoryError is raised there, where the package's code may need some on that
thread. Afterwards every lock is free, the semaphore has its permit, the pool takes work and ends
it, and each future that the door has made is final: see `test_depths`, whose doors these are.

`unit.instructions` says which places those are. What a worker does between two steps, and what the
interpreter allocates outside of the package's code, is not among them: docs/protocols/room.md.
"""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import wait
from types import coroutine
from typing import Any

import pytest
from kit import TIMEOUT
from unit.instructions import Moment, moments
from unit.test_depths import ASYNC_DOORS, DOORS, Place, semaphores

import fairpool
import fairpool._locks.tasks
import fairpool._scheduler.worker
import fairpool._tasks.thread_wait
from fairpool._core.accounts import CURRENT

pytestmark = [
    pytest.mark.thread_unsafe(reason="watches all instructions"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def few_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each look is the same instructions again. And nothing is said of what fails."""
    monkeypatch.setattr(fairpool._scheduler.worker, "LOOKS_WHILE_SEARCHING", 1)
    monkeypatch.setattr(fairpool._tasks.thread_wait, "SPIN_LIMIT", 1)
    monkeypatch.setattr(fairpool._locks.tasks, "LOOKS_BEFORE_QUEUEING", 2)
    loggers = [logging.getLogger(name) for name in ("concurrent.futures", "fairpool")]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    yield
    # What was cut off is freed here, where nothing is said of it, and not in the midst of another.
    gc.collect()
    for logger in loggers:
        logger.setLevel(logging.NOTSET)


async def waits_for_semaphore(place: Place) -> None:
    async with place.semaphore:
        place.made.append(place.pool.submit(semaphores, place))
        await fairpool.yield_now()
    await semaphores(place)


ALL_ASYNC_DOORS = {**ASYNC_DOORS, "wait for semaphore": waits_for_semaphore}


def fail() -> None:
    raise MemoryError


class Sweep:
    """All moments of one door, and what was lost at which of them."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.handler = signal.getsignal(signal.SIGINT)

    def renew(self) -> None:
        """A new place, with its only worker."""
        self.place = Place(1)
        self.place.pool.submit(int).result(TIMEOUT)

    def moments(self) -> Iterator[Moment]:
        self.renew()
        for moment in moments(allocates=True):
            yield moment
            try:
                self.check()
            except (AssertionError, TimeoutError) as error:
                self.lost.append(f"{error!r} after {moment}")
                self.renew()
        assert not self.lost, "\n".join(self.lost)
        self.place.check()

    def check(self) -> None:
        """Nothing is lost. All of it waits: another thread may still have to hand over a lock."""
        assert CURRENT.get() is None
        assert signal.getsignal(signal.SIGINT) is self.handler
        place = self.place
        for lock in [*place.locks, place.state.lock]:
            assert lock.acquire(timeout=TIMEOUT), f"{lock}"
            lock.release()
        assert place.pool.submit(place.take).result(TIMEOUT)
        made, place.made = place.made, []
        assert not wait(made, TIMEOUT).not_done

    def expect(self, future: Any, moment: Moment) -> None:
        """It ends, with whatever."""
        try:
            future.exception(TIMEOUT)
        except TimeoutError:
            self.lost.append(f"the task hangs after {moment}")
            self.renew()
        except fairpool.CancelledError:
            pass


@pytest.mark.parametrize("where", ["thread", "task"])
@pytest.mark.parametrize("door", DOORS)
def test_memory_fails_once_in_a_door(door: str, where: str) -> None:
    sweep = Sweep()
    for moment in sweep.moments():

        def open_it(moment: Moment = moment) -> None:
            try:
                with moment.do(fail):
                    DOORS[door](sweep.place)
            except MemoryError:
                pass

        if where == "thread":
            open_it()
        else:
            sweep.expect(sweep.place.pool.submit(open_it), moment)


@pytest.mark.parametrize("door", ALL_ASYNC_DOORS)
def test_memory_fails_once_in_a_door_of_a_coroutine(door: str) -> None:
    """In the steps of the coroutine, and not in what the worker does between them."""
    sweep = Sweep()
    for moment in sweep.moments():

        async def open_it(moment: Moment = moment) -> None:
            await in_steps(ALL_ASYNC_DOORS[door](sweep.place), moment)

        sweep.expect(sweep.place.pool.submit(open_it), moment)


@coroutine
def in_steps(opened: Any, moment: Moment) -> Generator[Any, Any, Any]:
    """Await it; memory fails at the moment, among what its steps execute."""
    step: Callable[..., Any] = opened.send
    value: Any = None
    while True:
        try:
            with moment.do(fail):
                yielded = step(value)
        except StopIteration as end:
            return end.value
        try:
            value = yield yielded
            step = opened.send
        except BaseException as error:
            step, value = opened.throw, error
