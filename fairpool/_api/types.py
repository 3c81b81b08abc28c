"""Names for the types that many signatures of this room have."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fairpool._tasks.future import Future
from fairpool._tasks.task import Task

__all__ = ["AnyCoroutine", "AnyFuture", "AnyTask", "Function"]

# Where the type of the result does not matter.
AnyFuture = Future[Any]
AnyTask = Task[Any]
AnyCoroutine = Coroutine[Any, Any, Any]
Function = Callable[..., Any]
