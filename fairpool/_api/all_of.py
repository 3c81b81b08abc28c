"""`all_of`: several locks at once, in one order for all."""

from __future__ import annotations

from typing import Any

from fairpool._api.guarded import Guarded
from fairpool._api.lock import Lock
from fairpool._core.errors import stays_here

__all__ = ["all_of"]


class _AllOf:
    """Several locks, taken in the order in which they were made."""

    __slots__ = ("_guards", "_order")

    __reduce_ex__ = stays_here("call all_of() where its locks are to be used")

    def __init__(self, guards: tuple[Lock | Guarded[Any], ...]) -> None:
        locks = []
        for each in guards:
            if not isinstance(each, (Lock, Guarded)):
                raise TypeError(f"all_of() takes locks and guarded states, not {each!r}")
            locks.append(each if isinstance(each, Lock) else each.lock)
        if not locks:
            raise TypeError("all_of() takes at least one lock")
        self._guards = guards
        self._order = sorted(locks, key=_number_of)
        for one, other in zip(self._order, self._order[1:], strict=False):
            if one is other:
                raise ValueError(f"all_of() was given {one!r} twice")

    def _values(self) -> tuple[Any, ...]:
        return tuple([each._get() if isinstance(each, Guarded) else None for each in self._guards])

    async def __aenter__(self) -> tuple[Any, ...]:
        entered: list[Lock] = []
        try:
            for lock in self._order:
                await lock.__aenter__()
                entered.append(lock)
            return self._values()
        except BaseException:
            for lock in reversed(entered):
                lock.end_section()
            raise

    def __aexit__(self, kind: Any, error: Any, trace: Any) -> Any:
        # Only the last one may suspend: a cancellation that came there would leave the others held.
        first, *others = self._order
        for lock in reversed(others):
            lock.end_section()
        return first.__aexit__(kind, error, trace)

    def __enter__(self) -> tuple[Any, ...]:
        entered: list[Lock] = []
        try:
            for lock in self._order:
                lock.enter_blocking(None)
                entered.append(lock)
            return self._values()
        except BaseException:
            for lock in reversed(entered):
                lock.end_section()
            raise

    def __exit__(self, *exc_info: object) -> None:
        for lock in reversed(self._order):
            lock.end_section()


def _number_of(lock: Lock) -> int:
    return lock._number


def all_of(*locks: Lock | Guarded[Any]) -> _AllOf:
    """Several locks or guarded states at once, for `async with` and `with`.

    Gives their states in the order of the arguments (None for a lock). They are taken in the order
    in which they were made, whatever the order here: a task that takes all of its locks with one
    `all_of` is part of no deadlock.
    """
    return _AllOf(locks)
