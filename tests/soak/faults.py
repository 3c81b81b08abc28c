"""`Faults`: what goes wrong in a round, beside what the parties do on purpose."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fairpool._api import pool as _pool
from fairpool._tasks import continuation as _task


class NoMemory(MemoryError):
    """An injected one."""


class Faults:
    """Threads that cannot be started, memory that is not there: each in some of the rounds.

    Memory fails where the package makes what a task needs: its context, at `submit`, which raises
    to the submitter; and the continuation of a coroutine at its first suspension, which ends the
    task.
    """

    def __init__(self, chance: random.Random, pool: Any) -> None:
        self._prefix = pool._scheduler._prefix + "_"
        # Of the workers or the timer thread, not of both: the one starts what the other lacks.
        self.starting = chance.choice(["", "", "worker", "timer"])
        self.memory = chance.randrange(3) == 0
        self._chance = random.Random(chance.random())
        self.counts: list[str] = []
        self.over = False  # in the child of a fork

    @staticmethod
    def is_of(error: MemoryError) -> bool:
        return isinstance(error, NoMemory)

    def _strikes(self, what: str, one_in: int) -> bool:
        # One call in C: threads that share the generator get each their own number.
        if self.over or self._chance.random() * one_in >= 1:
            return False
        self.counts.append(what)
        return True

    @contextmanager
    def in_place(self) -> Iterator[None]:
        start, copy = threading.Thread.start, _pool.copy_context
        make = _task.Continuation.__init__

        def start_or_not(thread: threading.Thread) -> None:
            kind = "timer" if thread.name == self._prefix + "timer" else "worker"
            ours = thread.name.startswith(self._prefix) and kind == self.starting
            if ours and self._strikes(f"{kind} thread not started", 4):
                time.sleep(self._chance.random() * 1e-3)  # meanwhile others may count on it
                raise RuntimeError("can't start new thread")
            start(thread)

        def copy_or_not() -> Any:
            if self._strikes("no memory to submit", 200):
                raise NoMemory("for a context")
            return copy()

        def make_or_not(continuation: Any, *args: Any) -> None:
            if self._strikes("no memory to suspend", 100):
                raise NoMemory("for a continuation")
            make(continuation, *args)

        try:
            if self.starting:
                threading.Thread.start = start_or_not  # type: ignore[method-assign]
            if self.memory:
                _pool.copy_context = copy_or_not
                _task.Continuation.__init__ = make_or_not  # type: ignore[method-assign]
            yield
        finally:
            threading.Thread.start = start  # type: ignore[method-assign]
            _pool.copy_context = copy
            _task.Continuation.__init__ = make  # type: ignore[method-assign]
