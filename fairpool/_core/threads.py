"""The only door to threads, locks and the clock: the seam that tests replace.

Every other module takes its locks, threads, thread identity and time from here. So one place says
what the package asks of `threading` and `time`, and `fairpool.testing` replaces it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from _thread import allocate_lock as Lock
from _thread import get_ident, start_new_thread
from collections.abc import Callable
from contextvars import Context
from functools import partial
from threading import Condition, Event, RLock, Thread, current_thread, local, main_thread
from threading import Lock as LockType
from threading import enumerate as enumerate_threads
from weakref import ref

__all__ = [
    "FREE_THREADED",
    "Condition",
    "Event",
    "Lock",
    "LockType",
    "RLock",
    "Stranger",
    "Thread",
    "before_threads_are_joined",
    "call_as_stranger",
    "cpu_count",
    "current_thread",
    "enumerate_threads",
    "get_ident",
    "is_main_thread",
    "join",
    "local",
    "main_thread",
    "monotonic",
    "monotonic_ns",
    "new_thread",
    "read_by_many",
    "start_new_thread",
    "this_thread",
    "yield_cpu",
]

monotonic = time.monotonic
monotonic_ns = time.monotonic_ns

# Spinning for work pays only where another thread can run meanwhile.
FREE_THREADED: bool = not getattr(sys, "_is_gil_enabled", lambda: True)()

# Registers a function that the main thread calls when it has ended, before it joins the others. It
# has no public name.
before_threads_are_joined: Callable[[Callable[[], None]], None] | None = getattr(
    threading, "_register_atexit", None
)

# Spin-loop hint: lets another thread on the same processor go first.
yield_cpu: Callable[[], None] = getattr(os, "sched_yield", partial(time.sleep, 0))


def is_main_thread() -> bool:
    """Whether the calling thread is the main thread, on which Python's signal handlers run."""
    return get_ident() == threading.main_thread().ident


def read_by_many(*values: object) -> None:
    """Speed up shared slot reads: for the values in slots of an object that many threads read.

    On CPython 3.13t the read of a slot takes the mutex of the value (3.13.5, `PyMember_GetOne`) if
    another thread made the value and it has never had a weak reference. A thread that finds a mutex
    taken looks again only after 40 times `sched_yield`: 20 µs, however short the mutex was held
    (`_PyMutex_LockTimed`). So this makes the weak references. On other builds it does nothing.
    """
    for each in values:
        ref(each)


def cpu_count() -> int:
    """Processors that this process may use: what `os.process_cpu_count` (3.13) gives."""
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        return count() or 1
    try:
        return len(os.sched_getaffinity(0)) or 1
    except AttributeError:  # no affinity on this system (macOS, Windows)
        return os.cpu_count() or 1


class Stranger:
    """A thread that `threading` does not know: stands for its `Thread`."""

    __slots__ = ("ident", "name")

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.name = f"thread-{ident}"


# The threads that `threading` knows, by their idents. It has no public name.
_known_threads: dict[int, Thread] | None = getattr(threading, "_active", None)
_UNKNOWN = local()


def this_thread() -> Thread | Stranger:
    """The calling thread, with a `name` and an `ident`.

    `current_thread` makes a dummy for a thread that `threading` does not know, or not any more. If
    that dummy is still there when the interpreter ends, its finalizer complains.
    """
    if _known_threads is None:
        return current_thread()
    ident = get_ident()
    return _known_threads.get(ident) or Stranger(ident)


def call_as_stranger(call: Callable[[], object]) -> None:
    """Make a call that may make such a dummy, and take the dummy out again."""
    is_strange = type(this_thread()) is Stranger
    try:
        call()
    finally:
        if is_strange and _known_threads is not None:
            # From 3.12 on the dummy is taken out when this reference to it is dropped.
            info = getattr(threading, "_thread_local_info", _UNKNOWN)
            vars(info).pop("_track_dummy_thread_ref", None)
            _known_threads.pop(get_ident(), None)


def join(thread: Thread) -> None:
    """`thread.join()`, without a dummy of the calling thread."""
    while True:
        try:
            call_as_stranger(thread.join)
            return
        except AssertionError:  # 3.11, 3.12: another thread that joins it is noting that it ended
            yield_cpu()


def new_thread(target: Callable[[], object], name: str, daemon: bool) -> Thread:
    """A thread, not yet started, that begins in an empty context.

    From 3.14 on a thread may inherit its starter's context (`sys.flags.thread_inherit_context`, on
    by default on free-threaded builds). A pool's threads serve everybody: they would keep, and show
    to an initializer, the context of the caller that happened to start them.
    """
    if sys.version_info >= (3, 14):
        return Thread(target=target, name=name, daemon=daemon, context=Context())
    return Thread(target=target, name=name, daemon=daemon)
