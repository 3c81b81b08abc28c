"""Ctrl-C: waits that the main thread can be interrupted in, and the handler of the key meanwhile.

Rule: only SIGINT, and only where Python's own handler is installed. The program's own handlers are
left alone, and see what they always saw.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
from collections.abc import Callable
from math import inf
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Protocol, TypeVar

from fairpool._core.here import here
from fairpool._core.threads import Event, LockType, is_main_thread, monotonic

# The main thread looks up at least this often (s) from a wait without end. A signal that comes just
# before a thread blocks in a lock does not interrupt the wait: its Python handler runs only once
# the main thread runs bytecode again.
LONGEST_BLIND_WAIT = 0.5

YEAR = 31536000

T = TypeVar("T")


class _Caller(Protocol):
    """A thread of the user's that works for a pool."""

    def raise_in_wait(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C has come, and this is the place to raise it."""


def acquire(lock: LockType, timeout: float | None) -> bool:
    """`lock.acquire`, from which the main thread looks up now and then. None: without end."""
    if not is_main_thread():
        # A lock refuses time-outs over TIMEOUT_MAX; a year stands for "very long".
        return lock.acquire(timeout=-1 if timeout is None else min(max(timeout, 0), YEAR))
    end = inf if timeout is None else monotonic() + timeout
    while True:
        look_up()
        if lock.acquire(timeout=min(max(end - monotonic(), 0), LONGEST_BLIND_WAIT)):
            return True
        if monotonic() >= end:
            return False


def wait_until_set(event: Event) -> None:
    """`event.wait`, from which the main thread looks up now and then."""
    while not event.wait(LONGEST_BLIND_WAIT):
        look_up()


def get(queue: SimpleQueue[T]) -> T:
    """`queue.get`, from which the main thread looks up now and then."""
    if not is_main_thread():
        return queue.get()
    while True:
        look_up()
        try:
            return queue.get(timeout=LONGEST_BLIND_WAIT)
        except Empty:
            pass


def look_up() -> None:
    """In a wait of the main thread: raise KeyboardInterrupt if Ctrl-C was pressed before it."""
    caller: _Caller | None = here.caller
    if caller is not None:
        caller.raise_in_wait()


def handle_ctrl_c(
    handler: Callable[[int, FrameType | None], object], body: Callable[[], None]
) -> None:
    """Call `body`; on the main thread, have Ctrl-C call `handler` meanwhile, instead of raising.

    Only where Python's own handler is installed.
    """
    if not is_main_thread() or _signal.getsignal(_signal.SIGINT) is not _signal.default_int_handler:
        body()
        return
    try:
        _signal.signal(_signal.SIGINT, handler)
        body()
    finally:
        try:
            if _signal.getsignal(_signal.SIGINT) is handler:
                _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        except MemoryError:  # once more: see "Memory" in docs/protocols/room.md
            if _signal.getsignal(_signal.SIGINT) is handler:
                _signal.signal(_signal.SIGINT, _signal.default_int_handler)
