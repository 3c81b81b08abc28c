"""What undoes needs no memory that may be missing: every door, with one allocation failing in it.

A door is opened again and again. Each time memory fails at one place: MemoryError is raised where
the package's code may need some, on the thread that opens the door, or on the worker that serves
it. It fails once. Then all is as before: see `test_depths`, whose doors these are.

`unit.instructions` says which places those are. What the interpreter itself allocates, outside of
the package's code, is not among them.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from unit.conftest import TIMEOUT
from unit.instructions import Moment, moments, threads_reported
from unit.test_depths import ASYNC_DOORS, DOORS, Place

import fairpool
import fairpool._combiner
import fairpool._future
import fairpool._worker

pytestmark = [
    pytest.mark.thread_unsafe(reason="watches all instructions"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(autouse=True)
def few_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each look is the same instructions again. And nothing is said of what fails."""
    monkeypatch.setattr(fairpool._worker, "LOOKS_WHILE_SEARCHING", 1)
    monkeypatch.setattr(fairpool._future, "LOOKS_BEFORE_PARKING", 1)
    monkeypatch.setattr(fairpool._combiner, "LOOKS_BEFORE_QUEUEING", 2)
    loggers = [logging.getLogger(name) for name in ("concurrent.futures", "fairpool")]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    yield
    # What was cut off is freed here, where nothing is said of it, and not in the midst of another.
    gc.collect()
    for logger in loggers:
        logger.setLevel(logging.NOTSET)


def fail() -> None:
    raise MemoryError


class Sweep:
    """All moments of one door, and what was lost at which of them."""

    def __init__(self) -> None:
        self.lost: list[str] = []

    def renew(self) -> None:
        """A new place, with its only worker."""
        self.place = Place(1)
        self.place.pool.submit(int).result(TIMEOUT)

    def moments(self) -> Iterator[Moment]:
        with threads_reported():
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
        place = self.place
        for lock in [*place.locks, place.state.lock]:
            assert lock.acquire(timeout=TIMEOUT), f"{lock}"
            lock.release()
        assert place.pool.submit(place.take).result(TIMEOUT)

    def threads(self) -> list[int]:
        """Those of the pool that are there."""
        workers = self.place.pool._scheduler.workers.copy()
        return [worker.thread.ident for worker in workers]

    def expect(self, future: Any, moment: Moment) -> None:
        """It ends, with whatever."""
        try:
            future.exception(TIMEOUT)
        except TimeoutError:
            self.lost.append(f"the task hangs after {moment}")
            self.renew()
        except fairpool.CancelledError:
            pass


# `concurrent.futures.wait` in a task is left out: see docs/protocols/room.md.
IN_THREAD_OR_TASK = [
    (door, where) for door in DOORS for where in ("thread", "task") if door + where != "waittask"
]


@pytest.mark.parametrize(("door", "where"), IN_THREAD_OR_TASK)
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


@pytest.mark.parametrize("door", ASYNC_DOORS)
def test_memory_fails_once_in_a_door_of_a_coroutine(door: str) -> None:
    """Anywhere on the workers, from when it is submitted until it has ended."""
    sweep = Sweep()
    for moment in sweep.moments():
        with moment.do_in(*sweep.threads(), action=fail):
            opened = sweep.place.pool.submit(lambda: ASYNC_DOORS[door](sweep.place))
            sweep.expect(opened, moment)


@pytest.mark.parametrize("door", DOORS)
def test_memory_fails_once_on_a_worker_that_serves(door: str) -> None:
    sweep = Sweep()
    for moment in sweep.moments():
        with moment.do_in(*sweep.threads(), action=fail):
            opened = fairpool.Future()
            thread = threading.Thread(target=end_with, args=(opened, DOORS[door], sweep.place))
            thread.daemon = True
            thread.start()
            sweep.expect(opened, moment)
            sweep.expect(sweep.place.pool.submit(int), moment)


def end_with(future: Any, function: Callable[..., Any], *args: Any) -> None:
    try:
        function(*args)
    except MemoryError:
        pass
    finally:
        future.set_result(None)
