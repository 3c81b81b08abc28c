"""The interpreter's hooks: its end, the start of a collection, and the child of a fork."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable

from fairpool._core.threads import before_threads_are_joined


def at_exit(function: Callable[[], None]) -> None:
    """Call `function` when the main thread has ended, before the other threads are joined.

    By `threading._register_atexit`, as `concurrent.futures.thread` does. The public `atexit` is the
    fallback: it runs after all non-daemon threads were joined, too late for a pool whose searching
    workers have to be told to stop.
    """
    if before_threads_are_joined is None:
        atexit.register(function)
    else:
        before_threads_are_joined(function)


def before_collection(function: Callable[[], None]) -> None:
    """Call `function` whenever the collector starts, on the thread on which it runs."""

    def call(phase: str, info: object, function: Callable[[], None] = function) -> None:
        if phase == "start":
            function()

    gc.callbacks.append(call)
    atexit.register(gc.callbacks.remove, call)  # what it uses goes away after that


def in_child_after_fork(function: Callable[[], None]) -> None:
    """Call `function` in each child process right after `os.fork`, where the system has fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
