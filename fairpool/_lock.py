"""`Lock`: the public face of a combiner."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any, TypeVar

from fairpool._combiner import Combiner, Section
from fairpool._future import Future
from fairpool._sync import here, monotonic_ns

__all__ = ["Lock"]

T = TypeVar("T")


class Lock(Combiner, Executor):
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        if not callable(fn):
            raise TypeError(f"submit() takes a callable first, not {fn!r}")
        scheduler = self.scheduler
        if scheduler.refusals:
            raise scheduler.refusal()
        section = Section()
        section._pool = scheduler
        section._cell = [(copy_context(), fn, args, kwargs or None, None)]
        section.ticket = monotonic_ns()
        self.enqueue(section)
        return section

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self.enter_stack(None if timeout == -1 else timeout)

    def __enter__(self) -> Lock:
        self.enter_stack(None)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def locked(self) -> bool:
        return self.key.locked()

    def __repr__(self) -> str:
        return f"<Lock {self.name}>"
