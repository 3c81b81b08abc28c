"""Nothing is published before it is complete.

What makes an object is interrupted at each of its lines, and another thread looks at all that it
can find meanwhile.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fairpool
from fairpool import FairPool
from fairpool._scheduler.process import live

PACKAGE = str(Path(fairpool.__file__).parent)


def look(pool: FairPool) -> None:
    """All that looks at what others have made."""
    scheduler = pool._scheduler
    pool.statistics()
    pool.dump(io.StringIO())
    scheduler.has_work()
    scheduler.is_in_section(None)
    scheduler.shares.choose()
    scheduler.is_over()
    repr(pool)
    for each in scheduler.all_locks():
        repr(each)
        each.statistics()
    for continuation in scheduler.suspended.copy():
        repr(continuation.task)
    assert scheduler in live()


class Interrupted:
    """Has `look` called by another thread before each line of the package that runs here."""

    def __init__(self, pool: FairPool) -> None:
        self.pool = pool
        self.looks = 0
        self.places: set[Any] = set()
        self.errors: list[BaseException] = []

    def _look(self) -> None:
        try:
            look(self.pool)
        except BaseException as error:
            self.errors.append(error)

    def trace(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        place = (frame.f_code, frame.f_lineno, frame.f_back.f_code, frame.f_back.f_lineno)
        if event == "line" and place not in self.places:
            self.places.add(place)  # once is enough, but each time it is called from elsewhere
            sys.settrace(None)
            thread = threading.Thread(target=self._look)
            thread.start()
            thread.join(60)
            self.looks += 1
            sys.settrace(self.trace)
        return self.trace

    @contextmanager
    def everywhere(self) -> Any:
        sys.settrace(self.trace)
        try:
            yield
        finally:
            sys.settrace(None)


async def suspended() -> None:
    async with fairpool.timeout(60):
        await fairpool.sleep(0.001)


async def group() -> None:
    async with fairpool.TaskGroup() as children:
        children.create_task(suspended())
        await fairpool.gather(suspended(), suspended())


def in_lock(lock: Any) -> None:
    with lock:
        pass


MAKERS: dict[str, Callable[[FairPool], object]] = {
    "lock": lambda pool: pool.lock(),
    "usage lock": lambda pool: pool.lock(order="usage"),
    "strict lock": lambda pool: pool.lock(order="usage", strict=True),
    "charging lock": lambda pool: (pool.share("a"), pool.lock()),
    "guarded": lambda pool: pool.guarded([]),
    "guarded, made": lambda pool: pool.guarded(list),
    "share": lambda pool: pool.share("a"),
    "share's task": lambda pool: pool.share("a").submit(int),
    "task": lambda pool: pool.run(int),
    "coroutine": lambda pool: pool.run(suspended),
    "group": lambda pool: pool.run(group),
    "link": lambda pool: pool.submit(int).then(str),
    "section": lambda pool: pool.lock().submit(int),
    "stack": lambda pool: in_lock(pool.lock()),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_another_thread_finds_only_what_is_whole(kind: str) -> None:
    # Without threads, so that all of it is made by this one.
    with FairPool(max_workers=0) as pool:
        interrupted = Interrupted(pool)
        with interrupted.everywhere():
            MAKERS[kind](pool)
        assert interrupted.looks > 10
        assert not interrupted.errors, interrupted.errors[0]
