"""`all_of`: several locks at once, in one order for all."""

from __future__ import annotations

from collections.abc import Awaitable
from itertools import pairwise
from typing import Any, TypeAlias

from fairpool._api.guarded import Guarded
from fairpool._api.lock import Lock
from fairpool._core.errors import stays_here

# Locks in an order: the first, and the others. Walking it needs no memory.
_Way: TypeAlias = "tuple[Lock, _Way] | None"


class _AllOf:
    """Several locks, taken in the order in which they were made."""

    __slots__ = ("_guards", "_way_in", "_way_out")

    __reduce_ex__ = stays_here("call all_of() where its locks are to be used")

    # _way_in:  from the first lock to the last
    # _way_out: from the last to the first

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
        self._way_in: _Way = None
        self._way_out: _Way = None
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

    def __aexit__(self, kind: object, error: object, trace: object) -> Awaitable[None]:
        # Only the last one may suspend: a cancellation that came there would leave the others held.
        assert self._way_out is not None
        lock, others = self._way_out
        while others is not None:
            lock.end_section()
            lock, others = others
        left: Awaitable[None] = lock.__aexit__(kind, error, trace)
        return left

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

    def _leave(self, rest: _Way) -> None:
        """Leave those that were entered: all on the way in before `rest`, the part not gone yet."""
        way = self._way_out
        while way is not None:
            lock, way = way
            if rest is None:
                lock.end_section()
            elif lock is rest[0]:
                rest = None  # from here on they were entered


def _number_of(lock: Lock) -> int:
    return lock._number


def all_of(*locks: Lock | Guarded[Any]) -> _AllOf:
    """Several locks or guarded states at once, for `async with` and `with`.

    Gives their states in the order of the arguments (None for a lock). They are taken in the order
    in which they were made, whatever the order here: a task that takes all of its locks with one
    `all_of` is part of no deadlock.
    """
    return _AllOf(locks)
