"""Names for the types that signatures of all rooms have.

`AnyState`, `AnyFuture` and `AnyTask` are beside their classes, in `_tasks`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from types import CoroutineType
from typing import Any, Protocol, TypeAlias, TypeVar

# The type of a result.
T = TypeVar("T")

# A coroutine object of the user's: what it yields and takes, its worker knows.
AnyCoroutine = Coroutine[Any, Any, Any]

# One that is run step by step: native, or made of a generator, which has the same methods.
# (A class that cannot be subscripted before 3.13.)
NativeCoroutine: TypeAlias = "CoroutineType[Any, Any, Any]"

# An asynchronous generator of the user's.
AnyGenerator = AsyncGenerator[Any, Any]

# A worker, as the argument of what it runs: each class that runs has a Protocol of its own for it.
AnyWorker = Any

# A function of the user's. Only the user knows its arguments, and the type of its result.
Function = Callable[..., Any]


class Runnable(Protocol):
    """What lies in run queues: a task, a continuation, a gather, a lock to serve, a principal."""

    def run(self, worker: AnyWorker, /) -> Runnable | None:
        """Run it on this worker, whose thread calls it. Returns what the worker runs next."""
