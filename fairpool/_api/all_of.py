"""`all_of`: several locks at once, in one order for all."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from fairpool._api.guarded import Guarded
from fairpool._api.lock import Lock
from fairpool._core.errors import stays_here

__all__ = ["all_of"]


class _AllOf:
    """Several locks, taken in the order in which they were made."""

    __slots__ = ("_guards", "_way_in", "_way_out")

    __reduce_ex__ = stays_here("call all_of() where its locks are to be used")

    # _way_in:  (the first lock, (the second, (..., None)))
    # _way_out: the same from the last lock to the first. Walking it needs no memory.

    def __init__(self, guards: tuple[Lock | Guarded[Any], ...]) -> None:
        locks = []
        for each in guards:
            if not isinstance(each, (Lock, Guarded)):
                raise TypeError(f"all_of() takes locks and guarded states, not {each!r}")
            locks.append(each if isinstance(each, Lock) else each.lock)
        if not locks:
            raise TypeError("all_of() takes at least one lock")
        self._guards = guards
        locks.sort(key=_number_of)
        for one, other in pairwise(locks):
            if one is other:
                raise ValueError(f"all_of() was given {one!r} twice")
        self._way_in: Any = None
        self._way_out: Any = None
        for lock in reversed(locks):
            self._way_in = (lock, self._way_in)
        for lock in locks:
            self._way_out = (lock, self._way_out)

    def _values(self) -> tuple[Any, ...]:
        return tuple([each._get() if isinstance(each, Guarded) else None for each in self._guards])

    async def __aenter__(self) -> tuple[Any, ...]:
        rest = self._way_in
        try:
            while rest is not None:
                await rest[0].__aenter__()
                rest = rest[1]
            return self._values()
        except BaseException:
            self._leave(rest)
            raise

    def __aexit__(self, kind: Any, error: Any, trace: Any) -> Any:
        # Only the last one may suspend: a cancellation that came there would leave the others held.
        lock, others = self._way_out
        while others is not None:
            lock.end_section()
            lock, others = others
        return lock.__aexit__(kind, error, trace)

    def __enter__(self) -> tuple[Any, ...]:
        rest = self._way_in
        try:
            while rest is not None:
                rest[0].enter_blocking(None)
                rest = rest[1]
            return self._values()
        except BaseException:
            self._leave(rest)
            raise

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._leave(None)

    def _leave(self, rest: Any) -> None:
        """Leave those that were entered: all on the way in before `rest`, the part not gone yet."""
        way = self._way_out
        if rest is not None:
            while way[0] is not rest[0]:
                way = way[1]
            way = way[1]
        while way is not None:
            lock, way = way
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
