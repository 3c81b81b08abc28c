"""The package's exceptions."""

from __future__ import annotations

from concurrent.futures.thread import BrokenThreadPool

__all__ = ["BrokenFairPool", "DeadlockError"]


class BrokenFairPool(BrokenThreadPool):
    """The pool can run nothing any more: its initializer raised, or the process was forked.

    A `BrokenThreadPool`, and so a `BrokenExecutor`, for code that was written for
    `ThreadPoolExecutor`.
    """


class DeadlockError(RuntimeError):
    """This wait would never end: it would close a cycle, which the message names."""
