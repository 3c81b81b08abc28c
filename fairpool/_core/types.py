"""Names for the types that signatures of all rooms have.

`AnyState`, `AnyFuture` and `AnyTask` are beside their classes, in `_tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

__all__ = ["AnyCoroutine", "Function", "Runnable"]

# A coroutine object of the user's: what it yields and takes, its worker knows.
AnyCoroutine = Coroutine[Any, Any, Any]

# A function of the user's. Only the user knows its arguments, and the type of its result.
Function = Callable[..., Any]


class Runnable(Protocol):
    """What lies in run queues: a task, a continuation, a gather, a lock to serve, a principal."""

    # `worker` is the worker as the object sees it: a Protocol of its own room.
    def run(self, worker: Any, /) -> Runnable | None:
        """Run it on this worker, whose thread calls it. Returns what the worker runs next."""
