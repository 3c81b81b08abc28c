"""Names for the types that many signatures of this room have."""

from __future__ import annotations

from fairpool._core.types import AnyCoroutine, Function
from fairpool._tasks.future import AnyFuture
from fairpool._tasks.task import AnyTask

__all__ = ["AnyCoroutine", "AnyFuture", "AnyTask", "Function"]
