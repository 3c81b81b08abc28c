"""The package's exceptions."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures.thread import BrokenThreadPool
from typing import NoReturn


class BrokenFairPool(BrokenThreadPool):
    """The pool can run nothing any more: its initializer raised, or the process was forked.

    A `BrokenThreadPool`, and so a `BrokenExecutor`, for code that was written for
    `ThreadPoolExecutor`.
    """


class DeadlockError(RuntimeError):
    """This wait would never end: it would close a cycle, which the message names."""


def stays_here(instead: str) -> Callable[[object, object], NoReturn]:
    """A `__reduce_ex__` for objects that the threads of this process share: they have no copy.

    `instead`: the advice in the error.
    """

    def __reduce_ex__(self: object, protocol: object) -> NoReturn:
        raise TypeError(f"cannot pickle or copy {object.__repr__(self)}: {instead}")

    return __reduce_ex__
