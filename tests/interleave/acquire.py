"""Linearizability of entering a lock, with prompt cancellation: small programs, drawn by number.

Three clients, threads and tasks, of two to four calls each: enter, enter for a while, try, leave.
Some hold the lock until those who wait have waited long enough; some tasks are cancelled. What they
have seen must be what a lock would show that takes one call after another. A call that was given up
may have had the lock, or its place in the queue, for a while, but has left it before its end: when
all is over the lock is entered once more. A try may find a lock that is on its way to one which has
given up: nobody is inside, and nobody waits (see `Lock.acquire`); it says nothing then.
"""

from __future__ import annotations

import threading
import time
from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelled
from dataclasses import dataclass
from random import Random
from typing import Any

from interleave.scenarios import pool_of

import fairpool
from fairpool.testing import Recorder

# With some 500 schedules each, two thirds of them depth first: Lincheck's figure is 20,000.
PROGRAMS = 60


class Waits(Exception):
    """The call cannot happen now."""


class Model:
    """A lock that takes one call after another."""

    def __init__(self) -> None:
        self.holder: int | None = None

    def acquire(self, who: int) -> bool:
        if self.holder is not None:
            raise Waits
        self.holder = who
        return True

    enter = acquire_for_a_while = enter_for_a_while = acquire

    def attempt(self, who: int) -> bool:
        if self.holder is not None:
            return False
        self.holder = who
        return True

    def release(self, who: int) -> None:
        if self.holder != who:
            raise RuntimeError("not held by the caller")
        self.holder = None

    leave = release

    def gave_up(self, who: int) -> None:
        if self.holder == who:
            self.holder = None


class Door:
    """The real one, with the same calls. One that is given up raises CancelledError."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.given_up: list[int] = []  # who has given up a call
        self.recorder: Any = Recorder(self)

    def acquire(self, who: int) -> bool:
        return self._lock.acquire()  # type: ignore[no-any-return]

    def acquire_for_a_while(self, who: int) -> bool:
        if not self._lock.acquire(timeout=1):
            self.recorder.gave_up(who)
            raise CancelledError
        return True

    def attempt(self, who: int) -> bool:
        if self._lock.acquire(blocking=False):
            return True
        if self.given_up and self._lock.owner is None:  # on its way to that one
            raise CancelledError
        return False

    def release(self, who: int) -> None:
        self._lock.release()

    def gave_up(self, who: int) -> None:
        """A call has ended, and is about to say so: within it, for the order of calls."""
        self.given_up.append(who)

    async def enter(self, who: int) -> bool:
        try:
            await self._lock.__aenter__()
        except CancelledError:
            self.recorder.gave_up(who)
            raise
        return True

    async def enter_for_a_while(self, who: int) -> bool:
        entered = False
        try:
            async with fairpool.timeout(1):
                await self._lock.__aenter__()
                entered = True
        except TimeoutError:
            if entered:  # the time was up just after that
                await self._lock.__aexit__(None, None, None)
            self.recorder.gave_up(who)
            raise CancelledError from None
        except CancelledError:
            self.recorder.gave_up(who)
            raise
        return True

    async def leave(self, who: int) -> None:
        await self._lock.__aexit__(None, None, None)


@dataclass(frozen=True)
class Client:
    """What one of them does: the calls with which it enters, leaving after each of them."""

    is_task: bool
    entries: tuple[str, ...]
    holds: bool  # until the others have waited long enough
    is_cancelled: bool

    def run(self, door: Any, who: int) -> None:
        for call in self.entries:
            try:
                entered = getattr(door, call)(who)
            except CancelledError:
                continue
            if entered:
                if self.holds:
                    time.sleep(1)
                door.release(who)

    async def run_as_task(self, door: Any, who: int) -> None:
        for call in self.entries:
            entered = False
            try:
                entered = door.attempt(who) if call == "attempt" else await getattr(door, call)(who)
                if entered and self.holds:
                    await fairpool.sleep(1)
            except CancelledError:
                _take_back()
            if entered:
                try:
                    await door.leave(who)
                except CancelledError:
                    _take_back()


def _take_back() -> None:
    """Go on after a cancellation."""
    task = fairpool.current_task()
    if task is not None and task.cancelling():
        task.uncancel()


def draw(number: int) -> tuple[Client, ...]:
    """The clients of a program."""
    rng = Random(number)
    clients = []
    for _ in range(3):
        is_task = rng.random() < 0.6
        ways = ("enter", "enter_for_a_while") if is_task else ("acquire", "acquire_for_a_while")
        entries = tuple(
            rng.choice((*ways, ways[1], "attempt")) for _ in range(rng.choice((1, 1, 2)))
        )
        clients.append(Client(is_task, entries, rng.random() < 0.4, is_task and rng.random() < 0.5))
    return tuple(clients)


def program(number: int) -> Callable[[], None]:
    """The scenario of a program."""
    clients = draw(number)

    def scenario() -> None:
        with pool_of(2) as pool:
            real = Door(pool.lock())
            door = real.recorder
            tasks, threads = [], []
            for who, client in enumerate(clients):
                if client.is_task:
                    tasks.append((client, pool.submit(client.run_as_task, door, who)))
                else:
                    threads.append(threading.Thread(target=client.run, args=(door, who)))
                    threads[-1].start()
            for client, task in tasks:
                if client.is_cancelled:
                    task.cancel()
            for thread in threads:
                thread.join()
            for client, task in tasks:
                try:
                    task.result()
                except FutureCancelled:  # before it has begun, or at its very end
                    assert client.is_cancelled
        if real.given_up:
            door.acquire(3)  # hangs if nobody is inside, and it is not free
        else:
            assert door.attempt(3), "nobody is inside, and it is not free"
        door.release(3)
        door.check(Model)

    scenario.__name__ = f"acquire_{number:02}"
    scenario.__doc__ = f"A program of three clients: {clients}"
    return scenario


ALL = [program(number) for number in range(PROGRAMS)]
